"""Fitting on the database itself: nothing of an example's own image counts, and the fit is the best of its grid."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from knnseg import ConceptDatabase, Vocabulary
from knnseg.calibration.fitting import calibrate
from knnseg.calibration.leave_one_out import classes_at, classes_of
from knnseg.data.image import Image as Picture
from knnseg.data.image import content_hash
from knnseg.data.masks import Masks
from knnseg.data.scores import ClassScores
from knnseg.database.originals import Originals, StoredImage
from knnseg.database.schema import segment_masks
from knnseg.errors import ConfigError, ImageError, KnnSegWarning
from knnseg.evaluation.metrics import ConfusionMatrix
from knnseg.models.base import NoBase
from knnstore import Records

on_examples = partial(calibrate, on="examples")

NAMES = ("sky", "grass", "ball", "coal")


class Knows:
    """A base that sees which colour a mask has, or one that is always wrong about it."""

    def __init__(self, right=True):
        self.right, self.colours = right, {"sky": 90, "grass": 60, "ball": 220, "coal": 30}

    branches = ("final",)

    def predict(self, images, masks, vocabulary):
        return [self._one(image, own, vocabulary) for image, own in zip(images, masks, strict=True)]

    def _one(self, image, masks, vocabulary):
        red = np.array([image.pixels[masks[i]][:, 0].mean() for i in range(len(masks))])
        apart = np.abs(red[:, None] - np.array([self.colours[name] for name in vocabulary]))
        best = apart.argmin(1) if self.right else (apart.argmin(1) + 1) % len(vocabulary)
        scores = np.full((len(masks), len(vocabulary)), 0.1 / (len(vocabulary) - 1), np.float32)
        scores[np.arange(len(masks)), best] = 0.9
        return ClassScores(scores, vocabulary.names)


@pytest.fixture
def files(tmp_path, scene):
    (tmp_path / "images").mkdir()
    examples = []
    for i in range(10):
        example = scene(i, NAMES if i % 2 else ("sky", "grass", "ball"))
        path = tmp_path / "images" / f"{i}.png"
        Image.fromarray(example.image).save(path)
        examples.append(replace(example, uri=path.as_uri()))
    return examples


def shuffled(example, seed):
    """The same picture with its labels mixed up."""
    labels = np.random.default_rng(seed).permutation([s.label for s in example.info])
    return replace(example, info=tuple(replace(s, label=str(new)) for s, new in zip(example.info, labels, strict=True)))


@pytest.mark.parametrize("mode", ["supported", "late"])
def test_a_base_that_is_wrong_gives_way_and_the_fit_is_no_worse_than_the_start(database, files, make_segmenter, mode):
    database.add(files)
    found = on_examples(make_segmenter(database, Knows(right=False), mode=mode, weight=0.2))
    assert found.asked == database.store.count() and found.alone == found.missing == 0
    assert found.base == 0 and found.best.accuracy == 1
    assert found.best.fusion.weight > 0.8 and found.best.loss < found.before.loss
    assert found.config.retrieval == found.best.retrieval and found.config.fusion == found.best.fusion
    assert found.config.painting == make_segmenter(database).config.painting


def test_features_without_sense_leave_it_to_the_base(files, make_segmenter, colour_features, store_url):
    class Noise(colour_features):
        def extract(self, images):
            noise = [np.random.default_rng(int(image.pixels.sum())) for image in images]
            return [
                replace(f, data=rng.normal(size=f.data.shape).astype(np.float32))
                for f, rng in zip(super().extract(images), noise, strict=True)
            ]

    with ConceptDatabase.open(store_url, Noise(name="noise")) as database:
        database.add(files)
        found = on_examples(make_segmenter(database, Knows(), weight=1.0))
    assert found.base == 1 and found.before.accuracy < 0.7
    assert found.best.accuracy > 0.95 and found.best.fusion.weight < 0.5


def test_a_choice_that_other_images_do_not_confirm_changes_nothing(database, files, make_segmenter):
    """Labels without sense: something is best on any masks, and worse than the start on others."""
    for i, example in enumerate(files):
        database.add(shuffled(replace(example, info=tuple(replace(s, thing=False) for s in example.info)), i))
    segmenter = make_segmenter(database, NoBase())
    sharp = replace(segmenter.config.retrieval, k=1)  # guesses of many classes: hard to beat where nothing can be known
    segmenter.config = replace(segmenter.config, retrieval=sharp)
    found = on_examples(segmenter)
    assert found.gain <= found.spread and found.spread > 0
    assert found.best == found.before


def test_the_gain_is_that_of_images_which_did_not_choose(database, files, make_segmenter):
    """Nothing is chosen from where there is one image, and a gain that all images share has next to no spread."""
    database.add(files)
    wrong = make_segmenter(database, Knows(right=False), weight=0.0)
    sure = on_examples(wrong)
    assert sure.gain == pytest.approx(sure.best.iou - sure.before.iou, rel=0.2) and sure.spread < sure.gain / 5
    one = on_examples(wrong, most=1)
    assert (one.gain, one.spread) == (0, 0) and one.best == one.before


@pytest.mark.filterwarnings("ignore:concept .* say that it is a thing")  # as shuffled
def test_what_is_reported_is_what_the_pipeline_would_say(database, files, make_segmenter):
    """The fitted numbers, applied by the pipeline to one image at a time with its own examples left out."""
    database.add([shuffled(example, i) if i < 4 else example for i, example in enumerate(files)])
    segmenter = make_segmenter(database, Knows(), confidence="vote")
    found = on_examples(segmenter)
    for trial in (found.before, found.best):
        segmenter.config = replace(found.config, retrieval=trial.retrieval, fusion=trial.fusion)
        right, cost = {}, {}
        for i, example in enumerate(files):
            info = (shuffled(example, i) if i < 4 else example).info
            masks = Masks.from_dense(np.stack([example.segments == s.id for s in info]))
            scores = segmenter.predict(
                example.image, segmenter.vocabulary(), masks=masks, exclude_image=content_hash(example.image)
            ).scores
            for row, s in zip(scores.probabilities, info, strict=True):
                own = row[scores.classes.index(s.label)]
                right.setdefault(s.label, []).append(row.max() == own)
                cost.setdefault(s.label, []).append(-np.log(max(own, 1e-3)))
        assert trial.accuracy == pytest.approx(np.mean([np.mean(v) for v in right.values()]))
        assert trial.loss == pytest.approx(np.mean([np.mean(v) for v in cost.values()]), rel=1e-5)


def test_without_a_base_only_k_and_temperature_are_fitted(database, files, make_segmenter):
    database.add([replace(example, uri="") for example in files])  # no image is needed
    start = make_segmenter(database, NoBase(), weight=0.3, threshold=0.1)
    found = on_examples(start)
    assert found.best.fusion == start.config.fusion and found.base == 0 and found.missing == 0
    assert found.best.loss <= found.before.loss


def test_other_weightings_keep_their_temperature(database, files, make_segmenter):
    database.add(files)
    segmenter = make_segmenter(database)
    uniform = replace(segmenter.config.retrieval, weighting="uniform", temperature=0.123)
    segmenter.config = replace(segmenter.config, retrieval=uniform)
    assert on_examples(segmenter).best.retrieval.temperature == 0.123


def test_classes_of_one_image_and_images_that_are_gone_are_left_out(database, files, make_segmenter, scene, tmp_path):
    database.add(files)
    count = database.store.count()
    lonely = tmp_path / "images" / "lonely.png"
    example = replace(scene(50, ("sand", "kettle")), uri=lonely.as_uri())
    Image.fromarray(example.image).save(lonely)
    database.add(example)
    database.add(scene(51, ("sky", "grass")))  # its image is nowhere
    found = on_examples(make_segmenter(database))
    assert (found.asked, found.alone, found.missing) == (count, 2, 2)


def test_a_part_of_a_large_database_is_drawn_by_its_seed(database, files, make_segmenter):
    database.add(files)
    segmenter = make_segmenter(database)
    drawn = [on_examples(segmenter, most=3, seed=seed) for seed in (0, 0, 1, 2)]
    assert all(one.images == 3 and 3 * 3 <= one.asked <= 3 * 4 for one in drawn)
    assert drawn[0] == drawn[1] and len({one.before.loss for one in drawn}) > 1


def test_nothing_to_ask(database, files, make_segmenter, tmp_path):
    with pytest.raises(ConfigError, match="concept database"):
        on_examples(make_segmenter(None))
    database.add(files[0])
    with pytest.raises(ConfigError, match=r"got none\. 3 masks have no such example: add more images\.$"):
        on_examples(make_segmenter(database))
    (tmp_path / "images").rename(tmp_path / "moved")
    database.add(files[1:])
    with pytest.raises(ConfigError, match=r"got none\. Of \d+ examples the image.*--images"):
        on_examples(make_segmenter(database))
    assert on_examples(make_segmenter(database), Originals(tmp_path / "moved")).missing == 0


def test_the_vocabulary_is_every_concept(database, files, make_segmenter):
    database.add(files)
    seen = []

    class Watching(Knows):
        def predict(self, images, masks, vocabulary):
            seen.append(vocabulary)
            return super().predict(images, masks, vocabulary)

    on_examples(make_segmenter(database, Watching()))
    assert set(seen) == {Vocabulary(tuple(sorted(NAMES)), frozenset({"ball"}))}


class Given:
    """Proposes the squares of a chessboard, which cut across things."""

    def __init__(self, side):
        self.side = side

    def propose(self, images):
        return [self._one(*image.size) for image in images]

    def _one(self, height, width):
        y, x = np.mgrid[:height, :width] // self.side
        return Masks.from_partition(y * 100 + x)


def names_of(example):
    """Object (H, W), the class of each pixel."""
    names = np.empty(int(example.segments.max()) + 1, object)
    for segment in example.info:
        names[segment.id] = segment.label
    return names[example.segments]


def test_proposals_are_what_the_stored_masks_say(scene):
    example = scene(1, ("sky", "grass", "ball"))
    stored = segment_masks(example, [s.id for s in example.info])
    fields = {"label": np.array([s.label for s in example.info], object), "rle": np.array(stored.to_rle(), object)}
    image = StoredImage("", Records(np.array(["a", "b", "c"], object), None, fields))
    masks = Given(5).propose([Picture(example.image)])[0]
    labels, areas, cells = classes_of(image, masks), masks.areas, classes_at(image, masks)
    assert np.array_equal(cells.reshape(masks.grid), names_of(example))
    for i in range(len(masks)):
        ids, counts = np.unique(example.segments[masks[i]], return_counts=True)
        most = {s.id: s.label for s in example.info}[ids[counts.argmax()]]
        assert labels[i] == (most if counts.max() > counts.sum() / 2 else "") and areas[i] == counts.sum()


def test_proposals_of_the_pipeline_are_asked_about(database, files, make_segmenter, monkeypatch):
    """The same numbers by predicting each image with its own examples left out, proposals weighing by area; and the mean
    IoU of the maps, where all pixels are looked at.
    """
    monkeypatch.setattr("knnseg.calibration.leave_one_out._PIXELS", 48 * 64)
    database.add(files)
    segmenter = make_segmenter(database, Knows())
    segmenter.proposer = Given(16)
    found = calibrate(segmenter)
    cost, matrix = {}, ConfusionMatrix(len(NAMES))
    for example in files:
        result = segmenter.predict(example.image, segmenter.vocabulary(), exclude_image=content_hash(example.image))
        matrix.add(example.semantic(result.vocabulary.names), result.semantic)
        for i, row in enumerate(result.scores.probabilities):
            ids, counts = np.unique(example.segments[result.masks[i]], return_counts=True)
            label = {s.id: s.label for s in example.info}[ids[counts.argmax()]]
            if counts.max() > counts.sum() / 2:
                own = -np.log(max(row[result.scores.classes.index(label)], 1e-3))
                cost.setdefault(label, []).append((own, counts.sum()))
    means = [np.average([p[0] for p in pairs], weights=[p[1] for p in pairs]) for pairs in cost.values()]
    assert found.asked == sum(len(pairs) for pairs in cost.values()) and found.before.loss == pytest.approx(
        np.mean(means), rel=1e-5
    )
    assert found.before.iou == pytest.approx(float(matrix.mean_iou()), abs=1e-9)


def test_of_many_proposals_those_at_some_pixels_are_asked_about(database, files, make_segmenter, monkeypatch):
    database.add(files)
    segmenter = make_segmenter(database)
    segmenter.proposer = Given(2)
    assert calibrate(segmenter).asked > 100 * len(files), "more pixels of few images"
    monkeypatch.setattr("knnseg.calibration.leave_one_out._TOGETHER", 0)
    assert 25 * len(files) < calibrate(segmenter).asked <= 32 * len(files)


def test_proposals_need_the_images_and_examples_alone_do_not(database, files, make_segmenter):
    database.add([replace(example, uri="") for example in files])
    with pytest.raises(ConfigError, match=f"Of {database.store.count()} examples the image"):
        calibrate(make_segmenter(database, NoBase()))
    assert on_examples(make_segmenter(database, NoBase())).asked == database.store.count()
    with pytest.raises(ConfigError, match="proposals or examples"):
        calibrate(make_segmenter(database), on="masks")


def test_an_image_that_a_stage_refuses_is_left_out(database, files, make_segmenter):
    database.add(files)
    segmenter = make_segmenter(database, NoBase())
    whole = calibrate(segmenter)
    propose = segmenter.proposer.propose

    class Refusing:
        def propose(self, images):
            if any(np.array_equal(image.pixels, files[2].image) for image in images):
                raise ImageError("sides of a more usual ratio")
            return propose(images)

    segmenter.proposer = Refusing()
    with pytest.warns(KnnSegWarning, match="left out: 1, .*usual ratio"):
        found = calibrate(segmenter)
    assert found.missing == len(files[2].info) and 0 < found.asked < whole.asked
