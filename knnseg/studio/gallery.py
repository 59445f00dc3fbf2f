"""The photographs that the page offers: those of a folder, and those that were dropped on it.

A photograph has an id, and only what is listed has one: no path ever comes from the page.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from PIL import Image as Picture

from knnseg.data.image import Image
from knnseg.data.listing import IMAGES
from knnseg.data.reading import load_image
from knnseg.errors import DatasetError, ImageError
from knnseg.studio.pictures import jpeg, shrunk
from knnseg.studio.remembered import Remembered

__all__ = ["Gallery", "Photograph"]

Stamp: TypeAlias = tuple[str, int, int]
"""The name of a file, when it was changed, and its size; zeros for a dropped photograph."""

_DROPPED = 16
"""Dropped photographs that are remembered; the oldest goes when there are more."""
_READ = 4
"""Photographs whose pixels, and what was computed of them, are remembered."""
_THUMBNAIL = 200
"""Pixels of the longer side."""
_THUMBNAILS = 1000
"""Of them are remembered."""
_ENDINGS = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}


@dataclass(frozen=True, slots=True)
class Photograph:
    """One of them.

    Args:
        id: what the page calls it by.
        name: of its file.
        kept: it lies in the folder; otherwise it was dropped on the page and is in memory only.
    """

    id: str
    name: str
    kept: bool


class Gallery:
    """The photographs of a folder, without its subfolders, and the dropped ones.

    Args:
        folder: where photographs lie, and where a dropped one goes when something on it was taught.

    Raises:
        DatasetError: it is not a folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DatasetError("images", expected="a folder", got=folder)
        self._folder = folder.absolute()
        self._names: dict[str, str] = {}
        self._dropped: Remembered[str, bytes] = Remembered(_DROPPED)
        self._images: Remembered[Stamp, Image] = Remembered(_READ)
        self._thumbnails: Remembered[Stamp, bytes] = Remembered(_THUMBNAILS)

    def listed(self) -> list[Photograph]:
        """What there is now: the dropped ones, the newest first, and the files in order of names."""
        files = [Photograph(_id(path.name), path.name, True) for path in self._files()]
        there = {photograph.id for photograph in files}
        dropped = [Photograph(_id(name), name, False) for name in reversed(self._dropped.keys())]
        listed = [one for one in dropped if one.id not in there] + files
        self._names = {one.id: one.name for one in listed}
        return listed

    def _files(self) -> list[Path]:
        return sorted(
            path
            for path in self._folder.iterdir()
            if path.name.lower().endswith(IMAGES) and not path.name.startswith(".") and path.is_file()
        )

    def image(self, identity: str) -> Image:
        """A photograph by its id, read once as long as its file stays as it is.

        Raises:
            DatasetError: there is no such photograph.
            ImageError: it cannot be read.
        """
        name, stamp = self._found(identity)
        return self._images.get(stamp, lambda: Image(load_image(self._source(name)), (self._folder / name).as_uri()))

    def thumbnail(self, identity: str) -> bytes:
        """A small JPEG of it; raises as :meth:`image` does."""
        name, stamp = self._found(identity)
        return self._thumbnails.get(stamp, lambda: jpeg(shrunk(load_image(self._source(name)), _THUMBNAIL)))

    def drop(self, name: str, content: bytes) -> Photograph:
        """Take a photograph from the page; it stays in memory until :meth:`keep`.

        Args:
            name: of its file where it came from; only letters, digits, ``.``, ``_`` and ``-`` of it are used.
            content: of its file.

        Raises:
            ImageError: it cannot be read as an image.
        """
        try:
            load_image(content)
        except ImageError as error:
            said = re.sub(r"^bytes: |<_io\.BytesIO[^>]*>", "", str(error))
            raise ImageError(f"{Path(name).name or 'photograph'}: {said}") from error
        with Picture.open(io.BytesIO(content)) as opened:
            ending = _ENDINGS.get(opened.format or "")
        if ending is None:
            raise ImageError("photograph", expected=f"one of {', '.join(_ENDINGS)}", got=opened.format)
        stem = re.sub(r"[^\w.-]+", "-", Path(name).stem).strip(".-")[:60] or "photograph"
        own = f"{stem}-{hashlib.sha256(content).hexdigest()[:10]}{ending}"
        self._dropped.put(own, content)
        self._names[_id(own)] = own
        return Photograph(_id(own), own, (self._folder / own).is_file())

    def keep(self, identity: str) -> None:
        """Write a dropped photograph into the folder, so that what is taught on it can be shown and embedded again.

        Raises:
            DatasetError: there is no such photograph, or it cannot be written.
        """
        name, _ = self._found(identity)
        target = self._folder / name
        if target.is_file():
            return
        try:
            with target.open("xb") as file:
                file.write(self._content(name))
        except OSError as error:
            what = f"{target}: cannot keep the dropped photograph: {error.strerror}"
            raise DatasetError(what, hint="Give a folder that can be written to (--images).") from error

    def _found(self, identity: str) -> tuple[str, Stamp]:
        """The name of a photograph, and a stamp that changes with its file."""
        if identity not in self._names:
            self.listed()
        name = self._names.get(identity, "")
        if name and (path := self._folder / name).is_file():
            about = path.stat()
            return name, (name, about.st_mtime_ns, about.st_size)
        if self._dropped.find(name) is not None:
            return name, (name, 0, 0)
        raise DatasetError(
            "photograph", expected="the id of one that is listed", got=repr(identity), hint="Load the page again."
        )

    def _source(self, name: str) -> Path | bytes:
        path = self._folder / name
        return path if path.is_file() else self._content(name)

    def _content(self, name: str) -> bytes:
        content = self._dropped.find(name)
        if content is None:
            raise DatasetError(f"photograph: {name} is gone since", hint="Drop it again.")
        return content


def _id(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
