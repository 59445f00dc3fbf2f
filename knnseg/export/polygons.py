"""Masks as polygons."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.measure import approximate_polygon, find_contours

__all__ = ["one_polygon", "outlines", "rings"]

Ring: TypeAlias = NDArray[np.float64]
"""float64 (P, 2), x and y of each corner in pixels, whose centres are at .5; the last corner is the first."""

_TOLERANCE = 1.0
"""Pixels that a polygon may be off, enough for the stairs that a slanting edge is made of."""
_SPECK = 0.01
"""Pieces that are a smaller share of the mask than this are left out, unless they are all that there is."""


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


def outlines(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The outer outlines of the pieces of a mask, largest first; holes are filled, since a ring has none.

    Args:
        mask: bool (H, W).

    Returns:
        Of each piece its corners, float64 (P, 2) as for :data:`Ring`, but none twice; P is at least 3.
    """
    found = []
    for contour in find_contours(np.pad(mask, 1).astype(np.uint8), 0.5):  # type: ignore[no-untyped-call]
        border = _pixel_corners(contour)
        area = _area(border)
        if area > 0:  # the other way round are holes
            corners = approximate_polygon(border, _TOLERANCE)[:-1]  # type: ignore[no-untyped-call]  # the last is the first again
            found.append((area, corners if len(corners) > 2 else border[:-1]))
    found.sort(key=lambda one: -one[0])
    least = _SPECK * sum(area for area, _ in found)
    kept = [corners for n, (area, corners) in enumerate(found) if n == 0 or area >= least]
    return [corners[:, ::-1] - 0.5 for corners in kept]  # counted from a corner, not from the centre of the padding


def _pixel_corners(contour: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners of pixels that a closed contour goes by: between two of its points, which are middles of edges."""
    before, after = contour[:-1], contour[1:]
    broken = np.where(before % 1 > 0, before, after)  # around a corner each coordinate is a half on one side
    corners = np.where(np.abs(before - after) == 0.5, broken, (before + after) / 2)
    first = int(np.lexsort(corners.T[::-1])[0])  # the upper left one is a corner of the outline for certain
    return np.concatenate([corners[first:], corners[: first + 1]])


def _area(contour: NDArray[np.float64]) -> float:
    """The area inside, with a sign for the sense of rotation."""
    y, x = contour.T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2
