"""Retrieval inside FC-CLIP: the ensemble taken up again, the invariants at every branch, and what reaches the winner."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from knnseg import ClassScores, Config, Segmenter, Vocabulary
from knnseg.calibration.fitting import calibrate
from knnseg.calibration.leave_one_out import classes_of
from knnseg.config import FusionConfig, StageConfig
from knnseg.data.image import Image as Picture
from knnseg.database.originals import Originals, stored_images
from knnseg.errors import ConfigError
from knnseg.models.fcclip.branches import BRANCHES, EnsembleScores
from knnseg.models.fcclip.classification import geometric_ensemble, with_void
from knnseg.models.fcclip.stage import FcClip, FcClipProposer, FcClipSession

CLASSES = Vocabulary(("sky", "grass", "sand", "ball", "kettle"), frozenset({"ball", "kettle"}))
TRAINED = ("sky", "ball")


@pytest.fixture(scope="module")
def session(network):
    return FcClipSession(network)


@pytest.fixture(params=BRANCHES)
def branch(request):
    return request.param


@pytest.fixture(params=["supported", "late"])
def mode(request):
    return request.param


@pytest.fixture
def store_url(tmp_path):
    """One store: that both give the same bits is another test, and so is what only the database decides."""
    return f"memory://{tmp_path}/db"


@pytest.fixture
def picture(scene):
    return scene(100, ("sky", "sand", "ball", "kettle")).image


@pytest.fixture
def segmenter(session, extractor, branch, mode):
    def make(database=None, **fusion):
        config = Config(
            StageConfig("none"), StageConfig("none"), fusion=FusionConfig(**{"mode": mode, "branch": branch} | fusion)
        )
        return Segmenter(extractor, FcClipProposer(session), FcClip(session, TRAINED), database, config=config)

    return make


def same(one, other):
    assert np.array_equal(one.scores.probabilities.view(np.uint32), other.scores.probabilities.view(np.uint32))
    assert np.array_equal(one.semantic, other.semantic)
    assert np.array_equal(one.panoptic, other.panoptic)


# -- the invariants ----------------------------------------------------------------------------------------------------


def test_an_empty_database_reproduces_the_base(database, segmenter, picture):
    same(segmenter(database).predict(picture, CLASSES), segmenter().predict(picture, CLASSES))


def test_a_threshold_above_every_confidence_reproduces_the_base(database, segmenter, picture, scene):
    database.add(scene(i) for i in range(4))
    alone = segmenter().predict(picture, CLASSES)
    same(segmenter(database, threshold=1.5).predict(picture, CLASSES), alone)
    moved = segmenter(database).predict(picture, CLASSES)
    assert not np.array_equal(moved.scores.probabilities, alone.scores.probabilities), "the threshold had nothing to do"


def test_a_threshold_between_keeps_the_rows_below_it(database, segmenter, picture, scene):
    database.add(scene(i) for i in range(4))
    alone, all_of_them = segmenter().predict(picture, CLASSES), segmenter(database).predict(picture, CLASSES)
    certainty = all_of_them.evidence.confidence
    threshold = float(np.median(certainty[np.isfinite(certainty)]))
    some = segmenter(database, threshold=threshold).predict(picture, CLASSES)
    below = certainty < np.float32(threshold)
    assert below.any() and not below.all()
    assert np.array_equal(some.scores.probabilities[below], alone.scores.probabilities[below])
    assert np.array_equal(some.scores.probabilities[~below], all_of_them.scores.probabilities[~below])


def test_adding_and_removing_a_concept_restores_every_prediction(database, segmenter, picture, scene):
    database.add(scene(i, ("sky", "grass", "ball")) for i in range(5))
    ours = segmenter(database)
    before = ours.predict(picture, CLASSES)
    database.add(scene(i, ("sand", "kettle")) for i in range(20, 26))
    between = ours.predict(picture, CLASSES)
    assert not np.array_equal(before.scores.probabilities, between.scores.probabilities), "adding had no effect"
    for label in ("sand", "kettle"):
        database.remove(label)
    same(ours.predict(picture, CLASSES), before)


# -- what retrieval does at each branch --------------------------------------------------------------------------------


def test_retrieval_can_change_the_winner(database, segmenter, picture, scene, mode):
    """Examples of one class only, and all weight on them."""
    names = ("kettle",) if mode == "late" else CLASSES.names
    examples = [scene(i, ("sky", "sand", "ball", "kettle")) for i in range(8)] + [scene(9, ("grass", "ball"))]
    database.add(examples, classes=names)
    base = segmenter().predict(picture, CLASSES).scores.probabilities
    result = segmenter(database, weight=1.0).predict(picture, CLASSES)
    asked, final = result.evidence.neighbours.found.any(axis=1), result.scores.probabilities
    retrieved = result.evidence.retrieved.probabilities.argmax(axis=1)
    assert asked.sum() > 5 and (base.argmax(axis=1) != retrieved)[asked].any()
    if mode == "late":  # nothing else is possible
        assert (final.argmax(axis=1) == retrieved)[asked].all()
    assert (final.argmax(axis=1) != base.argmax(axis=1)).any()
    assert np.isfinite(final).all() and (final.sum(axis=1) <= 1 + 1e-6).all()


def test_the_branches_are_three_different_places(database, session, extractor, picture, scene):
    database.add(scene(i) for i in range(4))
    base, proposer, found = FcClip(session, TRAINED), FcClipProposer(session), []
    for branch in BRANCHES:
        config = Config(StageConfig("none"), StageConfig("none"), fusion=FusionConfig(mode="late", branch=branch))
        result = Segmenter(extractor, proposer, base, database, config=config).predict(picture, CLASSES)
        found.append(result.scores.probabilities)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert np.abs(found[one] - found[other]).max() > 1e-3


def test_void_keeps_its_share_inside_and_yields_at_the_end(database, segmenter, picture, scene, branch, mode):
    database.add((scene(i, ("sky", "sand", "ball", "kettle", "grass")) for i in range(4)), classes=CLASSES.names)
    base = segmenter().predict(picture, CLASSES).scores.probabilities.sum(axis=1)
    final = segmenter(database).predict(picture, CLASSES).scores.probabilities.sum(axis=1)
    if branch == "final" and mode == "late":
        assert (final > base + 1e-3).any()
    else:
        np.testing.assert_allclose(final, base, atol=1e-6)


def test_the_explanation_tells_base_from_final(database, segmenter, picture, scene):
    database.add(scene(i, ("sky", "sand", "ball", "kettle")) for i in range(4))
    ours = segmenter(database, weight=1.0)
    result = ours.predict(picture, CLASSES)
    alone = segmenter().predict(picture, CLASSES)
    assert np.array_equal(result.evidence.base.probabilities, alone.scores.probabilities)
    assert result.segments_info
    for segment in result.segments_info:
        why = ours.explain(result, segment.id)
        assert why.label == segment.label and why.votes
        assert sum(vote.weight for vote in why.votes) <= 1 + 1e-6
        matrix = result.masks.matrix[:, np.flatnonzero(result.panoptic.reshape(-1) == segment.id)]
        shares = np.asarray(matrix.sum(axis=1)).reshape(-1)
        for told, scores in ((why.base, alone.scores), (why.final, result.scores)):
            expected = dict(zip(CLASSES.names, shares / shares.sum() @ scores.probabilities, strict=True))
            assert told == pytest.approx({name: p for name, p in expected.items() if p > 0}, rel=1e-4)


def test_on_masks_of_others_all_branches_are_clips(database, session, extractor, picture, scene, mode):
    database.add(scene(i) for i in range(3))
    halves = np.zeros((2, *picture.shape[:2]), bool)
    halves[0, :20], halves[1, 20:] = True, True
    found = []
    for branch in BRANCHES:
        config = Config(StageConfig("none"), StageConfig("none"), fusion=FusionConfig(mode=mode, branch=branch))
        segmenter = Segmenter(extractor, FcClipProposer(session), FcClip(session), database, config=config)
        found.append(segmenter.predict(picture, CLASSES, masks=halves))
    same(found[0], found[1])
    same(found[0], found[2])
    assert not np.array_equal(found[0].scores.probabilities, found[0].evidence.base.probabilities)


# -- the ensemble, against torch ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(network, session, image):
    """The scores as torch has them, and as the pipeline has them."""
    _, proposals = session.look(Picture(image))
    words = network.classifier(CLASSES.names, TRAINED)
    base = FcClip(session, TRAINED).predict([Picture(image)], [session.masks(Picture(image), 0.05)], CLASSES)[0]
    return network.classify(proposals, words), base


@pytest.fixture
def other(parts):
    """Another distribution in every second row."""

    def make(start):
        probabilities = start.probabilities.copy()
        random = np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), len(probabilities))
        probabilities[::2] = random[::2]
        return ClassScores(probabilities, start.classes)

    return make


def test_branches_are_the_networks_own(parts):
    scores, base = parts
    assert isinstance(base, EnsembleScores) and base.branches == BRANCHES and base.branch("final") is base
    np.testing.assert_allclose(base.branch("out_vocab").probabilities, scores.out_vocab[0].softmax(-1), atol=1e-6)
    np.testing.assert_allclose(base.branch("ensemble").probabilities, scores.ensemble[0].softmax(-1), atol=1e-6)


def test_resuming_is_the_ensemble_with_another_part(parts, other):
    scores, base = parts
    fused = other(base.branch("out_vocab"))
    replaced = torch.from_numpy(fused.probabilities)[None].log()
    ensemble = geometric_ensemble(scores.in_vocab[..., :-1], replaced, scores.weight)
    expected = with_void(ensemble, scores.void)[0].softmax(-1)[:, :-1]
    final = base.resume("out_vocab", fused).probabilities
    np.testing.assert_allclose(final, expected, atol=1e-6)
    assert np.array_equal(final[1::2], base.probabilities[1::2])
    assert np.abs(final - base.probabilities)[::2].max() > 0.01

    fused = other(base.branch("ensemble"))
    expected = with_void(torch.from_numpy(fused.probabilities)[None].log(), scores.void)[0].softmax(-1)[:, :-1]
    final = base.resume("ensemble", fused).probabilities
    np.testing.assert_allclose(final, expected, atol=1e-6)
    assert np.array_equal(final[1::2], base.probabilities[1::2])

    fused = other(base)
    assert base.resume("final", fused) is fused


def test_a_row_does_not_depend_on_the_others(parts, other):
    _, base = parts
    fused = other(base.branch("out_vocab"))
    together = base.resume("out_vocab", fused).probabilities
    for row in (0, 2, 7):
        single = dataclasses.replace(
            base, **{name: getattr(base, name)[[row]] for name in ("probabilities", "in_vocab", "out_vocab", "weight", "void")}
        )  # fmt: skip
        alone = single.resume("out_vocab", ClassScores(fused.probabilities[[row]], fused.classes)).probabilities
        assert np.array_equal(alone[0], together[row])


def test_where_clip_does_not_count_its_replacement_does_not_either(network, session, image, other):
    """Masks over no cell of CLIP's grid, with ``valid_masks_only``."""
    _, proposals = session.look(Picture(image))
    valid = torch.arange(proposals.valid.shape[1])[None] % 4 != 0
    config = network.config
    try:
        network.config = dataclasses.replace(config, valid_masks_only=True)
        scores = network.classify(
            dataclasses.replace(proposals, valid=valid), network.classifier(CLASSES.names, TRAINED)
        )
    finally:
        network.config = config
    base = EnsembleScores(
        scores.logits[0].softmax(-1)[:, :-1].numpy(), CLASSES.names, in_vocab=scores.in_vocab[0, :, :-1].numpy(),
        out_vocab=scores.out_vocab[0].numpy(), weight=scores.weight[0].numpy(), void=scores.void[0].numpy(),
    )  # fmt: skip
    final = base.resume("out_vocab", other(base.branch("out_vocab"))).probabilities
    assert np.array_equal(final[::4], base.probabilities[::4])
    assert (final[2::4] != base.probabilities[2::4]).any(axis=1).all()
    inside = base.resume("ensemble", other(base.branch("ensemble"))).probabilities
    assert (inside[::4] != base.probabilities[::4]).any(axis=1).all()


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_zero_probabilities_make_no_nan(weight):
    def scores(in_vocab, out_vocab):
        logits = np.array([[in_vocab], [out_vocab]], np.float32)
        share, void = np.full((1, 3), weight, np.float32), np.full((1, 1), 0.25, np.float32)
        plain = ClassScores(np.array([[0.3, 0.2, 0.25]], np.float32), ("a", "b", "c"))
        return EnsembleScores(
            plain.probabilities, plain.classes, in_vocab=logits[0], out_vocab=logits[1], weight=share, void=void
        )

    base = scores([0, 300, -300], [0, -300, 300])
    for row in ([0, 1, 0], [1, 0, 0], [0.5, 0.5, 0]):
        final = base.resume("out_vocab", ClassScores(np.array([row], np.float32), base.classes)).probabilities
        assert np.isfinite(final).all()
        if weight == 0:
            assert np.array_equal(final, base.probabilities)
        elif weight == 1:
            assert final[0] == pytest.approx(np.array(row) * 0.75, abs=1e-6)
        else:
            assert final.sum() == pytest.approx(0.75, abs=1e-6) and (final[0, np.array(row) == 0] < 1e-6).all()
    nothing = ClassScores(np.zeros((1, 3), np.float32), base.classes)
    assert not base.resume("ensemble", nothing).probabilities.any()
    alone = base.resume("out_vocab", nothing).probabilities  # then the decoder alone decides
    assert alone[0] == pytest.approx([0, 0.75, 0] if weight else [0.3, 0.2, 0.25], abs=1e-6)


def test_a_probability_too_small_for_float32_is_not_lost():
    """The decoder is sure of a, CLIP of b, so sure that its P(a) is 0 in float32; c is replaced."""
    logits = np.array([[0, -400, -800]], np.float32), np.array([[-200, 0, -20]], np.float32)
    base = EnsembleScores(
        np.array([[1, 0, 0]], np.float32), ("a", "b", "c"), in_vocab=logits[0], out_vocab=logits[1],
        weight=np.full((1, 3), 0.4, np.float32), void=np.zeros((1, 1), np.float32),
    )  # fmt: skip
    start = base.branch("out_vocab").probabilities
    assert start[0, 0] == 0
    fused = start.copy()
    fused[0, 2] = 1e-3
    assert base.resume("out_vocab", ClassScores(fused, base.classes)).probabilities[0, 0] == pytest.approx(1, abs=1e-6)


def test_calibration_fuses_where_the_pipeline_does(database, segmenter, scene, tmp_path, monkeypatch):
    """The loss that it reports, from predictions with the examples of the own image left out."""
    monkeypatch.setattr("knnseg.calibration.leave_one_out._PIXELS", 1 << 20)  # all of them, and so all masks
    examples = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        Image.fromarray(scene(i).image).save(path)
        examples.append(dataclasses.replace(scene(i), uri=path.as_uri()))
    database.add(examples)
    made = segmenter(database)
    found, cost = calibrate(made), {}
    for images in stored_images(database.store, sorted(database.store.count_by("image_hash"))):
        for image in images:
            result = made.predict(Originals().find(image), made.vocabulary(), exclude_image=image.image_hash)
            labels, areas = classes_of(image, result.masks), result.masks.areas
            for label, area, row in zip(labels, areas, result.scores.probabilities, strict=True):
                if label:
                    own = -np.log(max(row[result.scores.classes.index(label)], 1e-3))
                    cost.setdefault(label, []).append((own, area))
    assert cost and found.asked == sum(len(pairs) for pairs in cost.values())
    means = [np.average([p[0] for p in pairs], weights=[p[1] for p in pairs]) for pairs in cost.values()]
    assert found.before.loss == pytest.approx(np.mean(means), rel=1e-4)


# -- words, and mistakes -----------------------------------------------------------------------------------------------


def test_the_wording_of_the_vocabulary_is_as_good_as_commas(session, image):
    base, masks = FcClip(session, TRAINED), session.masks(Picture(image), 0.05)
    apart = Vocabulary(("person", "bear"), wording={"person": ("person", "man", "sky")})
    joined = base.predict([Picture(image)], [masks], Vocabulary(("person, man, sky", "bear")))[0]
    found = base.predict([Picture(image)], [masks], apart)[0]
    assert found.classes == ("person", "bear") and np.array_equal(found.probabilities, joined.probabilities)
    assert np.array_equal(found.weight, joined.weight) and found.weight[0, 0] == np.float32(0.4)  # sky was trained on
    plain = base.predict([Picture(image)], [masks], Vocabulary(("person", "bear")))[0]
    assert not np.array_equal(plain.probabilities, found.probabilities)


def test_an_unknown_branch_is_refused(parts):
    _, base = parts
    for call in (base.branch, lambda name: base.resume(name, base)):
        with pytest.raises(ConfigError, match="'middle'"):
            call("middle")
