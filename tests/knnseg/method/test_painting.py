import numpy as np
import pytest

from knnseg import ClassScores, Masks, Vocabulary
from knnseg.config import PaintingConfig
from knnseg.method import painting
from knnseg.method.painting import paint_semantic

VOCABULARY = Vocabulary(("grass", "ball"), frozenset({"ball"}))
CONFIG = PaintingConfig(min_area=1)


def scores(*rows):
    return ClassScores(np.array(rows, np.float32), VOCABULARY.names)


def paint(masks, given, config=CONFIG):
    maps = painting.paint(np.zeros((*masks.size, 3), np.uint8), masks, given, VOCABULARY, config)
    return maps.semantic, paint_semantic(masks, given)[1], maps.panoptic, maps.segments


def boxes(size, *places, instances=False):
    stack = np.zeros((len(places), *size), bool)
    for mask, (y0, y1, x0, x1) in zip(stack, places, strict=True):
        mask[y0:y1, x0:x1] = True
    return Masks.from_dense(stack, instances=instances)


def test_overlapping_masks_add_up():
    rng = np.random.default_rng(0)
    dense = rng.random((6, 9, 11)) < 0.5
    masks = Masks.from_dense(dense, rng.random(6).astype(np.float32))
    probabilities = rng.dirichlet([1, 1], 6).astype(np.float32)
    semantic, share = paint_semantic(masks, ClassScores(probabilities, VOCABULARY.names))
    sums = np.einsum("nhw,n,nc->hwc", dense.astype(float), masks.scores.astype(float), probabilities.astype(float))
    covered = dense.any(0)
    assert np.array_equal(semantic[covered], sums.argmax(-1)[covered]) and (semantic[~covered] == -1).all()
    np.testing.assert_allclose(share[covered], (sums.max(-1) / sums.sum(-1))[covered], rtol=1e-5)


@pytest.mark.parametrize("stripe", [1, 7, 40, 10**6])
def test_stripes_give_the_same_to_the_bit(stripe, monkeypatch):
    rng = np.random.default_rng(1)
    soft = np.where(rng.random((30, 13, 17)) < 0.4, rng.random((30, 13, 17)), 0).astype(np.float32)
    masks = Masks.from_dense(soft, rng.random(30).astype(np.float32))
    given = ClassScores(rng.dirichlet([1, 1], 30).astype(np.float32), VOCABULARY.names)
    whole = paint_semantic(masks, given)
    monkeypatch.setattr("knnseg.method.painting._WHOLE", 0)
    monkeypatch.setattr("knnseg.method.painting._STRIPE", stripe)
    for ours, expected in zip(paint_semantic(masks, given), whole, strict=True):
        assert ours.dtype == expected.dtype and np.array_equal(ours, expected)


def test_a_large_vocabulary_takes_bounded_memory():
    import tracemalloc

    masks = boxes((400, 500), *((0, 400, x, x + 100) for x in range(0, 400, 40)))
    rows = np.random.default_rng(0).dirichlet(np.ones(300), len(masks)).astype(np.float32)
    given = ClassScores(rows, tuple(map(str, range(300))))
    tracemalloc.start()
    paint_semantic(masks, given)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6 < 400 * 500 * 300 * 4


def test_a_mask_without_opinion_paints_nothing():
    semantic, _, panoptic, segments = paint(boxes((4, 4), (0, 4, 0, 2), (0, 4, 2, 4)), scores([0, 0], [1, 0]))
    assert (semantic[:, :2] == -1).all() and (semantic[:, 2:] == 0).all()
    assert (panoptic[:, :2] == 0).all() and [s.label for s in segments] == ["grass"]


def test_regions_of_a_thing_are_objects_by_contact_and_stuff_is_one_segment():
    masks = boxes((6, 12), (0, 6, 0, 3), (0, 6, 3, 6), (0, 6, 6, 9), (0, 6, 9, 12))
    *_, panoptic, segments = paint(masks, scores([0, 1], [1, 0], [0, 1], [1, 0]))
    assert [(s.label, s.area, s.box) for s in segments] == [
        ("grass", 36, (3, 0, 12, 6)), ("ball", 18, (0, 0, 3, 6)), ("ball", 18, (6, 0, 9, 6)),
    ]  # fmt: skip
    assert [int((panoptic == s.id).sum()) for s in segments] == [36, 18, 18]


def test_touching_regions_of_one_thing_are_one_object():
    *_, segments = paint(boxes((4, 8), (0, 4, 0, 4), (0, 4, 4, 8)), scores([0, 1], [0, 1]))
    assert [(s.label, s.area) for s in segments] == [("ball", 32)]


def test_instance_masks_stay_apart_and_the_surer_one_lies_on_top():
    masks = boxes((4, 8), (0, 4, 0, 5), (0, 4, 4, 8), instances=True)
    *_, panoptic, segments = paint(masks, scores([0.1, 0.9], [0.3, 0.7]))
    assert [s.area for s in segments] == [20, 12] and panoptic[0, 4] == panoptic[0, 0] != panoptic[0, 7]
    assert segments[0].score == pytest.approx(0.9) and segments[1].score == pytest.approx(0.7)


def test_instances_that_are_mostly_hidden_are_dropped():
    masks = boxes((4, 8), (0, 4, 0, 8), (0, 4, 0, 7), instances=True)
    *_, panoptic, segments = paint(masks, scores([0, 0.9], [0, 1.0]))
    assert [s.area for s in segments] == [28] and (panoptic[:, 7] == 0).all()


def test_small_and_uncertain_segments_are_dropped():
    masks = boxes((4, 8), (0, 4, 0, 1), (0, 4, 1, 8))
    given = scores([0.4, 0.6], [0.8, 0.2])
    assert [s.label for s in paint(masks, given)[-1]] == ["grass", "ball"]
    assert [s.label for s in paint(masks, given, PaintingConfig(min_area=5))[-1]] == ["grass"]
    assert [s.label for s in paint(masks, given, PaintingConfig(min_area=1, min_score=0.7))[-1]] == ["grass"]


def test_no_masks_at_all():
    masks = Masks.from_dense(np.zeros((0, 3, 4), bool))
    for kind in (masks, Masks.from_dense(np.zeros((0, 3, 4), bool), instances=True)):
        semantic, _, panoptic, segments = paint(kind, ClassScores(np.zeros((0, 2), np.float32), VOCABULARY.names))
        assert (semantic == -1).all() and not panoptic.any() and segments == ()


def test_of_soft_masks_the_likeliest_over_a_pixel_gets_it():
    """Rank times coverage by hand: a sure mask loses the pixels at its blurred edge."""
    dense = np.array([[[1, 1, 0.6, 0.3, 0]], [[0, 0.4, 0.9, 1, 0.45]]], np.float32)
    masks = Masks.from_dense(dense, instances=True)
    given = scores([0.1, 0.9], [0.2, 0.8])  # 0.9·(1, 1, .6, .3, 0) against 0.8·(0, .4, .9, 1, .45)
    _, _, panoptic, segments = paint(masks, given, PaintingConfig(min_area=0))
    assert panoptic.tolist() == [[1, 1, 2, 2, 0]] and [s.label for s in segments] == ["ball", "ball"]
    # The first covers three pixels by half and gets two; the second covers two and gets three, one of them by less.
    _, _, panoptic, segments = paint(masks, given, PaintingConfig(min_area=0, min_visible=0.7))
    assert panoptic.tolist() == [[0, 0, 1, 1, 0]] and len(segments) == 1


def test_a_mask_below_the_least_score_hides_nothing():
    masks = boxes((4, 8), (0, 4, 0, 8), (0, 4, 0, 4), instances=True)
    given = ClassScores(np.array([[0, 0.6], [0.55, 0]], np.float32), VOCABULARY.names)
    _, _, panoptic, segments = paint(masks, given, PaintingConfig(min_area=0, min_score=0.58))
    assert [s.label for s in segments] == ["ball"] and (panoptic == 1).all()
    weighed = Masks(masks.matrix, masks.size, np.array([0.5, 1], np.float32), instances=True)
    _, _, panoptic, segments = paint(weighed, given, PaintingConfig(min_area=0, min_score=0.58))
    assert (panoptic == 1).all()  # the second ranks higher, but is no segment
