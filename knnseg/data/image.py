"""An image as it flows through the stages: its pixels, where it comes from, and what was already computed from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from typing import TypeGuard, TypeVar, cast

import numpy as np
from PIL.Image import Image as Picture

from knnseg.data.arrays import ImageArray, expect
from knnseg.data.listing import several
from knnseg.data.reading import MAX_PIXELS, ImageLike, load_image

__all__ = ["Image", "are_several", "content_hash", "each_image", "each_once"]

T = TypeVar("T")

_KEPT = 8
"""Results remembered for an image: a pipeline has three stages, and they share what they can."""


class Image:
    """A picture, immutable, with what has been computed from it, which goes when the image goes.

    Args:
        pixels: uint8 (H, W, 3), RGB; not copied, and read-only from here.
        uri: where it comes from, "" for an image that did not come from a file.

    Raises:
        ShapeError: an array of another form. :meth:`read` takes files, bytes, PIL images and other arrays.
    """

    __slots__ = ("_hash", "_results", "pixels", "uri")

    pixels: ImageArray
    uri: str

    def __init__(self, pixels: ImageArray, uri: str = "") -> None:
        expect(pixels, "Image.pixels", np.uint8, 3)
        view = pixels.view()
        view.flags.writeable = False
        self.pixels, self.uri = view, uri
        self._hash = ""
        self._results: dict[str, object] = {}

    @classmethod
    def read(cls, source: Image | ImageLike, *, max_pixels: int = MAX_PIXELS) -> Image:
        """Take an image as it is, or read what :func:`knnseg.load_image` reads.

        Raises:
            ImageError: see there.
        """
        if isinstance(source, Image):
            return source
        return cls(load_image(source, max_pixels=max_pixels), str(source) if isinstance(source, str | PathLike) else "")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    @property
    def content_hash(self) -> str:
        """See :func:`content_hash`; computed once."""
        self._hash = self._hash or content_hash(self.pixels)
        return self._hash

    def result(self, key: str) -> object | None:
        """What was computed from this image before under a key, None for nothing."""
        return self._results.get(key)

    def keep(self, key: str, result: object) -> None:
        """Remember what was computed, in place of the oldest result where there are many."""
        self._results[key] = result
        for old in list(self._results)[:-_KEPT]:
            self._results.pop(old, None)

    def __repr__(self) -> str:
        return f"<Image {self.size[0]}×{self.size[1]}{f' {self.uri}' if self.uri else ''}>"


def content_hash(pixels: ImageArray) -> str:
    """Hexadecimal SHA-256 of the shape and the pixels; the same for the same picture in another file format."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def each_once(images: Sequence[Image], key: str, make: Callable[[list[Image]], Sequence[T]]) -> list[T]:
    """A result for each image, made in one call for those that do not have it yet.

    Args:
        images: of a batch; the same one may be there twice.
        key: what the results are remembered under.
        make: from images to their results, in order.
    """
    missing = list(dict.fromkeys(image for image in images if image.result(key) is None))
    made = dict(zip(missing, make(missing) if missing else (), strict=True))
    for image, result in made.items():
        image.keep(key, result)
    return [made[image] if image in made else cast(T, image.result(key)) for image in images]


def are_several(images: object) -> TypeGuard[str | PathLike[str] | Iterable[Image | ImageLike]]:
    """Whether it stands for any number of images: an iterable, a folder or a pattern, see :func:`several`."""
    if isinstance(images, str | PathLike):
        return bool(several(images))
    return isinstance(images, Iterable) and not isinstance(images, Image | bytes | np.ndarray | Picture)


def each_image(images: Image | ImageLike | Iterable[Image | ImageLike]) -> Iterator[Image | ImageLike]:
    """One image after the other, those of folders and patterns in their place."""
    if isinstance(images, str | PathLike) or not are_several(images):
        images = [images]  # type: ignore[list-item]  # one image, or what reading it will refuse
    for one in images:  # type: ignore[union-attr]
        yield from (several(one) if isinstance(one, str | PathLike) else []) or [one]  # type: ignore[list-item]
