"""JSON files of annotations, read strictly: a value is what it says without doubt, or an error that names its place.

Many tools write numbers and booleans as text. ``"139"`` can only mean 139 and ``"false"`` only false, so they are
taken; ``"no"``, ``1.5`` or ``true`` for a number are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from knnseg.errors import DatasetError

__all__ = ["Node", "read_json"]

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_FLAGS = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True}


@dataclass(frozen=True, slots=True)
class Node:
    """A value of a JSON file and its place in it, such as ``photos.json: annotations[3].segments_info[0].iscrowd``."""

    value: Any
    file: str
    place: str = ""

    def wrong(self, expected: str) -> DatasetError:
        """The error for a value that is not what was expected."""
        got = repr(self.value)
        got = got if len(got) <= 80 else f"{got[:77]}…"
        return DatasetError(f"{self.file}: {self.place or 'the file'}", expected=expected, got=got)

    def __getitem__(self, key: str) -> Node:
        """The value of a key that must be there."""
        if key not in self.mapping():
            raise DatasetError(
                f"{self.file}: {self.place or 'the file'}", expected=f"the key {key!r}", got=sorted(self.value)[:8]
            )
        return Node(self.value[key], self.file, f"{self.place}.{key}" if self.place else key)

    def mapping(self) -> Mapping[str, Any]:
        """An object with keys."""
        if not isinstance(self.value, dict):
            raise self.wrong("an object with keys")
        return self.value

    def entries(self) -> list[Node]:
        """The entries of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [Node(entry, self.file, f"{self.place}[{i}]") for i, entry in enumerate(self.value)]

    def whole(self, least: int | None = None, most: int | None = None) -> int:
        """A whole number, also as text."""
        value = self.value
        if (type(value) is str and _WHOLE.fullmatch(value)) or (type(value) is float and value.is_integer()):
            value = int(value)
        if type(value) is not int:
            raise self.wrong("a whole number")
        if (least is not None and value < least) or (most is not None and value > most):
            raise self.wrong(f"a whole number from {least} to {most}" if most is not None else f"at least {least}")
        return value

    def numbers(self, count: int | None = None) -> tuple[float, ...]:
        """A list of numbers, as many as ``count`` where that is given."""
        values: Any = self.value
        if (
            not isinstance(values, list)
            or not all(type(v) in (int, float) for v in values)
            or (count or len(values)) != len(values)
        ):
            raise self.wrong(f"a list of {count or ''} numbers".replace("  ", " "))
        return tuple(map(float, values))

    def text(self) -> str:
        """A text that is not empty."""
        if type(self.value) is not str or not self.value.strip():
            raise self.wrong("a text that is not empty")
        return self.value

    def identity(self) -> str:
        """An id, which may be a number or a text; the same number in either form is the same id."""
        return self.text() if type(self.value) is str else str(self.whole())

    def flag(self, key: str) -> bool:
        """Whether a key is set: true or false, 1 or 0, also as text; false where it is missing."""
        value = self.mapping().get(key, False)
        if type(value) is bool:
            return value
        plain = value.strip().lower() if type(value) is str else value
        if type(plain) not in (int, str) or plain not in _FLAGS:
            raise self[key].wrong("true or false, 1 or 0")
        return _FLAGS[plain]


def read_json(path: str | PathLike[str]) -> Node:
    """The content of a file, whose objects have each key once.

    Raises:
        DatasetError: no such file, or no JSON.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return Node(json.loads(text, object_pairs_hook=_distinct), str(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(path, expected="a JSON file", got=str(error)) from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} more than once in {keys[:8]}")
    return found
