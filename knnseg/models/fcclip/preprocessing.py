"""Images as the published model takes them: shortest edge, mean and deviation, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from knnseg.data.arrays import ImageArray
from knnseg.models.fcclip.config import FcClipConfig
from knnseg.models.fcclip.outputs import PixelBatch

__all__ = ["pad", "prepare", "shortest_edge"]


def shortest_edge(size: tuple[int, int], short_side: int, long_side: int) -> tuple[int, int]:
    """(H, W) scaled to a shorter side of ``short_side``, or to a longer one of ``long_side`` where that is less.

    However narrow the image is, a pixel of its shorter side is left.
    """
    scale = short_side / min(size)
    height, width = (float(short_side) if side == min(size) else scale * side for side in size)
    if max(height, width) > long_side:
        shrink = long_side / max(height, width)
        height, width = height * shrink, width * shrink
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def prepare(images: Sequence[ImageArray], config: FcClipConfig, device: torch.device) -> PixelBatch:
    """Resize and normalise uint8 (H, W, 3) images and put them into one batch."""
    originals = tuple((int(image.shape[0]), int(image.shape[1])) for image in images)
    sizes = [shortest_edge(size, config.short_side, config.long_side) for size in originals]
    pixels = [_resized(image, size) for image, size in zip(images, sizes, strict=True)]
    tensors = [torch.from_numpy(array.transpose(2, 0, 1)).to(device) for array in pixels]
    return pad(tensors, config, originals)


def pad(images: Sequence[Tensor], config: FcClipConfig, originals: Sequence[tuple[int, int]]) -> PixelBatch:
    """Normalise uint8 (3, H, W) images that have their size already, and pad them at the bottom and on the right.

    Args:
        images: on one device.
        config: the mean, the deviation, and what the common size is a multiple of.
        originals: sizes for the maps of each image.
    """
    device = images[0].device
    mean, std = (torch.tensor(value, device=device)[:, None, None] for value in (config.mean, config.std))
    sizes = tuple((int(image.shape[1]), int(image.shape[2])) for image in images)
    height, width = (-(-max(side) // config.multiple) * config.multiple for side in zip(*sizes, strict=True))
    pixels = torch.zeros((len(images), 3, height, width), device=device)
    for slot, image, (tall, wide) in zip(pixels, images, sizes, strict=True):
        slot[:, :tall, :wide] = (image - mean) / std
    return PixelBatch(pixels, sizes, tuple(originals))


def _resized(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """By Pillow's bilinear filter, which smooths where it shrinks."""
    if image.shape[:2] == size:
        return np.array(image)
    return np.array(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
