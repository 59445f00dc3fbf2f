"""From a box to an outline: what inside of it has other colours than what is around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_fill_holes, gaussian_filter
from skimage.color import rgb2lab
from skimage.measure import label as connected_components

from knnseg.data.arrays import ImageArray

__all__ = ["ByColours", "around", "check_point", "edges", "outline"]

_SIDE = 96
"""Pixels of the longer side of the copy that colours are counted on; 160 and 256 are no better on two sets."""
_AROUND = 0.15
"""Width of the surroundings, as a share of the longer side of the box."""
_BINS = (10, 16, 16)
"""Of lightness, and of both axes of colour."""
_ROUNDS = 3
_SMOOTH = 1.5
"""Standard deviations of the Gaussian that smooths the evidence, in pixels of the copy."""
_MOST = 3.0
"""The most that the colour of one pixel can say, as a logarithm of odds."""
_LEAST = 0.1
"""The least share of the box that an object fills; below that its colours say nothing, and it is an ellipse."""
_REACH = 0.7
"""Side of the square around a point in which its object is looked for, as a share of the image's shorter side."""


class ByColours:
    """Outlines from colours alone. Implements ``Prompted`` of :mod:`knnseg.stages.protocols`."""

    def masks(
        self, image: ImageArray, boxes: Sequence[NDArray[np.float64]] = (), points: Sequence[NDArray[np.float64]] = ()
    ) -> NDArray[np.bool_]:
        """See there; of several points it is what is around any of them."""
        found = [outline(image, (box[0], box[1], box[2], box[3])) for box in boxes]
        found += [np.logical_or.reduce([around(image, (x, y)) for x, y in group]) for group in points]
        return np.array(found, bool).reshape(-1, *image.shape[:2])


def around(image: ImageArray, point: tuple[float, float]) -> NDArray[np.bool_]:
    """A guess at the object that a point (x, y) is on: what :func:`outline` finds in a square around it.

    Half of it is right, see ``docs/datasets.md``; the region of even colour under the point is worse.

    Raises:
        ValueError: the point is not in the image.
    """
    check_point(point, (image.shape[0], image.shape[1]))
    (x, y), half = point, _REACH * min(image.shape[:2]) / 2
    return outline(image, (x - half, y - half, x + half, y + half))


def outline(image: ImageArray, box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """The likely outline of the object that a box was drawn around.

    Two histograms of colour, inside and around, take turns with the pixels that they make likely, as in GrabCut (Rother
    et al., SIGGRAPH 2004, doi:10.1145/1015706.1015720). In place of its cut, evidence is smoothed, and an ellipse
    inside the box is likelier than its corners. Of several pieces the largest counts, without its holes.

    Args:
        image: uint8 (H, W, 3).
        box: left, top, right and bottom in pixels; what is outside of the image is cut off.

    Returns:
        bool (H, W), inside the box.

    Raises:
        ValueError: the box has no pixel of the image.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = edges(box, (height, width))
    pad = max(4, round(_AROUND * max(right - left, bottom - top)))
    y0, x0 = max(top - pad, 0), max(left - pad, 0)
    part = image[y0 : bottom + pad, x0 : right + pad]
    found = np.zeros((height, width), bool)
    inside = _likely(part, (top - y0, bottom - y0, left - x0, right - x0))
    found[top:bottom, left:right] = inside[top - y0 : bottom - y0, left - x0 : right - x0]
    if not found.any():  # a box so thin that no pixel of the copy is inside
        found[top:bottom, left:right] = True
    return found


def check_point(point: tuple[float, float], size: tuple[int, int]) -> None:
    """Raise ValueError where a point (x, y) is not in an image of ``size`` (H, W)."""
    if not (0 <= point[0] <= size[1] and 0 <= point[1] <= size[0]):
        raise ValueError(f"expected a point inside of {size[0]}×{size[1]} pixels, got {point}")


def edges(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels of a box in an image of ``size`` (H, W): left, top, right, bottom.

    Raises:
        ValueError: it has none.
    """
    left, right = (int(np.clip(round(x), 0, size[1])) for x in (box[0], box[2]))
    top, bottom = (int(np.clip(round(y), 0, size[0])) for y in (box[1], box[3]))
    if right <= left or bottom <= top:
        raise ValueError(f"expected a box inside of {size[0]}×{size[1]} pixels, got {box}")
    return left, top, right, bottom


def _likely(part: ImageArray, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The pixels of the object, bool (h, w), of a picture that ends where the surroundings of the box do."""
    (h, w), scale = part.shape[:2], _SIDE / max(part.shape[:2])
    small = Image.fromarray(part).resize((max(round(w * scale), 8), max(round(h * scale), 8)), Image.Resampling.BOX)
    pixels = np.asarray(small)
    distance = _distance(pixels.shape[:2], tuple(edge * n / m for edge, n, m in zip(
        box, (*(2 * [pixels.shape[0]]), *(2 * [pixels.shape[1]])), (h, h, w, w), strict=True,
    )))  # fmt: skip
    mask = Image.fromarray(_by_colour(_codes(pixels), distance).astype(np.uint8) * 255)
    return np.asarray(mask.resize((w, h), Image.Resampling.BILINEAR)) > 127


def _distance(size: tuple[int, ...], box: tuple[float, ...]) -> NDArray[np.float64]:
    """From the centre of a box (top, bottom, left, right), 1 on the ellipse inside of it; infinite outside the box."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    v = (y - (box[0] + box[1]) / 2) / ((box[1] - box[0]) / 2)
    u = (x - (box[2] + box[3]) / 2) / ((box[3] - box[2]) / 2)
    return np.where((abs(u) <= 1) & (abs(v) <= 1), np.hypot(u, v), np.inf)


def _codes(pixels: ImageArray) -> NDArray[np.int64]:
    """The cell of the histogram that each pixel's colour is in (CIELAB)."""
    lab = rgb2lab(pixels)
    shares = np.stack([lab[..., 0] / 100, (lab[..., 1] + 80) / 160, (lab[..., 2] + 80) / 160], -1)
    cells = np.clip((shares * _BINS).astype(np.int64), 0, np.asarray(_BINS) - 1)
    return np.ravel_multi_index(tuple(np.moveaxis(cells, -1, 0)), _BINS)


def _by_colour(codes: NDArray[np.int64], distance: NDArray[np.float64]) -> NDArray[np.bool_]:
    inside = np.isfinite(distance)
    ellipse = found = distance < 0.8
    prior = np.clip(2.2 * (1 - distance), -1.5, 1.5)
    for _ in range(_ROUNDS):
        evidence = _density(codes[found])[codes] - _density(codes[~found])[codes]
        found = (gaussian_filter(np.clip(evidence, -_MOST, _MOST), _SMOOTH) + prior > 0) & inside
        if found.sum() <= _LEAST * inside.sum():
            return ellipse
    parts = connected_components(found)  # type: ignore[no-untyped-call]
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    filled: NDArray[np.bool_] = binary_fill_holes(parts == largest)
    return filled


def _density(codes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The logarithm of how common each colour is, smoothed over neighbouring ones."""
    counts = np.bincount(codes, minlength=int(np.prod(_BINS))).reshape(_BINS).astype(np.float64)
    smooth = gaussian_filter(counts, 1) + 1e-3
    logs: NDArray[np.float64] = np.log(smooth / smooth.sum()).ravel()
    return logs
