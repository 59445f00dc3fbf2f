"""The forward pass of the bundled ``tiny`` model: global and dense embeddings of images of any size, and of texts.

Dense embeddings follow MaskCLIP (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022, arXiv 2112.01071): in
the last block each token keeps its own *value* instead of attending. As in ClearCLIP (Lan et al., ECCV 2024, arXiv
2407.12442) the residual connection and the feed-forward layer of that block are left out:

    y = ln_1(x);  v = W_v y + b_v;  f = ln_post(W_o v + b_o) @ proj          (x: tokens before the last block)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MEAN", "STD", "encode_images", "encode_texts", "normalised", "pool"]

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""The constants of OpenAI's CLIP, which open_clip applies unless told otherwise."""


def normalised(images: Tensor) -> Tensor:
    """Float (B, 3, H, W) between 0 and 1 to what the image tower takes."""
    return (images - images.new_tensor(MEAN).view(3, 1, 1)) / images.new_tensor(STD).view(3, 1, 1)


def _positions(visual: Any, grid: tuple[int, int]) -> Tensor:
    """Position embeddings for a grid of (h, w) cells, (1 + h·w, D); bicubic unless it is the native grid."""
    native: Tensor = visual.positional_embedding
    if grid == visual.grid_size:
        return native
    cells = native[1:].reshape(1, *visual.grid_size, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(cells, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([native[:1], resized.flatten(2)[0].T])


def encode_images(model: Any, images: Tensor, whole: bool = True) -> tuple[Tensor | None, Tensor]:
    """Embed normalised images (B, 3, H, W) whose sides are multiples of the patch.

    Returns:
        Global embeddings (B, D), or None unless ``whole``; dense embeddings (B, D, h, w). Neither is normalised.
    """
    visual = model.visual
    x = visual.conv1(images)
    batch, _, h, w = x.shape
    tokens = torch.cat([visual.class_embedding.expand(batch, 1, -1), x.flatten(2).transpose(1, 2)], dim=1)
    x = visual.ln_pre(tokens + _positions(visual, (h, w)))
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        x = block(x)
    width, attn = x.shape[-1], last.attn
    v = F.linear(last.ln_1(x[:, 1:]), attn.in_proj_weight[2 * width :], attn.in_proj_bias[2 * width :])
    dense = visual.ln_post(attn.out_proj(v)) @ visual.proj
    pooled = visual.ln_post(last(x)[:, 0]) @ visual.proj if whole else None
    return pooled, dense.transpose(1, 2).reshape(batch, -1, h, w)


def encode_texts(model: Any, tokenizer: Any, texts: list[str]) -> Tensor:
    """Unit-norm (T, D)."""
    embedded: Tensor = model.encode_text(tokenizer(texts), normalize=True)
    return embedded


def pool(dense: Tensor, weights: Tensor) -> Tensor:
    """Mean of dense embeddings (B, D, h, w) under masks (B, N, h, w), unit-norm (B, N, D)."""
    return F.normalize(torch.einsum("bdhw,bnhw->bnd", dense, weights), dim=-1)
