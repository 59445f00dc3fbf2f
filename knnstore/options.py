"""Options of a store URL, read into a dataclass: the way every backend reads them.

A backend declares its options once, as fields with a default and a reader; reading, refusing and documenting follow:

    >>> from dataclasses import dataclass
    >>> from knnstore import StoreURL
    >>> from knnstore.options import Reader, integer, one_of, option, read_options
    >>> @dataclass(frozen=True, slots=True)
    ... class Options:
    ...     shards: int = option(1, integer(1))
    ...     sync: str = option("normal", one_of("normal", "full"))
    >>> read_options(Options, StoreURL.parse("mine:///x?shards=4"))
    Options(shards=4, sync='normal')
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from knnstore.errors import InvalidURLError, SpecMismatchError
from knnstore.types import ASKED, DTYPES, STORED, Dtype
from knnstore.url import SECRET_SOURCES, Secret, StoreURL

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "Reader",
    "check_created",
    "dtype_option",
    "flag",
    "integer",
    "matching",
    "number",
    "one_of",
    "option",
    "read_options",
    "seconds",
    "secret",
]

OptionsT = TypeVar("OptionsT", bound="DataclassInstance")


@dataclass(frozen=True, slots=True)
class Reader:
    """Turns the text of an option into its value.

    Args:
        read: raises ValueError for a text that is not a value.
        expected: what would have been right, for the error.
    """

    read: Callable[[str], Any]
    expected: str


def option(default: Any, reader: Reader) -> Any:
    """A field of a dataclass of options; its name is the name of the option."""
    return field(default=default, metadata={"reader": reader})


def secret() -> Any:
    """A field for a password, a token or a key: a :class:`knnstore.Secret`, empty where none is given.

    The URL says it as ``name=``, or better, as ``name_env=`` or ``name_file=``: the environment variable or the file
    that holds it. Its name must be one that :meth:`StoreURL.secrets` knows for a secret.
    """
    return field(default_factory=Secret, metadata={"secret": True})


def read_options(kind: type[OptionsT], url: StoreURL) -> OptionsT:
    """The options of a URL.

    Args:
        kind: a dataclass whose fields are made by :func:`option` and :func:`secret`.
        url: where.

    Raises:
        InvalidURLError: an unknown option, a value that cannot be read, a secret that is not where it should be.
    """
    secrets = [f.name for f in fields(kind) if f.metadata.get("secret")]
    readers = {f.name: f.metadata["reader"] for f in fields(kind) if "reader" in f.metadata}
    sources = [f"{name}{suffix}" for name in secrets for suffix in SECRET_SOURCES]
    given = url.check_options([*readers, *sources])
    values = {name: _read(readers[name], name, str(text)) for name, text in given.items() if name in readers}
    return kind(**values, **{name: url.secret(name) for name in secrets})


def _read(reader: Reader, name: str, text: str) -> Any:
    try:
        return reader.read(text)
    except ValueError:
        raise InvalidURLError(f"option {name}", expected=reader.expected, got=repr(text)) from None


def check_created(wanted: Mapping[str, object], there: Mapping[str, object], where: str) -> None:
    """Refuse creation options that are not those of the collection; what is not said is not compared.

    Args:
        wanted: the options that were given.
        there: those that the collection was made with.
        where: the store, for the message.

    Raises:
        SpecMismatchError: naming every difference.
    """
    wrong = {name: value for name, value in wanted.items() if there.get(name) != value}
    if wrong:
        raise SpecMismatchError(
            f"{where} was made with other options",
            expected=", ".join(f"{name}={value}" for name, value in wrong.items()) + ASKED,
            got=", ".join(f"{name}={there.get(name, 'default')}" for name in wrong) + STORED,
            hint="Nothing was changed. Leave these options out, or copy the records into a new collection.",
        )


def dtype_option(url: StoreURL) -> tuple[StoreURL, Dtype | None]:
    """The URL as backends see it, and what its option ``dtype`` says, which the URL of every store may have.

    Raises:
        InvalidURLError: it says something else than a dtype.
    """
    if "dtype" not in url.options:
        return url, None
    left = {name: value for name, value in url.options.items() if name != "dtype"}
    return replace(url, options=left), _read(one_of(*DTYPES), "dtype", str(url.options["dtype"]))


# -- readers -----------------------------------------------------------------------------------------------------------


def _refuse_unless(right: bool) -> None:
    if not right:
        raise ValueError


def integer(least: int = 0, most: int = 10**12, *, expected: str = "") -> Reader:
    """A whole number in decimal digits."""

    def read(text: str) -> int:
        _refuse_unless(re.fullmatch(r"\d{1,13}", text, re.ASCII) is not None)
        _refuse_unless(least <= int(text) <= most)
        return int(text)

    bounds = f" from {least} to {most}" if most < 10**12 else f" of at least {least}" if least else ""
    return Reader(read, expected or f"a whole number{bounds}")


def number(least: float, most: float, *, expected: str = "") -> Reader:
    """A finite number."""

    def read(text: str) -> float:
        value = float(text)
        _refuse_unless(math.isfinite(value) and least <= value <= most)
        return value

    return Reader(read, expected or f"a number from {least:g} to {most:g}")


def seconds() -> Reader:
    """A time of up to a day, in seconds."""
    return number(0, 86_400, expected="seconds, from 0 to 86400")


def matching(pattern: str, expected: str) -> Reader:
    """A text that matches a regular expression whole."""

    def read(text: str) -> str:
        _refuse_unless(re.fullmatch(pattern, text, re.ASCII) is not None)
        return text

    return Reader(read, expected)


def one_of(*words: str) -> Reader:
    """One of some words."""

    def read(text: str) -> str:
        _refuse_unless(text in words)
        return text

    return Reader(read, f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0])


def flag() -> Reader:
    """Yes or no, as 1, true, yes, on or 0, false, no, off."""
    words = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)

    def read(text: str) -> bool:
        _refuse_unless(text.lower() in words)
        return words[text.lower()]

    return Reader(read, "1 or 0")
