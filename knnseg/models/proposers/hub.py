"""Published checkpoints of Hugging Face transformers: from a folder or from the hub, loaded strictly and quietly."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np

from knnseg.errors import ConfigError, ImageError, WeightsError
from knnseg.models._torch import from_hub, weights

__all__ = ["build", "library", "load", "prepared", "settings"]

_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_FILES = "config.json, preprocessor_config.json and model.safetensors"
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_STAGES = {
    "mask2former": "mask2former",
    "eomt": "eomt",
    "eomt_dinov3": "eomt",
    "sam": "sam",
    "sam2": "sam2",
    "sam2_video": "sam2",
}
"""Which of our stages takes a checkpoint, by the ``model_type`` in its config.json."""
_UNUSED = re.compile(r"criterion\.|.*\.encoder\.(swin\.)?layernorm\.|.*\.relative_position_index$")
"""What may be missing: the training loss, a norm behind Swin's last layer that a backbone skips, and an index that
follows from a window's size."""


def library() -> Any:
    """The package ``transformers``, without its types, which would take mypy minutes.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        hint = "Install it with: pip install 'knnseg[transformers]'"
        raise ConfigError("mask proposers", expected="the package transformers", got="none", hint=hint) from error


def load(stage: str, model: str, kind: str) -> tuple[Any, Any]:
    """A network in evaluation mode, and the image processor published with it.

    Args:
        stage: the stage that it is for, one of the values of our table.
        model: a folder with config.json, preprocessor_config.json and model.safetensors; or an id of the hub.
        kind: the class of transformers that makes the network, an ``AutoModelFor…``.

    Raises:
        ConfigError: transformers is not installed, or the checkpoint is of a model for another stage.
        WeightsError: no such folder, the hub cannot be reached, or weights that are unreadable or incomplete.
    """
    names, folder = library(), _folder(model, _SETTINGS + _WEIGHTS)
    _check_type(stage, model, folder)
    with _readable(model), _quiet(names):
        processor = names.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        network, report = getattr(names, kind).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    _check_complete(model, report)
    return network.eval(), processor


def settings(stage: str, model: str) -> tuple[Any, Any]:
    """The configuration and the image processor alone, with the arguments and errors of :func:`load`."""
    names, folder = library(), _folder(model, _SETTINGS)
    _check_type(stage, model, folder)
    with _readable(model), _quiet(names):
        processor = names.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        return names.AutoConfig.from_pretrained(folder, local_files_only=True), processor


def build(kind: str, config: Any, state: Mapping[str, Any], source: str) -> Any:
    """A network of a configuration in memory, in evaluation mode, from weights in the layout of the hub.

    Raises:
        WeightsError: weights missing, of another shape, or without a place in the network.
    """
    names = library()
    with _readable(source), _quiet(names):
        network, report = getattr(names, kind).from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True
        )
    _check_complete(source, report)
    if report["unexpected_keys"]:
        raise WeightsError(source, expected=f"weights of {kind} only", got=f"{_some(report['unexpected_keys'])} too")
    return network.eval()


def prepared(processor: Any, image: Any, size: tuple[int, int], **options: Any) -> Any:
    """What an image processor makes of one image of ``size`` (H, W), as tensors of torch.

    Raises:
        ImageError: an image so narrow that resizing leaves nothing of it.
    """
    try:
        own = image.copy() if isinstance(image, np.ndarray) else image  # which torch may write to
        return processor(images=own, return_tensors="pt", **options)
    except (ValueError, RuntimeError) as error:
        raise ImageError(
            f"image of {size[1]}×{size[0]}", hint="Cut it into parts.", got=str(error).splitlines()[0][:200],
            expected=f"one that {type(processor).__name__} takes, such as one of a more usual ratio of its sides",
        ) from error  # fmt: skip


def _folder(model: str, files: Sequence[str]) -> Path:
    if model and Path(model).is_dir():
        return Path(model)
    if not _ID.fullmatch(model):
        raise WeightsError("model", expected="a folder that exists or an id of the hub (owner/name)", got=repr(model))
    with _readable(model), from_hub():
        return Path(huggingface_hub.snapshot_download(model, allow_patterns=list(files)))


@contextmanager
def _readable(model: str) -> Iterator[None]:
    origin = "the published checkpoint" if Path(model).exists() else f"https://huggingface.co/{model}"
    with weights(model, f"put {_FILES} of {origin} into a folder and give its path as `model`"):
        yield


def _check_type(stage: str, model: str, folder: Path) -> None:
    with _readable(model):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise WeightsError(model, expected="a config.json with the model_type of transformers", got="none")
    if _STAGES.get(kind) != stage:
        expected = " or ".join(key for key, value in _STAGES.items() if value == stage)
        hint = f'; that is for name = "{_STAGES[kind]}"' if kind in _STAGES else ""
        raise ConfigError(
            f"masks stage {stage}", expected=f"a checkpoint of type {expected}", got=f"{kind} in {model}{hint}"
        )


def _check_complete(model: str, report: Mapping[str, Any]) -> None:
    missing = [key for key in report["missing_keys"] if not _UNUSED.match(key)]
    if missing:
        raise WeightsError(f"{model}: {_some(missing)} missing", expected="every weight of the network")
    if report["mismatched_keys"]:
        raise WeightsError(model, expected="weights of the configured sizes", got=_some(report["mismatched_keys"]))


def _some(keys: Sequence[Any]) -> str:
    first = sorted(str(key) for key in keys)
    return ", ".join(first[:5]) + (f" and {len(first) - 5} more" if len(first) > 5 else "")


@contextmanager
def _quiet(names: Any) -> Iterator[None]:
    """Keep transformers from reporting every step on standard error; what matters is raised here instead."""
    log = names.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
