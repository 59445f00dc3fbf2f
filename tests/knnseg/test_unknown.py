"""``unknown`` is an answer like any other: in the maps, the legend, every export, what is measured, and what is fitted."""

from dataclasses import replace

import numpy as np
import pytest

from knnseg import Masks, Vocabulary
from knnseg.calibration.fitting import calibrate
from knnseg.config import PaintingConfig
from knnseg.data.reading import load_label_map
from knnseg.data.scores import ClassScores
from knnseg.drawing import legend_strip
from knnseg.errors import VocabularyError
from knnseg.evaluation import evaluate
from knnseg.models.base import NoBase

NAMES = ("sky", "grass", "ball")
THRESHOLD = 0.9


@pytest.fixture
def taught(database, scene):
    database.add(scene(i) for i in range(6))
    return database


@pytest.fixture
def make(taught, make_segmenter):
    def make(*, unknown=True, base=None, threshold=THRESHOLD):
        segmenter = make_segmenter(taught, base=base or NoBase(), threshold=threshold)
        segmenter.config = replace(segmenter.config, painting=PaintingConfig(unknown=unknown))
        return segmenter

    return make


@pytest.fixture
def strange(scene):
    """With coal, which nobody has taught."""
    return scene(50, ("sky", "grass", "coal"))


def test_what_is_like_no_example_is_unknown(make, strange):
    result = make().predict(strange.image, NAMES)
    assert result.vocabulary == Vocabulary((*NAMES, "unknown"), frozenset({"ball"}))
    truth = strange.semantic((*NAMES, "coal"))
    assert (result.semantic == truth).mean() > 0.9  # 0.94
    (segment,) = (s for s in result.segments_info if s.label == "unknown")
    assert not segment.thing and segment.score > 0.9 and (result.panoptic == segment.id).sum() == segment.area
    assert result.scores.classes == (*NAMES, "unknown") and np.allclose(result.scores.probabilities.sum(1), 1)


def test_every_export_has_it(make, strange, tmp_path):
    result = make().predict(strange.image, NAMES)
    _, semantic, _, _ = result.save(tmp_path, "a")
    assert (load_label_map(semantic) == result.semantic + 1).all() and 4 in load_label_map(semantic)
    document = result.coco_panoptic("a.png")
    assert document["categories"][-1] == {"id": 4, "name": "unknown", "isthing": 0, "unknown": 1}
    assert 4 in {entry["category_id"] for entry in result.rle()}
    assert "unknown" in result.to_supervision().data["class_name"]
    assert 3 in result.to_transformers_semantic().unique()
    swatch = np.asarray(legend_strip(result.vocabulary.names, [3], 200))
    assert (swatch.reshape(-1, 3) == 128).all(1).any(), "grey in the legend"
    (segment,) = (s for s in result.segments_info if s.label == "unknown")
    assert make().explain(result, segment.id).final["unknown"] > 0.9


@pytest.mark.parametrize("instances", [True, False])
def test_what_no_mask_covers_is_unknown_too(make, scene, instances):
    """Class-agnostic masks seldom cover an image; those that are good and known are labelled, and nothing else is."""
    example = scene(50)
    grass = example.semantic(["grass"]) == 0
    masks = Masks.from_dense(grass[None], instances=instances)
    result = make().predict(example.image, NAMES, masks=masks)
    assert (result.semantic == np.where(grass, 1, 3)).all()
    found = {s.label: (result.panoptic == s.id).sum() for s in result.segments_info}
    assert found == {"grass": grass.sum(), "unknown": (~grass).sum()}
    alone = make(threshold=1.0).predict(example.image, NAMES, masks=masks)
    assert [(s.label, s.area) for s in alone.segments_info] == [("unknown", grass.size)]
    plain = make(unknown=False).predict(example.image, NAMES, masks=masks)
    assert set(np.unique(plain.semantic)) == {-1, 1}


def test_by_default_it_is_no_class(make, strange):
    result = make(unknown=False).predict(strange.image, NAMES)
    assert result.vocabulary.names == NAMES and "unknown" not in result.scores.classes


def test_a_base_that_always_has_an_opinion_leaves_nothing_unknown(make, strange):
    class Sure:
        branches = ("final",)

        def predict(self, images, masks, vocabulary):
            return [ClassScores(np.full((len(m), 3), 1 / 3, np.float32), vocabulary.names) for m in masks]

    one, other = (make(unknown=on, base=Sure()).predict(strange.image, NAMES) for on in (True, False))
    assert np.array_equal(one.semantic, other.semantic) and np.array_equal(one.panoptic, other.panoptic)


def test_a_concept_of_that_name_gets_what_is_unknown(make, strange, taught, scene):
    taught.add_masks(scene(3).image, np.ones((1, 48, 64), bool), labels=["unknown"])
    result = make().predict(strange.image, ("unknown", *NAMES))
    assert result.vocabulary.names == ("unknown", *NAMES) and (result.semantic == 0).any()


@pytest.mark.filterwarnings("ignore:classes. 1 of 4 are known to nobody")
def test_measured_it_is_a_pixel_without_a_class(make, strange, scene):
    report = evaluate(make(), [strange, scene(51)], (*NAMES, "coal")).final
    coal, unknown = 3, 4
    assert report.semantic.matrix.shape[1] == 5 and report.semantic.matrix[coal, unknown] > 0
    assert report.semantic.matrix[coal, :4].sum() < report.semantic.matrix[coal, unknown]


def test_the_threshold_is_fitted_to_the_examples(make, taught, scene):
    segmenter = make(threshold=-1.0)
    found = calibrate(segmenter, on="examples")
    assert (
        found.best.accuracy >= 0.9
        and found.best.loss <= found.before.loss
        and THRESHOLD < found.config.fusion.threshold < 1
    )
    assert found.unknown > 0.9, "a ball is like nothing else here"
    segmenter.config = found.config
    strange = scene(60, ("sky", "grass", "coal"))
    assert "unknown" in {s.label for s in segmenter.predict(strange.image, NAMES).segments_info}
    plain = make(unknown=False, threshold=-1.0)
    assert calibrate(plain, on="examples").config.fusion.threshold == -1 and not calibrate(plain, on="examples").unknown


def test_an_untaught_database_says_what_to_do(database, make_segmenter, scene):
    with pytest.raises(VocabularyError, match="add examples, or name classes"):
        make_segmenter(database, base=NoBase()).predict(scene(50).image)
