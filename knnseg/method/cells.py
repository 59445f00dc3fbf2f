"""A grid of small soft masks beside regions, so that every place of an image is asked about by itself too.

A region is one question and has one answer from edge to edge; where it mixes two things, or lies over something
smaller, that is wrong somewhere whatever the votes are. The cells of a grid see less, but each its own place. The
coverage of a cell falls from 1 at its centre to 0 at those of the cells around it. So at each pixel the coverages of
all cells sum to 1, and painting, which adds up masks, interpolates between the answers bilinearly.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import sparse

from knnseg.data.masks import Masks

__all__ = ["with_cells"]


def with_cells(masks: Masks, count: int) -> Masks:
    """The masks of an image, and behind them a grid of cells, each with a score of 1.

    Args:
        masks: regions; whole instances stay as they are.
        count: cells along the longer side; 0 for none. There is at most one for each cell of the mask grid.
    """
    if not count or masks.instances:
        return masks
    height, width = masks.grid
    scale = min(1.0, count / max(height, width))
    matrix = _cells(masks.grid, (max(1, round(scale * height)), max(1, round(scale * width))))
    ones = np.ones(matrix.shape[0], np.float32)
    return Masks.concatenate([masks, Masks(matrix, masks.size, ones, grid=masks.grid)])


@lru_cache(maxsize=8)
def _cells(grid: tuple[int, int], counts: tuple[int, int]) -> sparse.csr_array:
    """float32 CSR (cells, h·w); columns sum to 1."""
    down, across = (_along(*side) for side in zip(grid, counts, strict=True))
    return sparse.csr_array(sparse.kron(down, across, format="csr"))


def _along(places: int, cells: int) -> sparse.csr_array:
    """float32 CSR (cells, places): linear interpolation between the centres of cells, constant beyond the outermost."""
    centres = (np.arange(cells) + 0.5) * (places / cells)
    rows = [np.interp(np.arange(places) + 0.5, centres, one) for one in np.eye(cells)]
    return sparse.csr_array(np.array(rows, np.float32))
