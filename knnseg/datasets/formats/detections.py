"""What other libraries have in memory, as a labelled image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from knnseg.data.annotations import LabelledImage
from knnseg.data.arrays import plain
from knnseg.data.image import Image
from knnseg.data.reading import ImageLike
from knnseg.data.vocabulary import tidied
from knnseg.datasets.formats.shapes import Bitmap, Box, Geometry, Shape, drawn
from knnseg.datasets.formats.source import Boxes, outliner
from knnseg.errors import DatasetError, MaskError, VocabularyError

__all__ = ["Detected", "from_detections"]


class Detected(Protocol):
    """What ``supervision.Detections`` has: ``xyxy`` (N, 4), and where it knows them ``mask`` bool (N, H, W),
    ``class_id`` int (N,) and names in ``data["class_name"]``.
    """

    xyxy: Any
    mask: Any
    class_id: Any
    data: Any


def from_detections(
    image: Image | ImageLike,
    found: Detected,
    classes: Sequence[str] = (),
    *,
    stuff: Iterable[str] = (),
    boxes: Boxes = "outline",
    uri: str = "",
) -> LabelledImage:
    """Detections as a labelled image, of which the smaller lies on top where they overlap.

    Args:
        image: as for :meth:`knnseg.Segmenter.predict`.
        found: ``supervision.Detections``, or an object like it.
        classes: what ``class_id`` means, where there is no ``data["class_name"]``.
        stuff: classes that are stuff; the others are countable things.
        boxes: what becomes of detections without masks, as for :func:`~knnseg.datasets.open_annotations`.
        uri: where the image comes from; by default the path that was given.

    Raises:
        DatasetError: another word for ``boxes``, or detections without masks and boxes to leave.
        VocabularyError: detections without a name.
        MaskError: masks of another size than the image.
    """
    way = outliner("boxes", boxes)
    if found.mask is None and way is None:
        raise DatasetError("boxes", expected="outline for detections without masks", got=repr(boxes))
    picture, names, loose = Image.read(image), _names(found, classes), {tidied(name) for name in stuff}
    shapes = [Shape(name, form, name not in loose) for name, form in zip(names, _forms(found, picture), strict=True)]
    if not uri and isinstance(image, str | PathLike):
        uri = Path(image).absolute().as_uri()
    return drawn(picture.pixels, shapes, uri or "detections", {Box: way}, uri)


def _names(found: Detected, classes: Sequence[str]) -> list[str]:
    given = (found.data or {}).get("class_name")
    if given is not None:
        return [tidied(str(name)) for name in given]
    numbers = [] if found.class_id is None else plain(found.class_id, "class_id").tolist()
    if len(numbers) != len(found.xyxy) or not all(0 <= number < len(classes) for number in numbers):
        raise VocabularyError(
            "detections",
            expected="data['class_name'], or class_id with names in `classes`",
            got=f"class_id {numbers[:8]} and {len(classes)} names",
        )
    return [tidied(classes[number]) for number in numbers]


def _forms(found: Detected, picture: Image) -> list[Geometry]:
    if found.mask is None:
        return [Box(x0, y0, x1, y1) for x0, y0, x1, y1 in plain(found.xyxy, "xyxy").astype(float).tolist()]
    masks = plain(found.mask, "masks", MaskError)
    if masks.shape[1:] != picture.size:
        raise MaskError("detections", expected=f"masks of {picture.size} like the image", got=masks.shape[1:])
    return [Bitmap(np.asarray(mask, bool)) for mask in masks]
