"""Images and label maps from files, bytes and arrays, in the one form that the rest of the package takes."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from knnseg.errors import ImageError
from knnseg.types import ImageArray

__all__ = [
    "MASK_SIDE",
    "MAX_PIXELS",
    "ImageLike",
    "content_hash",
    "fit",
    "load_image",
    "load_label_map",
    "load_panoptic_png",
    "resize",
    "within",
]

ImageLike: TypeAlias = "str | PathLike[str] | bytes | Image.Image | NDArray[np.uint8]"

MAX_PIXELS = 64_000_000
"""Images with more pixels are refused before they are decoded: a few kilobytes of PNG can claim gigabytes."""


MASK_SIDE = 2048
"""Masks of networks are made on a grid of at most so many cells a side. No published network sees more pixels, and at
the twelve million of a phone's photograph a hundred soft masks would not fit into memory."""


def load_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> ImageArray:
    """Read an image as a person would see it.

    EXIF rotation is applied; grey, palette, CMYK and 16-bit images are converted to 8-bit RGB; transparency is laid on
    white; of an animation the first frame is taken.

    Args:
        source: a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3), (H, W) or (H, W, 4).
        max_pixels: refuse larger images.
        upright: turn the image as its EXIF data say; some data sets annotate the pixels as they are stored.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous, not shared with ``source``.

    Raises:
        ImageError: unreadable, truncated, empty, too large, or an array of another form.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if not isinstance(source, str | PathLike | bytes | Image.Image):
        raise ImageError(f"image: expected a path, bytes, a PIL image or an array, got {type(source).__name__}")
    name = _name(source)
    with _readable(name), _opened(source) as image:
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"{name}: expected at most {max_pixels:,} pixels, got {image.width}×{image.height}. "
                "Pass max_pixels to load it all the same."
            )
        return np.array(_as_rgb(ImageOps.exif_transpose(image) if upright else image), np.uint8)


def load_label_map(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.int32]:
    """Read a single-channel label map (8-bit, palette indices, or 16-bit): int32 (H, W).

    Raises:
        ImageError: unreadable, or an image of several channels.
    """
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or source.dtype.kind not in "iu":
            raise ImageError(f"label map: expected an integer array (H, W), got {source.dtype.name} {source.shape}")
        return source.astype(np.int32)
    name = _name(source)
    with _readable(name), _opened(source) as image:
        if image.mode not in ("L", "P", "I", "I;16", "I;16B", "1"):
            raise ImageError(f"{name}: expected a label map of one channel, got mode {image.mode}")
        if image.width * image.height > max_pixels:
            raise ImageError(f"{name}: expected at most {max_pixels:,} pixels, got {image.width}×{image.height}")
        return np.asarray(image).astype(np.int32)


def load_panoptic_png(source: str | PathLike[str] | bytes | Image.Image) -> NDArray[np.int32]:
    """Read a COCO panoptic PNG, where the segment number is R + 256·G + 65536·B: int32 (H, W)."""
    name = _name(source)
    with _readable(name), _opened(source) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise ImageError(f"{name}: expected a panoptic PNG in RGB, got mode {image.mode}")
        rgb = np.asarray(image.convert("RGB")).astype(np.int32)
    segments: NDArray[np.int32] = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    return segments


def resize(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Resample to (height, width) with Pillow's antialiased bicubic filter."""
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def fit(size: tuple[int, int], short_side: int, multiple: int) -> tuple[int, int]:
    """The size nearest to (H, W) scaled so that its shorter side is ``short_side``, in multiples of ``multiple``.

    Rounding each side by itself changes the aspect ratio by less than one multiple, and keeps the feature grid over the
    image exactly, with no padding to keep track of.

    Raises:
        ImageError: an image so long and narrow that it would have more than :data:`MAX_PIXELS`.
    """
    scale = short_side / min(size)
    height, width = (max(1, round(side * scale / multiple)) * multiple for side in size)
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"image of {size[1]}×{size[0]}: expected sides of a more usual ratio, got {width}×{height} pixels once the "
            f"shorter side is {short_side}. Cut it into parts, or take a smaller short_side."
        )
    return height, width


def within(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(H, W) scaled down so that the longer side is ``long_side``; as it is where it is no longer."""
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def content_hash(image: ImageArray) -> str:
    """Hexadecimal SHA-256 of the shape and the pixels; the same for the same picture in another file format."""
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _from_array(array: NDArray[np.generic]) -> ImageArray:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
        raise ImageError(
            f"image array: expected a non-empty uint8 (H, W, 3), got {array.dtype.name} {array.shape}. "
            "Scale floats to 0…255 and convert with .astype(numpy.uint8)."
        )
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise ImageError(f"image array: expected 3 channels last (H, W, 3), got {array.shape}")
    if array.ndim == 3 and array.shape[2] == 3:
        return np.array(array, np.uint8, order="C")
    return np.array(_as_rgb(Image.fromarray(np.ascontiguousarray(array, np.uint8))), np.uint8)


@contextmanager
def _opened(source: str | PathLike[str] | bytes | Image.Image) -> Iterator[Image.Image]:
    """The image, not yet decoded; the file is closed afterwards, a caller's own image is left open."""
    if isinstance(source, Image.Image):
        yield source
        return
    with ExitStack() as stack:
        file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(Path(source).open("rb"))
        yield Image.open(file)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a channel, one channel; Pillow itself would clip it to white
        wide = np.asarray(image).astype(np.float64)
        image = Image.fromarray(np.round(wide / 257 if wide.max() > 255 else wide).astype(np.uint8))
    if image.mode == "F":
        raise ImageError("expected 8 or 16 bits a channel, got floating point. Scale it to 0…255 and pass uint8.")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | PathLike) else type(source).__name__


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Pillow reports unreadable files in many ways; here they are one."""
    try:
        with warnings.catch_warnings():
            # Our own limit is lower than the size that Pillow warns about.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    except FileNotFoundError:
        raise ImageError(f"{name}: expected an image file, got no such file") from None
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageError(f"{name}: expected an image that Pillow can read, got: {error}") from error
    except ImageError as error:
        raise error if str(error).startswith(name) else ImageError(f"{name}: {error}") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{name}: unreadable or truncated image: {error}") from error
