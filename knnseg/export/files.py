"""Files that are there whole or not at all, also where they grow with every image of a run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from PIL import Image

__all__ = ["FAST", "JsonList", "JsonLists", "save_picture", "write_text"]

FAST = 1
"""The level of compression that takes a sixth of the time of the default, for some per cent more disk: a photograph
hardly compresses."""


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A name beside a file, which replaces the file once all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a file of text."""
    with _whole(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def save_picture(path: Path, picture: Image.Image, *, level: int = 6) -> None:
    """Write a PNG, compressed as 0 (not) to 9 (slowly)."""
    with _whole(path) as part:
        picture.save(part, "PNG", compress_level=level)


class JsonLists:
    """A JSON object with fixed values and with lists that grow, of which nothing is kept in memory.

    Until :meth:`finish` there is no such file, not even one from before.

    Args:
        path: of the file.
        fixed: what else the object has.
        names: the keys of its lists.
    """

    def __init__(self, path: Path, fixed: dict[str, Any], names: Iterable[str]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path, self._fixed = path, fixed
        # Without buffers, which would hold what could not be written, and try again for ever.
        self._lists: dict[str, IO[bytes]] = {
            name: tempfile.TemporaryFile(buffering=0, dir=path.parent)  # noqa: SIM115  # finish() closes them
            for name in names
        }

    def add(self, entries: Mapping[str, Iterable[object]]) -> None:
        """Put entries at the end of lists: all of them or, where that fails, none."""
        starts = {name: file.tell() for name, file in self._lists.items()}
        try:
            for name, listed in entries.items():
                _append(self._lists[name], listed)
        except BaseException:
            for name, start in starts.items():
                self._lists[name].truncate(start)
                self._lists[name].seek(start)
            raise

    def finish(self) -> Path:
        """Make the file, of what the lists have by now."""
        try:
            with _whole(self._path) as part, part.open("wb") as target:
                self._write(target)
        finally:
            for file in self._lists.values():
                file.close()
        return self._path

    def _write(self, target: IO[bytes]) -> None:
        separator = b"{"
        for key, value in self._fixed.items():
            target.write(separator + f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}".encode())
            separator = b",\n"
        for name, file in self._lists.items():
            target.write(separator + f"{json.dumps(name)}: ".encode())
            _copy(file, target)
            separator = b",\n"
        target.write(b"}\n")


class JsonList(JsonLists):
    """The same of a JSON list.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, {}, [""])

    def append(self, entry: object) -> None:
        """Put an entry at the end."""
        self.add({"": [entry]})

    def _write(self, target: IO[bytes]) -> None:
        _copy(self._lists[""], target)
        target.write(b"\n")


def _copy(file: IO[bytes], target: IO[bytes]) -> None:
    target.write(b"[")
    file.seek(0)
    while chunk := file.read(1 << 20):
        target.write(chunk)
    target.write(b"]")


def _append(file: IO[bytes], entries: Iterable[object]) -> None:
    separator = ",\n" if file.tell() else "\n"
    for entry in entries:
        text = json.dumps(entry, ensure_ascii=False, separators=(",", ":"))
        data = (separator + text).encode(errors="backslashreplace")  # a file may have a name that is no UTF-8
        separator = ",\n"
        while data:
            data = data[file.write(data) :]
