"""From scored masks to maps: overlapping masks add up to a dense semantic map, and to panoptic segments."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import find_objects
from skimage.measure import label as connected_components

from knnseg.config import PaintingConfig
from knnseg.types import IGNORE, ClassScores, Masks, Vocabulary

__all__ = ["Segment", "paint_panoptic", "paint_semantic"]

_WHOLE = 1 << 24
"""Sums, pixels times classes, that are made at once: 64 MB. Fewer would not gain by stripes, which want the masks
sorted by pixel."""
_STRIPE = 1 << 22
"""Sums of one stripe: 16 MB."""


_HALF = 0.5
"""A mask that covers this much of a pixel has it."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a panoptic map.

    Args:
        id: its number in the map, from 1.
        label: class name.
        thing: a countable object.
        score: mean probability of the class over its pixels, 0 to 1.
        area: pixels.
        box: (x0, y0, x1, y1), pixels, the last two exclusive.
    """

    id: int
    label: str
    thing: bool
    score: float
    area: int
    box: tuple[int, int, int, int]


def paint_semantic(masks: Masks, scores: ClassScores) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Sum the class scores of all masks over each pixel and take the best class.

    semantic(p) = argmax_c Σ_n q_n m_n(p) P_n(c), q_n the score of mask n; one sparse product (H·W, N)·(N, C).

    Returns:
        int32 (H, W) of class positions, ``IGNORE`` where no mask has an opinion; and float32 (H, W), the share of that
        class in the sum, 0 to 1.
    """
    best, top, total = _best(masks, scores.probabilities * masks.scores[:, None])
    share = np.divide(top, total, out=np.zeros_like(top), where=total > 0)
    semantic = np.where(total > 0, best, IGNORE).astype(np.int32)
    return semantic.reshape(masks.size), share.reshape(masks.size)


def _best(
    masks: Masks, weights: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """The best class of each of the H·W pixels, what it sums to, and what all classes sum to.

    Pixels are taken in stripes: 847 classes of a photograph of six million pixels would be 20 GB at once. The sums
    over a pixel are the same, to the bit, however many pixels are taken together: its masks are added in their order.
    """
    pixels, count = masks.matrix.shape[1], weights.shape[1]
    by_pixel = masks.matrix.T  # (H·W, N)
    rows = pixels
    if pixels * count > _WHOLE:
        by_pixel, rows = sparse.csr_array(by_pixel), max(1, _STRIPE // count)
    best = np.empty(pixels, np.int64)
    top, total = np.empty(pixels, np.float32), np.empty(pixels, np.float32)
    for start in range(0, pixels, max(rows, 1)):
        part = slice(start, start + rows)
        # In float32: the sum of the few masks over a pixel needs no more, and double would take three times as long.
        sums = np.asarray((by_pixel if rows == pixels else by_pixel[part]) @ weights)  # (rows, C)
        best[part] = sums.argmax(axis=1)
        top[part] = np.take_along_axis(sums, best[part, None], 1)[:, 0]
        total[part] = sums.sum(axis=1)
    return best, top, total


def paint_panoptic(
    masks: Masks,
    scores: ClassScores,
    semantic: tuple[NDArray[np.int32], NDArray[np.float32]],
    vocabulary: Vocabulary,
    config: PaintingConfig,
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    """Number the segments: each stuff class is one, each object of a thing class another.

    Where the masks are whole instances, each pixel goes to the mask of highest q_n · max_c P_n(c) · m_n(p), if that
    covers at least half of it (Cheng et al., MaskFormer, 2021, arXiv 2107.06278, section 3.4). A mask is dropped where
    the pixels that it gets are fewer than ``min_visible`` times those that it covers by half, and where it is more
    likely none of the classes than its best one. Where the masks are regions, an object is a connected component of the
    semantic map.

    Args:
        masks: N masks.
        scores: their class probabilities.
        semantic: the maps of :func:`paint_semantic`.
        vocabulary: classes and which of them are things.
        config: thresholds.

    Returns:
        int32 (H, W), segment numbers from 1, 0 where nothing is; and the segments in that order.
    """
    if masks.instances:
        regions, classes, share = _by_mask(masks, scores, vocabulary, config)
    else:
        regions, classes = _by_component(semantic[0], vocabulary)
        share = semantic[1]
    return _numbered(regions, classes, share, vocabulary, config)


def _by_component(semantic: NDArray[np.int32], vocabulary: Vocabulary) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Regions from 0 (-1 for none) and the class of each."""
    things = np.array([name in vocabulary.things for name in vocabulary.names])
    components = connected_components(semantic + 1, background=0, connectivity=2).astype(np.int64) - 1  # type: ignore[no-untyped-call]  # skimage's
    classes = np.full(int(components.max(initial=-1)) + 1, IGNORE, np.int64)
    classes[components[components >= 0]] = semantic[components >= 0]
    first = {c: int(np.flatnonzero(classes == c)[0]) for c in np.unique(classes).tolist()}
    merged = np.array([i if things[c] else first[c] for i, c in enumerate(classes.tolist())], np.int64)
    return (np.where(components >= 0, merged[components], -1) if len(merged) else components), classes


def _by_mask(
    masks: Masks, scores: ClassScores, vocabulary: Vocabulary, config: PaintingConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Regions from 0 (-1 for none), the class of each, and the class probability of each pixel's mask."""
    best = scores.probabilities.max(axis=1, initial=0)
    classes = scores.probabilities.argmax(axis=1).astype(np.int64) if len(masks) else np.empty(0, np.int64)
    nothing = 1 - scores.probabilities.sum(axis=1)
    likely = (best > nothing) & (best >= config.min_score)
    owner, covered = _owners(masks, np.where(likely, best * masks.scores, 0))
    visible = np.bincount(owner[owner >= 0], minlength=len(masks))
    half = np.array([np.count_nonzero(masks.matrix.data[row] >= _HALF) for row in _rows(masks)])
    hidden = np.append(visible < config.min_visible * half, True)  # the last is for pixels of no mask, -1
    owner[hidden[owner] | (covered < _HALF)] = -1
    certainty = np.append(best, 0)[owner].astype(np.float32)
    things = np.array([name in vocabulary.things for name in vocabulary.names])
    first: dict[int, int] = {}
    merged = [n if things[c] else first.setdefault(c, n) for n, c in enumerate(classes.tolist())]
    owner = np.where(owner >= 0, np.array([*merged, -1])[owner], -1)
    return owner.reshape(masks.size), classes, certainty.reshape(masks.size)


def _owners(masks: Masks, rank: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The mask of highest rank times coverage at each pixel, -1 for none, of equal ones the first; and its coverage."""
    pixels = masks.matrix.shape[1]
    owner, covered, top = np.full(pixels, -1, np.int64), np.zeros(pixels, np.float32), np.zeros(pixels, np.float32)
    for n, row in enumerate(_rows(masks)):
        if rank[n] > 0:
            places, coverage = masks.matrix.indices[row], masks.matrix.data[row]
            weighted = coverage * np.float32(rank[n])
            better = weighted > top[places]
            won = places[better]
            owner[won], covered[won], top[won] = n, coverage[better], weighted[better]
    return owner, covered


def _rows(masks: Masks) -> list[slice]:
    """Where each mask is in the arrays of its matrix."""
    ends = masks.matrix.indptr.tolist()
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def _numbered(
    regions: NDArray[np.int64],
    classes: NDArray[np.int64],
    share: NDArray[np.float32],
    vocabulary: Vocabulary,
    config: PaintingConfig,
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    """Drop what is too small or too uncertain, number the rest from 1 by class and position."""
    count = len(classes)
    flat = regions.reshape(-1)
    inside = flat >= 0
    areas = np.bincount(flat[inside], minlength=count)
    certainty = np.bincount(flat[inside], weights=share.reshape(-1)[inside], minlength=count) / np.maximum(areas, 1)
    kept = np.flatnonzero((areas >= max(config.min_area, 1)) & (certainty >= config.min_score))
    table = np.zeros(count + 1, np.int32)
    segments = []
    boxes = _boxes(regions, count)
    for number, region in enumerate(sorted(kept.tolist(), key=lambda r: (classes[r], boxes[r][1], boxes[r][0], r)), 1):
        table[region] = number
        label = vocabulary.names[classes[region]]
        score, area = float(min(certainty[region], 1)), int(areas[region])
        segments.append(Segment(number, label, label in vocabulary.things, score, area, boxes[region]))
    return table[regions], tuple(segments)  # regions of -1 read the last entry, which is 0


def _boxes(regions: NDArray[np.int64], count: int) -> list[tuple[int, int, int, int]]:
    """(x0, y0, x1, y1) of each region, zeros for one without pixels."""
    places = find_objects(regions + 1, max_label=count)
    return [(0, 0, 0, 0) if at is None else (at[1].start, at[0].start, at[1].stop, at[0].stop) for at in places]
