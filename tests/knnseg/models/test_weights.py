"""The table of published weights is true, and what is here is found without a network and without torch."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import open_clip
import pytest
import timm
import torch
from safetensors import safe_open

from knnseg import Config, presets
from knnseg.errors import WeightsError
from knnseg.models import efficientnet
from knnseg.models.dinov2 import VARIANTS
from knnseg.models.fcclip.config import FcClipConfig
from knnseg.models.fcclip.model import FCCLIP
from knnseg.models.weights import PublishedWeights, find, folder, how_to_get, known, named_by

BASE = "ViT-B-16/laion2b_s34b_b88k"


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """No weights on this machine."""
    monkeypatch.setenv("KNNSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def into_hub_cache(root, repository, *names):
    """Files as the hub's client keeps them."""
    home = root / f"models--{repository.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123abc")
    for name in names:
        (home / "snapshots" / "0123abc").mkdir(parents=True, exist_ok=True)
        (home / "snapshots" / "0123abc" / name).write_bytes(b"weights")


def test_every_model_of_a_preset_is_known():
    networks = {"open_clip", "dense_clip", "dinov2", "efficientnet", "fcclip"}
    for preset in presets():
        config = Config.preset(preset)
        asked = {(s.options.get("model"), s.name) for s in (config.features, config.masks, config.base)}
        models = {model or name for model, name in asked if name in networks}
        models |= {config.base.options["words"]} if "words" in config.base.options else set()
        assert {weights.name.partition("/")[0] for weights in named_by(config)} == models


def test_the_hub_repositories_are_those_that_the_libraries_ask():
    for name, architecture in VARIANTS.items():
        published = timm.models.get_pretrained_cfg(architecture)
        assert known()[name].hub == published.hf_hub_id
        assert known()[name].licence.lower() == published.license
    for name in (BASE, "ViT-B-16/openai"):
        assert known()[name].hub == open_clip.get_pretrained_cfg(*name.split("/"))["hf_hub"].rstrip("/")
    assert all(w.source.endswith(w.hub) for w in known().values())
    assert all(w.files for w in known().values() if w.hub)


def test_the_sizes_are_those_of_the_models():
    def size(model):
        return sum(parameter.numel() for parameter in model.parameters())

    with safe_open(known()["bundled:tiny"].in_package, "pt") as tiny:
        shapes = [tiny.get_slice(name).get_shape() for name in tiny.keys()]  # noqa: SIM118
    assert known()["bundled:tiny"].parameters == sum(math.prod(shape) for shape in shapes)
    with torch.device("meta"):
        clip = size(open_clip.CLIP(**open_clip.get_model_config("ViT-B-16")))
        assert known()[BASE].parameters == known()["ViT-B-16/openai"].parameters == clip
        assert known()["fcclip"].parameters == size(FCCLIP(FcClipConfig()))
        for name, architecture in VARIANTS.items():
            assert known()[name].parameters == size(timm.create_model(architecture, num_classes=0))
        for name, architecture in efficientnet.VARIANTS.items():
            assert known()[name].parameters == size(timm.create_model(architecture))


def test_the_folder(monkeypatch, tmp_path):
    assert folder() == tmp_path / "weights"
    monkeypatch.delenv("KNNSEG_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert folder() == tmp_path / "cache/knnseg/weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder() == tmp_path / ".cache/knnseg/weights"
    monkeypatch.setenv("KNNSEG_WEIGHTS", "~/w")
    assert folder() == tmp_path / "w"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_a_file_in_the_folder_is_found_in_each_format(suffix):
    assert find("fcclip") is None and known()["fcclip"].present() is None
    folder().mkdir()
    path = folder() / f"fcclip{suffix}"
    path.write_bytes(b"weights")
    assert find("fcclip") == path and known()["fcclip"].present() == ("folder", path)
    assert find("nobody/knows") is None


def test_a_folder_of_files_needs_all_of_them(tmp_path):
    entry = PublishedWeights(
        "m", "", 1, "", "there", "some/one", ("config.json", "model.safetensors"), place="m-2.1-large"
    )
    (folder() / "m-2.1-large").mkdir(parents=True)
    (folder() / "m-2.1-large/config.json").write_text("{}")
    into_hub_cache(tmp_path / "hub", "some/one", "config.json")
    assert entry.present() is None
    assert entry.advice() == (
        f"fetch config.json and model.safetensors from there and put them into the folder {folder()}/m-2.1-large"
    )
    (folder() / "m-2.1-large/model.safetensors").write_bytes(b"weights")
    assert entry.present() == ("folder", folder() / "m-2.1-large")


def test_what_the_hub_has_fetched_is_found(tmp_path):
    assert known()[BASE].present() is None
    into_hub_cache(tmp_path / "hub", known()[BASE].hub, "open_clip_pytorch_model.bin")
    kind, path = known()[BASE].present()
    assert kind == "hub cache" and path.read_bytes() == b"weights"


def test_what_is_bundled_is_here():
    kind, path = known()["bundled:tiny"].present()
    assert kind == "bundled" and path.is_file() and known()["bundled:tiny"].put_at is None


def test_the_advice_for_unknown_weights():
    assert how_to_get("nobody/knows", "pass a path") == "fetch them elsewhere, or pass a path"


def command(*arguments, **variables):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    words = [sys.executable, "-m", "knnseg", *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


def test_the_command_without_weights_and_with_them(tmp_path):
    weights, hub = tmp_path / "weights", tmp_path / "hub"
    variables = {"KNNSEG_WEIGHTS": str(weights), "HF_HUB_CACHE": str(hub)}
    before = json.loads(command("models", "--json", **variables).stdout)
    assert before["folder"] == str(weights)
    assert before["presets"] == {
        "base": ["dinov2-b14-reg", BASE],
        "fcclip": ["dinov2-b14-reg", "fcclip"],
        "photo": ["efficientnet-lite2"],
        "photo-words": ["efficientnet-lite2", "all-minilm-l6-v2"],
        "tiny": ["bundled:tiny"],
    }
    here = {model["name"]: model["found_in"] for model in before["models"] if model["present"]}
    assert here["efficientnet-lite2"] == "package" and here["bundled:tiny"] == "bundled"
    assert {name for name, place in here.items() if place != "package"} == {"bundled:tiny"}
    said = command("models", **variables).stdout
    assert "preset tiny: ready" in said and "preset fcclip: missing: fcclip; from the hub at first use" in said
    assert f"put it at {weights}/fcclip.pth" in said
    weights.mkdir()
    (weights / "fcclip.pth").write_bytes(b"weights")
    into_hub_cache(hub, "timm/vit_base_patch14_reg4_dinov2.lvd142m", "model.safetensors")
    after = {model["name"]: model for model in json.loads(command("models", "--json", **variables).stdout)["models"]}
    assert (after["fcclip"]["found_in"], after["fcclip"]["path"]) == ("folder", f"{weights}/fcclip.pth")
    assert after["dinov2-b14-reg"]["found_in"] == "hub cache" and not after[BASE]["present"]
    assert "preset fcclip: ready" in command("models", **variables).stdout


def test_the_command_loads_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from knnseg.cli.commands import app;"
        "assert CliRunner().invoke(app, ['models']).exit_code == 0; print({'torch', 'open_clip', 'timm'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("preset", ["base", "fcclip"])
def test_a_preset_without_weights_and_without_network_says_what_to_do(preset, tmp_path):
    variables = {"KNNSEG_WEIGHTS": str(tmp_path / "weights"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = command("segment", "photo.jpg", "-p", preset, "-c", "sky", **variables)
    name = {"base": BASE, "fcclip": "fcclip"}[preset]
    (said,) = done.stderr.splitlines()
    assert done.returncode == 1 and said.startswith("knnseg: ")
    assert known()[name].source in said
    assert str(Path(tmp_path / "weights", known()[name].place)) in said


@pytest.mark.parametrize("model", [("open_clip", BASE), ("dinov2", "dinov2-b14-reg"), ("snapshot", "owner/name")])
def test_a_hub_out_of_reach_is_found_out_once_and_quietly(model, tmp_path, monkeypatch, caplog, capfd):
    """Nobody listens on that port. The client itself would try each file six times, with eight seconds in between."""
    from huggingface_hub import constants

    from knnseg.models import _torch
    from knnseg.models.dinov2 import DinoFeatures
    from knnseg.models.open_clip import load_model
    from knnseg.models.proposers.hub import load

    asked = []
    monkeypatch.setenv("KNNSEG_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    silence = _torch._silence
    monkeypatch.setattr(_torch, "_silence", lambda url: asked.append(url) or silence(url))
    stage, name = model
    load_it = {"open_clip": lambda: load_model(*name.split("/")), "dinov2": lambda: DinoFeatures.load(name),
               "snapshot": lambda: load("sam", name, "AutoModel")}[stage]  # fmt: skip
    with pytest.raises(WeightsError, match=r"http://127.0.0.1:9 cannot be reached \(.*refused\)\. Without network"):
        load_it()
    assert asked == ["http://127.0.0.1:9"] and not caplog.records and constants.HF_HUB_OFFLINE is False
    assert "Retrying" not in "".join(capfd.readouterr())
