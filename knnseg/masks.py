"""The mask stage: regions that are labelled as wholes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb, slic

from knnseg.errors import ConfigError
from knnseg.types import ImageArray, Masks

__all__ = ["MaskProposer", "RegionProposer"]


@runtime_checkable
class MaskProposer(Protocol):
    """Anything with this method can be one."""

    def propose(self, image: ImageArray) -> Masks:
        """Masks over a uint8 (H, W, 3) image; they may overlap, and need not cover it."""


class RegionProposer:
    """Regions of even colour at several scales, needing no model.

    Two kinds, which err in different places: the regions of Felzenszwalb and Huttenlocher (IJCV 2004) follow objects
    whatever their size, and SLIC superpixels (Achanta et al., TPAMI 2012) stay small and compact where an object and
    its ground look alike. Each scale of each kind is a partition of the image, so that every pixel lies in one region
    of each; painting adds up their votes.

    Args:
        scales: Felzenszwalb's k, larger for larger regions; may be empty.
        sigma: Gaussian smoothing beforehand, pixels.
        min_area: smallest region of the first kind, pixels.
        superpixels: about how many superpixels cut the image, one number for each partition; may be empty.
        compactness: of superpixels; larger is closer to squares.

    Raises:
        ConfigError: no partition at all, or a number out of range.
    """

    def __init__(
        self,
        scales: Sequence[float] = (100, 400),
        sigma: float = 0.8,
        min_area: int = 60,
        superpixels: Sequence[int] = (150,),
        compactness: float = 10.0,
    ) -> None:
        _check("scales", scales, all(_number(scale) and scale > 0 for scale in _listed("scales", scales)), "above 0")
        counts = _listed("superpixels", superpixels)
        _check("superpixels", superpixels, all(isinstance(n, int) and n >= 1 for n in counts), "whole and at least 1")
        _check("sigma", sigma, _number(sigma) and sigma >= 0, "a number of at least 0")
        _check("min_area", min_area, _number(min_area) and min_area >= 1, "a number of at least 1")
        _check("compactness", compactness, _number(compactness) and compactness > 0, "a number above 0")
        if not len(scales) + len(superpixels):
            raise ConfigError("regions: expected at least one of scales and superpixels, got neither")
        self._scales, self._superpixels = tuple(scales), tuple(superpixels)
        self._sigma, self._min_area, self._compactness = sigma, min_area, compactness

    def propose(self, image: ImageArray) -> Masks:
        """See :meth:`MaskProposer.propose`; Felzenszwalb's partitions first, each in the order given."""
        return Masks.concatenate([Masks.from_partition(regions) for regions in self._partitions(image)])

    def _partitions(self, image: ImageArray) -> Iterator[NDArray[np.int32]]:
        """int32 (H, W), regions from 0, for each scale and then for each number of superpixels."""
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
