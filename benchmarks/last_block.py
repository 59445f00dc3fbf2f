"""The last block of a network on its own, trained on what comes into it, which is computed once for each image.

A key is pooled from the features of the whole network (equation 1), of which the last block makes all channels (the ViT
of ``tiny``) or the last of them (EfficientNet, whose earlier stage makes the first). Interpolation and pooling are
linear, so a key is unit([fixed; weights @ block(inputs)]) with matrices that no training of the block changes.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knnseg import Config, FeatureExtractor, Features, Image, Masks
from knnseg.method.pooling import pool
from knnseg.models.efficientnet import load_network
from knnseg.models.open_clip import load_model
from knnseg.stages.protocols import features_of

__all__ = ["LastBlock", "Pooled"]

TOLERANCE = 1e-3
"""By how much a feature made by the block alone may miss that of the extractor, of the largest."""


@dataclass(frozen=True)
class Pooled:
    """N masks of one image, as far as the last block does not matter.

    Args:
        fixed: float32 (N, Df), of the channels that the block does not make.
        weights: float32 (N, cells), of the cells of what it makes.
        inputs: what comes into it, a batch of one.
    """

    fixed: Tensor
    weights: Tensor
    inputs: Tensor

    def keys(self, block: nn.Module) -> Tensor:
        """float32 (N, D), unit-norm rows."""
        return F.normalize(torch.cat([self.fixed, self.weights @ block(self.inputs)], dim=1), dim=1)


class LastBlock:
    """Watches the network of a preset, whose extractor and base share it.

    Args:
        config: with the features ``open_clip`` or ``efficientnet``, without changes to the keys.
        extractor: that of the configuration.
    """

    def __init__(self, config: Config, extractor: FeatureExtractor) -> None:
        self._extractor, self._seen = extractor, list[Tensor]()
        model, photo = str(config.features.options["model"]), config.features.name == "efficientnet"
        network: Any = load_network(model, "", "auto") if photo else load_model(model, "", "auto").clip.visual
        self.block: nn.Module = _Stage(network.stages[-1]) if photo else _Value(network)
        watched = network.stages[-1] if photo else network.transformer.resblocks[-1].ln_1
        watched.register_forward_pre_hook(lambda _, given: self._seen.append(given[0]))
        self._offset: Tensor | None = None

    def look(self, image: Image, *masks: Masks) -> Pooled:
        """All masks of an image that no stage has seen yet, of one or several kinds.

        Raises:
            ValueError: the block does not make the last channels of the features.
        """
        self._seen.clear()
        features = features_of([image], self._extractor)[0]
        inputs = torch.from_numpy(self._seen[-1].numpy().copy())
        with torch.no_grad():
            made = self.block(inputs)
        grid = made.new_tensor(features.data)
        enlarge = _bilinear(inputs, made, features.grid)
        own = grid[-made.shape[1] :].flatten(1).T
        if self._offset is None:  # a constant that the extractor takes off, such as a mean
            self._offset = (enlarge @ made - own).mean(dim=0)
            self.block.offset = self._offset
            made = made - self._offset
        if (enlarge @ made - own).abs().max() > TOLERANCE * own.abs().max():
            raise ValueError("the last block does not make the last channels of these features")
        cells = features.grid[0] * features.grid[1]
        every = Features(np.eye(cells, dtype=np.float32).reshape(cells, *features.grid), image.size)
        rows = torch.from_numpy(np.concatenate([pool(every, own).vectors for own in masks]))  # (N, h·w) of any length
        return Pooled(rows @ grid[: -made.shape[1]].flatten(1).T, rows @ enlarge, inputs)


def _bilinear(inputs: Tensor, made: Tensor, grid: tuple[int, int]) -> Tensor:
    """float32 (h·w, cells), from the grid of the block to that of the features."""
    size = inputs.shape[2:] if inputs.dim() == 4 else grid
    every = torch.eye(len(made)).reshape(len(made), 1, *size)
    return F.interpolate(every, size=grid, mode="bilinear", align_corners=False).flatten(1).T


class _Stage(nn.Module):
    """The last stage of EfficientNet, a single block. The statistics of its normalisation stay as they are."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage, self.offset = deepcopy(stage).requires_grad_(True), torch.zeros(())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.stage(inputs)[0].flatten(1).T - self.offset


class _Value(nn.Module):
    """The last layer of a ViT by its value path, as in ``knnseg.models.dense``, and the projection after it."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        block = visual.transformer.resblocks[-1]
        width = block.attn.embed_dim
        self.before, self.after, self.out = (deepcopy(m) for m in (block.ln_1, visual.ln_post, block.attn.out_proj))
        self.weight, self.bias, self.project = (
            nn.Parameter(value.detach().clone())
            for value in (block.attn.in_proj_weight[-width:], block.attn.in_proj_bias[-width:], visual.proj)
        )
        self.offset = torch.zeros(())
        self.requires_grad_(True)

    def forward(self, inputs: Tensor) -> Tensor:
        value = F.linear(self.before(inputs)[0, 1:], self.weight, self.bias)
        return self.after(self.out(value)) @ self.project - self.offset
