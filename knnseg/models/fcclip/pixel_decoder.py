"""The pixel decoder: a multi-scale deformable encoder over three levels, and a step of a feature pyramid to the fourth.

Cheng et al., Mask2Former, CVPR 2022, arXiv 2112.01527; Lin et al., Feature Pyramid Networks, CVPR 2017,
arXiv 1612.03144. Padding of a batch is not masked: it takes part in normalisation and attention, as in training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knnseg.models.fcclip.config import FcClipConfig
from knnseg.models.fcclip.deformable import DeformableLayer, cell_centres
from knnseg.models.fcclip.outputs import Level, PixelFeatures, Pyramid
from knnseg.models.fcclip.positions import sine_positions

__all__ = ["PixelDecoder"]

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
