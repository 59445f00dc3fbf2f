"""Against torchmetrics, and against panoptic quality written out from its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_erosion
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.detection import PanopticQuality as Reference

from knnseg.errors import ShapeError
from knnseg.evaluation.metrics import BoundaryIoU, ConfusionMatrix, PanopticQuality


@pytest.mark.parametrize("seed", range(5))
def test_iou_agrees_with_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    ours, reference = ConfusionMatrix(6), MulticlassJaccardIndex(6, average="none", ignore_index=-1)
    for _ in range(4):
        truth, predicted = rng.integers(-1, 5, (30, 40)), rng.integers(0, 5, (30, 40))  # class 5 never occurs
        ours.add(truth, predicted)
        reference.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    np.testing.assert_allclose(ours.iou[:5], reference.compute().numpy()[:5], atol=1e-6)
    assert np.isnan(ours.iou[5])
    assert ours.mean_iou() == pytest.approx(float(ours.iou[:5].mean()))
    hits = sum(int(ours.matrix[i, i]) for i in range(6))
    assert ours.pixel_accuracy == pytest.approx(hits / ours.matrix.sum())


def test_predicting_nothing_counts_against_the_true_class():
    matrix = ConfusionMatrix(2)
    matrix.add(np.array([[0, 0, 1, -1]]), np.array([[0, -1, 1, 0]]))
    np.testing.assert_allclose(matrix.iou, [0.5, 1])
    assert matrix.pixel_accuracy == pytest.approx(2 / 3)


def test_nothing_counted_is_nan_and_wrong_maps_are_refused():
    assert np.isnan(ConfusionMatrix(3).mean_iou())
    with pytest.raises(ShapeError, match="one size"):
        ConfusionMatrix(3).add(np.zeros((2, 2), int), np.zeros((2, 3), int))
    with pytest.raises(ShapeError, match="-1 to 2"):
        ConfusionMatrix(3).add(np.full((2, 2), 3), np.zeros((2, 2), int))


def blobs(rng, size, classes=4):
    """Class positions in connected pieces, some of them void."""
    centres = rng.integers(0, max(size), (12, 2))
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    return rng.integers(-1, classes, 12)[((grid[:, :, None] - centres) ** 2).sum(-1).argmin(-1)]


def strip(mask, width):
    """What erosion by so many steps takes from a mask; beyond the image nothing is of it."""
    return mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width)


@pytest.mark.parametrize(
    ("seed", "size", "width"), [(0, (60, 80), 2), (1, (30, 40), 1), (2, (9, 200), 4), (3, (5, 4), 1)]
)
def test_boundary_iou_is_its_definition(seed, size, width):
    rng = np.random.default_rng(seed)
    ours, common, either = BoundaryIoU(5), np.zeros(5), np.zeros(5)
    for _ in range(3):
        truth, predicted = blobs(rng, size), blobs(rng, size)
        ours.merge(ours.measure(truth, predicted))
        for c in range(5):  # class 4 never occurs
            true, found = (strip(one & (truth >= 0), width) for one in (truth == c, predicted == c))
            common[c] += (true & found).sum()
            either[c] += (true | found).sum()
    np.testing.assert_array_equal(ours.iou[:4], common[:4] / either[:4])
    assert 0 < ours.mean_iou() < 1 and np.isnan(ours.iou[4])
    assert ours.mean_iou() == pytest.approx(np.mean(ours.iou[:4]))


def test_boundary_iou_sees_an_outline_that_iou_hardly_sees():
    truth = np.zeros((200, 200), int)
    truth[40:160, 40:160] = 1
    loose = np.zeros((200, 200), int)
    loose[36:164, 36:164] = 1  # four pixels too wide all around, and the strip is six wide
    boundaries, areas = BoundaryIoU(2), ConfusionMatrix(2)
    boundaries.merge(boundaries.measure(truth, loose))
    areas.add(truth, loose)
    assert areas.iou[1] == pytest.approx(120**2 / 128**2)
    assert boundaries.iou[1] < 0.25
    void = truth.copy()
    void[30:50] = -1
    perfect, wild = BoundaryIoU(2), np.where(void == -1, np.indices(void.shape)[1] % 2, void)
    perfect.merge(perfect.measure(void, wild))
    assert perfect.mean_iou() == 1
    with pytest.raises(ShapeError, match="one size"):
        perfect.measure(truth, truth[1:])


def panoptic(rng, size=(40, 40), segments=9, classes=4):
    """Blobs, numbered with gaps, some of them void."""
    centres = rng.integers(0, 40, (segments, 2))
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1)
    nearest = ((grid[:, :, None] - centres) ** 2).sum(-1).argmin(-1)
    kinds = {int(i) * 7 + 3: int(rng.integers(0, classes)) for i in range(segments - 2)}  # the last two are void
    return (nearest * 7 + 3).astype(np.int32), kinds


def by_definition(pairs, classes):
    """Kirillov et al., section 4.1, with the void rules of section 4.3, one segment pair at a time."""
    result = []
    for c in range(classes):
        iou_sum, tp, fp, fn = 0.0, 0, 0, 0
        for truth, truth_kinds, guess, guess_kinds in pairs:
            void = ~np.isin(truth, list(truth_kinds))
            matched_truth, matched_guess = set(), set()
            for t in (t for t, k in truth_kinds.items() if k == c):
                for g in (g for g, k in guess_kinds.items() if k == c):
                    a, b = truth == t, guess == g
                    union = (a | b).sum() - (b & void).sum()
                    iou = (a & b).sum() / union if union else 0
                    if iou > 0.5:
                        iou_sum, tp = iou_sum + iou, tp + 1
                        matched_truth.add(t)
                        matched_guess.add(g)
            fn += sum((truth == t).any() for t, k in truth_kinds.items() if k == c and t not in matched_truth)
            for g in (g for g, k in guess_kinds.items() if k == c and g not in matched_guess):
                area = (guess == g).sum()
                fp += bool(area) and ((guess == g) & void).sum() / area <= 0.5
        result.append((iou_sum, tp, fp, fn))
    return result


@pytest.mark.parametrize("seed", range(6))
def test_panoptic_quality_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(3):
        truth, truth_kinds = panoptic(rng)
        guess, guess_kinds = truth.copy(), dict(truth_kinds)
        guess[:, : rng.integers(4, 25)] = 3  # partly right
        if seed % 2:
            guess, guess_kinds = panoptic(rng)
        pairs.append((truth, truth_kinds, guess, guess_kinds))
    quality = PanopticQuality(4)
    for pair in pairs:
        quality.add(*pair)
    expected = by_definition(pairs, 4)
    for c, (iou, tp, fp, fn) in enumerate(expected):
        assert (quality.matched[c], quality.invented[c], quality.missed[c]) == (tp, fp, fn)
        assert quality.matched_iou[c] == pytest.approx(iou)
    present = [(iou, tp, fp, fn) for iou, tp, fp, fn in expected if tp + fp + fn]
    scores = quality.scores()
    assert scores.pq == pytest.approx(np.mean([iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in present]))
    assert scores.rq == pytest.approx(np.mean([tp / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in present]))
    assert scores.sq == pytest.approx(np.mean([iou / tp if tp else 0 for iou, tp, fp, fn in present]))


@pytest.mark.parametrize("seed", range(3))
def test_panoptic_quality_agrees_with_torchmetrics_without_void(seed):
    rng = np.random.default_rng(seed)
    reference, ours = Reference(things={0, 1}, stuffs={2, 3}, return_sq_and_rq=True), PanopticQuality(4)
    for _ in range(3):
        maps = []
        truth, _ = panoptic(rng)
        shifted = np.roll(truth, 3, axis=1)
        for segments in (truth, shifted):
            # torchmetrics merges stuff by class, so every class is one segment here
            kinds = {n: n % 4 for n in np.unique(segments).tolist()}
            classes = np.vectorize(kinds.get)(segments)
            maps.append(classes)
        ours.add(maps[0] + 1, {c + 1: c for c in range(4)}, maps[1] + 1, {c + 1: c for c in range(4)})
        stack = [torch.from_numpy(np.stack([m, np.zeros_like(m)], -1))[None] for m in maps]
        reference.update(stack[1], stack[0])
    pq, sq, rq = reference.compute().tolist()
    scores = ours.scores()
    assert (scores.pq, scores.sq, scores.rq) == pytest.approx((pq, sq, rq), abs=1e-6)


def test_an_empty_image_counts_nothing():
    quality = PanopticQuality(2)
    quality.add(np.zeros((4, 4), int), {}, np.zeros((4, 4), int), {})
    assert np.isnan(quality.scores().pq)


# -- void, empty images, classes that do not occur ----------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 1.0]))
@settings(max_examples=20, deadline=None)
def test_iou_and_accuracies_agree_with_torchmetrics_whatever_is_void(seed, void):
    rng = np.random.default_rng(seed)
    ours, count = ConfusionMatrix(5), 5
    kinds = {"average": "none", "ignore_index": -1}
    iou, accuracy = MulticlassJaccardIndex(count, **kinds), MulticlassAccuracy(count, **kinds)
    overall = MulticlassAccuracy(count, average="micro", ignore_index=-1)
    for _ in range(3):
        truth = np.where(rng.random((9, 11)) < void, -1, rng.integers(0, 3, (9, 11)))  # classes 3 and 4 are never true
        predicted = rng.integers(0, 4, truth.shape)  # class 4 is never predicted either
        ours.add(truth, predicted)
        for metric in (iou, accuracy, overall):
            metric.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    assert ours.pixel_accuracy == pytest.approx(
        float(overall.compute()) if void < 1 else float("nan"), nan_ok=True, abs=1e-6
    )
    seen = ours.occurring
    np.testing.assert_allclose(ours.iou[seen], iou.compute().numpy()[seen], atol=1e-6)
    np.testing.assert_allclose(ours.accuracy[seen], accuracy.compute().numpy()[seen], atol=1e-6)
    assert set(seen) <= {0, 1, 2} and np.isnan(ours.accuracy[[3, 4]]).all() and np.isnan(ours.iou[4])
    assert ours.iou[3] == 0 if void < 1 else np.isnan(ours.iou[3])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_panoptic_quality_of_each_class_agrees_with_torchmetrics(seed):
    """It takes no void in the truth as we mean it, so there is none here; it does take objects of one class."""
    rng = np.random.default_rng(seed)
    kinds = {"things": {0, 1}, "stuffs": {2, 3, 4}, "return_sq_and_rq": True, "return_per_class": True}
    reference, ours = Reference(**kinds), PanopticQuality(5)
    for _ in range(2):
        truth, classes = panoptic(rng)
        whole = {n: classes.get(n, 2) for n in np.unique(truth).tolist()}
        stacks = []
        for segments in (truth, np.roll(truth, int(rng.integers(0, 6)), axis=0)):
            semantic = np.vectorize(whole.get)(segments)
            # Stuff is one segment for each class, as both sides must see it.
            number = np.where(semantic >= 2, 1000 + semantic, segments)
            found = {n: whole.get(n, n - 1000) for n in np.unique(number).tolist()}
            stacks.append(
                (number, found, torch.from_numpy(np.stack([semantic, np.where(semantic >= 2, 0, segments)], -1))[None])
            )
        ours.add(*stacks[0][:2], *stacks[1][:2])
        reference.update(stacks[1][2], stacks[0][2])
    expected, got = reference.compute().numpy().reshape(-1, 3), np.nan_to_num(ours.by_class())
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_segment_more_than_half_in_void_is_neither_right_nor_wrong():
    """Kirillov et al., section 4.3; panopticapi leaves out what is *more* than half void, so exactly half counts."""
    truth = np.zeros((2, 8), int)
    truth[:, 4:] = 1
    for columns, invented in ((slice(0, 5), 0), (slice(2, 6), 1), (slice(3, 6), 1)):
        quality, predicted = PanopticQuality(2), np.zeros((2, 8), int)
        predicted[:, columns] = 9
        quality.add(truth, {1: 0}, predicted, {9: 1})
        assert (quality.invented.tolist(), quality.missed.tolist()) == ([0, invented], [1, 0])


def panopticapi(truth, truth_kinds, guess, guess_kinds, crowd, classes):
    """Its rules written out: crowds neither match nor are missed; to a prediction of their class they excuse like void."""
    void = ~np.isin(truth, list(truth_kinds)) & (crowd < 0)
    rows = np.zeros((classes, 4))
    matched_truth, matched_guess = set(), set()
    for t, kind in truth_kinds.items():
        for g in (g for g, k in guess_kinds.items() if k == kind):
            a, b = truth == t, guess == g
            union = a.sum() + b.sum() - (a & b).sum() - (b & void).sum()
            if (a & b).sum() and (a & b).sum() / union > 0.5:
                rows[kind, :2] += (a & b).sum() / union, 1
                matched_truth.add(t)
                matched_guess.add(g)
    for t, kind in truth_kinds.items():
        rows[kind, 2] += t not in matched_truth and (truth == t).any()
    for g, kind in guess_kinds.items():
        area, excused = (guess == g).sum(), ((guess == g) & (void | (crowd == kind))).sum()
        rows[kind, 3] += bool(g not in matched_guess and area and excused / area <= 0.5)
    return rows


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_crowds_are_treated_as_panopticapi_does(seed):
    rng = np.random.default_rng(seed)
    truth, kinds = panoptic(rng, segments=12)
    crowds = {n: kinds.pop(n) for n in list(kinds)[:3]}
    crowd = np.full(truth.shape, -1)
    for n, kind in crowds.items():
        crowd[truth == n] = kind
    guess, found = (panoptic(rng)) if seed % 2 else (np.roll(truth, 2, 0), kinds | crowds)
    quality = PanopticQuality(4)
    quality.add(truth, kinds, guess, found, crowd)
    expected = panopticapi(truth, kinds, guess, found, crowd, 4)
    got = np.stack([quality.matched_iou, quality.matched, quality.missed, quality.invented], 1)
    np.testing.assert_allclose(got, expected)


def test_void_does_not_count_in_the_union():
    truth, predicted = np.array([[1, 1, 0, 0, 0]]), np.array([[5, 5, 5, 5, 0]])
    quality = PanopticQuality(1)
    quality.add(truth, {1: 0}, predicted, {5: 0})
    assert quality.by_class().tolist() == [[1, 1, 1]]


def test_parts_of_images_can_be_added_later():
    rng = np.random.default_rng(0)
    whole, later, matrix, added = PanopticQuality(4), PanopticQuality(4), ConfusionMatrix(4), ConfusionMatrix(4)
    for _ in range(3):
        (truth, kinds), (guess, found) = panoptic(rng), panoptic(rng)
        whole.add(truth, kinds, guess, found)
        later.merge(PanopticQuality(4).measure(truth, kinds, guess, found))
        maps = rng.integers(-1, 4, (5, 6)), rng.integers(-1, 4, (5, 6))
        matrix.add(*maps)
        added.merge(matrix.measure(*maps))
    np.testing.assert_array_equal(whole.by_class(), later.by_class())
    assert np.array_equal(matrix.matrix, added.matrix) and matrix.matrix[:, 4].any()


def test_an_image_without_labels_adds_nothing():
    matrix = ConfusionMatrix(3)
    assert matrix.measure(np.full((4, 4), -1), np.ones((4, 4), int)).shape == (0, 3)
    assert matrix.measure(np.zeros((0, 0), int), np.zeros((0, 0), int)).shape == (0, 3)
    assert len(matrix.occurring) == 0 and np.isnan(matrix.pixel_accuracy)
    quality = PanopticQuality(3)
    assert quality.measure(np.zeros((4, 4), int), {}, np.ones((4, 4), int), {1: 2}).shape == (0, 5)
