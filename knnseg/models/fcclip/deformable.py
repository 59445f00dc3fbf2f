"""Multi-scale deformable attention by ``grid_sample``: no operator to compile.

Zhu et al., Deformable DETR, ICLR 2021, arXiv 2010.04159, equation 3: each query looks at a few points of every level,
at offsets and with weights that it predicts itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DeformableAttention", "DeformableLayer", "cell_centres"]


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
