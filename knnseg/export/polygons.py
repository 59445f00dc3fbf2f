"""Masks as polygons."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import find_contours

__all__ = ["one_polygon", "rings"]

Ring: TypeAlias = NDArray[np.float64]
"""float64 (P, 2), x and y of each corner in pixels, whose centres are at .5; the last corner is the first."""


def rings(mask: NDArray[np.bool_]) -> list[Ring]:
    """The borders of a bool (H, W) mask and of its holes. Filled even-odd, they have its pixels' centres inside."""
    found = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)  # type: ignore[no-untyped-call]
    return [_corners(contour[:, ::-1] - 0.5) for contour in found]


def one_polygon(parts: list[Ring]) -> Ring:
    """Several rings as one, joined by paths that go to and fro, as is usual where a format has one ring an object."""
    path = parts[0]
    for ring in parts[1:]:
        distances, nearest = cKDTree(path).query(ring)
        start = int(distances.argmin())
        at, turned = int(nearest[start]), np.roll(ring[:-1], -start, axis=0)
        path = np.concatenate([path[: at + 1], turned, turned[:1], path[at:]])
    return path


def _corners(ring: Ring) -> Ring:
    """Without the points that lie on the line between their neighbours."""
    steps = np.diff(ring, axis=0)
    before, after = np.roll(steps, 1, axis=0), steps
    bends = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    kept = ring[:-1][bends]
    return np.concatenate([kept, kept[:1]])
