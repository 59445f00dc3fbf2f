"""Regions of even colour, proposed without a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from skimage.segmentation import felzenszwalb, slic

from knnseg.checked import AtLeast0, Count, Positive, checked
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

    @checked("regions")
    def __init__(
        self,
        scales: Annotated[Sequence[Positive], Field(description="a list of numbers above 0")] = (60, 150, 400),
        sigma: AtLeast0 = 0.8,
        min_area: Annotated[int | float, Field(ge=1, description="a number of at least 1")] = 60,
        superpixels: Annotated[Sequence[Count], Field(description="a list of whole numbers of at least 1")] = (
            150,
            300,
        ),
        compactness: Positive = 10.0,
        long_side: Annotated[int, Field(ge=16, description="a whole number of at least 16")] = 320,
    ) -> None:
        if not len(scales) + len(superpixels):
            raise ConfigError("regions", expected="at least one of scales and superpixels", got="neither")
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
