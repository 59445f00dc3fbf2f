"""open_clip models as dense feature extractors and text encoders.

Dense features follow MaskCLIP (Zhou et al., ECCV 2022, arXiv 2112.01071): the last attention layer is replaced by its
own value and output projections, so that each token speaks for its own place instead of for the whole image. Residual
and feed-forward of that layer are left out, as in NACLIP (Hajimiri et al., WACV 2025, arXiv 2404.08181), whose
key-key attention with a Gaussian neighbourhood is the other choice. For a ConvNeXt, which has no attention, the head is
applied at every position, as FC-CLIP does (Yu et al., NeurIPS 2023, arXiv 2308.02487).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import Tensor, nn

from knnseg.base import DenseClip
from knnseg.errors import ConfigError
from knnseg.models._torch import existing, fingerprint, pick_device, to_batch, weights
from knnseg.text import TEMPLATES
from knnseg.types import Features, ImageArray
from knnseg.weights import find, how_to_get
from knnstore import EmbeddingSpace

__all__ = ["Attention", "OpenClipFeatures", "OpenClipModel", "OpenClipText", "dense_clip", "load_model"]

Attention: TypeAlias = Literal["value", "naclip"]
BUNDLED = "bundled:"


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
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what}: expected a JSON file in open_clip's model-config format: {error}") from error
    preprocess = config.pop("preprocess_cfg", {})
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with weights(what, how_to_get(what, "pass the path of a checkpoint as `pretrained`")):
        clip = kind(**{key: value for key, value in config.items() if key.endswith(("_cfg", "_dim"))})
        open_clip.load_checkpoint(clip, str(existing(checkpoint, what)), strict=True, weights_only=True)
    tokenizer = open_clip.SimpleTokenizer(context_length=config["text_cfg"]["context_length"])
    mean, std = (
        preprocess.get("mean", open_clip.OPENAI_DATASET_MEAN),
        preprocess.get("std", open_clip.OPENAI_DATASET_STD),
    )
    return OpenClipModel(path.parent.name, clip.eval().to(device), tokenizer, tuple(mean), tuple(std), device)


def _published(model: str, pretrained: str, device: torch.device) -> OpenClipModel:
    known = open_clip.list_models()
    if model not in known and not model.startswith(("hf-hub:", "local-dir:")):
        raise ConfigError(f"open_clip model: expected a published name, hf-hub:…, or a .json file, got {model!r}")
    if not pretrained and model in known:
        raise ConfigError(
            f"open_clip model {model}: expected `pretrained`, one of {open_clip.list_pretrained_tags_by_model(model)} "
            "or the path of a checkpoint"
        )
    file = find(f"{model}/{pretrained}")
    what = f"open_clip model {model} {pretrained}".strip() + (f" from {file}" if file else "")
    tag: dict[str, Any] = open_clip.get_pretrained_cfg(model, pretrained) if pretrained else {}
    with weights(what, how_to_get(f"{model}/{pretrained}", "pass the checkpoint's path as `pretrained`")):
        if pretrained.endswith((".safetensors", ".bin", ".pt", ".pth")):
            existing(pretrained, f"open_clip model {model}")
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
    """The text tower. Implements :class:`knnseg.text.TextEncoder`."""

    def __init__(self, model: OpenClipModel) -> None:
        self._model = model

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (len(prompts), D), unit-norm rows."""
        tokens = self._model.tokenizer(list(prompts)).to(self._model.device)
        embedded: Tensor = self._model.clip.encode_text(tokens, normalize=True)
        return np.asarray(embedded.float().cpu().numpy(), np.float32)


class OpenClipFeatures:
    """Dense tokens in the joint image-text space. Implements :class:`knnseg.features.FeatureExtractor`.

    Args:
        model: a loaded model with a ViT or a ConvNeXt image tower.
        short_side: images are resized so that their shorter side has about this many pixels.
        attention: ``"value"`` (MaskCLIP) or ``"naclip"``; a ConvNeXt ignores it.
        sigma: standard deviation of NACLIP's Gaussian neighbourhood, in tokens.

    Raises:
        ConfigError: an image tower of another kind, or settings out of range.
    """

    def __init__(
        self, model: OpenClipModel, *, short_side: int = 224, attention: Attention = "value", sigma: float = 5.0
    ) -> None:
        if attention not in ("value", "naclip"):
            raise ConfigError(f"attention: expected value or naclip, got {attention!r}")
        if short_side < 1 or sigma <= 0:
            raise ConfigError(f"short_side and sigma: expected numbers above 0, got {short_side} and {sigma}")
        self._model, self._side, self._attention, self._sigma = model, short_side, attention, sigma
        self._dense = _dense_head(model.clip.visual)
        settings: dict[str, object] = {"short_side": short_side, "mean": model.mean, "std": model.std}
        if isinstance(self._dense, _DenseViT):
            settings |= {"attention": attention} | ({"sigma": sigma} if attention == "naclip" else {})
            if isinstance(model.clip.visual.transformer.resblocks[0].mlp.gelu, QuickGELU):
                settings["activation"] = "quick_gelu"  # the weights do not tell
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
        device: str = "auto",
    ) -> OpenClipFeatures:
        """Load the model, see :func:`load_model`, and make an extractor of it."""
        loaded = load_model(model, pretrained, device)
        return cls(loaded, short_side=short_side, attention=attention, sigma=sigma)

    @property
    def space(self) -> EmbeddingSpace:
        """The embedding space: weights, size and attention."""
        return self._space

    @property
    def dim(self) -> int:
        """D, the width of the joint space."""
        return self._dense.dim

    @torch.inference_mode()
    def extract(self, images: Sequence[ImageArray]) -> list[Features]:
        """See :meth:`knnseg.features.FeatureExtractor.extract`."""
        return [self._extract(image) for image in images]

    def _extract(self, image: ImageArray) -> Features:
        model = self._model
        batch = to_batch(image, self._side, self._dense.stride, model.mean, model.std, model.device)
        grid = self._dense(batch, self._attention, self._sigma)[0].float().cpu().numpy()
        return Features(np.ascontiguousarray(grid, np.float32), (int(image.shape[0]), int(image.shape[1])))


def dense_clip(
    model: str,
    pretrained: str = "",
    short_side: int = 224,
    attention: Attention = "value",
    sigma: float = 5.0,
    scale: float | None = None,
    templates: Sequence[str] = TEMPLATES,
    device: str = "auto",
) -> DenseClip:
    """Load a model, see :func:`load_model`, as a zero-shot base predictor; ``scale`` defaults to the model's own."""
    loaded = load_model(model, pretrained, device)
    features = OpenClipFeatures(loaded, short_side=short_side, attention=attention, sigma=sigma)
    return DenseClip(features, OpenClipText(loaded), loaded.logit_scale if scale is None else scale, templates)


def _dense_head(visual: nn.Module) -> _DenseViT | _DenseConvNeXt:
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return _DenseViT(visual)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "stages"):
        return _DenseConvNeXt(visual)
    raise ConfigError(
        f"open_clip image tower: expected a VisionTransformer without attention pooling or a ConvNeXt, "
        f"got {type(visual).__name__}"
    )


class _DenseViT:
    """A ViT whose last layer leaves every token where it is: images (B, 3, H, W) to (B, D, h, w)."""

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual, self.stride = visual, int(visual.patch_size[0])
        self.dim = int(visual.output_dim)

    def __call__(self, images: Tensor, attention: str, sigma: float) -> Tensor:
        visual = self.visual
        x = visual.conv1(images)  # (B, width, h, w)
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # (B, h·w, width)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + self._positions(height, width)
        x = visual.ln_pre(x)
        *blocks, last = visual.transformer.resblocks
        x = x if visual.transformer.batch_first else x.transpose(0, 1)
        for block in blocks:
            x = block(x)
        x = x if visual.transformer.batch_first else x.transpose(0, 1)
        tokens = visual.ln_post(self._attend(last, x, height, width, attention, sigma))
        if visual.proj is not None:
            tokens = tokens @ visual.proj
        return tokens.transpose(1, 2).unflatten(2, (height, width))

    def _positions(self, height: int, width: int) -> Tensor:
        """The position embedding, interpolated where the grid is not the one trained on: (1 + h·w, width)."""
        table = self.visual.positional_embedding
        rows, columns = self.visual.grid_size
        if (rows, columns) == (height, width):
            return table
        grid = table[1:].T.unflatten(1, (rows, columns))[None]
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False, antialias=False)
        return torch.cat([table[:1], grid[0].flatten(1).T])

    @staticmethod
    def _attend(block: Any, x: Tensor, height: int, width: int, attention: str, sigma: float) -> Tensor:
        """The last block's attention as asked for, on patch tokens only: (B, h·w, width)."""
        attn, normed = block.attn, block.ln_1(x)[:, 1:]
        _, key, value = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        if attention == "naclip":
            split = [part.reshape(*part.shape[:2], attn.num_heads, -1).transpose(1, 2) for part in (key, value)]
            logits = split[0] @ split[0].transpose(-2, -1) * split[0].shape[-1] ** -0.5
            mixed = (logits + _gaussian(height, width, sigma).to(x)).softmax(-1) @ split[1]
            value = mixed.transpose(1, 2).flatten(2)
        out: Tensor = attn.out_proj(value)
        return out


@lru_cache(maxsize=16)
def _gaussian(height: int, width: int, sigma: float) -> Tensor:
    """(h·w, h·w): exp(-d²/2σ²) of the distance between tokens; NACLIP, equation 5."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(-1, 2).float()
    return torch.exp(-torch.cdist(places, places).square() / (2 * sigma**2))


class _DenseConvNeXt:
    """A timm ConvNeXt trunk with its norm and projection at every position: images (B, 3, H, W) to (B, D, h, w)."""

    stride = 32

    def __init__(self, visual: TimmModel) -> None:
        self.visual = visual
        modules = dict(visual.head.named_modules())
        last = modules.get("proj") or modules.get("mlp.fc2")
        if last is None:
            raise ConfigError("open_clip ConvNeXt: expected a linear or mlp projection head")
        self.dim = int(last.out_features)

    def __call__(self, images: Tensor, attention: str, sigma: float) -> Tensor:
        x = self.visual.trunk.forward_features(images)  # (B, C, h, w)
        x = self.visual.trunk.head.norm(x)
        x = self.visual.head(x.permute(0, 2, 3, 1))  # linear layers act on the last axis
        dense: Tensor = x.permute(0, 3, 1, 2)
        return dense
