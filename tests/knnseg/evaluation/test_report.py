"""What is measured, against the same figures put together by hand from the predictions."""

import json

import numpy as np
import pytest

from knnseg import LabelledImage, LabelledSegment, Vocabulary
from knnseg.errors import ConfigError, KnnSegWarning
from knnseg.evaluation import Report, evaluate
from knnseg.evaluation.average_precision import AveragePrecision
from knnseg.evaluation.metrics import ConfusionMatrix, PanopticQuality
from knnseg.evaluation.report import standings

NAMES = ("sky", "grass", "ball", "kettle", "unicorn")
VOCABULARY = Vocabulary(NAMES, frozenset({"ball", "kettle", "unicorn"}))


@pytest.fixture
def small(database, make_segmenter, scene):
    """A segmenter by colour that knows a few scenes, and other scenes."""
    database.add([scene(i, ("sky", "grass", "ball", "kettle")) for i in range(4)])
    return make_segmenter(database), [scene(i, ("sky", "grass", "ball", "kettle")) for i in range(10, 14)]


def test_every_figure_is_that_of_the_predictions(small):
    segmenter, scenes = small
    result = evaluate(segmenter, scenes, VOCABULARY).to_dict({"round": ["ball", "unicorn"]})
    matrix, quality = ConfusionMatrix(5), PanopticQuality(5)
    average = AveragePrecision(np.array([n in VOCABULARY.things for n in NAMES]))
    for example in scenes:
        prediction = segmenter.predict(example.image, VOCABULARY)
        known = {s.id: NAMES.index(s.label) for s in example.info}
        found = {s.id: NAMES.index(s.label) for s in prediction.segments_info}
        matrix.add(example.semantic(NAMES), prediction.semantic)
        quality.add(example.segments, known, prediction.panoptic, found)
        instances = prediction.instances()
        average.add(example.segments, known, instances, [NAMES.index(i.label) for i in instances])
    final = result["final"]
    assert final["miou"] == pytest.approx(np.nanmean(matrix.iou[:4]))
    assert final["class_accuracy"] == pytest.approx(np.nanmean(matrix.accuracy))
    assert final["miou_round"] == pytest.approx(matrix.iou[2])
    for suffix, classes in (("", None), ("_things", [2, 3, 4]), ("_stuff", [0, 1])):
        scores = quality.scores(classes)
        assert (final[f"pq{suffix}"], final[f"sq{suffix}"], final[f"rq{suffix}"]) == (scores.pq, scores.sq, scores.rq)
    assert final["ap"] == pytest.approx(np.nanmean(average.by_class()))
    assert final["per_class"]["ball"]["iou"] == pytest.approx(matrix.iou[2])
    assert final["per_class"]["ball"]["ap50"] == pytest.approx(average.by_class()[2, 0])
    assert final["per_class"]["unicorn"]["accuracy"] is None and final["per_class"]["sky"]["ap"] is None
    assert result["labels"]["ball"]["objects"] == sum(s.label == "ball" for e in scenes for s in e.info)
    assert result["labels"]["unicorn"] == {"thing": True, "pixels": 0, "objects": 0}
    assert (result["images"], result["classes"], result["occurring"], result["degraded"]) == (4, 5, 4, 0)
    assert result["base"]["miou"] < final["miou"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_labels_of_a_name_from_before_are_of_the_concept(small):
    segmenter, scenes = small
    before = evaluate(segmenter, scenes, NAMES).to_dict()
    segmenter.database.rename("ball", "marble")
    with pytest.warns(KnnSegWarning, match="'ball' is called 'marble' now"):
        after = evaluate(segmenter, scenes, NAMES).to_dict()
    assert after["labels"] == {{"ball": "marble"}.get(name, name): of for name, of in before["labels"].items()}
    iou = after["final"]["per_class"]["marble"]["iou"]
    assert iou == pytest.approx(before["final"]["per_class"]["ball"]["iou"], abs=0.01)  # the base reads another word


def test_the_base_is_what_a_segmenter_without_a_database_predicts(small, make_segmenter):
    segmenter, scenes = small
    alone = evaluate(make_segmenter(), scenes, VOCABULARY).to_dict()
    assert alone["base"] == alone["final"] == evaluate(segmenter, scenes, VOCABULARY).to_dict()["base"]


def test_share_of_classes_at_zero():
    image = np.zeros((1, 4, 3), np.uint8)
    segments = np.array([[1, 2, 3, 0]], np.int32)
    info = tuple(LabelledSegment(i, n) for i, n in ((1, "sky"), (2, "grass"), (3, "ball")))
    example = LabelledImage(image, segments, info)
    from knnseg.evaluation import ImageCounts, Quality

    scores = Quality(VOCABULARY)
    counts = scores.measure(example, np.array([[0, 0, 3, 1]], np.int32), (np.zeros((1, 4), np.int32), ()), ())
    result = Report.of(VOCABULARY, [ImageCounts("", counts, counts)]).to_dict()["final"]
    assert result["zero_iou"] == pytest.approx(2 / 3) and result["miou"] == pytest.approx(0.5 / 3)
    assert result["pq"] == 0 and result["ap"] == 0
    assert result["boundary_miou"] == result["miou"]  # of what is thinner than the strip


@pytest.mark.parametrize("crowds", [True, False])
def test_a_class_map_is_a_crowd_or_void_where_there_is_no_segment(crowds):
    """Three objects that nobody has told apart: they count for IoU, and excuse what is found there.

    A crowd excuses only its own class.
    """
    from knnseg.data.masks import Masks
    from knnseg.data.scores import ClassScores
    from knnseg.evaluation import ImageCounts, Quality
    from knnseg.method.instances import mask_instances
    from knnseg.method.painting import Segment

    segments = np.array([[1, 1, 0, 0, 0, 0]], np.int32)
    class_map = np.array([[0, 0, 1, 1, 1, -1]], np.int32)
    image = np.zeros((1, 6, 3), np.uint8)
    example = LabelledImage(
        image, segments, (LabelledSegment(1, "ball", True),), class_map=class_map, class_names=("ball", "kettle"),
        crowds=crowds,
    )  # fmt: skip
    masks = Masks.from_dense(np.array([[[1, 1, 0, 0, 0, 0]], [[0, 0, 1, 1, 1, 0]]], bool), instances=True)
    result = {}
    for label in ("kettle", "unicorn"):
        c = NAMES.index(label)
        rows = np.zeros((2, 5), np.float32)
        rows[0, 2], rows[1, c] = 0.5, 0.9
        instances = mask_instances(masks, ClassScores(rows, NAMES), VOCABULARY)
        found = (Segment(1, "ball", True, 1, 2, (0, 0, 2, 1)), Segment(2, label, True, 1, 3, (2, 0, 5, 1)))
        panoptic = np.array([[1, 1, 2, 2, 2, 0]], np.int32)
        scores = Quality(VOCABULARY)
        counts = scores.measure(example, np.array([[2, 2, c, c, c, -1]], np.int32), (panoptic, found), instances)
        result[label] = Report.of(VOCABULARY, [ImageCounts("", counts, counts)]).to_dict()["final"]
    assert result["kettle"]["miou"] == 1 and result["unicorn"]["miou"] == 0.5
    assert result["kettle"]["pq"] == 1 and result["unicorn"]["pq"] == (0.5 if crowds else 1)
    assert result["unicorn"]["per_class"]["unicorn"]["pq"] == (0 if crowds else None)
    assert result["kettle"]["ap"] == pytest.approx(1)


def test_nothing_to_measure_on_is_no_figure(small):
    result = evaluate(small[0], [], VOCABULARY).to_dict()
    assert result["images"] == 0 and result["final"]["miou"] is None and result["final"]["ap"] is None


def test_only_the_first_images(small):
    segmenter, scenes = small
    two = evaluate(segmenter, scenes[:2], VOCABULARY).to_dict()
    assert evaluate(segmenter, scenes, VOCABULARY, limit=2).to_dict() == two
    assert evaluate(segmenter, iter(scenes), VOCABULARY, limit=2).to_dict() == two
    assert evaluate(segmenter, scenes, VOCABULARY, limit=9).images == 4
    with pytest.raises(ConfigError, match="at least 1 image, got 0"):
        evaluate(segmenter, scenes, VOCABULARY, limit=0)


def test_standings(small):
    segmenter, scenes = small
    result = evaluate(segmenter, scenes, VOCABULARY).to_dict()
    chosen = standings(result, 2)
    gains = {n: result["final"]["per_class"][n]["iou"] - result["base"]["per_class"][n]["iou"] for n in NAMES[:4]}
    assert [s.name for s in chosen.improved] == sorted((n for n in gains if gains[n] > 0), key=lambda n: -gains[n])[:2]
    assert [s.name for s in chosen.worsened] == sorted((n for n in gains if gains[n] < 0), key=gains.get)[:2]
    assert len(chosen.worst) == 2 and chosen.worst[0].final <= chosen.worst[1].final
