"""The pixel decoder: a multi-scale deformable encoder over three levels, and a step of a feature pyramid to the fourth.

Cheng et al., Mask2Former, CVPR 2022, arXiv 2112.01527; Lin et al., Feature Pyramid Networks, CVPR 2017,
arXiv 1612.03144. Padding of a batch is not masked: it takes part in normalisation and attention, as in training.

Positions are sines on a grid, as in DETR (Carion et al., ECCV 2020, arXiv 2005.12872). Deformable attention (Zhu et
al., ICLR 2021, arXiv 2010.04159, equation 3) lets each query look at a few points of every level, at offsets and with
weights that it predicts itself; it samples by ``grid_sample``, so there is no operator to compile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knnseg.models.fcclip.config import FcClipConfig
from knnseg.models.fcclip.outputs import Level, PixelFeatures, Pyramid

__all__ = ["DeformableAttention", "DeformableLayer", "PixelDecoder", "cell_centres", "sine_positions"]

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


def cell_centres(sizes: Sequence[tuple[int, int]], device: torch.device) -> Tensor:
    """float32 (Σ h·w, 2): (x, y) of the centre of every cell of every level, 0 to 1 over the image."""
    grids = []
    for height, width in sizes:
        y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        grids.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], 2).flatten(0, 1))
    return torch.cat(grids)


class DeformableAttention(nn.Module):
    """Attention of every cell of every level to a few points of every level.

    Args:
        width: E.
        heads: of attention; they divide ``width``.
        levels: number of levels.
        points: sampled in each level by each head.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, memory: Tensor, centres: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            queries: float32 (B, L, E).
            memory: float32 (B, L, E), what is sampled, level after level, rows first.
            centres: float32 (L, 2), see :func:`cell_centres`.
            sizes: (h, w) of each level.

        Returns:
            float32 (B, L, E).
        """
        batch, length, width = queries.shape
        shape = (batch, length, self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(queries).view(*shape, 2)
        weights = self.attention_weights(queries).view(*shape[:3], -1).softmax(-1).view(shape)
        values = self.value_proj(memory).transpose(1, 2).reshape(batch * self.heads, width // self.heads, length)
        total = values.new_zeros(())
        for level, (plane, size) in enumerate(zip(values.split([h * w for h, w in sizes], 2), sizes, strict=True)):
            scale = torch.tensor([size[1], size[0]], dtype=offsets.dtype, device=offsets.device)
            places = centres[:, None, None] + offsets[:, :, :, level] / scale  # (B, L, heads, points, 2)
            grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)  # (B·heads, L, points, 2), -1 to 1 over the image
            sampled = F.grid_sample(plane.view(*plane.shape[:2], *size), grid, align_corners=False)  # zeros outside
            weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]  # (B·heads, 1, L, points)
            total = total + (sampled * weight).sum(-1)  # (B·heads, E/heads, L)
        out: Tensor = self.output_proj(total.view(batch, width, length).transpose(1, 2))
        return out


class DeformableLayer(nn.Module):
    """One encoder layer: deformable attention and feed-forward, each with its residual and its norm after it.

    Args:
        width: E.
        heads: see :class:`DeformableAttention`.
        levels: see :class:`DeformableAttention`.
        points: see :class:`DeformableAttention`.
        hidden: width of the feed-forward layer.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor, centres: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """float32 (B, L, E) to the same; positions are added to the queries only."""
        x = self.norm1(x + self.self_attn(x + positions, x, centres, sizes))
        out: Tensor = self.norm2(x + self.linear2(self.linear1(x).relu()))
        return out


_GROUPS = 32
_LEVELS = 3


class PixelDecoder(nn.Module):
    """From a pyramid of the image tower to features for attention and for masks.

    It computes in float32 whatever autocast says: sampling places lose their pixel in half precision.

    Args:
        channels: of res2, res3, res4 and res5.
        config: the sizes.
    """

    def __init__(self, channels: tuple[int, int, int, int], config: FcClipConfig) -> None:
        super().__init__()
        width = config.width
        self.input_proj = nn.ModuleList(  # res5, res4, res3
            nn.Sequential(nn.Conv2d(count, width, 1), nn.GroupNorm(_GROUPS, width)) for count in channels[:0:-1]
        )
        self.level_embed = nn.Parameter(torch.randn(_LEVELS, width))
        self.layers = nn.ModuleList(
            DeformableLayer(width, config.heads, _LEVELS, config.points, config.encoder_hidden)
            for _ in range(config.encoder_layers)
        )
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], width, 1, bias=False), nn.GroupNorm(_GROUPS, width))
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(_GROUPS, width), nn.ReLU()
        )
        self.mask_features = nn.Conv2d(width, width, 1)

    def forward(self, pyramid: Pyramid) -> PixelFeatures:
        """See the class."""
        with torch.autocast(pyramid.res2.device.type, enabled=False):
            return self._forward(pyramid)

    def _forward(self, pyramid: Pyramid) -> PixelFeatures:
        maps = (pyramid.res5, pyramid.res4, pyramid.res3)
        sources = [project(x.float()) for project, x in zip(self.input_proj, maps, strict=True)]
        sizes = [(int(x.shape[2]), int(x.shape[3])) for x in sources]
        positions = [sine_positions(h, w, sources[0].shape[1], sources[0].device) for h, w in sizes]
        encoded = self._encode(sources, positions, sizes)
        levels = tuple(Level(x, place) for x, place in zip(encoded, positions, strict=True))
        fine = self.lateral(pyramid.res2.float())
        fine = fine + F.interpolate(encoded[-1], fine.shape[2:], mode="bilinear", align_corners=False)
        return PixelFeatures(levels, self.mask_features(self.smooth(fine)))

    def _encode(self, sources: list[Tensor], positions: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Each (B, E, h, w) to the same, having attended to all."""
        x = torch.cat([source.flatten(2) for source in sources], 2).transpose(1, 2)
        places = [place.flatten(2) + embed[:, None] for place, embed in zip(positions, self.level_embed, strict=True)]
        place = torch.cat(places, 2).transpose(1, 2)
        centres = cell_centres(sizes, x.device)
        for layer in self.layers:
            x = layer(x, place, centres, sizes)
        parts = torch.split(x.transpose(1, 2), [h * w for h, w in sizes], 2)
        return [part.reshape(*part.shape[:2], *size) for part, size in zip(parts, sizes, strict=True)]
