"""Averages of features under masks, and logits against text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["class_logits", "pool_masks", "resize"]

_EPSILON = 1e-8
_MAX_SCALE = 100.0


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Plain bilinear interpolation of (B, C, h, w), without smoothing also where it shrinks."""
    return x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)


def pool_masks(features: Tensor, masks: Tensor) -> Tensor:
    """Mean of the features over the cells where a mask's logit is above 0.

    Args:
        features: float32 (B, E, h, w).
        masks: float32 (B, Q, h, w), logits.

    Returns:
        float32 (B, Q, E); zeros for a mask without a cell.
    """
    inside = (masks > 0).to(features.dtype).flatten(2)
    total = torch.einsum("bel,bql->bqe", features.flatten(2), inside)
    return total / (inside.sum(2, keepdim=True) + _EPSILON)


def class_logits(embeddings: Tensor, text: Tensor, rows: Tensor, log_scale: Tensor) -> Tensor:
    """CLIP's scaled cosine similarities; a class is as near as the nearest of its synonyms.

    Args:
        embeddings: float32 (B, Q, D), of any length.
        text: float32 (S, D), unit-norm rows.
        rows: int64 (C, most), the rows of ``text`` for each class, one of them repeated to fill up.
        log_scale: logarithm of the inverse temperature, which is held at 100 at most.

    Returns:
        float32 (B, Q, C).
    """
    scale = log_scale.exp().clamp(max=_MAX_SCALE)
    similar = scale * F.normalize(embeddings, dim=-1) @ text.T
    return similar[..., rows].amax(-1)
