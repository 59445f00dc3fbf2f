"""What a user points at: a file of annotations, or a folder of them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from knnseg.datasets._json import Node, read_json
from knnseg.datasets.folders import LabelledImages
from knnseg.errors import DatasetError
from knnseg.method.boxes import ByColours
from knnseg.stages.protocols import Prompted

__all__ = ["Boxes", "Format", "Source", "outliner", "read_xml", "tried", "wrong"]

T = TypeVar("T")
Boxes: TypeAlias = Literal["outline", "leave"] | Prompted


def outliner(name: str, way: Boxes) -> Prompted | None:
    """What makes masks of boxes or points; None where they are left out.

    Raises:
        DatasetError: another word, or an object that cannot.
    """
    if isinstance(way, str) and way in ("outline", "leave"):
        return ByColours() if way == "outline" else None
    if isinstance(way, Prompted):
        return way
    raise DatasetError(
        name, expected="outline, leave, or an object with the method masks(image, boxes, points)", got=repr(way)
    )


@dataclass(frozen=True)
class Source:
    """A file or a folder, opened once for all formats that look at it.

    Args:
        path: of the file or folder.
        images: folder of the images; None where nobody said.
        boxes: what becomes of boxes: ``"outline"`` the likely object inside, ``"leave"`` leaves them out, an object
            makes masks of them.
        stuff: classes that are stuff, whatever the file says.
        points: what becomes of points: ``"outline"`` a guess at the object around, ``"leave"`` leaves them out, an
            object makes masks of them.

    Raises:
        DatasetError: another word for ``boxes`` or ``points``.
    """

    path: Path
    images: str | PathLike[str] | None = None
    boxes: Boxes = "outline"
    stuff: frozenset[str] = frozenset()
    points: Boxes = "leave"

    def __post_init__(self) -> None:
        outliner("boxes", self.boxes)
        outliner("points", self.points)

    def files(self, ending: str) -> list[Path]:
        """The files with an ending, in order: those of the folder, or the file itself."""
        if self.path.is_dir():
            return sorted(p for p in self.path.iterdir() if p.suffix.lower() == ending and not p.name.startswith("."))
        return [self.path] if self.path.suffix.lower() == ending else []

    def only(self, ending: str) -> Path | None:
        """The file itself, or the only file of the folder with an ending; None where there is none, or several."""
        found = self.files(ending)
        return found[0] if len(found) == 1 else None

    @cached_property
    def json(self) -> Node | None:
        """The content of the file, or of the first JSON file of the folder; None where there is none.

        Raises:
            DatasetError: it is not JSON.
        """
        return self._first(".json", read_json)

    @cached_property
    def xml(self) -> ET.Element | None:
        """The same of XML."""
        return self._first(".xml", read_xml)

    def _first(self, ending: str, read: Callable[[Path], T]) -> T | None:
        """Of a folder the first file that can be read: one that is broken does not say what the others are."""
        for file in self.files(ending):
            try:
                return read(file)
            except DatasetError:
                if not self.path.is_dir():
                    raise
        return None

    def each(self, ending: str, read: Callable[[Path], T]) -> Iterator[T | DatasetError]:
        """What each file with an ending says, or what is wrong with it."""
        return (tried(read, file) for file in self.files(ending))

    def json_keys(self) -> frozenset[str]:
        """The keys of the JSON file, empty where it is not one with keys."""
        return (
            frozenset(self.json.value) if self.json is not None and isinstance(self.json.value, dict) else frozenset()
        )


def tried(read: Callable[[Path], T], file: Path) -> T | DatasetError:
    """What a file says, or what is wrong with it."""
    try:
        return read(file)
    except DatasetError as error:
        return error


class Format(Protocol):
    """A reader of what a tool writes; registered as ``register("annotations", name, factory)``."""

    title: str
    """What it is, for people."""

    def recognises(self, source: Source) -> bool:
        """Whether a file or folder is of this format. Looks at its form and does not judge what is wrong with it."""

    def open(self, source: Source) -> LabelledImages:
        """The labelled images. Reads the annotations, and no image yet.

        Raises:
            DatasetError: with the file, the place in it, what was expected and what was found.
        """


def read_xml(path: Path) -> ET.Element:
    """The root of an XML file.

    Raises:
        DatasetError: unreadable.
    """
    try:
        return ET.parse(path).getroot()  # noqa: S314  # expat refuses entities that grow since 2.4.1
    except (ET.ParseError, OSError, UnicodeDecodeError, ValueError) as error:
        raise DatasetError(path, expected="an XML file", got=str(error)) from error


def wrong(place: str, expected: str, got: Any) -> DatasetError:
    """The error for a value at a place of a file."""
    text = repr(got)
    return DatasetError(place, expected=expected, got=text if len(text) <= 80 else f"{text[:77]}…")
