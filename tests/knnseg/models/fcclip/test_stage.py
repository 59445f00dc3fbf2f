"""FC-CLIP in the pipeline: one pass for masks and classes, from the command line too."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import knnseg
from knnseg import Config, Masks, Segmenter, Vocabulary
from knnseg.cli import main
from knnseg.config import PaintingConfig, StageConfig
from knnseg.data.image import Image as Picture
from knnseg.datasets import benchmarks
from knnseg.errors import ConfigError, WeightsError
from knnseg.models.fcclip import FcClipConfig
from knnseg.models.fcclip.branches import EnsembleScores
from knnseg.models.fcclip.inference import panoptic, semantic
from knnseg.models.fcclip.pooling import class_logits
from knnseg.models.fcclip.preprocessing import prepare
from knnseg.models.fcclip.stage import FcClip, FcClipProposer, FcClipSession
from knnseg.models.fcclip.trained import COCO, read_classes

CLASSES = Vocabulary(("person, man", "bear", "sky", "grass"), frozenset({"bear"}))


@pytest.fixture
def session(network):
    return FcClipSession(network)


@pytest.fixture
def stages(session):
    return FcClipProposer(session, min_coverage=1e-6), FcClip(session, ("sky", "person"))


def test_masks_and_scores_are_the_models_own(stages, network, image):
    proposer, base = stages
    masks = proposer.propose([Picture(image)])[0]
    scores = base.predict([Picture(image)], [masks], CLASSES)[0]
    expected = network.predict([image], network.classifier(CLASSES.names, ("sky", "person")))[0]
    assert masks.size == (70, 90) and masks.instances and len(masks) == 20
    np.testing.assert_allclose(masks.matrix.toarray().reshape(20, 70, 90), expected.masks.sigmoid(), atol=1e-5)
    probability = expected.logits.softmax(-1)
    np.testing.assert_allclose(scores.probabilities, probability[:, :-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(1 - scores.probabilities.sum(1), probability[:, -1], rtol=1e-3, atol=1e-5)


def test_masks_of_a_large_photograph_are_made_on_a_bounded_grid(network, image, monkeypatch):
    fine = FcClipProposer(FcClipSession(network), min_coverage=1e-6).propose([Picture(image)])[0]
    monkeypatch.setattr("knnseg.models.fcclip.stage.MASK_SIDE", 45)
    proposer, base = FcClipProposer(session := FcClipSession(network), min_coverage=1e-6), FcClip(session, ("sky",))
    masks = proposer.propose([Picture(image)])[0]
    assert masks.size == fine.size == (70, 90) and masks.grid == (35, 45)
    np.testing.assert_allclose(masks.areas.sum(), fine.areas.sum(), rtol=0.05)
    assert isinstance(base.predict([Picture(image)], [masks], CLASSES)[0], EnsembleScores)
    result = Segmenter(None, proposer, base, config=Config.preset("fcclip")).predict(image, CLASSES)
    assert result.semantic.shape == result.panoptic.shape == (70, 90)


def test_own_masks_are_known_after_another_image_was_seen(stages, network, image):
    """As when several threads share a model; and masks of another image or model are not taken for own ones."""
    proposer, base = stages
    masks, other = proposer.propose([Picture(image)])[0], np.ascontiguousarray(image[::-1])
    expected = base.predict([Picture(image)], [masks], CLASSES)[0]
    others = proposer.propose([Picture(other)])[0]
    again = base.predict([Picture(image)], [masks], CLASSES)[0]
    assert isinstance(again, EnsembleScores) and np.array_equal(again.probabilities, expected.probabilities)
    assert not isinstance(base.predict([Picture(image)], [others], CLASSES)[0], EnsembleScores)
    second = FcClipProposer(FcClipSession(network), min_coverage=1e-6).propose([Picture(image)])[0]
    assert not isinstance(base.predict([Picture(image)], [second], CLASSES)[0], EnsembleScores)
    some = masks.select(np.arange(3))
    assert type(some) is Masks and not isinstance(base.predict([Picture(image)], [some], CLASSES)[0], EnsembleScores)


def test_threads_share_a_model(session, image):
    """Each image gets its own masks and the ensemble, however the threads' steps fall together."""
    config = Config(StageConfig("none"), StageConfig("none"))
    segmenter = Segmenter(None, FcClipProposer(session), FcClip(session, ("sky", "person")), config=config)
    images = [np.ascontiguousarray(np.roll(image, 7 * i, axis=1)) for i in range(4)]
    expected = [segmenter.predict(one, CLASSES).scores.probabilities for one in images]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda one: segmenter.predict(one, CLASSES), images * 4))
    for i, result in enumerate(results):
        assert isinstance(result.scores, EnsembleScores)
        np.testing.assert_allclose(result.scores.probabilities, expected[i % 4], atol=1e-6)


def test_the_painted_semantic_map_is_the_models_own(stages, network, image):
    proposer, base = stages
    config = Config(StageConfig("none"), StageConfig("none"))
    result = Segmenter(None, proposer, base, config=config).predict(image, CLASSES)
    expected = network.predict([image], network.classifier(CLASSES.names, ("sky", "person")))[0]
    best = semantic(expected.logits, expected.masks)
    known = result.semantic != knnseg.IGNORE
    assert known.mean() > 0.9 and best.max(0).values.numpy()[~known].max(initial=0) < 1e-4  # no mask covers the others
    assert (result.semantic == best.argmax(0).numpy())[known].mean() > 0.99  # all of them, but for ties of rounding
    # A mask that is more likely void than anything makes no segment.
    sure = expected.logits[:, :-1].max(1).values > expected.logits[:, -1]
    assert 0 < len(result.segments_info) <= int(sure.sum()) < 20


@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("flip", [False, True])
def test_the_painted_panoptic_map_is_the_models_own(stages, network, image, overlap, flip):
    picture = image[:, ::-1].copy() if flip else image
    painting = PaintingConfig(min_area=0, min_visible=overlap)
    config = Config(StageConfig("none"), StageConfig("none"), painting=painting)
    result = Segmenter(None, *stages, config=config).predict(picture, CLASSES)
    own = network.predict([picture], network.classifier(CLASSES.names, ("sky", "person")))[0]
    things = torch.tensor([name in CLASSES.things for name in CLASSES])
    expected = panoptic(own.logits, own.masks, things, 0.0, overlap)
    ids, labels = expected.ids.numpy(), {s.id: CLASSES.names[s.label] for s in expected.segments}
    assert {(s.label, s.thing) for s in result.segments_info} == {(labels[i], labels[i] == "bear") for i in labels}
    pairs = {tuple(pair) for pair in np.stack([ids, result.panoptic], -1).reshape(-1, 2).tolist()}
    assert len(pairs) == len(np.unique(ids)) == len(np.unique(result.panoptic)) > 1  # the same parts, numbered anew
    assert all(labels.get(i, "") == (result.segment(j).label if j else "") for i, j in pairs)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (90, 2)])
def test_images_of_a_few_pixels(stages, size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    config = Config(StageConfig("none"), StageConfig("none"))
    result = Segmenter(None, *stages, config=config).predict(picture, CLASSES)
    assert result.semantic.shape == result.panoptic.shape == size and np.isfinite(result.scores.probabilities).all()


def test_one_pass_for_both_stages(stages, network, image):
    passes = []
    handle = network.backbone.register_forward_hook(lambda *_: passes.append(1))
    proposer, base = stages
    picture = Picture(image)
    masks = proposer.propose([picture])
    base.predict([picture], masks, CLASSES)
    base.predict([picture], masks, Vocabulary(("rock",)))
    assert len(passes) == 1
    proposer.propose([Picture(image[:, ::-1].copy())])[0]
    assert len(passes) == 2
    handle.remove()


def test_masks_of_others_are_classified_by_clip(stages, network, image):
    _, base = stages
    left = np.zeros((2, 70, 90), bool)
    left[0, 5:60, :45] = True
    scores = base.predict([Picture(image)], [Masks.from_dense(left)], CLASSES)[0].probabilities
    dense = network.encode(prepare([image], network.config, network.device).pixels).dense  # of 96×96 pixels
    pixels = torch.nn.functional.interpolate(dense, (96, 96), mode="bilinear")[0, :, :70, :90]
    words = network.classifier(CLASSES.names)
    seen = network.backbone.project(pixels[:, torch.from_numpy(left[0])].mean(1)[None, None])
    expected = class_logits(seen, words.text, words.rows, network.backbone.logit_scale)[0, 0].softmax(0)
    np.testing.assert_allclose(scores[0], expected, rtol=1e-3)
    assert not scores[1].any()  # an empty mask


def test_own_masks_of_another_image_are_not_taken_for_this_one(stages, image):
    proposer, base = stages
    masks = proposer.propose([Picture(image)])[0]
    other = image[::-1].copy()
    scores = base.predict([Picture(other)], [masks], CLASSES)[0].probabilities
    assert scores.sum(1)[scores.any(1)] == pytest.approx(1, abs=1e-5)  # by CLIP alone: no void


def test_coverage_below_the_least_is_none(session, image):
    some = FcClipProposer(session, min_coverage=0.3).propose([Picture(image)])[0]
    assert some.matrix.data.min() >= 0.3
    with pytest.raises(ConfigError, match="min_coverage"):
        FcClipProposer(session, min_coverage=0.6)


# -- from files --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory, recipe, small_state, image):
    """A checkpoint in the published layout, the sizes that it has, a configuration, and a photograph."""
    folder = tmp_path_factory.mktemp("fcclip")
    torch.save({"model": small_state | {"criterion.empty_weight": torch.ones(6)}, "iteration": 1}, folder / "small.pth")
    (folder / "clip.json").write_text(json.dumps(recipe.CLIP))
    sizes = {"clip": "clip.json", **recipe.SIZES, "short_side": 80, "long_side": 200}
    (folder / "sizes.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in sizes.items()))
    section = f'sizes = "{folder}/sizes.toml"\n'
    (folder / "small.toml").write_text(f'preset = "fcclip"\n\n[masks]\n{section}\n[base]\n{section}')
    Image.fromarray(image).save(folder / "photo.png")
    return folder


@pytest.fixture
def run(monkeypatch):
    """The command in this process: its exit code."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["knnseg", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code or 0

    return call


def test_segmenting_from_the_command_line(files, run, capsys):
    """Neither the store nor the model of its keys is needed for the base alone."""
    arguments = ["segment", f"{files}/photo.png", "-p", f"{files}/small.toml", "--checkpoint", f"{files}/small.pth"]
    assert run(*arguments, "--device", "cpu", "-c", "person, bear, sky, grass", "-o", f"{files}/out", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["classes"] == ["person", "bear", "sky", "grass"] and result["images"][0]["segments"]
    assert np.asarray(Image.open(files / "out/semantic/photo.png")).shape == (70, 90)


def test_one_checkpoint_for_keys_masks_and_base_from_the_command_line(files, run, capsys, tmp_path):
    """The whole way of the paper without a second model: an example is added, and then moves the prediction."""
    section = f'name = "fcclip"\nsizes = "{files}/sizes.toml"\n'
    kinds = "".join(f"[{kind}]\n{section}" for kind in ("features", "masks", "base"))
    (tmp_path / "own.toml").write_text(f'preset = "fcclip"\n{kinds}[fusion]\nmode = "late"\n')
    mask = np.zeros((70, 90), np.uint8)
    mask[:40] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    common = ["-p", f"{tmp_path}/own.toml", "--checkpoint", f"{files}/small.pth", "--device", "cpu", "--json"]
    segment = ["segment", f"{files}/photo.png", *common, "-c", "bear, sky, kettle", "-o"]
    store = ["-s", f"faiss://{tmp_path}/db"]
    assert run(*segment, f"{tmp_path}/without") == 0
    added = ["add", *store, f"{files}/photo.png", "--mask", f"{tmp_path}/mask.png", "--label", "kettle", "--stuff"]
    assert run(*added, *common) == 0
    capsys.readouterr()
    assert run("concepts", "list", *store, *common) == 0
    kettle = {"label": "kettle", "count": 1, "thing": False, "things": 0, "aliases": [], "keys": 1}
    assert json.loads(capsys.readouterr().out) == [kettle]
    assert run(*segment, f"{tmp_path}/with", *store) == 0
    before, after = (np.asarray(Image.open(tmp_path / f"{name}/semantic/photo.png")) for name in ("without", "with"))
    assert (before != after).any() and json.loads(capsys.readouterr().out)["images"][0]["segments"]


def test_the_papers_way_on_a_small_tree_of_ade20k(files, run, capsys, tmp_path, scene):
    """The database from the training split, then base and retrieval measured on the validation split."""
    numbers = {"sky": 3, "grass": 10, "ball": 120}
    names = benchmarks()["ade20k"].vocabulary().names
    for split, seeds in (("training", range(4)), ("validation", range(4, 6))):
        for seed in seeds:
            example, labels = scene(seed), np.zeros((48, 64), np.uint8)
            for segment in example.info:
                labels[example.segments == segment.id] = numbers[segment.label]
            for kind, ending, pixels in (("images", "jpg", example.image), ("annotations", "png", labels)):
                path = tmp_path / "ADEChallengeData2016" / kind / split / f"ADE_{split}_{seed:08d}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    section = f'name = "fcclip"\nsizes = "{files}/sizes.toml"\n'
    kinds = "".join(f"[{kind}]\n{section}" for kind in ("features", "masks", "base"))
    (tmp_path / "own.toml").write_text(f'preset = "fcclip"\n{kinds}')
    common = ["--dataset", "ade20k", "--root", f"{tmp_path}", "-s", f"faiss://{tmp_path}/db"]
    common += ["-p", f"{tmp_path}/own.toml", "--checkpoint", f"{files}/small.pth", "--device", "cpu", "--json"]
    assert run("add", *common, "--split", "training") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 4
    listed = ", ".join(names[number - 1] for number in (3, 10, 120))
    assert run("eval", *common, "--classes", listed, "--out", f"{tmp_path}/report") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["images"] == 2 and set(result["base"]["per_class"]) == {"sky", "grass", "ball"}
    # Random weights know no words, so the base is near chance, and how near hangs on the last bits of its scores.
    assert result["final"]["per_class"] != result["base"]["per_class"]
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_without_a_checkpoint_the_message_says_which_to_fetch(files, run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KNNSEG_WEIGHTS", str(tmp_path))
    assert run("segment", f"{files}/photo.png", "-p", "fcclip", "-c", "sky") == 1
    said = capsys.readouterr().err
    assert "bytedance/fc-clip" in said and "--checkpoint" in said and f"put it at {tmp_path}/fcclip.pth" in said


def test_a_checkpoint_in_the_folder_for_weights_needs_no_option(files, run, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KNNSEG_WEIGHTS", str(tmp_path))
    shutil.copy(files / "small.pth", tmp_path / "fcclip.pth")
    arguments = ["segment", f"{files}/photo.png", "-p", f"{files}/small.toml", "--device", "cpu", "-c", "person, sky"]
    assert run(*arguments, "-o", f"{tmp_path}/out", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert run(*arguments, "-o", f"{tmp_path}/out", "--json", "--checkpoint", f"{files}/small.pth") == 0
    assert json.loads(capsys.readouterr().out) == found


def test_a_checkpoint_for_stages_that_take_none(files, run, capsys):
    assert run("segment", f"{files}/photo.png", "-c", "sky", "--checkpoint", f"{files}/small.pth") == 1
    assert "such as the preset fcclip" in capsys.readouterr().err


def test_both_stages_share_one_session(files):
    options = {"checkpoint": f"{files}/small.pth", "sizes": f"{files}/sizes.toml", "device": "cpu"}
    proposer, base = FcClipProposer.load(**options), FcClip.load(**options)
    assert proposer._session is base._session
    with pytest.raises(WeightsError, match="expected a checkpoint"):
        FcClip.load()


def test_the_preset_has_the_published_sizes():
    config = Config.preset("fcclip")
    assert config.masks == config.base == StageConfig("fcclip") and "fcclip" in knnseg.presets()
    assert FcClipConfig().queries == 250


def test_the_classes_of_training(tmp_path):
    assert len(COCO) == len(set(COCO)) == 133
    (tmp_path / "classes.txt").write_text("0:invalid_class_id\n1:person,child\n\n2:traffic light\ncup: big\n")
    assert read_classes(tmp_path / "classes.txt") == ("person,child", "traffic light", "cup: big")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match="one class in a line"):
        read_classes(tmp_path / "empty.txt")
