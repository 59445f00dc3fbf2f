"""From scored masks to maps: overlapping masks add up to a dense semantic map, and to panoptic segments.

Maps are made on the grid of the masks. Where that is coarser than the image, the edges come back last, from the image.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import find_objects
from skimage.measure import label as connected_components

from knnseg.config import PaintingConfig
from knnseg.data.arrays import IGNORE, ImageArray
from knnseg.data.masks import Masks, nearest
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import UNKNOWN, Vocabulary
from knnseg.method.edges import Enlarger

__all__ = ["Painting", "Segment", "paint", "paint_semantic"]

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


@dataclass(frozen=True, slots=True, eq=False)
class Painting:
    """The maps of one image.

    Args:
        semantic: int32 (H, W) of class positions, ``IGNORE`` where no mask has an opinion.
        panoptic: int32 (H, W), segment numbers from 1, 0 where nothing is.
        segments: the segments, in the order of their numbers.
    """

    semantic: NDArray[np.int32]
    panoptic: NDArray[np.int32]
    segments: tuple[Segment, ...]


def paint(
    image: ImageArray, masks: Masks, scores: ClassScores, vocabulary: Vocabulary, config: PaintingConfig
) -> Painting:
    """Paint the semantic and the panoptic map: each stuff class is one segment, each object of a thing class another.

    Where the masks are whole instances, each pixel goes to the mask of highest q_n · max_c P_n(c) · m_n(p), if that
    covers at least half of it (Cheng et al., MaskFormer, 2021, arXiv 2107.06278, section 3.4). A mask is dropped where
    the pixels that it gets are fewer than ``min_visible`` times those that it covers by half, and where it is more
    likely none of the classes than its best one. Where the masks are regions, an object is a connected component of the
    semantic map.

    Args:
        image: uint8 (H, W, 3); its edges guide the maps of masks on a coarser grid, see :mod:`knnseg.method.edges`.
        masks: N masks.
        scores: their class probabilities.
        vocabulary: classes and which of them are things.
        config: thresholds; with ``unknown``, what no mask covers is of that class.
    """
    semantic, share = paint_semantic(masks, scores)
    rest = vocabulary.names.index(UNKNOWN) if config.unknown and UNKNOWN in vocabulary.names else IGNORE
    bare = semantic == IGNORE
    semantic, share = np.where(bare, np.int32(rest), semantic), np.where(bare, np.float32(1), share)
    if masks.instances:
        objects = _with_rest(_by_mask(masks, scores, vocabulary, config), bare, rest)
    else:
        objects = _by_component(semantic, share, vocabulary)
    if masks.grid != masks.size:
        enlarger = Enlarger(image, masks.grid)
        objects = replace(objects, map=enlarger(objects.map), certainty=nearest(objects.certainty, masks.size))
        # Regions come from the semantic map, and go on to agree with it.
        semantic = enlarger(semantic) if masks.instances else objects.classes_map()
    return Painting(semantic, *_numbered(objects, vocabulary, config))


def paint_semantic(masks: Masks, scores: ClassScores) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Sum the class scores of all masks over each pixel and take the best class.

    semantic(p) = argmax_c Σ_n q_n m_n(p) P_n(c), q_n the score of mask n; one sparse product (H·W, N)·(N, C).

    Returns:
        int32 of class positions, ``IGNORE`` where no mask has an opinion; and float32, the share of that class in the
        sum, 0 to 1. Both have the grid of the masks.
    """
    best, top, total = _best(masks, scores.probabilities * masks.scores[:, None])
    share = np.divide(top, total, out=np.zeros_like(top), where=total > 0)
    semantic = np.where(total > 0, best, IGNORE).astype(np.int32)
    return semantic.reshape(masks.grid), share.reshape(masks.grid)


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


@dataclass(frozen=True, slots=True, eq=False)
class _Objects:
    """What may become segments: int32 map of objects from 0, -1 for none; the class of each; float32 certainty."""

    map: NDArray[np.int32]
    classes: NDArray[np.int64]
    certainty: NDArray[np.float32]

    def classes_map(self) -> NDArray[np.int32]:
        return np.append(self.classes, IGNORE).astype(np.int32)[self.map]  # -1 reads the last entry


def _by_component(semantic: NDArray[np.int32], share: NDArray[np.float32], vocabulary: Vocabulary) -> _Objects:
    """The connected components of things; each class of stuff as one."""
    things = np.array([name in vocabulary.things for name in vocabulary.names])
    components = connected_components(semantic + 1, background=0, connectivity=2).astype(np.int32) - 1  # type: ignore[no-untyped-call]  # skimage's
    classes = np.full(int(components.max(initial=-1)) + 1, IGNORE, np.int64)
    classes[components[components >= 0]] = semantic[components >= 0]
    first = {c: int(np.flatnonzero(classes == c)[0]) for c in np.unique(classes).tolist()}
    merged = np.array([i if things[c] else first[c] for i, c in enumerate(classes.tolist())] + [-1], np.int32)
    return _Objects(merged[components], classes, share)  # -1 reads the last entry


def _by_mask(masks: Masks, scores: ClassScores, vocabulary: Vocabulary, config: PaintingConfig) -> _Objects:
    """The masks that win pixels; those of one class of stuff as one. The certainty is the class probability."""
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
    objects = np.array([*merged, -1], np.int32)[owner]
    return _Objects(objects.reshape(masks.grid), classes, certainty.reshape(masks.grid))


def _with_rest(objects: _Objects, bare: NDArray[np.bool_], rest: int) -> _Objects:
    """With one object more of the class ``rest``, or more of the one that there is, where no mask has an opinion."""
    free = bare & (objects.map < 0)
    if rest == IGNORE or not free.any():
        return objects
    same = np.flatnonzero(objects.classes == rest)
    classes = objects.classes if len(same) else np.append(objects.classes, rest)
    number = np.int32(same[0] if len(same) else len(objects.classes))
    certainty = np.where(free, np.float32(1), objects.certainty)
    return _Objects(np.where(free, number, objects.map), classes, certainty)


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
    objects: _Objects, vocabulary: Vocabulary, config: PaintingConfig
) -> tuple[NDArray[np.int32], tuple[Segment, ...]]:
    """Drop what is too small or too uncertain, number the rest from 1 by class and position."""
    classes, count = objects.classes, len(objects.classes)
    flat = objects.map.reshape(-1) + 1  # 0 for none
    areas = np.bincount(flat, minlength=count + 1)[1:]
    total = np.bincount(flat, weights=objects.certainty.reshape(-1), minlength=count + 1)[1:]
    certainty = total / np.maximum(areas, 1)
    kept = np.flatnonzero((areas >= max(config.min_area, 1)) & (certainty >= config.min_score))
    table = np.zeros(count + 1, np.int32)
    segments = []
    boxes = _boxes(objects.map, count)
    for number, region in enumerate(sorted(kept.tolist(), key=lambda r: (classes[r], boxes[r][1], boxes[r][0], r)), 1):
        table[region] = number
        label = vocabulary.names[classes[region]]
        score, area = float(min(certainty[region], 1)), int(areas[region])
        segments.append(Segment(number, label, label in vocabulary.things, score, area, boxes[region]))
    return table[objects.map], tuple(segments)  # regions of -1 read the last entry, which is 0


def _boxes(regions: NDArray[np.int32], count: int) -> list[tuple[int, int, int, int]]:
    """(x0, y0, x1, y1) of each region, zeros for one without pixels."""
    places = find_objects(regions + 1, max_label=count)
    return [(0, 0, 0, 0) if at is None else (at[1].start, at[0].start, at[1].stop, at[0].stop) for at in places]
