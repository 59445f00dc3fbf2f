"""From a labelled image to rows of the store: masks, instance ids, and the fields kept beside each vector."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from knnseg.data.annotations import LabelledImage, positions
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.errors import skipping
from knnstore import EmbeddingStore, Filter

__all__ = [
    "CONTENT",
    "FIELDS",
    "Content",
    "ImageExamples",
    "append_rows",
    "boxes_of",
    "contents",
    "described",
    "identity",
    "readable",
    "segment_masks",
    "stored_contents",
]

Content: TypeAlias = tuple[str, str, str]
"""Image hash, concept, and mask."""
CONTENT = ["image_hash", "label", "rle", "x0", "y0", "x1", "y1", "area"]
"""The fields that tell what a row shows."""

FIELDS: dict[str, type[str] | type[int] | type[float] | type[bool]] = {
    "label": str, "thing": bool, "image": str, "image_hash": str, "x0": int, "y0": int, "x1": int, "y1": int,
    "area": int, "coverage": float, "rle": str, "writer": str, "added": float, "whole": str,
}  # fmt: skip
"""What is kept beside each vector: the key of the concept, its first name (see naming.py); thing or stuff; where the
image is, and the SHA-256 of its pixels; the box (x1, y1 exclusive) and area in pixels; coverage in cells; the mask as
COCO RLE or ""; who added it; when, as seconds since the epoch; and of a part the id of its whole (see parts.py), or
""."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageExamples:
    """The usable segments of one image, on their way into the store; columns of N.

    Args:
        image: the image.
        masks: the N masks.
        labels: the keys of their concepts.
        things: whether each is a countable object.
        rles: the masks as COCO RLE.
        ids: the instance ids.
        first_ids: those under which they were added if that was before their concept got another name.
        boxes: x0, y0, x1, y1 and area of the masks, pixels.
        wholes: the id of what each is a part of, "" for what is no part.
    """

    image: Image
    masks: Masks
    labels: list[str]
    things: list[bool]
    rles: list[str]
    ids: list[str]
    first_ids: list[str]
    boxes: tuple[list[int], ...]
    wholes: list[str]

    def contents(self, name: Callable[[str], str]) -> list[tuple[Content, Content]]:
        """See :func:`contents`."""
        hashes = [self.image.content_hash] * len(self.ids)
        columns = {"image_hash": hashes, "label": self.labels, "rle": self.rles}
        return contents(columns | dict(zip(("x0", "y0", "x1", "y1", "area"), self.boxes, strict=True)), name)


def readable(
    images: Iterable[LabelledImage],
    failed: list[str],
    *,
    strict: bool = False,
    done: Container[int] = (),
    limit: int | None = None,
) -> Iterator[tuple[int, LabelledImage]]:
    """Each image with its place, from 0; of a sequence, those that cannot be read are left out.

    A generator that raises has ended, so what it raises is raised here too.

    Args:
        images: in any number.
        failed: gets the reason for each that is left out.
        strict: raise at the first that cannot be read.
        done: places that are left out, and of a sequence not even read.
        limit: only the first ones.
    """
    if not isinstance(images, Sequence):
        yield from ((n, image) for n, image in enumerate(itertools.islice(images, limit)) if n not in done)
        return
    for n in range(len(images))[:limit]:
        read: list[LabelledImage] = []
        if n not in done:
            with skipping(failed, strict=strict):
                read.append(images[n])
        if read:
            yield n, read.pop()


def segment_masks(example: LabelledImage, numbers: list[int]) -> Masks:
    """One mask for each segment number, in order; empty where the map does not have it."""
    rows = positions(example.segments, numbers).reshape(-1)
    pixels = np.flatnonzero(rows >= 0)
    return Masks.from_pixels(rows[pixels], pixels, len(numbers), example.segments.shape)


def described(
    image: Image, masks: Masks, names: list[str], things: list[bool], keys: Mapping[str, str]
) -> ImageExamples:
    """Hash the picture, encode the masks, and give each instance its id.

    Args:
        image: the image.
        masks: N of them.
        names: the concept of each.
        things: whether each is a countable object.
        keys: of the concepts.
    """
    labels = [keys[name] for name in names]
    digest = image.content_hash
    rles = masks.to_rle()
    ids, first = (
        [identity(digest, rle, label) for rle, label in zip(rles, each, strict=True)] for each in (labels, names)
    )
    return ImageExamples(image, masks, labels, things, rles, ids, first, boxes_of(rles, masks.size), [""] * len(ids))


def boxes_of(rles: Sequence[str], size: tuple[int, int]) -> tuple[list[int], ...]:
    """x0, y0, x1, y1 and area of masks in COCO RLE, pixels."""
    coded = [{"size": list(size), "counts": rle.encode("ascii")} for rle in rles]
    x, y, w, h = np.asarray(coco_mask.toBbox(coded), np.int64).reshape(-1, 4).T
    areas = np.asarray(coco_mask.area(coded), np.int64).reshape(-1)
    return tuple(column.tolist() for column in (x, y, x + w, y + h, areas))


def identity(origin: str, rle: str, label: str) -> str:
    """40 hexadecimal digits: the same picture, mask and label are the same instance, in any store and any space."""
    text = "\0".join((origin, rle, label))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def contents(
    fields: Mapping[str, Sequence[Any] | NDArray[Any]], name: Callable[[str], str] = str
) -> list[tuple[Content, Content]]:
    """What rows show, whatever their ids: picture, concept and mask, and the same with the mask's box and area only.

    The second is for rows that keep no mask.

    Args:
        fields: the columns of :data:`CONTENT`.
        name: of the concept with a key; the key itself by default.
    """
    return [
        ((str(image), name(label), str(rle)), (str(image), name(label), " ".join(map(str, box))))
        for image, label, rle, *box in zip(*(list(fields[column]) for column in CONTENT), strict=True)
    ]


def stored_contents(store: EmbeddingStore, where: Filter, name: Callable[[str], str]) -> set[Content]:
    """The contents of rows of a store, with the names of their concepts; without a mask by its box and area."""
    return {
        exact if exact[2] else coarse
        for records in store.scan(where, fields=CONTENT)
        for exact, coarse in contents(records.fields, name)
    }


def append_rows(
    columns: dict[str, list[object]], examples: ImageExamples, rows: list[int],
    coverage: NDArray[np.float32], keep_masks: bool, writer: str,
) -> None:  # fmt: skip
    """Append the fields of some examples to the columns of a write.

    Args:
        columns: a list for each of :data:`FIELDS`.
        examples: the examples of one image.
        rows: which of them.
        coverage: float32, the coverage of each of those, in cells.
        keep_masks: store the masks as RLE.
        writer: who adds.
    """
    now = time.time()
    for i, covered in zip(rows, coverage.tolist(), strict=True):
        values = (
            examples.labels[i], examples.things[i], examples.image.uri, examples.image.content_hash,
            *(column[i] for column in examples.boxes), covered, examples.rles[i] if keep_masks else "", writer, now,
            examples.wholes[i],
        )  # fmt: skip
        for name, value in zip(FIELDS, values, strict=True):
            columns[name].append(value)
