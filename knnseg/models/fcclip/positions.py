"""Sine positions on a grid, as in DETR (Carion et al., ECCV 2020, arXiv 2005.12872)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sine_positions"]

_TEMPERATURE = 10000.0
_EPSILON = 1e-6


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Positions of the cells of a grid.

    A coordinate counts from 1, is scaled to (0, 2π] over its axis, and becomes alternating sines and cosines of
    geometrically falling frequency. The first half of the channels is for y, the second for x.

    Returns:
        float32 (1, channels, height, width).
    """
    half = channels // 2
    y, x = (_waves(size, half, device) for size in (height, width))
    down = y.T[:, :, None].expand(half, height, width)
    across = x.T[:, None, :].expand(half, height, width)
    return torch.cat([down, across])[None]


def _waves(size: int, channels: int, device: torch.device) -> Tensor:
    """float32 (size, channels) along one axis."""
    place = torch.arange(1, size + 1, dtype=torch.float32, device=device)
    angle = place / (size + _EPSILON) * (2 * math.pi)
    pair = torch.arange(channels, dtype=torch.float32, device=device) // 2
    phase = angle[:, None] / _TEMPERATURE ** (2 * pair / channels)
    return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=2).flatten(1)
