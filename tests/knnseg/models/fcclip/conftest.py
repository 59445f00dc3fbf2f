"""Small FC-CLIPs: one with the weights of a recorded case, one with weights from a generator."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.models import register_model
from timm.models.convnext import ConvNeXt

from knnseg.models.fcclip import FCCLIP, FcClipConfig
from knnseg.models.fcclip.checkpoint import load_state, published_state

HERE = Path(__file__).parent
# Two threads that wait for each other make networks of this size several times slower.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def script(name):
    path = HERE.parents[3] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convnext_recorded(pretrained=False, **options):
    """The image tower of the recorded case: timm's own ConvNeXt, with few channels."""
    known = {key: value for key, value in options.items() if not key.startswith(("pretrained", "cache"))}
    tower = ConvNeXt(depths=(1, 1, 2, 1), dims=(16, 24, 32, 48), **known)
    tower.default_cfg = {"pool_size": (2, 2)}
    return tower


@pytest.fixture(scope="session")
def recipe():
    """The script that made the numbers: sizes, classes, images, weights."""
    return script("fcclip_reference")


@pytest.fixture(scope="session")
def reference():
    """What the original computed from the generated weights."""
    return dict(np.load(HERE / "reference.npz"))


@pytest.fixture(scope="session")
def small_config(recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "small.json"
    path.write_text(json.dumps(recipe.CLIP))
    return FcClipConfig(clip=str(path), **recipe.SIZES)


@pytest.fixture(scope="session")
def small_state(recipe, reference):
    """Generated weights, in the published layout."""
    state = recipe.random_state(json.loads(str(reference["shapes"])), 19)
    return {key: torch.from_numpy(value) for key, value in state.items()}


@pytest.fixture(scope="session")
def small(small_config, small_state):
    model = FCCLIP(small_config)
    load_state(model, small_state)
    return model


@pytest.fixture(scope="session")
def image(recipe):
    return np.ascontiguousarray(recipe.images()[0].transpose(1, 2, 0))  # (70, 90, 3)


@pytest.fixture(scope="session")
def network(small_config, small_state):
    """For images of about the size of the test's."""
    model = FCCLIP(dataclasses.replace(small_config, short_side=70, long_side=200))
    load_state(model, small_state)
    return model


@pytest.fixture(scope="session")
def stages():
    """The recorded case, stage by stage."""
    return dict(np.load(HERE / "stages.npz"))


@pytest.fixture(scope="session")
def settings(stages):
    return json.loads(str(stages["config"]))


@pytest.fixture(scope="session")
def recorded(stages, settings, tmp_path_factory):
    """A model with the weights of the recorded case; of its CLIP, the text tower is random, for it was not used."""
    if not timm.is_model("convnext_oracle_tiny"):
        convnext_recorded.__name__, convnext_recorded.__module__ = "convnext_oracle_tiny", "timm.models.convnext"
        register_model(convnext_recorded)
    path = tmp_path_factory.mktemp("clip") / "recorded.json"
    path.write_text(json.dumps(settings["open_clip_config"]))
    model = FCCLIP(
        FcClipConfig(
            clip=str(path), width=32, encoder_layers=2, decoder_layers=3, decoder_hidden=64, queries=12, instances=20
        )
    )
    state = {key: value for key, value in published_state(model).items() if key.startswith("backbone.")}
    for key in stages:
        if key.startswith("sd/"):
            bits = stages[key].astype(np.uint32) << 16  # they were exact in bfloat16
            state[key.removeprefix("sd/")] = torch.from_numpy(np.asarray(bits, np.uint32).view(np.float32))
    load_state(model, state)
    return model


@pytest.fixture(scope="session")
def close():
    """Within a share of the largest value, of another array.

    Up to 9e-6 was seen where this was written; sums are in another order on another processor.
    """

    def check(actual, expected, share=5e-5):
        ours, theirs = (np.asarray(x.numpy() if torch.is_tensor(x) else x, np.float64) for x in (actual, expected))
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= share * np.abs(theirs).max()

    return check
