"""Segmenter: inputs, outputs in every form, explanations, a store that is down."""

import json
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from knnseg import ClassScores, ConceptDatabase, Masks, Segmenter, Vocabulary
from knnseg.config import Config, RetrievalConfig, StageConfig
from knnseg.data.image import Image as Picture
from knnseg.data.reading import load_image, load_label_map, load_panoptic_png
from knnseg.errors import (
    ConfigError,
    ImageError,
    KnnSegWarning,
    MaskError,
    StageError,
    UnknownStageError,
    VocabularyError,
)
from knnseg.method.voting import vote_weights
from knnseg.models.base import DenseClip, NoBase
from knnseg.models.regions import RegionProposer
from knnseg.stages import registry as stages
from knnstore.errors import StoreConnectionError, StoreTimeoutError

NAMES = ("sky", "grass", "ball")


@pytest.fixture
def taught(database, scene):
    database.add(scene(i) for i in range(6))
    return database


@pytest.fixture
def segmenter(taught, make_segmenter):
    return make_segmenter(taught, base=NoBase())


@pytest.fixture
def result(segmenter, scene):
    return segmenter.predict(scene(50).image, NAMES)


def test_it_segments(result, scene):
    example = scene(50)
    truth = example.semantic(NAMES)
    assert (result.semantic == truth).mean() > 0.85  # 0.99
    assert result.vocabulary == Vocabulary(NAMES, frozenset({"ball"})), "what is a thing is known from the examples"
    assert set(result.seconds) == {"proposals", "base", "features", "pooling", "search", "fusion", "painting"}


def test_every_kind_of_input(segmenter, scene, tmp_path):
    example = scene(50)
    path = tmp_path / "a.png"
    Image.fromarray(example.image).save(path)
    expected = segmenter.predict(example.image, NAMES)
    for given in (path, str(path), path.read_bytes(), Image.fromarray(example.image)):
        assert np.array_equal(segmenter.predict(given, NAMES).semantic, expected.semantic)
    several = segmenter.predict([path, example.image], NAMES)
    assert [np.array_equal(r.panoptic, expected.panoptic) for r in several] == [True, True]
    with pytest.raises(ImageError):
        segmenter.predict(tmp_path / "missing.png", NAMES)


def test_without_classes_every_concept_of_the_database_is_used(segmenter, scene):
    assert segmenter.predict(scene(50).image).vocabulary.names == ("ball", "grass", "sky")


def test_classes_that_nobody_knows_are_named_once_for_a_batch(segmenter, make_segmenter, taught, scene):
    images = [scene(50).image, scene(51).image]
    for classes in (("sky", "zebra", "gnu"), Vocabulary(("zebra", "gnu"))):
        with pytest.warns(KnnSegWarning, match="'zebra', 'gnu'") as said:
            segmenter.predict(images, classes)
        assert len(said) == 1
    make_segmenter(taught).predict(images, ("zebra", "gnu"))  # a base may know any word


def test_a_concept_that_is_half_thing_and_half_stuff_is_named(segmenter, taught, scene):
    mask = np.ones((1, 48, 64), bool)
    for i in range(2):
        taught.add_masks(scene(60 + i).image, mask, ["pot"], things=["pot"])
    with pytest.warns(KnnSegWarning, match="'pot': 2 of 3 examples say"):  # once
        for i in range(2, 4):
            taught.add_masks(scene(60 + i).image, mask, ["pot"], things=[])
    with pytest.warns(
        KnnSegWarning, match="'pot': 2 of 4 examples say that it is a thing.*taken as stuff.*concepts kind"
    ):
        segmenter.predict(scene(50).image, ["pot", "sky"])
    assert taught.set_kind("pot", thing=True) == 2
    assert segmenter.vocabulary(["pot", "sky"]).things == {"pot"}


def test_given_masks_are_classified_as_instances(segmenter, scene):
    example = scene(50)
    masks = np.stack([example.segments == s.id for s in example.info])
    result = segmenter.predict(example.image, NAMES, masks=masks)
    assert {(s.label, s.area) for s in result.segments_info} == {
        (s.label, int(m.sum())) for s, m in zip(example.info, masks, strict=True)
    }
    assert len(segmenter.predict([example.image] * 2, NAMES, masks=[masks, masks[:1]])[1].masks) == 1


@pytest.mark.parametrize("given", ["dense", "masks", "proposed"])
def test_sizes_are_compared_as_those_of_things_only_where_masks_are_whole(segmenter, scene, given):
    example, config = scene(50), RetrievalConfig(k=8, size_match=0.5)
    segmenter.config = replace(segmenter.config, retrieval=config)
    dense = np.stack([example.segments == s.id for s in example.info])
    masks = {"dense": dense, "masks": Masks.from_dense(dense), "proposed": None}[given]
    seen = segmenter.predict(example.image, NAMES, masks=masks).evidence
    one, other = (vote_weights(seen.neighbours, config, whole=whole) for whole in (True, False))
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(seen.weights, other if given == "proposed" else one)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((1, 3, 3), bool), "like the image"),
        (np.zeros((1, 48, 64), bool), "empty mask at 0"),
        (np.ones((48, 64), bool), "N, H, W"),
        (np.ma.masked_array(np.ones((1, 48, 64), bool), np.eye(48, 64, dtype=bool)), "filled"),
    ],
)
def test_masks_that_do_not_fit(segmenter, scene, masks, message):
    with pytest.raises(MaskError, match=message):
        segmenter.predict(scene(50).image, NAMES, masks=masks)
    with pytest.raises(MaskError, match="one set for each"):
        segmenter.predict([scene(50).image], NAMES, masks=[])


@pytest.mark.parametrize("classes", [[], ["a", "a"], "sky"])
def test_vocabularies_that_make_no_sense(segmenter, scene, classes):
    with pytest.raises(VocabularyError):
        segmenter.predict(scene(50).image, classes)


def test_without_a_database_and_a_base_nothing_is_known(make_segmenter, scene):
    with pytest.warns(KnnSegWarning, match="3 of 3 are known to nobody.*: 'sky', 'grass', 'ball'"):
        result = make_segmenter(base=NoBase()).predict(scene(50).image, NAMES)
    assert (result.semantic == -1).all() and result.segments_info == ()


def test_objects_that_are_no_stages_are_refused(extractor):
    with pytest.raises(ConfigError, match="FeatureExtractor"):
        Segmenter(object(), RegionProposer())
    with pytest.raises(ConfigError, match="MaskProposer"):
        Segmenter(extractor, object())
    with pytest.raises(ConfigError, match="BasePredictor"):
        Segmenter(extractor, RegionProposer(), object())
    with pytest.raises(ConfigError, match="on_store_error"):
        Segmenter(extractor, RegionProposer(), on_store_error="ignore")


def test_classes_may_come_from_a_generator(segmenter, scene):
    image = scene(50).image
    results = segmenter.predict([image, image], (name for name in NAMES))
    assert [r.vocabulary.names for r in results] == [NAMES, NAMES]


def test_folders_patterns_and_generators(segmenter, scene, tmp_path):
    (tmp_path / "empty").mkdir()
    for i in range(3):
        Image.fromarray(scene(50 + i).image).save(tmp_path / f"{i}.png")
    names = [str(tmp_path / f"{i}.png") for i in range(3)]
    for given in (tmp_path, str(tmp_path), f"{tmp_path}/*.png", [f"{tmp_path}/[01].png", names[2]], iter(names)):
        results = segmenter.predict(given, NAMES)
        assert [result.source for result in results] == names
    assert [result.source for result in segmenter.stream(tmp_path, NAMES)] == names
    assert [result.source for result in segmenter.stream(names[0], NAMES)] == names[:1]
    failed = []
    given = [names[0], tmp_path / "empty", f"{tmp_path}/*.jpg", tmp_path]
    assert len(list(segmenter.stream(given, NAMES, failed=failed))) == 4
    assert failed == [
        f"{tmp_path}/empty: expected an image, got a folder in which there are none",
        f"{tmp_path}/*.jpg: expected an image file, got no such file",
    ]


def test_things_that_are_no_images(segmenter):
    for given in (7, None, (i for i in range(2))):
        with pytest.raises(ImageError, match="expected a path"):
            segmenter.predict(given, NAMES)


# -- the result in every form -----------------------------------------------------------------------------------------


def test_save_and_read_back(result, tmp_path):
    overlay, semantic, png, annotation = result.save(tmp_path / "out", "photo")
    assert [path.name for path in result.save_coco(tmp_path / "new", "b")] == ["b.panoptic.png", "b.panoptic.json"]
    with pytest.raises(ConfigError, match="alpha"):
        result.overlay(alpha=2)
    assert load_image(overlay).shape[1] == result.semantic.shape[1]
    assert np.array_equal(load_label_map(semantic) - 1, result.semantic)
    assert np.array_equal(load_panoptic_png(png), result.panoptic)
    data = json.loads(annotation.read_text())
    names = {c["id"]: (c["name"], c["isthing"]) for c in data["categories"]}
    for entry, segment in zip(data["annotations"][0]["segments_info"], result.segments_info, strict=True):
        assert names[entry["category_id"]] == (segment.label, int(segment.thing))
        x, y, w, h = entry["bbox"]
        ys, xs = np.nonzero(result.panoptic == entry["id"])
        assert (x, y, x + w, y + h) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) and entry["area"] == len(xs)


def test_saved_panoptic_results_load_as_a_dataset(result, tmp_path):
    from knnseg.datasets import CocoPanoptic

    Image.fromarray(result.image).save(tmp_path / "photo.png")
    *_, annotation = result.save(tmp_path, "photo")
    example = CocoPanoptic(tmp_path, tmp_path, annotation)[0]
    assert np.array_equal(example.semantic(NAMES), result.semantic)


def test_coco_has_the_file_name_of_the_image(segmenter, scene, tmp_path):
    path = tmp_path / "a photograph.png"
    Image.fromarray(scene(50).image).save(path)
    for given in (path, str(path)):
        document = segmenter.predict(given, NAMES).coco_panoptic("x.png", 7)
        assert (document["images"][0]["file_name"], document["images"][0]["id"]) == (path.name, 7)


def test_rle(result):
    for entry, segment in zip(result.rle(), result.segments_info, strict=True):
        mask = Masks.from_rle([entry["segmentation"]["counts"]], tuple(entry["segmentation"]["size"]))[0]
        assert np.array_equal(mask, result.panoptic == segment.id)
        assert result.vocabulary.names[entry["category_id"] - 1] == segment.label
    json.dumps(result.rle())


def test_transformers_dictionaries(result):
    as_transformers = result.to_transformers()
    assert np.array_equal(as_transformers["segmentation"].numpy(), result.panoptic)
    assert set(as_transformers["segments_info"][0]) == {"id", "label_id", "was_fused", "score"}
    assert np.array_equal(result.to_transformers_semantic().numpy(), result.semantic)


def test_supervision_detections(result):
    detections = result.to_supervision()
    assert len(detections) == len(result.segments_info)
    assert list(detections.data["class_name"]) == [s.label for s in result.segments_info]
    assert np.array_equal(detections.mask[0], result.panoptic == 1)


def test_explanations_name_the_examples_that_voted(segmenter, result, scene):
    for segment in result.segments_info:
        why = segmenter.explain(result, segment.id, most=5)
        assert why.label == segment.label and 0 < len(why.votes) <= 5
        assert why.votes[0].label == segment.label and why.votes[0].image.startswith("scene:")
        assert sum(vote.weight for vote in segmenter.explain(result, segment.id, most=10**6).votes) == pytest.approx(
            1, abs=1e-4
        )
        assert max(why.retrieved, key=why.retrieved.get) == segment.label
        x0, y0, x1, y1 = why.votes[0].box
        assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 48
    with pytest.raises(VocabularyError, match="from 1 to"):
        segmenter.explain(result, 999)


def test_a_service_that_runs_sees_what_another_process_renames(store_url, extractor, scene, make_segmenter):
    """It says what a fresh process says; what it has said before stays explained by the names of then."""
    with ConceptDatabase.open(store_url, extractor) as own, ConceptDatabase.open(store_url, extractor) as others:
        others.add(scene(i) for i in range(4))
        running = make_segmenter(own, base=NoBase())
        before = running.predict(scene(50).image)
        others.rename("grass", "meadow")
        after = running.predict(scene(50).image)
        with ConceptDatabase.open(store_url, extractor) as anew:
            fresh = make_segmenter(anew, base=NoBase()).predict(scene(50).image)
        assert tuple(after.vocabulary) == tuple(fresh.vocabulary) and np.array_equal(after.panoptic, fresh.panoptic)
        [old] = [segment for segment in before.segments_info if segment.label == "grass"]
        [new] = [segment for segment in after.segments_info if segment.label == "meadow"]
        for result, segment, name in ((before, old, "grass"), (after, new, "meadow")):
            why = running.explain(result, segment.id)
            assert (why.label, why.votes[0].label) == (name, name)


def test_one_extractor_for_base_and_keys_runs_once(taught, scene):
    from knnseg.models.base import DenseClip

    class Text:
        def encode(self, prompts):
            return np.eye(9, dtype=np.float32)[[len(p) % 9 for p in prompts]]

    extractor = taught.extractor
    segmenter = Segmenter(
        extractor,
        RegionProposer(),
        DenseClip(extractor, Text(), 10.0),
        taught,
        config=Config(StageConfig(""), StageConfig("")),
    )
    calls = extractor.calls
    segmenter.predict(scene(50).image, NAMES)
    assert extractor.calls == calls + 1


def test_the_most_similar_word_speaks_for_its_class(extractor, scene):
    from knnseg import Masks, Vocabulary
    from knnseg.models.base import DenseClip

    class Text:
        """The word "axis 2" is the unit vector along axis 2."""

        def encode(self, prompts):
            return np.stack([np.eye(extractor.dim, dtype=np.float32)[int(p.split()[-1])] for p in prompts])

    image = scene(51).image
    masks = Masks.from_partition(np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2]) // 1000)
    base = DenseClip(extractor, Text(), 10.0, ["{}"])
    alone = base.predict([Picture(image)], [masks], Vocabulary.of(["axis 0", "axis 1", "axis 2"]))[0].probabilities
    joined = Vocabulary(("axis 0", "axis 1"), wording={"axis 1": ("axis 1", "axis 2")})
    both = base.predict([Picture(image)], [masks], joined)[0].probabilities
    logits = np.log(alone)
    expected = np.exp(np.stack([logits[:, 0], logits[:, 1:].max(1)], 1))
    np.testing.assert_allclose(both, expected / expected.sum(1, keepdims=True), rtol=1e-4)
    assert (logits[:, 2] > logits[:, 1]).any()


def test_a_name_from_before_is_taken_as_the_one_of_now(taught, segmenter, scene):
    image, now = scene(50).image, ("marble", "sky", "grass")
    expected = segmenter.predict(image, NAMES)
    taught.rename("ball", "marble")
    with pytest.warns(KnnSegWarning, match="'ball' is called 'marble' now, and taken as that") as said:
        result = segmenter.predict(image, ["ball", "sky", "marble", "grass"])
    assert [one.filename for one in said] == [__file__]
    assert result.vocabulary == Vocabulary(now, frozenset({"marble"}))
    as_before = np.array(NAMES)[[NAMES.index({"marble": "ball"}.get(name, name)) for name in now]]
    assert np.array_equal(as_before[result.semantic], np.array(NAMES)[expected.semantic])
    with pytest.warns(KnnSegWarning, match="'ball' is called"):
        assert [one.vocabulary.names for one in segmenter.stream([image], ["ball", *now[1:]])] == [now]
    with pytest.raises(VocabularyError, match="more than once"):
        segmenter.vocabulary(["ball", "ball"])
    with pytest.warns(KnnSegWarning, match="1 of 3 are known to nobody"):
        assert segmenter.vocabulary(Vocabulary(NAMES)).names == NAMES, "taken as it is"


# -- a store that is down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreConnectionError, StoreTimeoutError])
def test_a_store_that_is_down_raises_or_degrades(extractor, tmp_path, scene, make_segmenter, monkeypatch, error):
    """The in-process stores cannot be down, so their search is made to fail as a server's would."""
    with ConceptDatabase.open(f"memory://{tmp_path}", extractor) as database:
        database.add(scene(1))

        def down(*_, **__):
            raise error("search on qdrant://db.example: no answer")

        vocabulary = Vocabulary(NAMES, frozenset({"ball"}))
        segmenter = make_segmenter(database)
        alone = make_segmenter().predict(scene(50).image, vocabulary)
        monkeypatch.setattr(database.store, "_search", down)
        with pytest.raises(error, match=r"db\.example"):
            segmenter.predict(scene(50).image, vocabulary)
        segmenter = Segmenter(
            extractor, segmenter.proposer, segmenter.base, database, config=segmenter.config, on_store_error="base"
        )
        monkeypatch.setattr(database.store, "_count_by", down)
        assert segmenter.predict(scene(50).image, NAMES).degraded, "a vocabulary without its things is a degraded one"
        result = segmenter.predict(scene(50).image, vocabulary)
        assert "db.example" in result.degraded and alone.degraded == ""
        assert np.array_equal(result.panoptic, alone.panoptic)


def test_a_store_that_is_down_is_remembered_for_its_classes(extractor, tmp_path, scene, make_segmenter, monkeypatch):
    def down(*_, **__):
        raise StoreConnectionError("count_by on qdrant://db.example: no answer")

    with ConceptDatabase.open(f"memory://{tmp_path}", extractor) as database:
        database.add(scene(1))
        database.rename("ball", "marble")
        parts = make_segmenter()
        degrading = partial(
            Segmenter, extractor, parts.proposer, parts.base, config=parts.config, on_store_error="base"
        )
        segmenter, late = degrading(database), degrading(database)
        before = segmenter.predict(scene(50).image)
        monkeypatch.setattr(database.store, "_revision", down)
        after = segmenter.predict(scene(50).image)
        assert after.degraded and tuple(after.vocabulary) == tuple(before.vocabulary)
        assert segmenter.vocabulary(["ball"]).names == ("ball",)
        with pytest.raises(VocabularyError, match=r"expected some, .*db\.example"):
            late.predict(scene(50).image)


# -- stages by name ---------------------------------------------------------------------------------------------------


def test_stages_are_made_by_name_and_their_options_checked():
    assert isinstance(stages.make("masks", StageConfig("regions", {"scales": [50]})), RegionProposer)
    with pytest.raises(
        UnknownStageError, match=r"expected one of \[.*'dense_clip', 'fcclip', .*'none'.*mean 'dense_clip'"
    ):
        stages.make("base", StageConfig("dense"))
    with pytest.raises(ConfigError, match="Did you mean 'scales'"):
        stages.make("masks", StageConfig("regions", {"scale": [50]}))
    with pytest.raises(ConfigError, match=r"expected a value for \['model'\]"):
        stages.make("features", StageConfig("open_clip"))


def test_a_third_party_registers_a_stage(monkeypatch, scene):
    import knnseg

    class Whole:
        """One mask over everything."""

        def __init__(self, *, margin=0):
            self.margin = margin

        def propose(self, images):
            return [self._one(*image.size) for image in images]

        def _one(self, height, width):
            mask = np.zeros((1, height, width), bool)
            mask[:, self.margin : height - self.margin] = True
            return Masks.from_dense(mask)

    class Plugin:
        @knnseg.hookimpl
        def knnseg_register(self, register):
            register("masks", "whole", Whole)

    knnseg.register(Plugin())
    assert "whole" in stages.names("masks")
    proposer = stages.make("masks", StageConfig("whole", {"margin": 2}), device="cpu")
    assert proposer.propose([Picture(scene(1).image)])[0].areas[0] == 44 * 64


def test_a_misspelt_hook_is_an_error():

    import knnseg

    class Plugin:
        @knnseg.hookimpl
        def knnseg_registre(self, register):
            pass

    with pytest.raises(StageError, match=r"hooks are in knnseg\.stages\.hookspecs"):
        knnseg.register(Plugin())


def test_a_branch_that_the_base_does_not_have(extractor, make_segmenter, scene):
    for base in (NoBase(), DenseClip(extractor, None, 100.0)):  # known when the segmenter is made
        with pytest.raises(ConfigError, match=r"expected one of \['final'\].*'ensemble'\. Other bases may have others"):
            make_segmenter(base=base, branch="ensemble")


@pytest.mark.parametrize("base", [object(), type("NoBranches", (), {"predict": lambda *_: []})()])
def test_what_is_no_base_is_refused(make_segmenter, base):
    with pytest.raises(ConfigError, match=r"base: expected a BasePredictor, got .* without branches"):
        make_segmenter(base=base)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Rooted(ClassScores):
    """Scores of a base of one's own: what it says are the roots of what is said before, at a branch of its own."""

    branches: tuple[str, ...] = ("first", "final")

    def branch(self, name):
        return ClassScores(self.probabilities**2, self.classes) if name == "first" else self

    def resume(self, name, fused):
        return ClassScores(np.sqrt(fused.probabilities), self.classes) if name == "first" else fused


def test_a_base_brings_branches_of_its_own(database, make_segmenter, scene):
    class Own(NoBase):
        branches = ("first", "final")

        def predict(self, images, masks, vocabulary):
            return [Rooted(np.full((len(own), len(vocabulary)), 0.25, np.float32), vocabulary.names) for own in masks]

    database.add([scene(1)])
    image, masks = scene(2).image, Masks.from_partition(scene(2).segments)
    first, final = (
        make_segmenter(database, Own(), branch=branch).predict(image, NAMES, masks=masks)
        for branch in ("first", "final")
    )
    assert first.evidence.retrieved is not None
    assert not np.array_equal(first.scores.probabilities, final.scores.probabilities)
    with pytest.raises(ConfigError, match=r"expected one of \['first', 'final'\].*'ensemble'"):
        make_segmenter(base=Own(), branch="ensemble")


def test_class_scores_of_the_wrong_width_are_noticed(make_segmenter, scene):
    class Wrong:
        branches = ("final",)

        def predict(self, images, masks, vocabulary):
            return [ClassScores(np.zeros((len(own), 1), np.float32), vocabulary.names) for own in masks]

    with pytest.raises(ValueError, match="3 columns"):
        make_segmenter(base=Wrong()).predict(scene(1).image, NAMES)


def test_a_vote_says_where_its_image_is(database, make_segmenter, scene, tmp_path):
    path, example = tmp_path / "1.png", scene(1)
    Image.fromarray(example.image).save(path)
    masks = np.stack([example.segments == s.id for s in example.info])
    database.add_masks(path, masks, [s.label for s in example.info])
    segmenter = make_segmenter(database)
    votes = segmenter.explain(segmenter.predict(scene(2).image), 1).votes
    assert votes and {vote.image for vote in votes} == {path.as_uri()}
