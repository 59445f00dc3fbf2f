"""open_clip models as dense feature extractors and text encoders.

How a tower becomes dense is in :mod:`knnseg.models.dense`; here it is loaded, fed, and described.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import Tensor

from knnseg.data.arrays import ImageArray
from knnseg.data.features import Features
from knnseg.data.image import Image
from knnseg.errors import ConfigError
from knnseg.models._torch import existing, fingerprint, from_hub, pick_device, to_batch, weights
from knnseg.models.base import DenseClip
from knnseg.models.dense import Attention, make_dense, slide
from knnseg.models.weights import find, how_to_get
from knnstore import EmbeddingSpace

__all__ = [
    "OpenClipFeatures",
    "OpenClipModel",
    "OpenClipText",
    "build",
    "dense_clip",
    "encode_tokens",
    "load_model",
    "read_config",
]

BUNDLED = "bundled:"
_NEEDED = ("embed_dim", "vision_cfg", "text_cfg")
_OPTIONAL = ("quick_gelu", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale")
"""Keys of a model configuration that change the network."""
_SWITCHES = ("quick_gelu", "nonscalar_logit_scale")
_OTHER_TOKENIZERS = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "hf_model_name")
"""Keys of a text tower that reads other tokens than CLIP's own."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenClipModel:
    """A loaded model with what is needed to feed it.

    Args:
        name: for messages and for the embedding space.
        clip: the module, in evaluation mode, on its device.
        tokenizer: its own tokenizer, strings to int64 (N, context).
        mean: per-channel mean of its preprocessing.
        std: per-channel standard deviation.
        device: where it is.
    """

    name: str
    clip: Any
    tokenizer: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    @property
    def logit_scale(self) -> float:
        """The learnt inverse temperature of the model, for cosine similarities."""
        return float(self.clip.logit_scale.detach().exp())


@lru_cache(maxsize=4)
def load_model(model: str, pretrained: str = "", device: str = "auto") -> OpenClipModel:
    """Load a model once a process; every stage that names the same one shares it.

    Args:
        model: a name that open_clip knows (``"ViT-B-16"``, ``"hf-hub:org/name"``), the path of a JSON file in
            open_clip's model-config format, or ``"bundled:tiny"``.
        pretrained: a tag that open_clip knows, or the path of a checkpoint (safetensors, or a file that torch can read
            with ``weights_only=True``). A config file needs a checkpoint path.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``.

    Raises:
        ConfigError: an unknown model or device.
        WeightsError: weights absent, unreadable, or of another layout.
    """
    place = pick_device(device)
    if model.startswith(BUNDLED):
        folder = resources.files("knnseg.models") / model.removeprefix(BUNDLED)
        return _from_config(Path(str(folder / "config.json")), str(folder / "model.safetensors"), place)
    if model.endswith(".json"):
        return _from_config(Path(model), pretrained, place)
    return _published(model, pretrained, place)


def _from_config(path: Path, checkpoint: str, device: torch.device) -> OpenClipModel:
    what = f"open_clip model {path.parent.name}/{path.name}"
    config = read_config(path, what)
    preprocess = config.pop("preprocess_cfg", {})
    mean, std = (
        _channels(preprocess, key, default, what)
        for key, default in (("mean", open_clip.OPENAI_DATASET_MEAN), ("std", open_clip.OPENAI_DATASET_STD))
    )
    clip, tokenizer = build(config, what)
    with weights(what, how_to_get(what, "pass the path of a checkpoint as `pretrained`")):
        open_clip.load_checkpoint(clip, str(existing(checkpoint, what)), strict=True, weights_only=True)
    return OpenClipModel(path.parent.name, clip.eval().to(device), tokenizer, mean, std, device)


def read_config(path: str | PathLike[str], what: str) -> dict[str, Any]:
    """A model configuration in open_clip's format.

    Raises:
        ConfigError: no such file, or no JSON object.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(what, expected="a JSON file in open_clip's model-config format", got=str(error)) from error
    if not isinstance(config, dict):
        raise ConfigError(what, expected="a JSON object in open_clip's model-config format", got=f"{config!r:.80}")
    return config


def build(config: Mapping[str, Any], what: str, *, custom_text: bool = True) -> tuple[Any, Any]:
    """The network of a model configuration, with random weights, and its tokenizer.

    Args:
        config: in open_clip's format, without ``preprocess_cfg``. Every key counts.
        what: the model, for messages.
        custom_text: whether the configuration may ask for the class with a text tower of its own.

    Raises:
        ConfigError: a key that is missing or that nothing here uses, or values that open_clip does not take.
    """
    given = dict(config)
    own_text = given.pop("custom_text", False)
    if not isinstance(own_text, bool) or (own_text and not custom_text):
        raise ConfigError(
            f"{what}: custom_text", expected="true or false" if custom_text else "false", got=repr(own_text)
        )
    missing = [key for key in _NEEDED if not isinstance(given.get(key), dict if key.endswith("_cfg") else int)]
    if missing:
        raise ConfigError(what, expected=", ".join(_NEEDED), got=f"no usable {missing[0]} among {sorted(config)}")
    unclear = [key for key in _SWITCHES if not isinstance(given.get(key, False), bool)]
    if unclear:
        raise ConfigError(f"{what}: {unclear[0]}", expected="true or false", got=repr(given[unclear[0]]))
    unknown = sorted(given.keys() - {*_NEEDED, *_OPTIONAL})
    unknown += sorted(f"text_cfg.{key}" for key in _OTHER_TOKENIZERS if given["text_cfg"].get(key))
    if unknown:
        raise ConfigError(what, expected=f"keys of {[*_NEEDED, *_OPTIONAL]}", got=f"{unknown}, which nothing here uses")
    kind = open_clip.CustomTextCLIP if own_text else open_clip.CLIP
    try:
        clip = kind(**given)
    except Exception as error:  # of open_clip, timm and torch, by the value
        raise ConfigError(
            what, expected="values that open_clip takes", got=f"{type(error).__name__}: {error}"
        ) from error
    return clip, open_clip.SimpleTokenizer(context_length=given["text_cfg"].get("context_length", 77))


def _channels(settings: Mapping[str, Any], key: str, default: tuple[float, ...], what: str) -> tuple[float, ...]:
    found = settings.get(key, default)
    is_number = [isinstance(value, int | float) and not isinstance(value, bool) for value in found]
    if len(is_number) != 3 or not all(is_number) or (key == "std" and min(found) <= 0):
        raise ConfigError(f"{what}: preprocess_cfg.{key}", expected="three numbers, for R, G and B", got=repr(found))
    return tuple(found)


def _published(model: str, pretrained: str, device: torch.device) -> OpenClipModel:
    known = open_clip.list_models()
    if model not in known and not model.startswith(("hf-hub:", "local-dir:")):
        raise ConfigError("open_clip model", expected="a published name, hf-hub:…, or a .json file", got=repr(model))
    if not pretrained and model in known:
        tags = open_clip.list_pretrained_tags_by_model(model)
        raise ConfigError(
            f"open_clip model {model}: pretrained", expected=f"one of {tags}, or the path of a checkpoint"
        )
    file = find(f"{model}/{pretrained}")
    what = f"open_clip model {model} {pretrained}".strip() + (f" from {file}" if file else "")
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {}
    with weights(what, how_to_get(f"{model}/{pretrained}", "pass the checkpoint's path as `pretrained`")):
        if pretrained.endswith((".safetensors", ".bin", ".pt", ".pth")):
            existing(pretrained, f"open_clip model {model}")
        with nullcontext() if file or Path(pretrained).is_file() else from_hub():
            clip = open_clip.create_model(
                model,
                pretrained=str(file or pretrained) or None,
                force_quick_gelu=tag.get("quick_gelu", False),  # of the tag; open_clip itself only warns
                require_pretrained=True,
                weights_only=True,
            )
            tokenizer = open_clip.get_tokenizer(model)
    settings = getattr(clip.visual, "preprocess_cfg", {}) | tag  # a file has no preprocessing of its own
    mean = settings.get("mean", open_clip.OPENAI_DATASET_MEAN)
    std = settings.get("std", open_clip.OPENAI_DATASET_STD)
    return OpenClipModel(model, clip.eval().to(device), tokenizer, tuple(mean), tuple(std), device)


class OpenClipText:
    """The text tower. Implements :class:`knnseg.stages.text.TextEncoder`."""

    def __init__(self, model: OpenClipModel) -> None:
        self._model = model

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (len(prompts), D), unit-norm rows."""
        tokens = self._model.tokenizer(list(prompts)).to(self._model.device)
        embedded = torch.nn.functional.normalize(encode_tokens(self._model.clip, tokens), dim=-1)
        return np.asarray(embedded.float().cpu().numpy(), np.float32)


def encode_tokens(clip: Any, tokens: Tensor) -> Tensor:
    """What ``encode_text`` gives, without the padding where it cannot matter: (N, context) to (N, D).

    Attention is causal in CLIP, and the end-of-text token, which has the largest number, speaks for the text. So what
    comes after it changes nothing, and is most of the 77 tokens of a prompt.
    """
    if not isinstance(clip, open_clip.CLIP) or clip.text_pool_type != "argmax" or clip.attn_mask is None:
        return clip.encode_text(tokens)
    ends = tokens.argmax(1)
    length = min(-(-(int(ends.max()) + 1) // 16) * 16, tokens.shape[1])  # in steps, so that lengths seldom differ
    x = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    x, project = x[torch.arange(len(x), device=x.device), ends], clip.text_projection
    if project is None:
        return x
    return project(x) if isinstance(project, torch.nn.Linear) else x @ project


class OpenClipFeatures:
    """Dense tokens in the joint image-text space. Implements :class:`knnseg.FeatureExtractor`.

    Args:
        model: a loaded model with a ViT or a ConvNeXt image tower.
        short_side: images are resized so that their shorter side has about this many pixels.
        attention: how the last layer of a ViT attends, see :data:`knnseg.models.dense.VARIANTS`; a ConvNeXt ignores it.
        sigma: standard deviation of NACLIP's Gaussian neighbourhood, in tokens.
        window: side of overlapping windows that the resized image is cut into, pixels; their features are averaged. 0
            takes the image whole.
        stride: from one window to the next, pixels; 0 for half a window.

    Raises:
        ConfigError: an image tower of another kind, or settings out of range.
    """

    def __init__(
        self,
        model: OpenClipModel,
        *,
        short_side: int = 224,
        attention: Attention = "value",
        sigma: float = 5.0,
        window: int = 0,
        stride: int = 0,
    ) -> None:
        if short_side < 1:
            raise ConfigError("short_side", expected="a number of pixels above 0", got=short_side)
        self._model, self._side = model, short_side
        self._dense = make_dense(model.clip.visual, attention, sigma)
        self._window, self._stride = _windows(window, stride, self._dense.cell)
        settings: dict[str, object] = {"short_side": short_side, "mean": model.mean, "std": model.std}
        settings |= self._dense.settings
        settings |= {"window": self._window, "stride": self._stride} if window else {}
        mark = fingerprint(model.clip.visual, settings)
        self._space = EmbeddingSpace(f"open_clip/{model.name}", mark, note=json.dumps(settings, sort_keys=True))

    @classmethod
    def load(
        cls,
        model: str,
        pretrained: str = "",
        short_side: int = 224,
        attention: Attention = "value",
        sigma: float = 5.0,
        window: int = 0,
        stride: int = 0,
        device: str = "auto",
    ) -> OpenClipFeatures:
        """Load the model, see :func:`load_model`, and make an extractor of it."""
        loaded = load_model(model, pretrained, device)
        return cls(loaded, short_side=short_side, attention=attention, sigma=sigma, window=window, stride=stride)

    @property
    def space(self) -> EmbeddingSpace:
        """The embedding space: weights, size and attention."""
        return self._space

    @property
    def dim(self) -> int:
        """D, the width of the joint space."""
        return self._dense.dim

    @torch.inference_mode()
    def extract(self, images: Sequence[Image]) -> list[Features]:
        """See :meth:`knnseg.FeatureExtractor.extract`."""
        return [self._extract(image.pixels) for image in images]

    def _extract(self, image: ImageArray) -> Features:
        model = self._model
        batch = to_batch(image, self._side, self._dense.cell, model.mean, model.std, model.device)
        dense = slide(self._dense, batch, self._window, self._stride) if self._window else self._dense(batch)
        grid = dense[0].float().cpu().numpy()
        return Features(np.ascontiguousarray(grid, np.float32), (int(image.shape[0]), int(image.shape[1])))


def _windows(window: int, stride: int, cell: int) -> tuple[int, int]:
    """Side and stride of the windows, pixels; both 0 for none."""
    if not window and not stride:
        return 0, 0
    stride = stride or -(-window // (2 * cell)) * cell
    if window % cell or stride % cell or not 0 < stride <= window:
        raise ConfigError(
            "window and stride",
            expected=f"multiples of the {cell} pixels of a cell, the stride at most the window",
            got=f"{window} and {stride}",
        )
    return window, stride


def dense_clip(
    model: str,
    pretrained: str = "",
    short_side: int = 224,
    attention: Attention = "value",
    sigma: float = 5.0,
    window: int = 0,
    stride: int = 0,
    scale: float | None = None,
    templates: Sequence[str] | str = "simple",
    device: str = "auto",
) -> DenseClip:
    """Load a model, see :func:`load_model`, as a zero-shot base predictor; ``scale`` defaults to the model's own."""
    loaded = load_model(model, pretrained, device)
    features = OpenClipFeatures(
        loaded, short_side=short_side, attention=attention, sigma=sigma, window=window, stride=stride
    )
    return DenseClip(features, OpenClipText(loaded), loaded.logit_scale if scale is None else scale, templates)
