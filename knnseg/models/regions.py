"""Regions of even colour, proposed without a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb, slic

from knnseg.data.arrays import ImageArray
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.reading import resize, within
from knnseg.errors import ConfigError
from knnseg.later import each

__all__ = ["RegionProposer"]


class RegionProposer:
    """Regions of even colour at several scales, needing no model.

    Two kinds, which err in different places: the regions of Felzenszwalb and Huttenlocher (IJCV 2004) follow objects
    whatever their size, and SLIC superpixels (Achanta et al., TPAMI 2012) stay small and compact where an object and
    its ground look alike. Each scale of each kind is a partition of the image, so that every pixel lies in one region
    of each; painting adds up their votes.

    A larger image is cut on a smaller copy, so that neither the time nor the regions depend on how many pixels a camera
    has. The masks then have the copy's grid.

    Args:
        scales: Felzenszwalb's k, larger for larger regions; may be empty.
        sigma: Gaussian smoothing beforehand, pixels.
        min_area: smallest region of the first kind, pixels.
        superpixels: about how many superpixels cut the image, one number for each partition; may be empty.
        compactness: of superpixels; larger is closer to squares.
        long_side: pixels of the longer side of the copy; the other numbers in pixels are of the copy.

    Raises:
        ConfigError: no partition at all, or a number out of range.
    """

    def __init__(
        self,
        scales: Sequence[float] = (60, 150, 400),
        sigma: float = 0.8,
        min_area: int = 60,
        superpixels: Sequence[int] = (150, 300),
        compactness: float = 10.0,
        long_side: int = 320,
    ) -> None:
        _check("scales", scales, all(_number(scale) and scale > 0 for scale in _listed("scales", scales)), "above 0")
        counts = _listed("superpixels", superpixels)
        _check("superpixels", superpixels, all(isinstance(n, int) and n >= 1 for n in counts), "whole and at least 1")
        _check("sigma", sigma, _number(sigma) and sigma >= 0, "a number of at least 0")
        _check("min_area", min_area, _number(min_area) and min_area >= 1, "a number of at least 1")
        _check("compactness", compactness, _number(compactness) and compactness > 0, "a number above 0")
        whole = isinstance(long_side, int) and not isinstance(long_side, bool)
        _check("long_side", long_side, whole and long_side >= 16, "a whole number of at least 16")
        if not len(scales) + len(superpixels):
            raise ConfigError("regions: expected at least one of scales and superpixels, got neither")
        self._scales, self._superpixels, self._long_side = tuple(scales), tuple(superpixels), long_side
        self._sigma, self._min_area, self._compactness = sigma, min_area, compactness

    def propose(self, images: Sequence[Image]) -> list[Masks]:
        """See :meth:`knnseg.MaskProposer.propose`; Felzenszwalb's partitions first, each in the order given."""
        return each(self._propose, images)

    def _propose(self, image: Image) -> Masks:
        copy = resize(image.pixels, within(image.size, self._long_side))
        partitions = self._partitions(copy)
        return Masks.concatenate([Masks.from_partition(regions, size=image.size) for regions in partitions])

    def _partitions(self, image: ImageArray) -> Iterator[NDArray[np.int32]]:
        """int32 (h, w), regions from 0, for each scale and then for each number of superpixels."""
        for scale in self._scales:
            regions = felzenszwalb(image, scale=scale, sigma=self._sigma, min_size=self._min_area)
            yield np.asarray(regions, np.int32)
        for count in self._superpixels:
            regions = slic(image, count, self._compactness, sigma=self._sigma, start_label=0)
            yield np.asarray(regions, np.int32)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)


def _listed(name: str, values: object) -> Sequence[Any]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ConfigError(f"regions: expected {name} as a list of numbers, got {values!r}")
    return values


def _check(name: str, value: object, ok: bool, expected: str) -> None:
    if not ok:
        raise ConfigError(f"regions: expected {name} {expected}, got {value!r}")
