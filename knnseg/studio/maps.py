"""Maps as the page gets and sends them: small enough for a screen, and coded as runs of equal numbers.

A picture in the page has at most :data:`SIDE` pixels on its longer side. Everything that the page knows of it has that
size: which proposals lie where, which segment, and what a person has selected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from knnseg.data.masks import Masks, nearest
from knnseg.data.reading import within
from knnseg.errors import MaskError

__all__ = ["SIDE", "from_runs", "on_screen", "proposal_layers", "screen_size", "to_runs"]

SIDE = 1024
"""Pixels of the longer side of a picture in the page, at most."""
_LAYERS = 24
"""Layers of proposals, at most: what lies deeper under others is not offered."""


def screen_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size (h, w) in the page of an image of a size (H, W)."""
    return within(size, SIDE)


def on_screen(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """A map (H, W) at the size that its image has in the page."""
    return nearest(numbers, screen_size((numbers.shape[0], numbers.shape[1])))


def to_runs(numbers: NDArray[np.integer]) -> list[int]:
    """A map as number, count, number, count, …, row by row."""
    flat = numbers.reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1])
    counts = np.diff(np.append(starts, flat.size))
    return [int(n) for n in np.stack([flat[starts], counts], 1).reshape(-1)]


def from_runs(runs: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an image of ``size`` (H, W) that the page has sent: where its numbers are not 0.

    Args:
        runs: of the mask at its size in the page.
        size: of the image.

    Raises:
        MaskError: the runs do not fill the picture.
    """
    shape = screen_size(size)
    pairs = np.asarray(runs, np.int64)
    if pairs.size % 2 or (pairs[1::2] < 0).any() or pairs[1::2].sum() != shape[0] * shape[1]:
        got = int(pairs[1::2].sum())
        raise MaskError("mask", expected=f"runs of {shape[0]}×{shape[1]} pixels", got=f"{got} pixels")
    return nearest(np.repeat(pairs[::2] != 0, pairs[1::2]).reshape(shape), size)


def proposal_layers(masks: Masks) -> list[NDArray[np.int32]]:
    """The proposals of an image, from 1, in as few layers as keep those that overlap apart: int32 (h, w) each.

    A proposal that overlaps others in all of :data:`_LAYERS` layers is left out.
    """
    shape = screen_size(masks.size)
    grid = (min(masks.grid[0], shape[0]), min(masks.grid[1], shape[1]))
    matrix, layers = masks.on_grid(grid).matrix, list[NDArray[np.int32]]()
    for n in range(len(masks)):
        row = slice(matrix.indptr[n], matrix.indptr[n + 1])
        cells = matrix.indices[row][matrix.data[row] >= 0.5]  # those that it covers by half
        free = next((layer for layer in layers if not layer[cells].any()), None)
        if free is None and len(layers) < _LAYERS:
            free = np.zeros(grid[0] * grid[1], np.int32)
            layers.append(free)
        if free is not None:
            free[cells] = n + 1
    return [nearest(layer.reshape(grid), shape) for layer in layers]
