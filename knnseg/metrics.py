"""Segmentation quality over a whole set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnseg.annotations import positions
from knnseg.errors import ShapeError
from knnseg.types import IGNORE

__all__ = ["ConfusionMatrix", "PanopticQuality", "PanopticScores"]


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
        """Count one image; both maps are integer (H, W) of class positions.

        Raises:
            ShapeError: maps of different sizes, or values outside -1…C-1.
        """
        if truth.shape != predicted.shape:
            raise ShapeError(f"maps: expected one size, got truth {truth.shape} and prediction {predicted.shape}")
        for name, values in (("truth", truth), ("prediction", predicted)):
            if values.size and not (values.min() >= IGNORE and values.max() < self.count):
                got = f"{values.min()}…{values.max()}"
                raise ShapeError(f"{name}: expected values from {IGNORE} to {self.count - 1}, got {got}")
        valid = truth != IGNORE
        column = np.where(predicted[valid] == IGNORE, self.count, predicted[valid]).astype(np.int64)
        cell = truth[valid].astype(np.int64) * (self.count + 1) + column
        self.matrix += np.bincount(cell, minlength=self.matrix.size).reshape(self.matrix.shape)

    @property
    def iou(self) -> NDArray[np.float64]:
        """float64 (C,): intersection over union; NaN for a class that occurs neither in truth nor in prediction."""
        hit = self.matrix[:, : self.count].diagonal()
        union = self.matrix.sum(axis=1) + self.matrix[:, : self.count].sum(axis=0) - hit
        return np.divide(hit, union, out=np.full(self.count, np.nan), where=union > 0)

    def mean_iou(self, classes: Sequence[int] | None = None) -> float:
        """Mean over the classes that occur, or over those of them that are listed; NaN where none does."""
        values = self.iou if classes is None else self.iou[list(classes)]
        values = values[~np.isnan(values)]
        return float(values.mean()) if len(values) else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels with a true class that got it; NaN without any."""
        total = int(self.matrix.sum())
        return float(self.matrix[:, : self.count].trace() / total) if total else float("nan")


@dataclass(frozen=True, slots=True)
class PanopticScores:
    """PQ = SQ · RQ, each 0 to 1, averaged over the classes that occur; NaN where none does."""

    pq: float
    sq: float
    rq: float


class PanopticQuality:
    """Panoptic quality (Kirillov et al., CVPR 2019, arXiv 1801.00868), summed over images.

    A predicted and a true segment of one class match where their IoU is above 0.5, void not counting in the union;
    predicted segments that are more than half void are neither right nor wrong.

    Args:
        count: C, the number of classes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.matched_iou = np.zeros(count, np.float64)
        self.matched, self.missed, self.invented = (np.zeros(count, np.int64) for _ in range(3))

    def add(
        self,
        truth: NDArray[np.integer], truth_classes: dict[int, int],
        predicted: NDArray[np.integer], predicted_classes: dict[int, int],
    ) -> None:  # fmt: skip
        """Count one image.

        Args:
            truth: integer (H, W) of segment numbers; numbers not in ``truth_classes`` are void.
            truth_classes: class position of each true segment.
            predicted: integer (H, W) of segment numbers; numbers not in ``predicted_classes`` are nothing.
            predicted_classes: class position of each predicted segment.
        """
        if truth.shape != predicted.shape:
            raise ShapeError(f"maps: expected one size, got truth {truth.shape} and prediction {predicted.shape}")
        t, t_ids = _renumbered(truth, truth_classes)
        p, p_ids = _renumbered(predicted, predicted_classes)
        shape = (len(t_ids) + 1, len(p_ids) + 1)
        overlap = np.bincount(t * shape[1] + p, minlength=shape[0] * shape[1]).reshape(shape)
        t_area, p_area, void = overlap.sum(axis=1), overlap.sum(axis=0), overlap[-1]
        found_t, found_p = set[int](), set[int]()
        for i, j in np.argwhere(overlap[:-1, :-1] > 0).tolist():
            if truth_classes[t_ids[i]] != predicted_classes[p_ids[j]]:
                continue
            iou = overlap[i, j] / (t_area[i] + p_area[j] - overlap[i, j] - void[j])
            if iou > 0.5:
                c = truth_classes[t_ids[i]]
                self.matched[c] += 1
                self.matched_iou[c] += iou
                found_t.add(i)
                found_p.add(j)
        for i, number in enumerate(t_ids):
            self.missed[truth_classes[number]] += i not in found_t and t_area[i] > 0
        for j, number in enumerate(p_ids):
            ignored = p_area[j] == 0 or void[j] / p_area[j] > 0.5
            self.invented[predicted_classes[number]] += j not in found_p and not ignored

    def scores(self, classes: Sequence[int] | None = None) -> PanopticScores:
        """PQ, SQ and RQ over the classes that occur, or over those of them that are listed."""
        listed = np.arange(self.count) if classes is None else np.asarray(list(classes), int)
        weight = self.matched[listed] + 0.5 * self.missed[listed] + 0.5 * self.invented[listed]
        listed, weight = listed[weight > 0], weight[weight > 0]
        if not len(listed):
            return PanopticScores(float("nan"), float("nan"), float("nan"))
        matched, iou = self.matched[listed], self.matched_iou[listed]
        sq = np.divide(iou, matched, out=np.zeros(len(listed)), where=matched > 0)
        return PanopticScores(float((iou / weight).mean()), float(sq.mean()), float((matched / weight).mean()))


def _renumbered(segments: NDArray[np.integer], classes: dict[int, int]) -> tuple[NDArray[np.int64], list[int]]:
    """The flat map with segments numbered from 0 and everything else last, and the numbers they had."""
    ids = sorted(classes)
    place = positions(segments.reshape(-1), ids)
    return np.where(place >= 0, place, len(ids)), ids
