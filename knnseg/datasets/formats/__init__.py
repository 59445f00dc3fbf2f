"""Annotation files of the field and of labelling tools, behind one door.

    examples = open_annotations("export.json", images="photos")
    database.add(examples)

A format of one's own is an object like :class:`Format`, registered as ``register("annotations", name, factory)`` in the
hook of :mod:`knnseg.stages.hookspecs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from knnseg.config import StageConfig
from knnseg.data.vocabulary import tidied
from knnseg.datasets.folders import LabelledImages
from knnseg.datasets.formats.detections import from_detections
from knnseg.datasets.formats.shapes import (
    AnnotatedImage,
    Bitmap,
    Box,
    Drawn,
    Points,
    Polygons,
    RunLengths,
    Shape,
    ShapeFile,
)
from knnseg.datasets.formats.source import Boxes, Format, Source
from knnseg.errors import DatasetError
from knnseg.stages.registry import make, names
from knnstore.errors import did_you_mean

__all__ = [
    "AnnotatedImage",
    "Bitmap",
    "Box",
    "Boxes",
    "Drawn",
    "Format",
    "Points",
    "Polygons",
    "RunLengths",
    "Shape",
    "ShapeFile",
    "Source",
    "annotation_formats",
    "from_detections",
    "open_annotations",
]


def annotation_formats() -> dict[str, str]:
    """What each registered format is, by the name that ``open_annotations(format=…)`` takes."""
    return {name: make("annotations", StageConfig(name)).title for name in names("annotations")}


def open_annotations(
    path: str | PathLike[str],
    images: str | PathLike[str] | None = None,
    *,
    format: str = "",  # noqa: A002  # its name
    boxes: Boxes = "outline",
    stuff: Iterable[str] = (),
    points: Boxes = "leave",
) -> LabelledImages:
    """Open a file or folder of annotations, of whatever format it is.

    Args:
        path: what a tool has exported.
        images: folder of the images; by default beside the annotations, or in ``images`` there.
        format: one of :func:`annotation_formats`; "" recognises it.
        boxes: ``"outline"`` makes of a box the likely outline of what it was drawn around, ``"leave"`` leaves it out.
            An object with the method of :class:`knnseg.stages.protocols.Prompted` makes the masks instead, such as SAM.
        stuff: classes that are stuff, such as grass and sky; the others are countable things, unless a COCO file says
            otherwise.
        points: ``"outline"`` makes of a point a guess at the object that it is on, ``"leave"`` leaves it out; or an
            object as for ``boxes``.

    Returns:
        The labelled images; ``left_out`` of the result says what is left out, and ``outlined`` how much is guessed.

    Raises:
        DatasetError: another word for ``boxes`` or ``points``, nothing is there, no format recognises it or several do,
            or it is not as its tool writes it.
    """
    source = Source(Path(path), images, boxes, frozenset(map(tidied, stuff)), points)
    if not source.path.exists():
        raise DatasetError(path, expected="a file or folder of annotations", got="no such file")
    known = {name: make("annotations", StageConfig(name)) for name in names("annotations")}
    if format and format not in known:
        expected, hint = f"a format of {', '.join(known)}", did_you_mean(format, known)
        raise DatasetError("annotations", expected=expected, got=repr(format), hint=hint)
    fitting = [name for name, each in known.items() if each.recognises(source)] if not format else [format]
    if len(fitting) != 1:
        listed = "".join(f"\n    {name}: {each.title}" for name, each in known.items())
        got = f"what {' and '.join(fitting)} recognise" if fitting else "none of these"
        hint = f"{'Say which with `format`' if fitting else 'The formats are'}:{listed}"
        raise DatasetError(path, expected="annotations of one format", got=got, hint=hint)
    opened: LabelledImages = known[fitting[0]].open(source)
    return opened
