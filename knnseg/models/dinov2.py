"""DINOv2 and DINOv2 with registers through timm: the retrieval keys of the paper.

Oquab et al., 2023, arXiv 2304.07193; Darcet et al., ICLR 2024, arXiv 2309.16588.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from timm.models import load_state_dict
from timm.models.vision_transformer import checkpoint_filter_fn

from knnseg.data.arrays import ImageArray
from knnseg.data.features import Features
from knnseg.data.image import Image
from knnseg.errors import ConfigError, WeightsError
from knnseg.models._torch import existing, fingerprint, from_hub, pick_device, to_batch, weights
from knnseg.models.weights import find, how_to_get
from knnstore import EmbeddingSpace

__all__ = ["VARIANTS", "DinoFeatures"]

VARIANTS = {
    f"dinov2-{size}14{suffix}": f"vit_{name}_patch14_{middle}dinov2.lvd142m"
    for size, name in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
    for suffix, middle in (("", ""), ("-reg", "reg4_"))
}
"""Our short names, and timm's."""


_OFFSET = 0.1
"""In cells, by which the positions of the models without registers are stretched; see :func:`_stretched`."""


class DinoFeatures:
    """Normalised patch tokens of the last layer. Implements :class:`knnseg.FeatureExtractor`.

    Args:
        name: for the embedding space.
        model: a timm VisionTransformer made with ``dynamic_img_size=True`` and ``num_classes=0``.
        short_side: images are resized so that their shorter side has about this many pixels.
        device: where it runs.
    """

    def __init__(self, name: str, model: torch.nn.Module, *, short_side: int = 518, device: str = "auto") -> None:
        if short_side < 1:
            raise ConfigError("short_side", expected="a number of pixels above 0", got=short_side)
        self._device = pick_device(device)
        self._model = model.eval().to(self._device)
        self._side, self._patch = short_side, int(model.patch_embed.patch_size[0])  # type: ignore[union-attr, index]
        config: Any = model.pretrained_cfg
        self._mean, self._std = tuple(config["mean"]), tuple(config["std"])
        # By architecture: weights of one kind in a network of the other would not load.
        self._stretches = "patch14_dinov2" in str(config["architecture"])
        settings = {"short_side": short_side, "mean": self._mean, "std": self._std, "stretched": self._stretches}
        note = json.dumps(settings, sort_keys=True)
        self._space = EmbeddingSpace(name, fingerprint(model, settings), note=note)

    @classmethod
    def load(
        cls, model: str = "dinov2-b14-reg", weights_file: str = "", short_side: int = 518, device: str = "auto"
    ) -> DinoFeatures:
        """Load published weights.

        Args:
            model: one of :data:`VARIANTS`, or any timm ViT name.
            weights_file: a checkpoint in timm's or in the published DINOv2 layout (safetensors, or a file that torch
                can read with ``weights_only=True``); empty takes it from the folder of :mod:`knnseg.models.weights`, or
                else from the hub.
            short_side: see the class.
            device: see the class.

        Raises:
            ConfigError: a name that timm does not know.
            WeightsError: weights absent, unreadable, or of another layout.
        """
        architecture = VARIANTS.get(model, model)
        if not timm.is_model(architecture):
            raise ConfigError("DINOv2 model", expected=f"one of {sorted(VARIANTS)} or a timm name", got=repr(model))
        published = next((short for short, name in VARIANTS.items() if name == architecture), model)
        file = existing(weights_file, model) if weights_file else find(published)
        overlay = {"file": str(file)} if file else None
        advice = how_to_get(published, "pass the checkpoint's path as `weights_file`")
        what = f"timm model {architecture}" + (f" from {file}" if file else "")
        with weights(what, advice), nullcontext() if file else from_hub():
            network = timm.create_model(
                architecture, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, dynamic_img_size=True
            )
            if file:
                _check_complete(network, file)
        return cls(model, network, short_side=short_side, device=device)

    @property
    def space(self) -> EmbeddingSpace:
        """The embedding space: weights and size."""
        return self._space

    @property
    def dim(self) -> int:
        """D, the width of the tokens."""
        return int(self._model.num_features)  # type: ignore[arg-type]

    @torch.inference_mode()
    def extract(self, images: Sequence[Image]) -> list[Features]:
        """See :meth:`knnseg.FeatureExtractor.extract`."""
        return [self._extract(image.pixels) for image in images]

    def _extract(self, image: ImageArray) -> Features:
        batch = to_batch(image, self._side, self._patch, self._mean, self._std, self._device)
        height, width = batch.shape[2] // self._patch, batch.shape[3] // self._patch
        tokens = self._stretched(batch) if self._stretches else self._model.forward_features(batch)  # type: ignore[operator]
        tokens = tokens[:, self._model.num_prefix_tokens :]  # those of class and registers have no place
        grid = tokens[0].T.reshape(-1, height, width).float().cpu().numpy()
        return Features(np.ascontiguousarray(grid, np.float32), (int(image.shape[0]), int(image.shape[1])))

    def _stretched(self, batch: torch.Tensor) -> torch.Tensor:
        """All tokens, (1, 1 + h·w, D), by a model without registers.

        In the published code (dinov2, ``interpolate_offset``) the table of positions is brought to another grid by
        plain bicubic interpolation, at a scale of (cells + 0.1) / table. With registers it goes by the number of cells,
        with smoothing, which is what timm does for both.
        """
        model: Any = self._model
        patches = model.patch_embed(batch)  # (1, h, w, D)
        first, table = model.pos_embed[:, :1], model.pos_embed[:, 1:]
        side = round(table.shape[1] ** 0.5)
        if tuple(patches.shape[1:3]) != (side, side):
            scale = [(cells + _OFFSET) / side for cells in patches.shape[1:3]]
            square = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            table = F.interpolate(square, scale_factor=scale, mode="bicubic").flatten(2).transpose(1, 2)
        tokens = torch.cat([model.cls_token + first, patches.flatten(1, 2) + table], dim=1)
        result: torch.Tensor = model.norm(model.blocks(model.norm_pre(tokens)))
        return result


def _check_complete(network: Any, file: Path) -> None:
    """Check a file against the network that was loaded from it.

    timm itself does so for DINOv2; of a model whose classifier is left away it also takes other weights, or goes
    without.
    """
    if network.pretrained_cfg["num_classes"] == 0:
        return
    head = f"{network.pretrained_cfg['classifier']}."
    found = {key for key in checkpoint_filter_fn(load_state_dict(str(file)), network) if not key.startswith(head)}
    wrong = [f"missing {key}" for key in sorted(network.state_dict().keys() - found)]
    wrong += [f"unknown {key}" for key in sorted(found - network.state_dict().keys())]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise WeightsError(file, expected="the weights of the model", got=f"{'; '.join(wrong[:5])}{more}")
