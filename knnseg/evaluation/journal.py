"""What was counted so far, on disk, so that a run that was killed goes on where it stopped.

A file of JSON lines: the settings of the run, then one line for each image, with its place in the data set. A line is
written at once and forced to the disk. What a kill leaves of a line that was being written is cut off when the file is
opened again. An image that could not be used has no line, and so is tried again by the next run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from knnseg.errors import ConfigError
from knnseg.evaluation.counts import ImageCounts

__all__ = ["Journal"]

_FORMAT = 2
_ANEW = "Take another folder, or start anew (--restart)."


class Journal:
    """The lines of one run. A context manager: inside, nobody else can write to it.

    Args:
        path: the file; its folder is made. The lock is beside it.
        settings: all that the numbers depend on, as JSON has it, nested as deep as it likes.
        restart: forget what is there.

    Raises:
        ConfigError: on entering: the file is of other settings (the message says which differ), is no such file, or is
            being written by another process.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self._path, self._restart = path, restart
        self._settings = json.loads(json.dumps(settings))  # as it will be read back: tuples become lists
        self._file: BinaryIO | None = None
        self._leave = ExitStack()
        self._done: dict[int, ImageCounts] = {}

    def __enter__(self) -> Journal:
        from filelock import FileLock, Timeout  # of the extra `cli`; to evaluate without a journal needs none

        self._path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self._path) + ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(self._path, expected="to write it alone", got="another run at work on it") from None
        with ExitStack() as stack:
            stack.callback(lock.release)
            self._file = stack.enter_context(self._opened())
            self._leave = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.close()
        self._file = None

    def __len__(self) -> int:
        """Images that are done."""
        return len(self._done)

    def __iter__(self) -> Iterator[ImageCounts]:
        """What was counted on each image, in the order of the data set."""
        return (self._done[place] for place in sorted(self._done))

    def append(self, counts: ImageCounts) -> None:
        """Write an image; when this returns, it is on the disk.

        Raises:
            ConfigError: outside of ``with``.
        """
        if self._file is None:
            raise ConfigError(
                self._path, expected="to write inside `with Journal(…) as journal:`", got="a closed journal"
            )
        _write(self._file, counts.to_json())
        self._done[counts.place] = counts

    def _opened(self) -> BinaryIO:
        lines = [] if self._restart or not self._path.exists() else self._path.read_bytes().split(b"\n")[:-1]
        self._done = self._read(lines) if lines else {}
        # Not opened to append: behind the last whole line may be part of one.
        file = self._path.open("r+b" if lines else "wb")
        file.seek(sum(len(line) + 1 for line in lines))
        file.truncate()
        if not lines:
            _write(file, {"format": _FORMAT, "settings": self._settings})
        return file

    def _read(self, lines: list[bytes]) -> dict[int, ImageCounts]:
        try:
            head, *rows = (json.loads(line) for line in lines)
            there, form = head["settings"], head["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                self._path, expected="the progress of an evaluation", got=repr(error), hint=_ANEW
            ) from error
        if form != _FORMAT:
            raise ConfigError(self._path, expected=f"format {_FORMAT}", got=repr(form), hint=_ANEW)
        differing = differences(there, self._settings)
        if differing:
            what = "; ".join(differing)
            raise ConfigError(self._path, expected="the settings of the run that it is of", got=what, hint=_ANEW)
        try:
            done = {row["n"]: ImageCounts.from_json(row) for row in rows}
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(self._path, expected="one line for each image", got=repr(error), hint=_ANEW) from error
        if len(done) != len(rows):
            raise ConfigError(self._path, expected="one line for each image", got="one of them twice", hint=_ANEW)
        return done


def _write(file: BinaryIO, line: Mapping[str, Any]) -> None:
    text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
    file.write(text.encode(errors="backslashreplace") + b"\n")  # names of files may have bytes that are not text
    file.flush()
    os.fsync(file.fileno())


def differences(there: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two JSON documents, as "name: was …, is …"."""
    if isinstance(there, dict) and isinstance(now, dict):
        keys = [*there, *(key for key in now if key not in there)]
        return [
            line
            for key in keys
            for line in differences(there.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    if there == now:
        return []
    if isinstance(there, list) and isinstance(now, list):
        return [f"{name}: {_lists(there, now)}"]
    return [f"{name}: was {json.dumps(there, ensure_ascii=False)}, is {json.dumps(now, ensure_ascii=False)}"]


def _lists(there: list[Any], now: list[Any]) -> str:
    gone, new = ([entry for entry in a if entry not in b] for a, b in ((there, now), (now, there)))
    if not gone and not new:
        return f"{len(there)} and {len(now)} of the same, in another order or number"
    parts = [f"{word} {json.dumps(part[:3], ensure_ascii=False)[1:-1]}{' …' if len(part) > 3 else ''}"
             for word, part in (("without", gone), ("with", new)) if part]  # fmt: skip
    return f"{len(there)} before, {len(now)} now, {' and '.join(parts)}"
