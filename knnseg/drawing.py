"""Pictures for people: distinct colours, boundaries, and legends that can be read."""

from __future__ import annotations

import base64
import colorsys
import io
import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation
from skimage.color import rgb2lab

from knnseg.data.arrays import IGNORE, ImageArray
from knnseg.data.vocabulary import UNKNOWN
from knnseg.errors import ConfigError

__all__ = [
    "class_colours",
    "colours",
    "data_uri",
    "legend_strip",
    "outlined",
    "overlay",
    "paint_classes",
    "side_by_side",
    "stack",
]

_ROWS = 256
"""Rows of pixels that are blended at once."""
_GREY = (128, 128, 128)


@cache
def _palette() -> NDArray[np.uint8]:
    """uint8 (864, 3): each colour is the one farthest from grey and all before it, as people see them (CIELAB)."""
    grid = itertools.product((0.55, 0.4, 0.7, 0.3), (0.85, 0.6, 0.35), (hue / 72 for hue in range(72)))
    table = np.array([colorsys.hls_to_rgb(hue, lightness, saturation) for lightness, saturation, hue in grid])
    lab = rgb2lab(table)
    order, last, apart = list[int](), rgb2lab(np.array(_GREY) / 255), np.full(len(lab), np.inf)
    while len(order) < len(lab):
        # Rounded, so that the same one comes next on every processor.
        apart = np.minimum(apart, np.linalg.norm(lab - last, axis=1).round(3))
        order.append(int(apart.argmax()))
        last = lab[order[-1]]
    return np.round(table[order] * 255).astype(np.uint8)


def colours(count: int) -> NDArray[np.uint8]:
    """uint8 (count, 3): the first are as far apart as can be, and stay what they are where more are asked for."""
    return _palette()[np.arange(count) % len(_palette())]


def class_colours(names: Sequence[str]) -> NDArray[np.uint8]:
    """uint8 (len(names), 3): the colours of classes; what is unknown is grey."""
    table = colours(len(names))
    table[[i for i, name in enumerate(names) if name == UNKNOWN]] = _GREY
    return table


def paint_classes(semantic: NDArray[np.int32], count: int) -> ImageArray:
    """uint8 (H, W, 3): each class in its colour, ``IGNORE`` in dark grey."""
    table = np.concatenate([colours(count), np.array([[48, 48, 48]], np.uint8)])
    return table[np.where(semantic == IGNORE, count, semantic)]


def overlay(
    image: ImageArray,
    semantic: NDArray[np.int32],
    names: Sequence[str],
    segments: NDArray[np.int32] | None = None,
    *,
    legend: bool = True,
    alpha: float = 0.55,
) -> Image.Image:
    """The image with its classes laid over it.

    Args:
        image: uint8 (H, W, 3).
        semantic: int32 (H, W), positions in ``names``.
        names: class names.
        segments: int32 (H, W); boundaries between different numbers are drawn, thicker on a large image.
        legend: put a legend of the classes that occur underneath.
        alpha: 0 shows only the image, 1 only the colours.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError("alpha", expected="0 to 1", got=alpha)
    table = np.concatenate([class_colours(names), np.zeros((1, 3), np.uint8)])
    painted = np.empty(image.shape, np.uint8)
    for start in range(0, len(image), _ROWS):  # in float64, a photograph of a phone would be half a gigabyte at once
        part, classes = image[start : start + _ROWS], semantic[start : start + _ROWS]
        rest = np.where(classes == IGNORE, 0.5, 1 - alpha)[..., None]  # IGNORE reads the last colour, which is black
        painted[start : start + _ROWS] = np.round(part * rest + alpha * table[classes])
    thickness = max(1, round(max(image.shape) / 1000))
    painted[_boundaries(semantic if segments is None else segments, thickness)] = 255
    picture = Image.fromarray(painted)
    if not legend:
        return picture
    present = [c for c in np.unique(semantic).tolist() if c != IGNORE]
    return stack([picture, legend_strip(names, present, picture.width, size=max(13, max(image.shape) // 80))])


def _boundaries(parts: NDArray[np.int32], thickness: int) -> NDArray[np.bool_]:
    """Bool (H, W): the pixels whose part is not that of the pixel so many to the left, or so many above."""
    edge = np.zeros(parts.shape, bool)
    edge[:, thickness:] |= parts[:, thickness:] != parts[:, :-thickness]
    edge[thickness:] |= parts[thickness:] != parts[:-thickness]
    return edge


def legend_strip(names: Sequence[str], shown: Sequence[int], width: int, *, size: int = 13) -> Image.Image:
    """Swatches with names, in as many lines as the width needs."""
    font, table = ImageFont.load_default(size), class_colours(names)
    gap, swatch = size // 2, size
    places, x, y = [], gap, gap
    for c in shown:
        needed = swatch + gap + int(font.getlength(names[c])) + 2 * gap
        if x > gap and x + needed > width:
            x, y = gap, y + size + gap
        places.append((c, x, y))
        x += needed
    strip = Image.new("RGB", (width, y + size + gap), "white")
    draw = ImageDraw.Draw(strip)
    for c, left, top in places:
        draw.rectangle((left, top + 1, left + swatch, top + 1 + swatch), fill=tuple(table[c].tolist()), outline="black")
        draw.text((left + swatch + gap, top - 1), names[c], fill="black", font=font)
    return strip


def side_by_side(
    columns: Sequence[tuple[str, ImageArray | Image.Image]],
    names: Sequence[str],
    shown: Sequence[int],
) -> Image.Image:
    """Pictures of one size next to each other under their titles, with one legend underneath."""
    font, bar = ImageFont.load_default(15), 24
    pictures = [p if isinstance(p, Image.Image) else Image.fromarray(p) for _, p in columns]
    width, height = pictures[0].size
    sheet = Image.new("RGB", (len(columns) * (width + 6) - 6, height + bar), "white")
    draw = ImageDraw.Draw(sheet)
    for i, ((title, _), picture) in enumerate(zip(columns, pictures, strict=True)):
        draw.text((i * (width + 6) + 4, 3), title, fill="black", font=font)
        sheet.paste(picture, (i * (width + 6), bar))
    return stack([sheet, legend_strip(names, shown, sheet.width)])


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, on white."""
    whole = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    y = 0
    for picture in pictures:
        whole.paste(picture, (0, y))
        y += picture.height
    return whole


def outlined(image: ImageArray, region: NDArray[np.bool_]) -> ImageArray:
    """The image with a white line around a region, and a black one around that, so that it shows on any ground."""
    drawn = image.copy()
    for radius, colour in ((2, 0), (1, 255)):
        drawn[binary_dilation(region, np.ones((3, 3), bool), radius) & ~region] = colour
    return drawn


def data_uri(picture: Image.Image) -> str:
    """A JPEG that a page can hold."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
