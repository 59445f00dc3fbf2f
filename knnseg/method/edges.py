"""Edges at full size: maps that were made on a smaller copy of an image come back to its pixels.

Joint bilateral upsampling (Kopf, Cohen, Lischinski and Uyttendaele, SIGGRAPH 2007, doi 10.1145/1276377.1276497) of
labels: with p a pixel of the image I, q the nine cells around it, Ĩ the copy and l the map,

    L(p) = argmax_l Σ_q [l(q) = l] · exp(-‖p - q‖² / 2σ_s²) · exp(-‖I(p) - Ĩ(q)‖² / 2σ_c²)

with distances in cells and in values of 0 to 255. Only pixels with more than one label around them are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from knnseg.data.arrays import ImageArray
from knnseg.data.masks import nearest
from knnseg.data.reading import resize

__all__ = ["Enlarger"]

_SPACE = 0.7
"""σ_s, in cells."""
_COLOUR = 12.0
"""σ_c, in values of 0 to 255."""
_TOGETHER = 1 << 17
"""Pixels that are worked on at once."""


class Enlarger:
    """Brings integer maps from a grid to the pixels of an image.

    Args:
        image: uint8 (H, W, 3).
        grid: (h, w) of the maps.
    """

    def __init__(self, image: ImageArray, grid: tuple[int, int]) -> None:
        self._image, self._copy = image, resize(image, grid).astype(np.float32)

    def __call__(self, cells: NDArray[np.int32]) -> NDArray[np.int32]:
        """int32 (H, W) from int32 (h, w): every pixel has a label of one of the nine cells around it."""
        size = (int(self._image.shape[0]), int(self._image.shape[1]))
        enlarged = nearest(cells, size)
        mixed = nearest(maximum_filter(cells, 3, mode="nearest") != minimum_filter(cells, 3, mode="nearest"), size)
        places = np.flatnonzero(mixed)
        for start in range(0, len(places), _TOGETHER):
            some = places[start : start + _TOGETHER]
            enlarged.reshape(-1)[some] = self._likeliest(cells, *np.divmod(some, size[1]))
        return enlarged

    def _likeliest(
        self, cells: NDArray[np.int32], rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        """The label of each of these pixels."""
        around = list(self._around(cells, rows, columns))
        sums = np.stack([weight for _, weight in around])
        for i, (label, weight) in enumerate(around):
            for j, (other, its) in enumerate(around[:i]):
                same = label == other
                sums[i] += same * its
                sums[j] += same * weight
        labels = np.stack([label for label, _ in around])
        return np.take_along_axis(labels, sums.argmax(axis=0)[None], 0)[0]

    def _around(
        self, cells: NDArray[np.int32], rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """The label and the weight of each of the nine cells around each pixel; the nearest cell first."""
        height, width = cells.shape
        y = ((rows + 0.5) * (height / self._image.shape[0])).astype(np.float32)
        x = ((columns + 0.5) * (width / self._image.shape[1])).astype(np.float32)
        colours = self._image[rows, columns].astype(np.float32)
        for dy in (0, -1, 1):
            down = np.clip(y.astype(np.int64) + dy, 0, height - 1)
            below = (down + np.float32(0.5) - y) ** 2
            for dx in (0, -1, 1):
                along = np.clip(x.astype(np.int64) + dx, 0, width - 1)
                apart = below + (along + np.float32(0.5) - x) ** 2
                unlike = self._copy.reshape(-1, 3).take(place := down * width + along, axis=0) - colours
                unlike = np.einsum("nc,nc->n", unlike, unlike)
                weight = np.exp(apart * np.float32(-0.5 / _SPACE**2) + unlike * np.float32(-0.5 / _COLOUR**2))
                yield cells.reshape(-1).take(place), weight
