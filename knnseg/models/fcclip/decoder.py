"""The mask decoder: queries that look, layer by layer, only where their own mask is.

Cheng et al., Mask2Former, CVPR 2022, arXiv 2112.01527, with FC-CLIP's class head (Yu et al., NeurIPS 2023, arXiv
2308.02487): a query's class embedding is made from its state and from the features under its mask.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knnseg.models.fcclip.config import FcClipConfig
from knnseg.models.fcclip.outputs import PixelFeatures
from knnseg.models.fcclip.pooling import pool_masks

__all__ = ["MaskDecoder"]

_LEVELS = 3


class Attention(nn.Module):
    """Multi-head attention with its residual, and a norm after it; parameters as ``nn.MultiheadAttention`` has them.

    Args:
        width: E.
        heads: they divide ``width``.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: (B, Q, E).
            position: (Q, E), added to ``x`` as a query.
            keys: (B, L, E), positions included.
            values: (B, L, E).
            visible: bool (B, Q, L), where each query may look; None is everywhere.

        Returns:
            (B, Q, E).
        """
        parts = zip((x + position, keys, values), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        query, key, value = (self._split(F.linear(*part)) for part in parts)
        mask = None if visible is None else visible[:, None]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
        out: Tensor = self.norm(x + self.out_proj(seen))
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, L, E) to (B, heads, L, E/heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with their residual, and a norm after them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, Q, E) to the same."""
        out: Tensor = self.norm(x + self.linear2(self.linear1(x).relu()))
        return out


class DecoderLayer(nn.Module):
    """Attention to one level of the image, then among the queries, then feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross = Attention(width, heads)
        self.among = Attention(width, heads)
        self.feed_forward = FeedForward(width, hidden)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """(B, Q, E) to the same; see :class:`Attention`."""
        x = self.cross(x, position, keys, values, visible)
        x = self.among(x, position, x + position, x, None)
        out: Tensor = self.feed_forward(x)
        return out


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)])

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to (…, out)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        out: Tensor = self.layers[-1](x)
        return out


class MaskDecoder(nn.Module):
    """Q masks of each image, and what each is called in CLIP's joint space.

    Args:
        config: the sizes.
        dim: D.
    """

    def __init__(self, config: FcClipConfig, dim: int) -> None:
        super().__init__()
        width = config.width
        self.query_feat = nn.Embedding(config.queries, width)
        self.query_embed = nn.Embedding(config.queries, width)
        self.level_embed = nn.Embedding(_LEVELS, width)
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.heads, config.decoder_hidden) for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.mask_embed = Perceptron(width, width)
        self.pool_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.class_embed = Perceptron(width, dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, features: PixelFeatures) -> tuple[Tensor, Tensor]:
        """Mask logits float32 (B, Q, H/4, W/4) and class embeddings float32 (B, Q, D)."""
        memory = [
            (level.features + embed[:, None, None]).flatten(2).transpose(1, 2)
            for level, embed in zip(features.levels, self.level_embed.weight, strict=True)
        ]
        keys = [
            x + level.positions.flatten(2).transpose(1, 2) for x, level in zip(memory, features.levels, strict=True)
        ]
        x = self.query_feat.weight.expand(len(features.masks), -1, -1)
        masks = self._masks(x, features.masks)
        for i, layer in enumerate(self.layers):
            at = i % _LEVELS  # coarse to fine, and again
            visible = _visible(masks, features.levels[at].features)
            x = layer(x, self.query_embed.weight, keys[at], memory[at], visible)
            masks = self._masks(x, features.masks)
        return masks, self._classes(x, features.masks, masks)

    def _masks(self, x: Tensor, features: Tensor) -> Tensor:
        """Mask logits in float32, also under autocast: their sign decides what is attended to and pooled."""
        with torch.autocast(x.device.type, enabled=False):
            queries = self.mask_embed(self.decoder_norm(x.float()))
            return torch.einsum("bqe,behw->bqhw", queries, features)

    def _classes(self, x: Tensor, features: Tensor, masks: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            pooled = self.pool_proj(pool_masks(features, masks))
            out: Tensor = self.class_embed(pooled + self.decoder_norm(x.float()))
            return out


def _visible(masks: Tensor, level: Tensor) -> Tensor:
    """Bool (B, Q, h·w): the cells of a level inside each mask, or all of them for a mask that has none there."""
    inside = F.interpolate(masks, level.shape[2:], mode="bilinear", align_corners=False).sigmoid() >= 0.5
    inside = inside.flatten(2)
    return inside | ~inside.any(2, keepdim=True)
