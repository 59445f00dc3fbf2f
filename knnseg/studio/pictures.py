"""Small pictures: photographs that fit a screen, and examples cut out of the photograph that they were drawn on."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy.ndimage import binary_dilation

from knnseg.data.arrays import ImageArray
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.reading import resize, within
from knnseg.database.originals import Originals, StoredImage
from knnseg.studio.remembered import Remembered
from knnstore import EmbeddingStore

__all__ = ["Crops", "cut_out", "data_uri", "jpeg", "shrunk"]

_CROP = 144
"""Pixels of the longer side of an example's picture."""
_MARGIN = 0.2
"""Of its surroundings, as a share of the longer side of its box."""
_CROPS, _ORIGINALS = 2000, 4
"""Pictures of examples, and photographs that they were cut from, that are remembered."""


def shrunk(pixels: ImageArray, side: int) -> ImageArray:
    """The image with at most ``side`` pixels on its longer side."""
    return resize(pixels, within((pixels.shape[0], pixels.shape[1]), side))


def jpeg(pixels: ImageArray) -> bytes:
    """The bytes of a JPEG file."""
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "JPEG", quality=88)
    return file.getvalue()


def data_uri(picture: bytes) -> str:
    """A JPEG as the source of an ``img``."""
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")


def cut_out(pixels: ImageArray, mask: NDArray[np.bool_] | None, box: tuple[int, int, int, int]) -> ImageArray:
    """The part of an image around a box, what is outside of the mask dimmed, and a line around the mask.

    Args:
        pixels: uint8 (H, W, 3).
        mask: bool (H, W); None where it was not kept.
        box: (x0, y0, x1, y1), pixels, the last two exclusive.
    """
    margin = max(4, round(_MARGIN * max(box[2] - box[0], box[3] - box[1])))
    part = np.s_[max(box[1] - margin, 0) : box[3] + margin, max(box[0] - margin, 0) : box[2] + margin]
    small = shrunk(pixels[part], _CROP)
    if mask is None:
        return small
    inside = np.asarray(Picture.fromarray(mask[part]).resize((small.shape[1], small.shape[0]))) > 0
    shown = np.where(inside[..., None], small, (small * 0.45).astype(np.uint8))
    shown[binary_dilation(inside) & ~inside] = 255
    return shown


class Crops:
    """Pictures of stored examples, by their ids.

    Args:
        store: of the concept database.
        originals: finds the photographs.
    """

    def __init__(self, store: EmbeddingStore, originals: Originals) -> None:
        self._store, self._originals = store, originals
        self._made: Remembered[str, bytes | None] = Remembered(_CROPS)
        self._images: Remembered[str, Image | None] = Remembered(_ORIGINALS)

    def picture(self, identity: str) -> bytes | None:
        """A JPEG, or None where there is no such example, or its photograph is not where it was."""
        return self._made.get(identity, lambda: self._picture(identity))

    def _picture(self, identity: str) -> bytes | None:
        records = self._store.get([identity], with_vectors=False)
        if not len(records):
            return None
        stored = StoredImage(str(records.fields["image_hash"][0]), records)
        image = self._images.get(stored.image_hash, lambda: self._originals.find(stored))
        if image is None:
            return None
        x0, y0, x1, y1 = (int(records.fields[name][0]) for name in ("x0", "y0", "x1", "y1"))
        rle = str(records.fields["rle"][0])
        mask = Masks.from_rle([rle], image.size)[0] if rle else None
        return jpeg(cut_out(image.pixels, mask, (x0, y0, x1, y1)))
