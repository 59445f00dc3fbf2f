"""Files of a folder by their stems: one way to list them, so that every source of images leaves out the same ones."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from knnseg.errors import DatasetError

__all__ = ["IMAGES", "LABEL_MAPS", "Listing", "images_of", "listed", "several"]

LABEL_MAPS = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")
"""Endings of files that may be label maps; whether one is, its content says."""
IMAGES = (".jpg", ".jpeg", ".webp", ".jp2", ".avif", ".ppm", *LABEL_MAPS)
"""Endings of files that are images."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder has.

    Args:
        files: the path of each file of the wanted kind, by its name without the ending, in order of names.
        others: the names of the other files, in order.
    """

    files: dict[str, str]
    others: tuple[str, ...]


def listed(folder: str | PathLike[str], endings: Sequence[str]) -> Listing:
    """The files of a folder, without those of its subfolders. The case of an ending does not matter.

    Hidden files are left out, as if they were not there; among them are the companions ``._NAME`` that macOS lays
    beside the files of a foreign disk. Paths are strings, since making 60,000 ``Path`` takes a second.

    Args:
        folder: where to look.
        endings: of the names that are wanted, in lower case, of which the first that fits counts.

    Raises:
        DatasetError: no such folder, or two files of one stem, of which either could be meant.
    """
    files: dict[str, str] = {}
    others: list[str] = []
    for name, path in _entries(folder):
        ending = next((ending for ending in endings if name.lower().endswith(ending)), None)
        if ending is None:
            others.append(name)
            continue
        stem = name[: len(name) - len(ending)]
        if stem in files:
            raise DatasetError(
                folder,
                expected=f"one file for {stem}",
                got=f"{os.path.basename(files[stem])} and {name}",  # noqa: PTH119
                hint="Remove one; images and label maps belong in folders of their own.",
            )
        files[stem] = path
    return Listing(files, tuple(others))


def images_of(paths: Iterable[str | PathLike[str]]) -> list[Path]:
    """The paths, each once, with the images of a folder or a pattern in its place; see :func:`several`."""
    found: dict[Path, None] = {}
    for path in paths:
        found |= dict.fromkeys(several(path) or [Path(path)])
    return list(found)


def several(path: str | PathLike[str]) -> list[Path]:
    """The images that a folder has, or that fit a pattern such as ``photos/**/*.jpg``, in order of names.

    Nothing where the path is a file, and where there is no such image: whoever reads the path as an image then says
    what is wrong with it, as of any other.
    """
    text = os.fspath(path)
    if os.path.isdir(text):  # noqa: PTH112  # a path that is too long, or has a zero byte, is no folder
        try:
            return [Path(file) for name, file in _entries(text) if name.lower().endswith(IMAGES)]
        except DatasetError:
            return []
    if not glob.has_magic(text) or os.path.lexists(text):
        return []
    fitting = (Path(file) for file in glob.glob(text, recursive=True) if file.lower().endswith(IMAGES))  # noqa: PTH207
    return sorted(file for file in fitting if file.is_file())


def _entries(folder: str | PathLike[str]) -> list[tuple[str, str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e.name, e.path) for e in entries if not e.name.startswith(".") and not e.is_dir())
    except OSError as error:
        raise DatasetError(folder, expected="a folder", got=error.strerror) from error
