"""From scored masks to objects that may overlap, each with a score: what average precision is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from knnseg.data.masks import Masks, nearest
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnseg.method.painting import Segment

__all__ = ["MOST", "Instance", "encode", "encode_parts", "find_instances", "mask_instances", "segment_instances"]

MOST = 100
"""Objects of one image, at most; COCO's and Mask2Former's number."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One object.

    Args:
        label: class name.
        score: how sure, 0 to 1.
        area: pixels.
        size: (H, W) of the image.
        counts: the mask in COCO's compressed run-length encoding.
    """

    label: str
    score: float
    area: int
    size: tuple[int, int]
    counts: str

    @property
    def rle(self) -> dict[str, object]:
        """The mask as COCO results have it under ``segmentation``."""
        return {"size": list(self.size), "counts": self.counts}

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Bool (H, W)."""
        return coco_mask.decode(self.rle).astype(bool)


def find_instances(
    masks: Masks,
    scores: ClassScores,
    vocabulary: Vocabulary,
    panoptic: tuple[NDArray[np.int32], Sequence[Segment]],
    *,
    most: int = MOST,
) -> tuple[Instance, ...]:
    """By :func:`mask_instances` where the masks are whole instances, by :func:`segment_instances` where not."""
    if masks.instances:
        return mask_instances(masks, scores, vocabulary, most=most)
    return segment_instances(*panoptic, most=most)


def mask_instances(
    masks: Masks, scores: ClassScores, vocabulary: Vocabulary, *, most: int = MOST
) -> tuple[Instance, ...]:
    """The most probable pairs of mask and thing, best first, as Mask2Former has them (arXiv 2112.01527).

    Of all pairs of mask and class, the ``most`` of highest P_n(c) are taken and those of stuff dropped. The score of a
    pair is P_n(c) · q_n · (mean coverage of the mask inside it), where q_n is the score of mask n, and its inside is
    where it covers at least half of a pixel. One mask may come as several classes. Without an inside it is
    not an object.

    Args:
        masks: N whole instances.
        scores: (N, C).
        vocabulary: classes and which of them are things.
        most: how many pairs are taken.
    """
    rows, columns = _best_pairs(scores.probabilities, most)
    things = np.array([name in vocabulary.things for name in vocabulary.names], bool)
    kept = things[columns]
    rows, columns = rows[kept], columns[kept]
    encoded = {n: _inside(masks, n) for n in np.unique(rows).tolist()}
    found = []
    for n, c in zip(rows.tolist(), columns.tolist(), strict=True):
        counts, area, coverage = encoded[n]
        if area:
            score = float(scores.probabilities[n, c]) * float(masks.scores[n]) * coverage
            found.append(Instance(vocabulary.names[c], score, area, masks.size, counts))
    return tuple(sorted(found, key=lambda instance: -instance.score))


def segment_instances(
    panoptic: NDArray[np.int32], segments: Sequence[Segment], *, most: int = MOST
) -> tuple[Instance, ...]:
    """The things of a panoptic map, best first: for masks that are parts of objects rather than objects.

    Args:
        panoptic: int32 (H, W), segment numbers.
        segments: the segments.
        most: how many are taken.
    """
    things = sorted((segment for segment in segments if segment.thing), key=lambda segment: -segment.score)[:most]
    counts = encode_parts(panoptic)
    return tuple(Instance(s.label, s.score, s.area, panoptic.shape, counts[s.id]) for s in things)


def encode(mask: NDArray[np.bool_]) -> str:
    """COCO's compressed run-length encoding of a bool (H, W)."""
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")


def encode_parts(parts: NDArray[np.integer]) -> dict[int, str]:
    """COCO's compressed run-length encoding of each value of an integer (H, W) map, all of them in one pass."""
    height, width = parts.shape
    columns = np.ascontiguousarray(parts.T).reshape(-1)  # the runs go down the columns
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends = np.append(starts[1:], columns.size)
    order = np.argsort(columns[starts], kind="stable")
    values, first = np.unique(columns[starts][order], return_index=True)
    encoded = {}
    for value, runs in zip(values.tolist(), np.split(order, first[1:]), strict=True):
        borders = np.stack([starts[runs], ends[runs]], 1).reshape(-1)  # from where to where the value is
        counts = np.diff(borders, prepend=0, append=columns.size)
        listed = counts.tolist() if counts[-1] else counts[:-1].tolist()  # as pycocotools writes a mask that ends last
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": listed}, height, width)
        encoded[value] = rle["counts"].decode("ascii")
    return encoded


def _best_pairs(probabilities: NDArray[np.float32], most: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the largest entries above 0, largest first; of equal ones the first."""
    flat = probabilities.reshape(-1)
    least = np.partition(flat, -most)[-most] if flat.size > most else 0
    candidates = np.flatnonzero((flat >= least) & (flat > 0))
    picked = candidates[np.argsort(-flat[candidates], kind="stable")[:most]]
    return picked // probabilities.shape[1], picked % probabilities.shape[1]


def _inside(masks: Masks, n: int) -> tuple[str, int, float]:
    """Where mask ``n`` covers at least half of a pixel: encoded, its pixels, and its mean coverage there."""
    row = slice(masks.matrix.indptr[n], masks.matrix.indptr[n + 1])
    covered = masks.matrix.data[row] >= 0.5
    cells = np.zeros(masks.matrix.shape[1], bool)
    cells[masks.matrix.indices[row][covered]] = True
    mask = nearest(cells.reshape(masks.grid), masks.size)
    area = int(np.count_nonzero(mask))
    coverage = float(masks.matrix.data[row][covered].mean(dtype=np.float64)) if area else 0.0
    return encode(mask), area, coverage
