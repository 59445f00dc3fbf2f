"""The feature stage: a dense grid over an image, from which the keys of retrieval are pooled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from knnseg.types import Features, ImageArray
from knnstore import EmbeddingSpace

__all__ = ["EncodedImage", "FeatureExtractor"]


@runtime_checkable
class FeatureExtractor(Protocol):
    """Anything with these two attributes and one method can be one."""

    @property
    def space(self) -> EmbeddingSpace:
        """Where the features live; its fingerprint changes whenever a feature could."""

    @property
    def dim(self) -> int:
        """D."""

    def extract(self, images: Sequence[ImageArray]) -> list[Features]:
        """One grid for each uint8 (H, W, 3) image; images may differ in size."""


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
        """The extractor's grid over this image. Two extractors of one fingerprint share it."""
        key = extractor.space.fingerprint
        if key not in self._features:
            self._features[key] = extractor.extract([self.pixels])[0]
        return self._features[key]
