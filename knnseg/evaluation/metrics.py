"""Segmentation quality over a whole set of images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from knnseg.data.annotations import positions
from knnseg.data.arrays import IGNORE, whole_numbers
from knnseg.errors import ShapeError

__all__ = ["BoundaryIoU", "ConfusionMatrix", "PanopticQuality", "PanopticScores"]

_WIDTH = 0.02
"""Of the strip along a boundary, of the diagonal of the image; that of Cheng et al."""


class ConfusionMatrix:
    """Pixels by true and predicted class, summed over images.

    A pixel whose truth is ``IGNORE`` does not count. A pixel predicted as ``IGNORE`` counts against its true class.

    Args:
        count: C, the number of classes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.matrix = np.zeros((count, count + 1), np.int64)  # rows: truth; the last column: predicted as nothing

    def add(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
        """Count one image; see :meth:`measure`."""
        self.merge(self.measure(truth, predicted))

    def measure(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> NDArray[np.int64]:
        """What one image adds, without adding it.

        Args:
            truth: integer (H, W), class positions, or ``IGNORE``.
            predicted: likewise.

        Returns:
            int64 (n, 3): true class, predicted class (C for none) and pixels of each combination that occurs.

        Raises:
            ShapeError: maps of different sizes or of no whole numbers, or values outside -1…C-1.
        """
        truth, predicted = _checked(truth, predicted, self.count)
        valid = truth != IGNORE
        column = np.where(predicted[valid] == IGNORE, self.count, predicted[valid]).astype(np.int64)
        numbers = np.bincount(truth[valid].astype(np.int64) * (self.count + 1) + column)
        cell = np.flatnonzero(numbers)
        return np.stack([cell // (self.count + 1), cell % (self.count + 1), numbers[cell]], 1)

    def merge(self, counts: NDArray[np.int64]) -> None:
        """Add what :meth:`measure` returned."""
        self.matrix[counts[:, 0], counts[:, 1]] += counts[:, 2]

    @property
    def occurring(self) -> NDArray[np.int64]:
        """int64, the positions of the classes that occur in the truth."""
        return np.flatnonzero(self.matrix.sum(axis=1))

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 (C,): intersection over union; NaN for a class that occurs neither in truth nor in prediction."""
        hit = self.matrix[:, : self.count].diagonal()
        union = self.matrix.sum(axis=1) + self.matrix[:, : self.count].sum(axis=0) - hit
        return np.divide(hit, union, out=np.full(self.count, np.nan), where=union > 0)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean over the classes that occur, or over those of them that are listed; NaN where no class does."""
        return _mean(self.iou, classes)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """float64 (C,): the share of the pixels of each true class that got it; NaN for a class without any."""
        total = self.matrix.sum(axis=1)
        hit = self.matrix[:, : self.count].diagonal()
        return np.divide(hit, total, out=np.full(self.count, np.nan), where=total > 0)

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels with a true class that got it; NaN without any."""
        total = int(self.matrix.sum())
        return float(self.matrix[:, : self.count].trace() / total) if total else float("nan")


class BoundaryIoU:
    """IoU of the strips along the boundaries (Cheng et al., CVPR 2021, arXiv 2103.16562), summed over images.

    Of each class, only those pixels of the truth and of the prediction count that lie within d pixels of where it ends,
    d = 2 % of the diagonal. As in the paper, a pixel's neighbours are the eight around it, and a class ends where the
    image does. A pixel whose truth is ``IGNORE`` is cut out of both maps first, so a class ends there too, in both.

    Args:
        count: C, the number of classes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.common, self.either = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def measure(self, truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> NDArray[np.int64]:
        """What one image adds, without adding it.

        Args:
            truth: integer (H, W), class positions, or ``IGNORE``.
            predicted: likewise.

        Returns:
            int64 (n, 3): class, pixels in both strips, and pixels in either, of each class that has any.

        Raises:
            ShapeError: see :meth:`ConfusionMatrix.measure`.
        """
        truth, predicted = _checked(truth, predicted, self.count)
        predicted = np.where(truth == IGNORE, IGNORE, predicted)
        width = max(1, round(_WIDTH * float(np.hypot(*truth.shape))))
        true, found = _strips(truth, width), _strips(predicted, width)
        common = np.bincount(true[(true == found) & (true != IGNORE)], minlength=self.count)
        either = sum(np.bincount(one[one != IGNORE], minlength=self.count) for one in (true, found)) - common
        classes = np.flatnonzero(either)
        return np.stack([classes, common[classes], either[classes]], 1)

    def merge(self, counts: NDArray[np.int64]) -> None:
        """Add what :meth:`measure` returned."""
        self.common[counts[:, 0]] += counts[:, 1]
        self.either[counts[:, 0]] += counts[:, 2]

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 (C,); NaN for a class that occurs neither in truth nor in prediction."""
        return np.divide(self.common, self.either, out=np.full(self.count, np.nan), where=self.either > 0)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean over the classes that occur, or over those of them that are listed; NaN where no class does."""
        return _mean(self.iou, classes)


@dataclass(frozen=True, slots=True)
class PanopticScores:
    """PQ = SQ · RQ, each 0 to 1, averaged over the classes that occur; NaN where no class does."""

    pq: float
    sq: float
    rq: float


class PanopticQuality:
    """Panoptic quality (Kirillov et al., CVPR 2019, arXiv 1801.00868), summed over images.

    A predicted and a true segment of one class match where their IoU is above 0.5, void not counting in the union;
    predicted segments that are more than half void are neither right nor wrong. As in the authors' panopticapi, a crowd
    is no segment to be found; to predictions of its class it is void in the second rule, and to others it is not void.

    Args:
        count: C, the number of classes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.matched_iou = np.zeros(count, np.float64)
        self.matched, self.missed, self.invented = (np.zeros(count, np.int64) for _ in range(3))

    def add(
        self,
        truth: NDArray[np.integer], truth_classes: Mapping[int, int],
        predicted: NDArray[np.integer], predicted_classes: Mapping[int, int],
        crowd: NDArray[np.integer] | None = None,
    ) -> None:  # fmt: skip
        """Count one image; see :meth:`measure`."""
        self.merge(self.measure(truth, truth_classes, predicted, predicted_classes, crowd))

    def measure(
        self,
        truth: NDArray[np.integer], truth_classes: Mapping[int, int],
        predicted: NDArray[np.integer], predicted_classes: Mapping[int, int],
        crowd: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float64]:  # fmt: skip
        """What one image adds, without adding it.

        Args:
            truth: integer (H, W) of segment numbers; numbers not in ``truth_classes`` are void.
            truth_classes: class position of each true segment.
            predicted: integer (H, W) of segment numbers; numbers not in ``predicted_classes`` are nothing.
            predicted_classes: class position of each predicted segment.
            crowd: integer (H, W), class position of a crowd, whose objects are not told apart, ``IGNORE`` elsewhere;
                its pixels are in no true segment. None: no crowds.

        Returns:
            float64 (n, 5): class, sum of the IoU of matched segments, and the numbers of matched, missed and invented
            ones, of each class that has any.

        Raises:
            ShapeError: maps of different sizes, or of no whole numbers.
        """
        truth, predicted = whole_numbers(truth, "truth"), whole_numbers(predicted, "prediction")
        crowd = None if crowd is None else whole_numbers(crowd, "crowd")
        if truth.shape != predicted.shape:
            raise ShapeError("maps", expected="one size", got=f"truth {truth.shape} and prediction {predicted.shape}")
        t, t_ids = _renumbered(truth, truth_classes)
        p, p_ids = _renumbered(predicted, predicted_classes)
        shape = (len(t_ids) + 1, len(p_ids) + 1)
        overlap = np.bincount(t * shape[1] + p, minlength=shape[0] * shape[1]).reshape(shape)
        t_area, p_area = overlap.sum(axis=1), overlap.sum(axis=0)
        void, spared = _void(overlap[-1], p, [predicted_classes[n] for n in p_ids], crowd)
        counts: dict[int, list[float]] = defaultdict(lambda: [0.0, 0, 0, 0])
        found_t, found_p = set[int](), set[int]()
        t_class, p_class = [truth_classes[n] for n in t_ids], [predicted_classes[n] for n in p_ids]
        same = np.equal.outer(np.array(t_class, np.int64), np.array(p_class, np.int64))
        for i, j in np.argwhere((overlap[:-1, :-1] > 0) & same).tolist():
            iou = overlap[i, j] / (t_area[i] + p_area[j] - overlap[i, j] - void[j])
            if iou > 0.5:
                counts[t_class[i]][0] += float(iou)
                counts[t_class[i]][1] += 1
                found_t.add(i)
                found_p.add(j)
        for i, c in enumerate(t_class):
            counts[c][2] += bool(i not in found_t and t_area[i] > 0)
        for j, c in enumerate(p_class):
            ignored = p_area[j] == 0 or spared[j] / p_area[j] > 0.5
            counts[c][3] += bool(j not in found_p and not ignored)
        rows = [[c, *numbers] for c, numbers in sorted(counts.items()) if any(numbers)]
        return np.array(rows, np.float64).reshape(-1, 5)

    def merge(self, counts: NDArray[np.float64]) -> None:
        """Add what :meth:`measure` returned."""
        classes = counts[:, 0].astype(np.int64)
        self.matched_iou[classes] += counts[:, 1]
        for total, column in ((self.matched, 2), (self.missed, 3), (self.invented, 4)):
            total[classes] += counts[:, column].astype(np.int64)

    def by_class(self) -> NDArray[np.float64]:
        """float64 (C, 3): PQ, SQ and RQ of each class; NaN for a class of which nothing was true or found."""
        weight = self.matched + 0.5 * self.missed + 0.5 * self.invented
        empty = np.full(self.count, np.nan)
        pq = np.divide(self.matched_iou, weight, out=empty.copy(), where=weight > 0)
        rq = np.divide(self.matched, weight, out=empty.copy(), where=weight > 0)
        sq = np.divide(self.matched_iou, self.matched, out=np.where(weight > 0, 0.0, empty), where=self.matched > 0)
        return np.stack([pq, sq, rq], 1)

    def scores(self, classes: Sequence[int] | None = None) -> PanopticScores:
        """PQ, SQ and RQ over the classes that occur, or over those of them that are listed."""
        rows = self.by_class() if classes is None else self.by_class()[np.asarray(list(classes), np.int64)]
        rows = rows[~np.isnan(rows[:, 0])]
        if not len(rows):
            return PanopticScores(float("nan"), float("nan"), float("nan"))
        return PanopticScores(*rows.mean(axis=0).tolist())


def _checked(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], count: int
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Both maps, if they are of one size and have positions of classes."""
    truth, predicted = whole_numbers(truth, "truth"), whole_numbers(predicted, "prediction")
    if truth.shape != predicted.shape:
        raise ShapeError("maps", expected="one size", got=f"truth {truth.shape} and prediction {predicted.shape}")
    for name, values in (("truth", truth), ("prediction", predicted)):
        if values.size and not (values.min() >= IGNORE and values.max() < count):
            got = f"{values.min()}…{values.max()}"
            raise ShapeError(name, expected=f"values from {IGNORE} to {count - 1}", got=got)
    return truth, predicted


def _mean(iou: NDArray[np.float64], classes: Sequence[int] | None) -> float:
    values = iou if classes is None else iou[list(classes)]
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _strips(classes: NDArray[np.integer], width: int) -> NDArray[np.integer]:
    """The map with ``IGNORE`` wherever no other value and no end of the image is within ``width`` pixels."""
    beyond = IGNORE - 1
    highest, lowest = (
        extreme(classes, 2 * width + 1, mode="constant", cval=beyond) for extreme in (maximum_filter, minimum_filter)
    )
    return np.where(highest != lowest, classes, IGNORE)


def _renumbered(segments: NDArray[np.integer], classes: Mapping[int, int]) -> tuple[NDArray[np.int64], list[int]]:
    """The flat map with segments numbered from 0 and everything else last, and the numbers they had."""
    ids = sorted(classes)
    place = positions(segments.reshape(-1), ids)
    return np.where(place >= 0, place, len(ids)), ids


def _void(
    outside: NDArray[np.int64], p: NDArray[np.int64], classes: Sequence[int], crowd: NDArray[np.integer] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels of each predicted segment, and of the rest, that are void, and that do not speak against the segment.

    Args:
        outside: int64 (P + 1,), those in no true segment.
        p: int64 (H·W,), the predicted segment of each pixel, P for none.
        classes: of the P segments.
        crowd: see :meth:`PanopticQuality.measure`.
    """
    if crowd is None:
        return outside, outside
    there = np.flatnonzero(crowd.reshape(-1) != IGNORE)
    of_pixel = np.array([*classes, IGNORE - 1])[p[there]]  # the last is of no segment, and of no class
    void = outside - np.bincount(p[there], minlength=len(outside))
    return void, void + np.bincount(p[there][of_pixel == crowd.reshape(-1)[there]], minlength=len(outside))
