"""What a stage is: a protocol for each place in the pipeline. Any object with the right methods can be one.

Stages take the images of a batch, one image being a batch of one, and give a result for each, in order. What an image
gets must not depend on the others of its batch: the same example has the same key, whoever adds it, and beside what.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from knnseg.data.arrays import ImageArray
from knnseg.data.features import Features
from knnseg.data.image import Image, each_once
from knnseg.data.masks import Masks
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnseg.errors import ConfigError, StageError
from knnstore import EmbeddingSpace

__all__ = [
    "Adjustable",
    "BasePredictor",
    "DerivedFeatures",
    "FeatureExtractor",
    "MaskProposer",
    "Prompted",
    "check_stage",
    "features_of",
    "masks_of",
    "scores_of",
]

T = TypeVar("T")


@runtime_checkable
class FeatureExtractor(Protocol):
    """Makes the dense features that the keys of retrieval are pooled from."""

    @property
    def space(self) -> EmbeddingSpace:
        """Where the features live; its fingerprint changes whenever a feature could."""

    @property
    def dim(self) -> int:
        """Width of the vectors that are pooled from the features: D, and the context's where there is one."""

    def extract(self, images: Sequence[Image]) -> list[Features]:
        """One grid for each image; images may differ in size. Use :func:`features_of` to have each computed once."""


@runtime_checkable
class Adjustable(FeatureExtractor, Protocol):
    """An extractor that can be made in other ways, which calibration may choose from.

    Its stage takes the same options, ``long_side`` and ``layers``, from a configuration.
    """

    @property
    def long_side(self) -> int:
        """Pixels of the longer side of what the network sees."""

    @property
    def layers(self) -> Mapping[int, int]:
        """The channels of each layer that the features are made of, side by side in this order."""

    def adjusted(self, long_side: int, layers: Sequence[int]) -> Adjustable:
        """The same with another size and with some of its layers."""


@runtime_checkable
class MaskProposer(Protocol):
    """Says which parts of an image may be one thing."""

    def propose(self, images: Sequence[Image]) -> list[Masks]:
        """Masks over each image; they may overlap, and need not cover it."""


@runtime_checkable
class Prompted(Protocol):
    """Makes masks of boxes and points that somebody has drawn, such as SAM does."""

    def masks(
        self, image: ImageArray, boxes: Sequence[NDArray[np.float64]] = (), points: Sequence[NDArray[np.float64]] = ()
    ) -> NDArray[np.bool_]:
        """One mask for each box and then one for each group of points, in order.

        Args:
            image: uint8 (H, W, 3).
            boxes: each (4,): left, top, right and bottom in pixels, cut off at the edges of the image.
            points: each (P, 2): x and y in pixels of points on one object, inside of the image.

        Returns:
            bool (N, H, W).
        """


@runtime_checkable
class BasePredictor(Protocol):
    """Says what each mask is, without the database."""

    @property
    def branches(self) -> tuple[str, ...]:
        """Where retrieval may come in, as :meth:`knnseg.ClassScores.branch` of its scores knows it; ``("final",)`` for
        plain scores. A configuration that names another is refused when the segmenter is made.
        """

    def predict(self, images: Sequence[Image], masks: Sequence[Masks], vocabulary: Vocabulary) -> list[ClassScores]:
        """P_base of the masks of each image, float32 (N, C), the classes in the order of ``vocabulary.names``.

        Rows as :class:`~knnseg.ClassScores` has them, 0 where there is no opinion.
        """


class DerivedFeatures(ABC):
    """An extractor whose grids are made from the grids of another one, and not from pixels.

    A subclass says where its features live and how one grid becomes another; the source's grids are computed once,
    however many extractors derive from it.

    Args:
        source: the other one.
    """

    def __init__(self, source: FeatureExtractor) -> None:
        self._source = source

    @property
    def source(self) -> FeatureExtractor:
        """The extractor underneath."""
        return self._source

    @property
    @abstractmethod
    def space(self) -> EmbeddingSpace:
        """See :attr:`FeatureExtractor.space`; its fingerprint covers the source's."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Width of the vectors that are pooled from these features."""

    @abstractmethod
    def transform(self, features: Features) -> Features:
        """The grid of this extractor, from that of the source."""

    def extract(self, images: Sequence[Image]) -> list[Features]:
        """See :meth:`FeatureExtractor.extract`."""
        return [self.transform(features) for features in features_of(images, self._source)]


def features_of(images: Sequence[Image], extractor: FeatureExtractor) -> list[Features]:
    """The extractor's grid over each image, computed once for an image, whoever asks.

    Two extractors of one fingerprint share it.

    Raises:
        StageError: the extractor gives something else than its protocol says.
    """
    return each_once(images, f"features {extractor.space.fingerprint}", lambda some: _extracted(some, extractor))


def _extracted(images: Sequence[Image], extractor: FeatureExtractor) -> list[Features]:
    method = f"{type(extractor).__name__}.extract"
    given = _one_each(method, extractor.extract(images), images, Features)
    for image, features in zip(images, given, strict=True):
        width = features.dim + (0 if features.context is None else len(features.context))
        _expect(method, "image_size", image.size, features.image_size)
        _expect(method, "features as wide as its dim,", extractor.dim, width)
    return given


def masks_of(images: Sequence[Image], proposer: MaskProposer) -> list[Masks]:
    """The proposer's masks over each image.

    Raises:
        StageError: the proposer gives something else than its protocol says.
    """
    method = f"{type(proposer).__name__}.propose"
    given = _one_each(method, proposer.propose(images), images, Masks)
    for image, masks in zip(images, given, strict=True):
        _expect(method, "masks of the size", image.size, masks.size)
    return given


def scores_of(
    images: Sequence[Image], masks: Sequence[Masks], vocabulary: Vocabulary, base: BasePredictor
) -> list[ClassScores]:
    """P_base of the masks of each image.

    Raises:
        StageError: the base gives something else than its protocol says.
    """
    method = f"{type(base).__name__}.predict"
    given = _one_each(method, base.predict(images, masks, vocabulary), images, ClassScores)
    for own, scores in zip(masks, given, strict=True):
        _expect(method, "the classes", vocabulary.names, scores.classes)
        _expect(method, "rows for masks, in number", len(own), len(scores))
        _expect(method, "the branches", sorted(base.branches), sorted(scores.branches))
        rows = scores.probabilities
        if rows.size and not (rows.min() >= 0 and rows.sum(1).max() < 1 + _TOLERANCE):  # not true of NaN either
            raise StageError(
                method, expected="probabilities that sum to 1 at most", got=f"{rows.min()} to {rows.sum(1).max()}"
            )
    return given


_TOLERANCE = 1e-3
"""By how much float32 probabilities of thousands of classes may miss 1."""


def check_stage(name: str, stage: object, kind: type) -> None:
    """See that an object can be a stage of a kind, which is one of the protocols above.

    Raises:
        ConfigError: it lacks methods; the message names them.
    """
    missing = [member for member in vars(kind) if not member.startswith("_") and not hasattr(stage, member)]
    if missing:
        raise ConfigError(
            name, expected=f"a {kind.__name__}", got=f"{type(stage).__name__} without {', '.join(missing)}"
        )


def _one_each(method: str, given: object, images: Sequence[Image], kind: type[T]) -> list[T]:
    if (
        not isinstance(given, list | tuple)
        or len(given) != len(images)
        or not all(isinstance(one, kind) for one in given)
    ):
        got = (
            f"{len(given)}: {[type(one).__name__ for one in given[:3]]}"
            if isinstance(given, list | tuple)
            else type(given).__name__
        )
        raise StageError(method, expected=f"a list of {kind.__name__}, one for each of {len(images)} images", got=got)
    return list(given)


def _expect(method: str, what: str, expected: object, got: object) -> None:
    if expected != got:
        raise StageError(method, expected=f"{what} {expected}", got=got)
