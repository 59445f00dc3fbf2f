"""Against AP written out from its definition, against COCO's own complete run, and on what is void."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from knnseg.errors import ShapeError
from knnseg.evaluation.average_precision import THRESHOLDS, AveragePrecision
from knnseg.method.instances import Instance, encode

THINGS = np.array([True, True, False, True])


def instance(mask, score):
    return Instance("", score, int(mask.sum()), mask.shape, encode(mask))


def random_image(rng, found=8, size=(24, 30)):
    """Boxes of things and stuff over void, and what a bad detector makes of them."""
    truth, kinds = np.zeros(size, np.int32), {}
    for number in range(5, 5 + int(rng.integers(0, 6))):
        y, x = rng.integers(0, size[0] - 8), rng.integers(0, size[1] - 8)
        truth[y : y + int(rng.integers(4, 12)), x : x + int(rng.integers(4, 12))] = number
        kinds[number] = int(rng.integers(0, 3))  # class 3 never occurs
    detections, classes = [], []
    for _ in range(int(rng.integers(0, found + 1))):
        numbers = [n for n in kinds if (truth == n).any()]
        if numbers and rng.random() < 0.7:
            n = int(rng.choice(numbers))
            mask = np.roll(truth == n, rng.integers(-1, 2, 2), (0, 1))
            c = kinds[n] if THINGS[kinds[n]] and rng.random() < 0.9 else int(rng.choice([0, 1, 3]))
        else:
            y, x = rng.integers(0, size[0] - 4), rng.integers(0, size[1] - 4)
            mask, c = np.zeros(size, bool), int(rng.choice([0, 1, 3]))
            mask[y : y + 6, x : x + 6] = True
        if mask.any():
            detections.append((mask, float(rng.choice([0.2, 0.4, 0.4, 0.6, 0.9]))))
            classes.append(c)
    return truth, kinds, detections, classes


def by_definition(images, c, threshold):
    """Everdingham's AP with COCO's 101 recalls; matching greedily, the surest first, void where nothing else matches."""
    rows, objects = [], 0
    for truth, kinds, detections, classes in images:
        void = ~np.isin(truth, list(kinds))
        targets = [truth == n for n, k in kinds.items() if k == c and (truth == n).any()]
        objects += len(targets)
        taken = set()
        mine = sorted((d for d, k in zip(detections, classes, strict=True) if k == c), key=lambda d: -d[1])
        for mask, score in mine:
            overlaps = {i: (mask & t).sum() / (mask | t).sum() for i, t in enumerate(targets) if i not in taken}
            best = max(overlaps.values(), default=0)
            if overlaps and best >= threshold:
                taken.add(max(i for i, o in overlaps.items() if o == best))
                rows.append((score, True))
            elif (mask & void).sum() / mask.sum() < threshold:
                rows.append((score, False))
    if not objects:
        return float("nan")
    rows.sort(key=lambda r: -r[0])  # stable
    hits = np.cumsum([hit for _, hit in rows]) if rows else np.zeros(0)
    recall, precision = hits / objects, hits / np.arange(1, len(rows) + 1)
    grid = np.linspace(0, 1, 101)
    return float(np.mean([precision[recall >= r].max(initial=0) for r in grid]))


def measured(images):
    average = AveragePrecision(THINGS)
    for truth, kinds, detections, classes in images:
        average.add(truth, kinds, [instance(*d) for d in detections], classes)
    return average


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_it_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(3)]
    ours = measured(images).by_class()
    for c in range(4):
        for t in (0, 5, 9):
            expected = by_definition(images, c, THRESHOLDS[t]) if THINGS[c] else float("nan")
            assert ours[c, t] == pytest.approx(expected, abs=1e-9, nan_ok=True), (c, t)


@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_a_complete_run_of_cocos_evaluation_says(seed):
    rng = np.random.default_rng(seed)
    images = [random_image(rng) for _ in range(6)]
    annotations, results = [], []
    for i, (truth, kinds, detections, classes) in enumerate(images):
        regions = [(truth == n, c, 0) for n, c in kinds.items() if THINGS[c] and (truth == n).any()]
        regions += [(~np.isin(truth, list(kinds)), c, 1) for c in (0, 1, 3)]
        for mask, c, crowd in regions:
            segmentation = {"size": list(mask.shape), "counts": encode(mask)}
            annotations.append({
                "id": len(annotations) + 1, "image_id": i, "category_id": c, "iscrowd": crowd,
                "segmentation": segmentation, "area": int(mask.sum()), "bbox": [0, 0, 1, 1],
            })  # fmt: skip
        for (mask, score), c in zip(detections, classes, strict=True):
            segmentation = {"size": list(mask.shape), "counts": encode(mask)}
            results.append({"image_id": i, "category_id": c, "score": score, "segmentation": segmentation})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        size = {"height": 24, "width": 30}
        coco.dataset = {
            "images": [{"id": i, **size} for i in range(len(images))],
            "categories": [{"id": c, "name": str(c)} for c in range(4)], "annotations": annotations,
        }  # fmt: skip
        coco.createIndex()
        complete = COCOeval(coco, coco.loadRes(results), "segm")
        complete.evaluate()
        complete.accumulate()
        complete.summarize()
    precision = measured(images).by_class()
    assert np.nanmean(precision) == pytest.approx(complete.stats[0], abs=1e-12)
    assert np.nanmean(precision[:, 0]) == pytest.approx(complete.stats[1], abs=1e-12)
    assert np.nanmean(precision[:, 5]) == pytest.approx(complete.stats[2], abs=1e-12)


def test_what_lies_in_void_does_not_count_and_what_lies_on_stuff_does():
    truth = np.zeros((10, 20), np.int32)
    truth[:5, :5], truth[:, 15:] = 1, 2
    kinds = {1: 0, 2: 2}
    hit, in_void, on_stuff = (np.zeros(truth.shape, bool) for _ in range(3))
    hit[:5, :5], in_void[:, 6:14], on_stuff[:, 15:] = True, True, True
    alone, void, stuff = (
        measured([(truth, kinds, [(hit, 0.5), *more], [0] * (1 + len(more)))]).by_class()[0]
        for more in ([], [(in_void, 0.9)], [(on_stuff, 0.9)])
    )
    assert np.allclose(alone, 1) and np.allclose(void, 1) and np.allclose(stuff, 0.5)


def test_a_crowd_excuses_detections_of_its_class_only():
    truth, crowd = np.zeros((10, 20), np.int32), np.full((10, 20), -1)
    truth[:5, :5], truth[:5, 5:10], crowd[:, 12:] = 1, 2, 0
    kinds, masks = {1: 0, 2: 1}, [truth == 1, truth == 2, crowd == 0, crowd == 0]
    average = AveragePrecision(THINGS)
    detections = [instance(mask, score) for mask, score in zip(masks, (0.5, 0.5, 0.9, 0.9), strict=True)]
    average.add(truth, kinds, detections, [0, 1, 0, 1], crowd)
    assert np.allclose(average.by_class()[:2], [[1.0], [0.5]])


def test_half_in_void_counts_above_the_threshold_only():
    truth = np.zeros((10, 20), np.int32)
    truth[:5, :5], truth[:, 10:] = 1, 2
    hit, half = np.zeros(truth.shape, bool), np.zeros(truth.shape, bool)
    hit[:5, :5], half[6:, 8:12] = True, True  # eight of sixteen pixels in void
    result = measured([(truth, {1: 0, 2: 2}, [(hit, 0.5), (half, 0.9)], [0, 0])]).by_class()[0]
    assert result[0] == pytest.approx(1) and np.allclose(result[1:], 0.5)


def test_classes_without_objects_have_no_value_and_nothing_found_is_zero():
    truth = np.array([[1, 1, 0]], np.int32)
    result = measured([(truth, {1: 0, 9: 1}, [], [])])  # segment 9 is listed and not in the map
    assert (result.by_class()[0] == 0).all() and np.isnan(result.by_class()[1:]).all()
    assert result.objects.tolist() == [1, 0, 0, 0]
    assert np.isnan(AveragePrecision(THINGS).by_class()).all()


def test_parts_can_be_added_later():
    rng = np.random.default_rng(3)
    images = [random_image(rng) for _ in range(4)]
    later, meter = AveragePrecision(THINGS), AveragePrecision(THINGS)
    for truth, kinds, detections, classes in images:
        later.merge(meter.measure(truth, kinds, [instance(*d) for d in detections], classes))
    np.testing.assert_array_equal(later.by_class(), measured(images).by_class())
    assert np.isnan(meter.by_class()).all()


def test_wrong_instances_are_refused():
    truth, mask = np.ones((2, 2), np.int32), np.ones((2, 2), bool)
    with pytest.raises(ShapeError, match="like the truth"):
        AveragePrecision(THINGS).measure(truth, {}, [instance(np.ones((2, 3), bool), 1)], [0])
    with pytest.raises(ShapeError, match="at most 100, got 101"):
        AveragePrecision(THINGS).measure(truth, {}, [instance(mask, 1)] * 101, [0] * 101)
    with pytest.raises(ShapeError, match="class 2, which is stuff"):
        AveragePrecision(THINGS).measure(truth, {}, [instance(mask, 1)], [2])
