"""Images and label maps from files, bytes and arrays, in the one form that the rest of the package takes."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from knnseg.data.arrays import ImageArray, narrow, plain
from knnseg.errors import ImageError

__all__ = [
    "MASK_SIDE",
    "MAX_PIXELS",
    "ImageLike",
    "fit",
    "load_annotated",
    "load_colour_map",
    "load_image",
    "load_label_map",
    "load_panoptic_png",
    "resize",
    "within",
]

ImageLike: TypeAlias = "str | PathLike[str] | bytes | Image.Image | NDArray[np.uint8]"

MAX_PIXELS = 64_000_000
"""Images with more pixels are refused before they are decoded: a few kilobytes of PNG can claim gigabytes."""

_ORIENTATION, _SAMPLE_FORMAT = 0x0112, 0x0153
"""Numbers of tags."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright."""
_BACK = _TURNS | {6: _TURNS[8], 8: _TURNS[6]}
"""And what undoes that."""

_EXACT = ("PNG", "TIFF", "BMP", "GIF", "PPM")
"""Formats that keep each sample as it is, unless compressed otherwise, see :data:`_EXACT_TIFF`."""
_EXACT_TIFF = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd")
_SCALE = "Scale it to 0…255 and pass uint8."
_STEPS = dict.fromkeys(("1", "L", "P", "P;1", "P;2", "P;4", "I;16", "I;16B", "I;16N", "I;16S", "I;16BS"), 1)
_STEPS |= dict.fromkeys(("I;32N", "I;32S", "I;32BS", "RGB", "RGBA"), 1) | {"L;2": 85, "L;4": 17}
"""By which number Pillow multiplies the samples of what it calls a raw mode, where that is all that it does."""


MASK_SIDE = 2048
"""Masks of networks are made on a grid of at most this many cells a side. No published network sees more pixels, and at
the twelve million of a phone's photograph a hundred soft masks would not fit into memory."""


def load_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS, upright: bool = True) -> ImageArray:
    """Read an image as a person would see it.

    It is turned as its EXIF orientation says; grey, palette, CMYK and 16-bit images are converted to 8-bit RGB;
    transparency is laid on white; of an animation the first frame is taken.

    Args:
        source: a path, the bytes of a file, a PIL image, or a uint8 array (H, W, 3), (H, W) or (H, W, 4).
        max_pixels: refuse larger images.
        upright: turn the image; some data sets annotate the pixels as they are stored, see :func:`load_annotated`.

    Returns:
        uint8 (H, W, 3), RGB, C-contiguous, not shared with ``source``.

    Raises:
        ImageError: unreadable, truncated, empty, too large, or an array of another form.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    with _opened(source, max_pixels) as image:
        return np.array(_as_rgb(_turned(image, upright)), np.uint8)


def load_annotated(source: ImageLike, size: tuple[int, ...], *, max_pixels: int = MAX_PIXELS) -> ImageArray:
    """Read the image that a map of ``size`` (H, W) was drawn on.

    That is the image as a person would see it; but where only the pixels as they are stored have the size of the map,
    they are taken. Orientations that keep the size, such as half a turn, cannot be told like this: their maps are
    taken as drawn on what a person sees.

    Args:
        source: as for :func:`load_image`.
        size: of the map.
        max_pixels: refuse larger images.

    Returns:
        As :func:`load_image`; of another size than the map where neither fits.
    """
    image = load_image(source, max_pixels=max_pixels)
    if image.shape[1::-1] == size != image.shape[:2]:
        return load_image(source, max_pixels=max_pixels, upright=False)
    return image


def load_label_map(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.int32]:
    """Read a single-channel label map: int32 (H, W), each pixel the number that is stored for it.

    Args:
        source: a path or the bytes of a PNG, TIFF, BMP, GIF or PGM: grey of 1, 2, 4, 8 or 16 bits, or palette indices;
            a PIL image; or an integer array (H, W).
        max_pixels: refuse larger maps.

    Raises:
        ImageError: unreadable, an image of several channels or frames, of a format that does not keep numbers as they
            are, such as JPEG; or an array of another form.
    """
    if isinstance(source, np.ndarray):
        return narrow(source, "label map", ImageError)
    with _opened(source, max_pixels) as image:
        if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
            raise ImageError("label map", expected="one channel", got=f"mode {image.mode}")
        step, is_unsigned = _step(image), _sample_format(image) == 1
        values = np.asarray(_turned(image, True)).astype(np.int32) // step
        if is_unsigned and values.min() < 0:  # Pillow has no 32 bits without a sign
            raise ImageError("label map", expected="numbers below 2³¹", got="larger ones")
        return values


def load_panoptic_png(source: str | PathLike[str] | bytes | Image.Image) -> NDArray[np.int32]:
    """Read a COCO panoptic PNG, where the segment number is R + 256·G + 65536·B: int32 (H, W).

    Raises:
        ImageError: as for :func:`load_label_map`, but of three channels of 8 bits, or four.
    """
    with _opened(source, MAX_PIXELS) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise ImageError("panoptic PNG", expected="RGB", got=f"mode {image.mode}")
        return _packed(image)


def load_colour_map(source: str | PathLike[str] | bytes | Image.Image) -> NDArray[np.int32]:
    """Read a map whose colours mean something, in RGB or with a palette: int32 (H, W), R + 256·G + 65536·B.

    Raises:
        ImageError: as for :func:`load_label_map`, but of three channels of 8 bits, four, or one with a palette.
    """
    with _opened(source, MAX_PIXELS) as image:
        if image.mode not in ("RGB", "RGBA", "P"):
            raise ImageError("map in colours", expected="RGB or a palette", got=f"mode {image.mode}")
        return _packed(image)


def _packed(image: Image.Image) -> NDArray[np.int32]:
    """R + 256·G + 65536·B of each pixel."""
    _step(image)
    turned = _turned(image, True)
    rgb = np.asarray(turned.convert("RGB") if turned.mode == "P" else turned)[..., :3].astype(np.int32)
    packed: NDArray[np.int32] = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
    return packed


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
            f"image of {size[1]}×{size[0]}",
            expected="sides of a more usual ratio",
            got=f"{width}×{height} pixels once the shorter side is {short_side}",
            hint="Cut it into parts, or take a smaller short_side.",
        )
    return height, width


def within(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(H, W) scaled down so that the longer side is ``long_side``; unchanged where it is not longer."""
    scale = min(1.0, long_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _from_array(array: NDArray[np.generic]) -> ImageArray:
    array = plain(array, "image array", ImageError)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not array.size:
        raise ImageError(
            "image array",
            expected="a non-empty uint8 (H, W, 3)",
            got=f"{array.dtype.name} {array.shape}",
            hint="Scale floats to 0…255 and convert with .astype(numpy.uint8).",
        )
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise ImageError("image array", expected="3 channels last (H, W, 3)", got=array.shape)
    if array.ndim == 3 and array.shape[2] == 3:
        return np.array(array, np.uint8, order="C")
    return np.array(_as_rgb(Image.fromarray(np.ascontiguousarray(array, np.uint8))), np.uint8)


@contextmanager
def _opened(source: object, max_pixels: int) -> Iterator[Image.Image]:
    """The image, not yet decoded; the file is closed afterwards, a caller's own image is left open.

    Raises:
        ImageError: whatever goes wrong while it is open, since Pillow reports unreadable files in many ways.
    """
    if not isinstance(source, str | PathLike | bytes | Image.Image):
        raise ImageError("image", expected="a path, bytes, a PIL image or an array", got=type(source).__name__)
    name = _name(source)
    with _readable(name), ExitStack() as stack:
        if isinstance(source, Image.Image):
            image = source
        else:
            file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(Path(source).open("rb"))
            image = Image.open(file)
        if image.width * image.height > max_pixels:
            got, hint = f"{image.width}×{image.height}", "Pass max_pixels to load it all the same."
            raise ImageError("image", expected=f"at most {max_pixels:,} pixels", got=got, hint=hint)
        yield image


def _turned(image: Image.Image, upright: bool) -> Image.Image:
    """The image decoded, and upright or as it is stored."""
    turned_by_pillow = image.format == "TIFF"
    orientation = _orientation(image) if turned_by_pillow else 1  # Pillow forgets it once it has turned the image
    image.load()
    orientation = orientation if turned_by_pillow else _orientation(image)
    if upright == turned_by_pillow:
        return image
    turn = (_TURNS if upright else _BACK).get(orientation)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 too where the EXIF data are damaged, of which nothing else is read: the picture may be whole."""
    try:
        value = image.tag_v2.get(_ORIENTATION) if hasattr(image, "tag_v2") else image.getexif().get(_ORIENTATION)
    except Exception:  # whatever Pillow makes of bytes that mean nothing
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def _step(image: Image.Image) -> int:
    """The number that decoding multiplies each sample of an image by, asked before it is decoded.

    Raises:
        ImageError: decoding does something else to them.
    """
    if image.format is None:  # made in memory, not read from a file
        return 1
    compression = image.info.get("compression") if image.format == "TIFF" else "raw"
    if image.format not in _EXACT or compression not in _EXACT_TIFF:
        got = f"{image.format} with compression {compression}" if image.format == "TIFF" else image.format
        hint = "Compression that loses a little makes other labels of it; export the original again."
        raise ImageError("labels", expected="a format that keeps every number, such as PNG", got=got, hint=hint)
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageError(
            "labels", expected="one map", got=f"{frames} frames or pages", hint="Save each to its own file."
        )
    modes = {_raw_mode(image, tile[0], tile[1], tile[3]) for tile in getattr(image, "tile", ())}
    if not modes:
        why = "Decoding may scale the numbers: pass its path, or numpy.asarray(image) where they are right."
        raise ImageError("labels", expected="an image that has not been decoded", hint=why)
    if not modes <= _STEPS.keys():
        raise ImageError("labels", expected="1, 2, 4, 8 or 16 bits, stored as they are", got=f"samples {sorted(modes)}")
    return max(_STEPS[mode] for mode in modes)


def _raw_mode(image: Any, codec: str, box: tuple[int, ...], args: Any) -> str:
    """How the samples of a tile are stored, in Pillow's words, which the names in :data:`_STEPS` are."""
    mode = str(args[0] if isinstance(args, tuple) else args)
    if codec == "gif":
        return image.mode if tuple(box) == (0, 0, *image.size) else "around a smaller frame"
    if codec not in ("zip", "raw", "libtiff", "bmp_rle"):
        return f"of {codec}"
    if image.format == "BMP" and codec == "raw" and mode in ("1", "L"):  # Pillow takes their number of bits for granted
        image.fp.seek(14)
        header = image.fp.read(16)
        bits = int.from_bytes(header[14:16] if header[0] >= 40 else header[10:12], "little")
        return mode if bits == {"1": 1, "L": 8}[mode] else f"{mode} of {bits} bits"
    if mode == "L" and _sample_format(image) != 1:
        return "L;S"
    return mode


def _sample_format(image: Image.Image) -> int:
    """1 for unsigned integers; of a TIFF what it says."""
    found = image.tag_v2.get(_SAMPLE_FORMAT, (1,)) if hasattr(image, "tag_v2") else (1,)
    return int(found[0])


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a channel, one channel; Pillow itself would clip it to white
        wide = np.asarray(image).astype(np.float64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageError("image", expected="8 or 16 bits a channel", got="more", hint=_SCALE)
        image = Image.fromarray(np.round(wide / 257 if wide.max() > 255 else wide).astype(np.uint8))
    if image.mode == "F":
        raise ImageError("image", expected="8 or 16 bits a channel", got="floating point", hint=_SCALE)
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")


class _WithoutWarnings:
    """Pillow does not warn: of sizes, where our own limit is lower, and of metadata, which nothing here depends on.

    ``warnings.catch_warnings`` must not be used by several threads, which read images here: one would put back what
    another had replaced. So there is one filter, of Pillow's modules alone, for as long as any thread reads.
    """

    def __init__(self) -> None:
        self._lock, self._reading = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            self._reading += 1
            # Again for each, since somebody else may have put back the filters of before.
            warnings.filterwarnings("ignore", module=r"PIL\.")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._reading -= 1
            if not self._reading:
                filters = cast("list[tuple[Any, ...]]", warnings.filters)
                filters[:] = [entry for entry in filters if getattr(entry[3], "pattern", "") != r"PIL\."]


_without_warnings = _WithoutWarnings()
if hasattr(os, "register_at_fork"):  # another thread may hold the lock while a process forks
    os.register_at_fork(after_in_child=_without_warnings.__init__)  # type: ignore[misc]


def _name(source: object) -> str:
    return str(source) if isinstance(source, str | PathLike) else type(source).__name__


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Everything that goes wrong as an ImageError that begins with the name."""
    try:
        with _without_warnings:
            yield
    except FileNotFoundError:
        raise ImageError(name, expected="an image file", got="no such file") from None
    except IsADirectoryError:
        raise ImageError(name, expected="an image", got="a folder in which there are none") from None
    except UnidentifiedImageError:  # its own words name an object of Python
        raise ImageError(name, expected="an image that Pillow can read", got="something else") from None
    except Image.DecompressionBombError as error:
        raise ImageError(name, expected="an image that Pillow can read", got=str(error)) from error
    except ImageError as error:
        raise ImageError.of(error, name) from error
    except Exception as error:  # struct.error, TypeError and more, by format and by what is damaged
        raise ImageError(f"{name}: unreadable or truncated image: {error or type(error).__name__}") from error
