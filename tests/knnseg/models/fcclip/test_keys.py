"""FC-CLIP's own features as retrieval keys, and how often each network runs."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from knnseg import ConceptDatabase, Config, FeatureExtractor, LabelledImage, LabelledSegment, Masks, Segmenter
from knnseg.config import FusionConfig, StageConfig
from knnseg.data.image import Image as Picture
from knnseg.errors import ConfigError
from knnseg.method.pooling import pool
from knnseg.models.dinov2 import DinoFeatures
from knnseg.models.fcclip import FCCLIP
from knnseg.models.fcclip.checkpoint import load_state
from knnseg.models.fcclip.keys import FcClipFeatures
from knnseg.models.fcclip.preprocessing import prepare
from knnseg.models.fcclip.stage import FcClip, FcClipProposer, FcClipSession
from knnseg.stages.registry import with_checkpoint

CLASSES = ("sky", "grass", "person")


@pytest.fixture
def session(network):
    return FcClipSession(network)


@pytest.fixture
def keys(session):
    return FcClipFeatures(session)


@pytest.fixture
def runs(network):
    """How often each network ran."""
    counts = {"image tower": 0, "mask decoder": 0}

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    parts = {"image tower": network.backbone.clip.visual.trunk.stages[0], "mask decoder": network.decoder}
    handles = [part.register_forward_hook(count(name)) for name, part in parts.items()]
    yield counts
    for handle in handles:
        handle.remove()


@pytest.fixture
def example(image):
    segments = np.ones(image.shape[:2], np.int32)
    segments[:30], segments[20:60, 30:70] = 2, 3
    info = (LabelledSegment(1, "grass"), LabelledSegment(2, "sky"), LabelledSegment(3, "person", True))
    return LabelledImage(image, segments, info, "scene")


def segmenter(session, keys, database=None, **fusion):
    config = Config(StageConfig("fcclip"), StageConfig("fcclip"), fusion=FusionConfig(**fusion))
    return Segmenter(keys, FcClipProposer(session), FcClip(session), database, config=config)


def test_the_grid_is_clips_and_spans_the_padding(network, keys, image):
    found = keys.extract([Picture(image)])[0]
    assert isinstance(keys, FeatureExtractor) and found.data.shape == (keys.dim, 3, 3) and found.image_size == (70, 90)
    assert found.extent == (96, 96)  # the image is used at its own size, padded from 70×90
    dense = network.encode(prepare([image], network.config, network.device).pixels).dense
    for row, column in ((0, 0), (1, 2)):
        cell = dense[:, :, row : row + 1, column : column + 1]  # what CLIP itself makes of an image of one cell
        expected = network.backbone.clip.visual.head(network.backbone.clip.visual.trunk.head(cell))[0]
        np.testing.assert_allclose(found.data[:, row, column], expected, rtol=1e-3, atol=1e-4)


def test_a_mask_finds_itself_at_another_size_of_the_image(keys, image):
    """Twice as large, and so resized to the same input: masks of the larger image pool the same features."""
    large = np.asarray(Image.fromarray(image).resize((180, 140), Image.Resampling.NEAREST))
    small_masks = np.zeros((2, 70, 90), bool)
    small_masks[0, :40, :50], small_masks[1, 30:, 40:] = True, True
    one = pool(keys.extract([Picture(image)])[0], Masks.from_dense(small_masks)).vectors
    other = pool(keys.extract([Picture(large)])[0], Masks.from_dense(small_masks.repeat(2, 1).repeat(2, 2))).vectors
    assert (one * other).sum(1).min() > 0.95
    assert (one * other).sum(1).min() > (one[::-1] * other).sum(1).max()


def test_one_prediction_runs_the_image_tower_once(tmp_path, session, keys, runs, image, example):
    with ConceptDatabase.open(f"memory://{tmp_path}/once", keys) as database:
        ours = segmenter(session, keys, database, branch="out_vocab")
        assert ours.predict(image, CLASSES).evidence.neighbours is not None
        assert runs == {"image tower": 1, "mask decoder": 1}
        other = image[::-1].copy()
        database.add(dataclasses.replace(example, image=other))
        assert runs == {"image tower": 2, "mask decoder": 1}, "examples need no masks of the model"
        shown = Picture(other)
        keys.extract([shown])
        result = ours.predict(shown, CLASSES)  # what was made of the image is still with it: only the masks are missing
        assert runs == {"image tower": 3, "mask decoder": 2}
        assert result.evidence.neighbours.found.any()
        ours.predict(image, CLASSES)
        assert runs == {"image tower": 4, "mask decoder": 3}


def test_masks_of_others_need_no_mask_decoder(session, keys, runs, image):
    halves = np.zeros((2, 70, 90), bool)
    halves[0, :30], halves[1, 30:] = True, True
    segmenter(session, keys).predict(image, CLASSES, masks=halves)
    assert runs == {"image tower": 1, "mask decoder": 0}


def test_keys_of_another_model_run_it_once(tmp_path, session, runs, image, example):
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_small_patch14_reg4_dinov2.lvd142m",
        num_classes=0,
        dynamic_img_size=True,
        embed_dim=32,
        depth=2,
        num_heads=2,
    )
    calls = []
    vit.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    keys = DinoFeatures("tiny-dino", vit, short_side=70, device="cpu")
    with ConceptDatabase.open(f"memory://{tmp_path}/dino", keys) as database:
        database.add(dataclasses.replace(example, image=image[::-1].copy()))
        assert len(calls) == 1 and runs == {"image tower": 0, "mask decoder": 0}
        result = segmenter(session, keys, database, branch="out_vocab").predict(image, CLASSES)
    assert result.evidence.neighbours.found.any()
    assert len(calls) == 2 and runs == {"image tower": 1, "mask decoder": 1}


def test_what_was_added_is_recognised(tmp_path, session, keys, image, example):
    """On the image itself, with every mask above the threshold: the label of the example under it."""
    with ConceptDatabase.open(f"memory://{tmp_path}/itself", keys) as database:
        database.add(example)
        masks = np.stack([example.segments == number for number in (1, 2, 3)])
        result = segmenter(session, keys, database, mode="late", weight=1.0, branch="out_vocab").predict(
            image, CLASSES, masks=masks
        )
    np.testing.assert_allclose(result.evidence.confidence, 1, atol=1e-5)
    best = result.evidence.retrieved.probabilities.argmax(axis=1)
    assert [CLASSES[i] for i in best] == ["grass", "sky", "person"]


def test_the_space_is_that_of_the_tower_and_its_input(network, small_config, small_state, keys):
    def space(state=small_state, precision="float32", **sizes):
        model = FCCLIP(dataclasses.replace(network.config, **sizes), precision)
        load_state(model, state)
        return FcClipFeatures(FcClipSession(model)).space

    assert space() == keys.space and keys.space.encoder == "fcclip/small"
    assert space(alpha=0.1).fingerprint == keys.space.fingerprint  # of the ensemble: no feature depends on it
    tower = {key: value for key, value in small_state.items() if "visual.trunk.stages.0" in key and value.ndim > 1}
    changed = small_state | {key: value + 1e-3 for key, value in list(tower.items())[:1]}
    text = {key: value + 1e-3 for key, value in small_state.items() if key.endswith("text_projection")}
    others = [space(changed), space(short_side=80), space(precision="bfloat16"), space(mean=(0, 0, 0))]
    assert len({keys.space.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert len(text) == 1 and space(small_state | text).fingerprint == keys.space.fingerprint


def test_a_checkpoint_reaches_all_stages_that_take_one(tmp_path, recipe, small_state, image, example):
    torch.save({"model": small_state}, tmp_path / "small.pth")
    (tmp_path / "clip.json").write_text(json.dumps(recipe.CLIP))
    sizes = {"clip": "clip.json", **recipe.SIZES, "short_side": 70, "long_side": 200}
    (tmp_path / "sizes.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in sizes.items()))
    stage = {"name": "fcclip", "sizes": f"{tmp_path}/sizes.toml"}
    plain = Config.from_dict({"preset": "fcclip", "features": stage, "masks": stage, "base": stage})
    config = with_checkpoint(plain, f"{tmp_path}/small.pth")
    assert all(part.options["checkpoint"] for part in (config.features, config.masks, config.base))
    assert config.fusion.branch == "out_vocab"
    with Segmenter.from_config(config, store=f"faiss://{tmp_path}/db", device="cpu") as ours:
        assert ours.extractor._session is ours.base._session is ours.proposer._session
        ours.database.add(example)
        assert ours.predict(image, CLASSES).evidence.neighbours.found.any()

    only_keys = dataclasses.replace(plain, masks=StageConfig("regions"), base=StageConfig("none"))
    assert with_checkpoint(only_keys, "a.pth").features.options["checkpoint"] == "a.pth"
    dino = Config.preset("fcclip")
    assert with_checkpoint(dino, "a.pth").features is dino.features
    with pytest.raises(ConfigError, match="features 'open_clip', masks 'regions', base 'dense_clip'"):
        with_checkpoint(Config.preset("tiny"), "a.pth")


def test_lower_precision_gives_float32_features_that_are_close(network, small_state, image, keys):
    model = FCCLIP(network.config, "bfloat16")
    load_state(model, small_state)
    lower = FcClipFeatures(FcClipSession(model)).extract([Picture(image)])[0].data
    exact = keys.extract([Picture(image)])[0].data
    assert lower.dtype == np.float32
    cosine = F.cosine_similarity(torch.from_numpy(lower).flatten(1), torch.from_numpy(exact).flatten(1), dim=0)
    assert cosine.min() > 0.95
