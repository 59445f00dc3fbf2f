"""A grid of small cells beside regions, so that every place of an image is asked about by itself too.

A region is one question and has one answer from edge to edge; where it mixes two things, or lies over something
smaller, that is wrong somewhere whatever the votes are. A cell sees less, but its own place. Painting adds up what
regions and cells say.
"""

from __future__ import annotations

import numpy as np

from knnseg.data.masks import Masks

__all__ = ["with_cells"]


def with_cells(masks: Masks, count: int) -> Masks:
    """The masks of an image, and behind them a grid of about square cells, each with a score of 1.

    Args:
        masks: regions; whole instances stay as they are.
        count: cells along the longer side; 0 for none. There is at most one for each cell of the mask grid.
    """
    if not count or masks.instances:
        return masks
    height, width = masks.grid
    scale = min(1.0, count / max(height, width))
    down, across = (max(1, round(scale * side)) for side in (height, width))
    rows, columns = np.arange(height) * down // height, np.arange(width) * across // width
    return Masks.concatenate([masks, Masks.from_partition(rows[:, None] * across + columns, size=masks.size)])
