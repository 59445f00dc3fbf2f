"""Image towers of open_clip made dense: one vector of the joint space for each place, with nothing trained.

A ViT is trained to gather the image in its class token, and its last layer mixes every place with every other. Dense
inference changes that one layer. Let q, k, v be its projections by head, d their width, and p the places of the tokens:

    value       o = v                                                     MaskCLIP, ECCV 2022, arXiv 2112.01071
    naclip      o = softmax(k kᵀ/√d + G) v, G = exp(-|p - p'|²/2σ²)       NACLIP, WACV 2025, arXiv 2404.08181
    naclip-qq   o = softmax(q qᵀ/√d + G) v                                the same, by queries
    clearclip   o = softmax(q qᵀ/√d) v                                    ClearCLIP, ECCV 2024, arXiv 2407.12442
    sclip       o = softmax(q qᵀ/√d) v + softmax(k kᵀ/√d) v               SCLIP, ECCV 2024, arXiv 2312.01597

The output projection follows. In SCLIP the residual connection and the feed-forward part follow too; the others leave
them out. In SCLIP and ClearCLIP the class token is attended to, as published; in the others it is left out, for NACLIP
unlike the published code, which gives it a G of 0.

A ConvNeXt has no attention: its head is applied at every place (FC-CLIP, NeurIPS 2023, arXiv 2308.02487).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from knnseg.errors import ConfigError

__all__ = ["VARIANTS", "Attention", "DenseConvNeXt", "DenseTower", "DenseViT", "Variant", "make_dense", "slide"]

Attention: TypeAlias = Literal["value", "naclip", "naclip-qq", "clearclip", "sclip"]


@dataclass(frozen=True, slots=True)
class Variant:
    """What the last layer of a ViT does.

    Args:
        compare: the projections that are compared with themselves; the results are summed. Empty for none.
        gaussian: near places weigh more.
        class_token: it is attended to.
        whole: the residual connection and the feed-forward part stay.
    """

    compare: Literal["", "q", "k", "qk"] = ""
    gaussian: bool = False
    class_token: bool = False
    whole: bool = False


VARIANTS: dict[str, Variant] = {
    "value": Variant(),
    "naclip": Variant("k", gaussian=True),
    "naclip-qq": Variant("q", gaussian=True),
    "clearclip": Variant("q", class_token=True),
    "sclip": Variant("qk", class_token=True, whole=True),
}
"""By the names of the formulas above."""

_AT_ONCE = 4
"""Windows that go through the network together: bounds the memory."""


class DenseTower(Protocol):
    """Images to grids, with what has to be known of it."""

    dim: int
    """D, the width of the joint space."""
    cell: int
    """Pixels of a cell; the sides of images are multiples of it."""
    settings: dict[str, object]
    """What changes the features beside weights and input, for the fingerprint."""

    def __call__(self, images: Tensor) -> Tensor:
        """Float (B, 3, H, W) to (B, D, H / cell, W / cell)."""


def make_dense(visual: nn.Module, attention: str = "value", sigma: float = 5.0) -> DenseTower:
    """An image tower of open_clip as a dense one.

    Args:
        visual: the tower.
        attention: one of :data:`VARIANTS`; a ConvNeXt has no such attention and ignores it.
        sigma: σ in tokens, where the variant has one.

    Raises:
        ConfigError: a tower without a vector for each place, or settings that do not exist.
    """
    if attention not in VARIANTS:
        raise ConfigError("attention", expected=f"one of {list(VARIANTS)}", got=repr(attention))
    if sigma <= 0:
        raise ConfigError("sigma", expected="a number of tokens above 0", got=sigma)
    if isinstance(visual, VisionTransformer) and visual.attn_pool is None:
        return DenseViT(visual, attention, sigma)
    if isinstance(visual, TimmModel) and hasattr(visual.trunk, "stages"):
        return DenseConvNeXt(visual)
    raise ConfigError(
        "open_clip image tower",
        expected="a VisionTransformer of open_clip without attention pooling, or a ConvNeXt",
        got=f"{type(visual).__name__}{_pooling(visual)}",
        hint="Attention pooling, as SigLIP and CoCa have it, puts only the whole image into the space of the words",
    )


def _pooling(visual: nn.Module) -> str:
    pooled = getattr(visual, "attn_pool", None) or getattr(getattr(visual, "trunk", None), "attn_pool", None)
    return " with attention pooling" if pooled is not None else ""


class DenseViT:
    """A ViT whose last layer leaves every token where it is. Implements :class:`DenseTower`."""

    def __init__(self, visual: VisionTransformer, attention: str, sigma: float) -> None:
        last = visual.transformer.resblocks[-1]
        if not isinstance(last, ResidualAttentionBlock):
            raise ConfigError("open_clip ViT", expected="blocks of ResidualAttentionBlock", got=type(last).__name__)
        self.visual, self.cell, self.dim = visual, int(visual.patch_size[0]), int(visual.output_dim)
        self._variant, self._sigma = VARIANTS[attention], sigma
        self.settings: dict[str, object] = {"attention": attention}
        if self._variant.gaussian:
            self.settings["sigma"] = sigma
        if isinstance(last.mlp.gelu, QuickGELU):
            self.settings["activation"] = "quick_gelu"  # the weights do not tell

    def __call__(self, images: Tensor) -> Tensor:
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
        tokens = visual.ln_post(self._last(last, x, height, width))
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

    def _last(self, block: Any, x: Tensor, height: int, width: int) -> Tensor:
        """The last block as the variant has it: (B, 1 + h·w, width) to patch tokens (B, h·w, width)."""
        attn, variant = block.attn, self._variant
        normed = block.ln_1(x) if variant.class_token else block.ln_1(x)[:, 1:]
        query, key, value = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        if variant.compare:
            near = gaussian(height, width, self._sigma, x) if variant.gaussian else None
            sides = [{"q": query, "k": key}[name] for name in variant.compare]
            value = self_attention(sides, value, attn.num_heads, near)
        out: Tensor = block.ls_1(attn.out_proj(value))
        if variant.whole:
            out = x + out
            out = out + block.ls_2(block.mlp(block.ln_2(out)))
        return out[:, 1:] if variant.class_token else out


def self_attention(sides: list[Tensor], value: Tensor, heads: int, bias: Tensor | None) -> Tensor:
    """Σ over sides s of softmax(s sᵀ/√d + bias) v, by head: (B, L, width) each, bias (L, L) or None."""
    *split, v = (part.reshape(*part.shape[:2], heads, -1).transpose(1, 2) for part in (*sides, value))
    mixed = sum(F.scaled_dot_product_attention(side, side, v, attn_mask=bias) for side in split)
    assert isinstance(mixed, Tensor)  # there is at least one side
    return mixed.transpose(1, 2).flatten(2)


def gaussian(height: int, width: int, sigma: float, like: Tensor) -> Tensor:
    """(h·w, h·w), of the dtype and on the device of ``like``: exp(-|p - p'|²/2σ²) of the places of two tokens.

    NACLIP, equation 5. The square of the distance is a sum over two axes, so the whole is a Kronecker product.
    """
    lines = [torch.arange(size, device=like.device, dtype=torch.float32) for size in (height, width)]
    down, across = (torch.exp(-(line[:, None] - line).square() / (2 * sigma**2)) for line in lines)
    return torch.kron(down, across).to(like.dtype)


class DenseConvNeXt:
    """A timm ConvNeXt trunk with its norm and projection at every place. Implements :class:`DenseTower`."""

    cell = 32

    def __init__(self, visual: TimmModel) -> None:
        self.visual, self.settings = visual, dict[str, object]()
        modules = dict(visual.head.named_modules())
        last = modules.get("proj") or modules.get("mlp.fc2")
        if last is None:
            raise ConfigError("open_clip ConvNeXt", expected="a linear or mlp projection head")
        self.dim = int(last.out_features)

    def __call__(self, images: Tensor) -> Tensor:
        x = self.visual.trunk.forward_features(images)  # (B, C, h, w)
        x = self.visual.trunk.head.norm(x)
        x = self.visual.head(x.permute(0, 2, 3, 1))  # linear layers act on the last axis
        dense: Tensor = x.permute(0, 3, 1, 2)
        return dense


def slide(tower: DenseTower, images: Tensor, window: int, stride: int) -> Tensor:
    """The mean over overlapping windows of what the tower sees in each, on one grid.

    Args:
        tower: the network.
        images: float (1, 3, H, W), sides multiples of its cell.
        window: side of the windows, pixels, a multiple of the cell. An image that fits into one is not cut.
        stride: from one window to the next, pixels, a multiple of the cell. The last ones are aligned to the border.

    Returns:
        (1, D, H / cell, W / cell), the grid that the tower itself would give.
    """
    height, width = images.shape[2:]
    if max(height, width) <= window:
        return tower(images)
    tall, wide, cell = min(window, height), min(window, width), tower.cell
    places = [(y, x) for y in _starts(height, tall, stride) for x in _starts(width, wide, stride)]
    total = images.new_zeros(tower.dim, height // cell, width // cell)
    count = torch.zeros_like(total[0])
    for first in range(0, len(places), _AT_ONCE):
        some = places[first : first + _AT_ONCE]
        parts = tower(torch.cat([images[:, :, y : y + tall, x : x + wide] for y, x in some]))
        for (y, x), part in zip(some, parts, strict=True):
            inside = slice(y // cell, (y + tall) // cell), slice(x // cell, (x + wide) // cell)
            total[(..., *inside)] += part
            count[inside] += 1
    return (total / count)[None]


def _starts(size: int, window: int, stride: int) -> list[int]:
    return [*range(0, size - window, stride), size - window]
