"""Pictures of examples: one with its outline, or many of a concept on a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from knnseg.data.image import Image
from knnseg.database.concepts import ConceptDatabase
from knnseg.database.examples import SHORT, Example, Examples
from knnseg.database.originals import Originals, StoredImage
from knnseg.errors import DatasetError

__all__ = ["contact_sheet", "crops", "show"]

_CONTEXT = 0.25
"""What is shown around the box of a mask, as a share of its longer side."""
_SMALLEST = 8
"""Pixels that are shown around at least."""
_INNER, _OUTER = (255, 255, 0), (0, 0, 0)
"""An outline of two lines is seen on any ground."""
_GAP = 8
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


def show(
    database: ConceptDatabase, identity: str, originals: Originals | None = None, *, size: int = 512
) -> Pillow.Image:
    """One example: a crop of its image with the outline of its mask, or its box where the mask was not kept.

    Args:
        database: that has it.
        identity: the id of the example.
        originals: finds the image; by default where it was when the example was added.
        size: of the longer side, pixels.

    Raises:
        DatasetError: there is no such example, or its image is not found any more.
    """
    examples = database.examples(ids=[identity])
    if not len(examples):
        raise DatasetError("example", expected="the id of an example that is there", got=repr(identity))
    ((_, picture),) = crops(database, examples, originals, size=size)
    if isinstance(picture, str):
        raise DatasetError(f"example {identity[:SHORT]}: {picture}; {(originals or Originals()).advice}")
    return picture


def crops(
    database: ConceptDatabase, examples: Examples, originals: Originals | None = None, *, size: int = 512
) -> Iterator[tuple[int, Pillow.Image | str]]:
    """A picture of each example with its place in ``examples``, or the reason why there is no picture.

    They come image by image, since an image is read once for all of its examples; one at a time is in memory.
    """
    finder = originals or Originals()
    rows: dict[str, list[int]] = {}
    for i, digest in enumerate(examples.image_hash.tolist()):
        rows.setdefault(digest, []).append(i)
    for digest, places in rows.items():
        records = database.store.get([examples[i].id for i in places], with_vectors=False)
        stored = StoredImage(digest, records)
        image = finder.find(stored) if len(records) else None
        found = {identity: row for row, identity in enumerate(records.ids.tolist())}
        for i in places:
            row = found.get(examples[i].id)
            if image is None or row is None:
                yield i, finder.reason(stored) if len(records) else "it was deleted in this moment"
            else:
                mask = stored.masks([row], image.size)[0] if records.fields["rle"][row] else None
                yield i, _outlined(image, examples[i], mask, size)


def _outlined(image: Image, example: Example, mask: NDArray[np.bool_] | None, size: int) -> Pillow.Image:
    x0, y0, x1, y1 = example.box
    around = max(_SMALLEST, round(_CONTEXT * max(x1 - x0, y1 - y0)))
    height, width = image.size
    left, top = max(0, x0 - around), max(0, y0 - around)
    right, bottom = min(width, x1 + around), min(height, y1 + around)
    if mask is None:
        mask = np.zeros(image.size, bool)
        mask[y0:y1, x0:x1] = True
    zoom = size / max(right - left, bottom - top)
    scaled = (max(1, round((right - left) * zoom)), max(1, round((bottom - top) * zoom)))
    method = Pillow.Resampling.LANCZOS if zoom < 1 else Pillow.Resampling.BICUBIC
    crop = Pillow.fromarray(image.pixels[top:bottom, left:right]).resize(scaled, method)
    inside = np.asarray(Pillow.fromarray(mask[top:bottom, left:right]).resize(scaled, Pillow.Resampling.NEAREST))
    pixels = np.array(crop)
    line = max(1, size // 160)
    grown = _grown(inside, line)
    pixels[_grown(grown, line) & ~grown] = _OUTER
    pixels[grown & ~inside] = _INNER
    return Pillow.fromarray(pixels)


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    """The mask with all pixels that are at most so many from it, along rows and columns."""
    for _ in range(by):
        padded = np.pad(mask, 1)
        mask = padded[1:-1, 1:-1] | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return mask


def contact_sheet(
    database: ConceptDatabase,
    examples: Examples,
    originals: Originals | None = None,
    *,
    title: str = "",
    columns: int = 6,
    size: int = 200,
) -> Pillow.Image:
    """A grid of examples with their outlines, in order, each with its number and the beginning of its id below it.

    Args:
        database: that has them.
        examples: such as ``database.examples(concept="kettle", limit=60)``, newest first.
        originals: finds the images; where one is not found, its place says so.
        title: above the grid.
        columns: examples in a row.
        size: of the longer side of each, pixels.
    """
    columns = max(1, min(columns, len(examples)))
    font, large = ImageFont.load_default(13), ImageFont.load_default(18)
    cell_width, cell_height = size + _GAP, size + 2 * 16 + _GAP
    head = 36 if title else _GAP
    rows = -(-len(examples) // columns)
    sheet = Pillow.new("RGB", (columns * cell_width + _GAP, head + rows * cell_height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 8), title, fill="black", font=large)
    for i, picture in crops(database, examples, originals, size=size):
        x, y = _GAP + i % columns * cell_width, head + i // columns * cell_height
        if isinstance(picture, str):
            draw.rectangle((x, y, x + size - 1, y + size - 1), fill=(235, 235, 235))
            draw.multiline_text((x + 6, y + 6), _wrapped(picture, font, size - 12), fill=(120, 0, 0), font=font)
        else:
            sheet.paste(picture, (x + (size - picture.width) // 2, y + (size - picture.height) // 2))
        said = [f"{i + 1}  {examples[i].id[:SHORT]}", examples[i].writer]
        for line, text in enumerate(said):
            draw.text((x, y + size + 2 + 16 * line), _cut(text, font, size), fill="black", font=font)
    return sheet


def _cut(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _wrapped(text: str, font: Font, width: int) -> str:
    """A text in lines that fit, cut between any two letters since paths have no spaces."""
    lines = [""]
    for letter in text:
        if font.getlength(lines[-1] + letter) > width:
            lines.append("")
        lines[-1] += letter
    return "\n".join(lines[:10])
