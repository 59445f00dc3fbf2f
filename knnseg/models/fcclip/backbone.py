"""The frozen CLIP: a convolutional image tower whose features keep their place, and its text tower.

FC-CLIP (Yu et al., NeurIPS 2023, arXiv 2308.02487): one ConvNeXt CLIP serves as the backbone of the mask
generator and, pooled under its masks, as the open-vocabulary classifier. ConvNeXt: Liu et al., CVPR 2022, arXiv
2201.03545. CLIP: Radford et al., ICML 2021, arXiv 2103.00020; open_clip's models: Cherti et al., CVPR 2023, arXiv
2212.07143.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.timm_model import TimmModel
from torch import Tensor, nn

from knnseg.errors import ConfigError
from knnseg.models.fcclip.outputs import Pyramid
from knnseg.models.open_clip import build, encode_tokens, read_config

__all__ = ["Backbone", "build_clip"]


def build_clip(name: str) -> tuple[Any, Any]:
    """An open_clip CLIP with random weights and its tokenizer.

    Args:
        name: a model that open_clip knows, or the path of a JSON file in its model-config format.

    Raises:
        ConfigError: neither, keys that are missing or of no use, or a model whose image tower is no ConvNeXt.
    """
    what = f"FC-CLIP clip {Path(name).name}"
    settings = read_config(name, what) if name.endswith(".json") else open_clip.get_model_config(name)
    if settings is None:
        raise ConfigError("FC-CLIP clip", expected="a ConvNeXt that open_clip knows, or a .json file", got=repr(name))
    clip, tokenizer = build(settings, what, custom_text=False)
    if not isinstance(clip.visual, TimmModel) or not hasattr(clip.visual.trunk, "stages"):
        raise ConfigError("FC-CLIP clip", expected="a ConvNeXt", got=f"{type(clip.visual).__name__} of {name!r}")
    return clip, tokenizer


class Backbone(nn.Module):
    """Both towers of CLIP. Weights are never trained.

    Args:
        name: see :func:`build_clip`.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.clip, self._tokenizer = build_clip(name)

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Of res2, res3, res4 and res5."""
        first, second, third, fourth = (int(stage["num_chs"]) for stage in self.clip.visual.trunk.feature_info)
        return first, second, third, fourth

    @property
    def dim(self) -> int:
        """D, the width of the joint space."""
        return int(self.clip.text_projection.shape[-1])

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of CLIP's inverse temperature, a scalar."""
        scale: Tensor = self.clip.logit_scale
        return scale

    def forward(self, pixels: Tensor) -> Pyramid:
        """float32 (B, 3, H, W), normalised, H and W multiples of 32."""
        trunk = self.clip.visual.trunk
        maps = [trunk.stem(pixels)]
        for stage in trunk.stages:
            maps.append(stage(maps[-1]))
        _, res2, res3, res4, res5 = maps
        return Pyramid(res2, res3, res4, res5, trunk.norm_pre(res5))

    def project(self, pooled: Tensor) -> Tensor:
        """Pooled features (B, Q, channels of res5) to the joint space, (B, Q, D), by CLIP's own norm and projection."""
        cells = pooled.flatten(0, 1)[:, :, None, None]  # each as an image of one cell
        projected: Tensor = self.clip.visual.head(self.clip.visual.trunk.head(cells))
        return projected.view(*pooled.shape[:2], -1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """float32 (len(prompts), D), of any length.

        By open_clip's own modules, whatever order of batch and sequence its transformer was built with.
        """
        tokens = self._tokenizer(list(prompts)).to(self.logit_scale.device)
        with torch.autocast(tokens.device.type, enabled=False):
            embedded = encode_tokens(self.clip, tokens)
        return embedded.float()
