"""What a stage is: a protocol for each place in the pipeline. Any object with the right methods can be one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from knnseg.data.arrays import ImageArray
from knnseg.data.features import Features
from knnseg.data.masks import Masks
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnstore import EmbeddingSpace

__all__ = ["BasePredictor", "DerivedFeatures", "EncodedImage", "FeatureExtractor", "MaskProposer"]


@runtime_checkable
class FeatureExtractor(Protocol):
    """Anything with these two attributes and one method can be one."""

    @property
    def space(self) -> EmbeddingSpace:
        """Where the features live; its fingerprint changes whenever a feature could."""

    @property
    def dim(self) -> int:
        """Width of the vectors that are pooled from the features: D, and the context's where there is one."""

    def extract(self, images: Sequence[ImageArray]) -> list[Features]:
        """One grid for each uint8 (H, W, 3) image; images may differ in size."""


class DerivedFeatures(ABC):
    """An extractor whose grids are made from the grids of another one, and not from pixels.

    A subclass says where its features live and how one grid becomes another; :class:`EncodedImage` then computes the
    source once, however many extractors derive from it.

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

    def extract(self, images: Sequence[ImageArray]) -> list[Features]:
        """See :meth:`FeatureExtractor.extract`."""
        return [self.transform(features) for features in self._source.extract(images)]


class EncodedImage:
    """An image and what has been computed from it: each extractor sees it at most once, whoever asks.

    Args:
        pixels: uint8 (H, W, 3).
    """

    __slots__ = ("_features", "pixels")

    def __init__(self, pixels: ImageArray) -> None:
        self.pixels = pixels
        self._features: dict[str, Features] = {}

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    def features(self, extractor: FeatureExtractor) -> Features:
        """The extractor's grid over this image.

        Two extractors of one fingerprint share it, and extractors derived from one source share the source's.
        """
        key = extractor.space.fingerprint
        if key not in self._features:
            if isinstance(extractor, DerivedFeatures):
                self._features[key] = extractor.transform(self.features(extractor.source))
            else:
                self._features[key] = extractor.extract([self.pixels])[0]
        return self._features[key]


@runtime_checkable
class MaskProposer(Protocol):
    """Anything with this method can be one."""

    def propose(self, image: ImageArray) -> Masks:
        """Masks over a uint8 (H, W, 3) image; they may overlap, and need not cover it."""


@runtime_checkable
class BasePredictor(Protocol):
    """Anything with this method can be one.

    It may also have an attribute ``branches``, the names that :meth:`knnseg.ClassScores.branch` of its scores
    knows; a configuration that names another is then refused before the first image.
    """

    def predict(self, image: EncodedImage, masks: Masks, vocabulary: Vocabulary) -> ClassScores:
        """P_base, float32 (N, C); rows as :class:`~knnseg.ClassScores` has them, 0 where there is no opinion."""
