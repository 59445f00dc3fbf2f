"""The mask stage: regions that are labelled as wholes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from skimage.segmentation import felzenszwalb

from knnseg.errors import ConfigError
from knnseg.types import ImageArray, Masks

__all__ = ["MaskProposer", "RegionProposer"]


@runtime_checkable
class MaskProposer(Protocol):
    """Anything with this method can be one."""

    def propose(self, image: ImageArray) -> Masks:
        """Masks over a uint8 (H, W, 3) image; they may overlap, and need not cover it."""


class RegionProposer:
    """Regions of even colour at several scales (Felzenszwalb and Huttenlocher, IJCV 2004), needing no model.

    Each scale is a partition of the image, so that every pixel lies in one region of each; painting adds up their
    votes.

    Args:
        scales: the algorithm's k, larger for larger regions.
        sigma: Gaussian smoothing beforehand, pixels.
        min_area: smallest region, pixels.
    """

    def __init__(self, scales: Sequence[float] = (50, 150, 400), sigma: float = 0.8, min_area: int = 50) -> None:
        if not scales or min(scales) <= 0 or sigma < 0 or min_area < 1:
            raise ConfigError(
                f"regions: expected positive scales, sigma of at least 0 and min_area of at least 1, "
                f"got {list(scales)}, {sigma} and {min_area}"
            )
        self._scales, self._sigma, self._min_area = tuple(scales), sigma, min_area

    def propose(self, image: ImageArray) -> Masks:
        """See :meth:`MaskProposer.propose`."""
        partitions = [
            felzenszwalb(image, scale=scale, sigma=self._sigma, min_size=self._min_area) for scale in self._scales
        ]
        return Masks.concatenate([Masks.from_partition(np.asarray(regions, np.int32)) for regions in partitions])
