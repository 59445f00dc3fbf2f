"""What a stage is: a protocol for each place in the pipeline. Any object with the right methods can be one.

Stages take the images of a batch, one image being a batch of one, and give a result for each, in order. What an image
gets must not depend on the others of its batch: the same example has the same key, whoever adds it, and beside what.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from knnseg.data.features import Features
from knnseg.data.image import Image, each_once
from knnseg.data.masks import Masks
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnstore import EmbeddingSpace

__all__ = ["BasePredictor", "DerivedFeatures", "FeatureExtractor", "MaskProposer", "features_of"]


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
class MaskProposer(Protocol):
    """Says which parts of an image may be one thing."""

    def propose(self, images: Sequence[Image]) -> list[Masks]:
        """Masks over each image; they may overlap, and need not cover it."""


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
    """
    return each_once(images, f"features {extractor.space.fingerprint}", extractor.extract)
