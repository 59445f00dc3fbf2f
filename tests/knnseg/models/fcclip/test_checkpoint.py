"""The published layout: every key is used or named as ignored, and nothing is loaded halfway."""

import json

import pytest
import torch
from safetensors.torch import save_file

from knnseg.errors import WeightsError
from knnseg.models.fcclip import FCCLIP
from knnseg.models.fcclip.checkpoint import load_state, published_state, read_checkpoint, to_ours, to_published


@pytest.fixture(scope="module")
def model(small_config):
    """One that a test may overwrite."""
    return FCCLIP(small_config)


def test_the_keys_are_those_of_the_original(model, reference, stages):
    """Of the original's own state dict, which was recorded; only its criterion is for training alone."""
    shapes = {key: list(value.shape) for key, value in published_state(model).items()}
    assert shapes == json.loads(str(reference["shapes"]))
    recorded = set(json.loads(str(stages["sd_all_keys"])))
    same = {key for key in recorded if "backbone" not in key and ".layers.2." not in key and "_layers.3" not in key}
    assert same - set(shapes) == {"criterion.empty_weight"}


def test_renaming_goes_both_ways(model):
    for key in model.state_dict():
        assert to_ours(to_published(key)) == key
    assert to_ours("something.else") is None


@pytest.mark.parametrize("kind", ["safetensors", "plain", "detectron2"])
def test_files_load_key_for_key(model, small_state, tmp_path, kind):
    state = small_state | {"criterion.empty_weight": torch.ones(6)}
    path = tmp_path / ("fcclip.safetensors" if kind == "safetensors" else "fcclip.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "plain" else {"model": state, "iteration": 7, "trainer": {"lr": [0.1]}}, path)
    report = load_state(model, read_checkpoint(path))
    assert report.ignored == ("criterion.empty_weight",) and report.used == len(small_state)
    loaded = published_state(model)
    assert all(torch.equal(loaded[key], value) for key, value in small_state.items())


def test_loading_a_file_makes_a_model(small, small_config, small_state, tmp_path):
    save_file(small_state, tmp_path / "fcclip.safetensors")
    model = FCCLIP.load(tmp_path / "fcclip.safetensors", small_config, device="cpu")
    pixels = torch.randn(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(pixels).masks, small(pixels).masks)
    assert not any(weight.requires_grad for weight in model.parameters()) and not model.training


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("void_embedding.weight"), r"missing void_embedding\.weight"),
        (lambda s: s.update({"sem_seg_head.predictor.extra": torch.ones(1)}), r"unknown sem_seg_head\.predictor\.extra"),
        (lambda s: s.update({"optimizer.x": torch.ones(1)}), r"unknown optimizer\.x"),
        (lambda s: s.update({"void_embedding.weight": torch.ones(1, 3)}), r"void_embedding\.weight of shape \(1, 3\) instead of \(1, 32\)"),
    ],
)  # fmt: skip
def test_another_layout_is_refused_and_nothing_is_loaded(model, small_state, change, said):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = {key: value + 1 for key, value in small_state.items()}
    change(state)
    with pytest.raises(WeightsError, match=said):
        load_state(model, state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        read_checkpoint(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(WeightsError, match="expected readable weights"):
        read_checkpoint(tmp_path / "text.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="tensors by key"):
        read_checkpoint(tmp_path / "list.pth")


def test_a_checkpoint_of_another_size_is_refused(small_state, small_config, tmp_path):
    import dataclasses

    save_file(small_state, tmp_path / "fcclip.safetensors")
    with pytest.raises(WeightsError, match=r"query_feat.* instead of \(21, 64\)"):
        FCCLIP.load(tmp_path / "fcclip.safetensors", dataclasses.replace(small_config, queries=21))


def test_only_published_names_load(model, small_state):
    """Our own names, and others that the rules lead to the same weight, once overwrote what was published."""
    names = {key: to_ours(key) for key in small_state}
    aliases = {
        "sem_seg_head.pixel_decoder.lateral.0.weight": names["sem_seg_head.pixel_decoder.adapter_1.weight"],
        "sem_seg_head.predictor.layers.0.cross.norm.weight": "decoder.layers.0.cross.norm.weight",
        "void": "void", "decoder.query_feat.weight": "decoder.query_feat.weight",
        "backbone.clip.logit_scale": "backbone.clip.logit_scale",
    }  # fmt: skip
    own = model.state_dict()
    for alias, ours in aliases.items():
        assert ours in own
        before = {key: value.clone() for key, value in own.items()}
        with pytest.raises(WeightsError, match=rf"unknown {alias.replace('.', '[.]')}"):
            load_state(model, small_state | {alias: own[ours] + 1})
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    alone = {names[key]: value for key, value in small_state.items()}
    with pytest.raises(WeightsError, match=f"missing .* and {2 * len(alone) - 5} more"):
        load_state(model, alone)


def test_every_key_that_is_given_is_used_or_ignored(model, small_state):
    report = load_state(model, small_state | {"criterion.empty_weight": torch.ones(6)})
    assert report.used + len(report.ignored) == len(small_state) + 1
