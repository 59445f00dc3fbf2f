"""Average precision of instances, as COCO defines it and by COCO's own code, over a whole set of images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from knnseg.data.annotations import positions
from knnseg.data.arrays import IGNORE, whole_numbers
from knnseg.errors import ShapeError
from knnseg.method.instances import MOST, Instance, encode

__all__ = ["THRESHOLDS", "AveragePrecision", "DetectionCounts"]

THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""COCO's IoU thresholds."""
_ANY_AREA = [0, 1e10]
_VOID = 1
"""The id of the void region. Not 0, which COCO's code takes for "no match"."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectionCounts:
    """What one image adds.

    Args:
        found: float64 (d, 4): class; score; and two whole numbers, whose bit i says whether at the IoU threshold i the
            detection is matched, and whether it does not count.
        objects: int64 (o, 2): class, and how many true objects of it there are.
    """

    found: NDArray[np.float64]
    objects: NDArray[np.int64]


class AveragePrecision:
    """COCO's AP over masks (Lin et al., ECCV 2014, arXiv 1405.0312), summed over images.

    A detection is right if it overlaps a true object of its class, which no surer detection has taken, with an IoU of
    the threshold or more. What lies in void is neither right nor wrong: the region without a label is given to COCO as
    a crowd of every class, together with the crowds of that class. By COCO's rule a detection that matches no object is
    left out where the share of *it* that lies in the crowd reaches the threshold.

    Args:
        things: bool (C,), the classes whose segments are objects.
    """

    def __init__(self, things: NDArray[np.bool_]) -> None:
        self.things = things
        self._found: list[NDArray[np.float64]] = []
        self._objects = np.zeros(len(things), np.int64)

    def add(
        self, truth: NDArray[np.integer], truth_classes: Mapping[int, int],
        instances: Sequence[Instance], classes: Sequence[int], crowd: NDArray[np.integer] | None = None,
    ) -> None:  # fmt: skip
        """Count one image; see :meth:`measure`."""
        self.merge(self.measure(truth, truth_classes, instances, classes, crowd))

    def measure(
        self, truth: NDArray[np.integer], truth_classes: Mapping[int, int],
        instances: Sequence[Instance], classes: Sequence[int], crowd: NDArray[np.integer] | None = None,
    ) -> DetectionCounts:  # fmt: skip
        """What one image adds, without adding it.

        Args:
            truth: integer (H, W) of segment numbers.
            truth_classes: class position of each true segment, of stuff too; all other numbers are void.
            instances: what was found, things only.
            classes: class position of each of those.
            crowd: integer (H, W), class position of a crowd, whose objects are not told apart, ``IGNORE`` elsewhere;
                its pixels are in no true segment. None: no crowds.

        Raises:
            ShapeError: an instance of another size than the truth, one of stuff, or more than 100 of them; or a map of
                no whole numbers.
        """
        truth = whole_numbers(truth, "truth")
        crowd = None if crowd is None else whole_numbers(crowd, "crowd")
        self._check(truth.shape, instances, classes)
        present = set(np.unique(truth).tolist())
        objects = {n: c for n, c in truth_classes.items() if self.things[c] and n in present}
        outside = positions(truth, list(truth_classes)) < 0
        coco = _coco(truth, objects, {c: outside if crowd is None else _spared(outside, crowd, c) for c in classes})
        for i, (instance, c) in enumerate(zip(instances, classes, strict=True), 1):
            entry = {"id": i, "segmentation": instance.rle, "area": instance.area, "score": instance.score}
            coco._dts[0, c].append(entry)
        rows = [_matched(coco, c) for c in sorted(set(classes))]
        kinds, numbers = np.unique(np.array(list(objects.values()), np.int64), return_counts=True)
        return DetectionCounts(np.concatenate(rows) if rows else np.zeros((0, 4)), np.stack([kinds, numbers], 1))

    def merge(self, counts: DetectionCounts) -> None:
        """Add what :meth:`measure` returned."""
        self._found.append(counts.found)
        self._objects[counts.objects[:, 0]] += counts.objects[:, 1]

    @property
    def objects(self) -> NDArray[np.int64]:
        """int64 (C,), true objects of each class."""
        return self._objects.copy()

    def by_class(self) -> NDArray[np.float64]:
        """float64 (C, 10), AP at each of :data:`THRESHOLDS`; NaN for a class without true objects."""
        found = np.concatenate(self._found) if self._found else np.zeros((0, 4))
        listed = np.flatnonzero(self._objects).tolist()
        coco = COCOeval(iouType="segm")
        coco.params.catIds, coco.params.imgIds, coco.params.areaRng = listed, [0], [_ANY_AREA]
        # COCO's limit for one image was applied to each image; here all images come as one.
        coco.params.maxDets = [max(len(found), 1)]
        coco._paramsEval = coco.params
        coco.evalImgs = [_as_coco(found[found[:, 0] == c], int(self._objects[c])) for c in listed]
        result = np.full((len(self.things), len(THRESHOLDS)), np.nan)
        if listed:
            with redirect_stdout(io.StringIO()):  # it tells how it gets on
                coco.accumulate()
            result[listed] = coco.eval["precision"][:, :, :, 0, 0].mean(axis=1).T
        return result

    def _check(self, size: tuple[int, ...], instances: Sequence[Instance], classes: Sequence[int]) -> None:
        wrong = [instance.size for instance in instances if instance.size != size]
        if wrong:
            raise ShapeError("instances", expected=f"masks of {size} like the truth", got=wrong[0])
        if len(instances) > MOST:
            raise ShapeError("instances", expected=f"at most {MOST}", got=len(instances))
        stuff = [c for c in classes if not self.things[c]]
        if stuff:
            raise ShapeError("instances", expected="things only", got=f"class {stuff[0]}, which is stuff")


def _spared(outside: NDArray[np.bool_], crowd: NDArray[np.integer], c: int) -> NDArray[np.bool_]:
    """Where nothing speaks against a detection of class c: void, and crowds of the class."""
    return outside & ((crowd == IGNORE) | (crowd == c))


def _coco(truth: NDArray[np.integer], objects: Mapping[int, int], spared: Mapping[int, NDArray[np.bool_]]) -> COCOeval:
    """COCO's evaluation of one image of id 0, with the truth of the classes in ``spared``."""
    coco = COCOeval(iouType="segm")
    coco.params.areaRng = [_ANY_AREA]
    encoded = {id(region): encode(region) for region in spared.values()}  # most often one region for all
    for c, region in spared.items():
        coco._gts[0, c].append(_true(_VOID, encoded[id(region)], truth.shape, crowd=True))
    for i, (number, c) in enumerate(objects.items(), _VOID + 1):
        if c in spared:
            coco._gts[0, c].append(_true(i, encode(truth == number), truth.shape, crowd=False))
    return coco


def _true(number: int, counts: str, size: tuple[int, ...], *, crowd: bool) -> dict[str, object]:
    segmentation = {"size": list(size), "counts": counts}
    # The area only decides about small, medium and large, which are not told apart here.
    return {"id": number, "segmentation": segmentation, "area": 0, "iscrowd": int(crowd), "ignore": int(crowd)}


def _matched(coco: COCOeval, c: int) -> NDArray[np.float64]:
    """The detections of one class as rows of :attr:`DetectionCounts.found`, surest first."""
    coco.ious[0, c] = coco.computeIoU(0, c)
    result = coco.evaluateImg(0, c, _ANY_AREA, MOST)
    weights = 1 << np.arange(len(THRESHOLDS))
    matched, ignored = (weights @ (result[key] > 0) for key in ("dtMatches", "dtIgnore"))
    return np.stack([np.full(len(matched), c), result["dtScores"], matched, ignored], 1).astype(np.float64)


def _as_coco(found: NDArray[np.float64], objects: int) -> dict[str, object]:
    """Rows of one class in the form that COCO's code accumulates, as though from one image."""
    bits = np.arange(len(THRESHOLDS))[:, None]
    matched, ignored = (found[:, column].astype(np.int64) >> bits & 1 for column in (2, 3))
    return {
        "dtScores": found[:, 1], "dtMatches": matched, "dtIgnore": ignored, "gtIgnore": np.zeros(objects)
    }  # fmt: skip
