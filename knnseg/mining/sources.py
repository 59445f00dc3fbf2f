"""Images of which only the names of what they show are known, from wherever they come.

    kettle/1.jpg, kettle/2.jpg, zebra/1.jpg     a folder for each name
    image,name                                  a CSV file; an image that shows several things has several lines
    a plugin                                    registered as register("named_images", name, factory)

Nothing is downloaded here. What a plugin's source downloads needs limits, time-outs and a cache of its own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from knnseg.config import StageConfig
from knnseg.data.listing import images_of
from knnseg.data.vocabulary import tidy
from knnseg.errors import DatasetError
from knnseg.stages import registry as stages

__all__ = ["NamedImage", "NamedImages", "folders", "open_named", "table"]


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image and what it is known to show.

    Args:
        image: its path, or the bytes of its file.
        names: what it shows, among the names in question; empty for an image of something else.
    """

    image: Path | bytes
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(dict.fromkeys(tidy(name) for name in self.names if tidy(name))))


class NamedImages(Protocol):
    """What makes a source: a function with keyword arguments, of which ``names`` are the names that are wanted."""

    def __call__(self, *, names: Sequence[str]) -> Iterable[NamedImage]:
        """The images, each once, in any number; no more than are meant to be used."""


def open_named(source: str, names: Iterable[str] = ()) -> Iterator[NamedImage]:
    """Images with their names, restricted to those that are wanted.

    Args:
        source: a folder with a folder for each name, a CSV file, or the name of a registered source.
        names: the wanted ones; by default all that a folder or file has.

    Raises:
        DatasetError: no such folder or file, and no source of that name; or a file of another form.
        UnknownStageError: see :func:`knnseg.stages.registry.make`.
    """
    wanted = list(dict.fromkeys(map(tidy, names)))
    path = Path(source)
    if path.is_dir() or path.suffix.lower() == ".csv":
        found: Iterable[NamedImage] = (folders if path.is_dir() else table)(path)
    elif source in stages.names("named_images"):
        found = stages.make("named_images", StageConfig(source), names=wanted)
    else:
        known = ", ".join(stages.names("named_images")) or "none is registered"
        raise DatasetError(
            "images",
            expected=f"a folder with a folder for each name, a CSV file, or the name of a source ({known})",
            got=repr(source),
        )
    for one in found:
        yield one if not wanted else NamedImage(one.image, tuple(name for name in one.names if name in wanted))


def folders(path: Path) -> Iterator[NamedImage]:
    """A folder for each name; images beside these folders are of no name.

    Raises:
        DatasetError: no folder inside.
    """
    inside = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not inside:
        raise DatasetError(path, expected="a folder for each name", got="none inside")
    for folder in inside:
        for image in images_of([folder]):
            yield NamedImage(image, (folder.name,))
    if any(p.is_file() and not p.name.startswith(".") for p in path.iterdir()):
        for image in images_of([path]):
            yield NamedImage(image)


def table(path: Path) -> Iterator[NamedImage]:
    """A CSV file with the columns ``image`` and ``name``; a relative path counts from the folder of the file.

    An image that shows several things has a line for each. An empty name says that it shows something else.

    Raises:
        DatasetError: unreadable, or without these columns.
    """
    names: dict[Path, list[str]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if not {"image", "name"} <= set(rows.fieldnames or ()):
                raise DatasetError(path, expected="the columns image and name", got=str(rows.fieldnames))
            for row in rows:
                if not row["image"]:
                    raise DatasetError(f"{path}: line {rows.line_num}", expected="the path of an image", got="nothing")
                names.setdefault(path.parent / row["image"], []).append(row["name"] or "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: expected a CSV file with the columns image and name: {error}") from error
    if not names:
        raise DatasetError(path, expected="at least one image", got="none")
    for image, given in names.items():
        yield NamedImage(image, tuple(given))
