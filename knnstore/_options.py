"""Arguments that several commands take, and how they print."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperGroup

from knnstore.filter_text import parse_filter
from knnstore.filters import Filter
from knnstore.url import without_urls

__all__ = ["Group", "Json", "Url", "Version", "Where", "counted", "filter_from", "print_json", "print_line"]

Url = Annotated[str, typer.Argument(help="Store URL, such as faiss:///data/concepts or qdrant://host:6334/concepts.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Where = Annotated[
    str | None,
    typer.Option(
        help="""Only matching records, such as 'label in ("kettle", "zebra") and area >= 100 and not thing'."""
    ),
]


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class Group(TyperGroup):
    """All commands of a program. What it says of a mistake in the command line quotes no URL as it was given.

    A URL where a path is expected is such a mistake: it would become the name of a folder, for all to see.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the name of the command, and what stands before it."""
        with _urls_hidden():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the arguments of the command, and run it."""
        with _urls_hidden():
            return super().invoke(ctx)

    def resolve_command(self, *args: Any, **kwargs: Any) -> Any:
        """Find the command that is called."""
        name, command, rest = super().resolve_command(*args, **kwargs)
        hints = get_type_hints(command.callback) if command is not None and command.callback else {}
        for parameter in getattr(command, "params", ()):
            if Path in _kinds(hints.get(parameter.name)):
                parameter.callback = _no_url
        return name, command, rest


def _kinds(hint: Any) -> set[Any]:
    """A type, and those that it is made of."""
    return {hint}.union(*map(_kinds, get_args(hint)))


def _no_url(context: Any, parameter: Any, value: Any) -> Any:
    for part in value if isinstance(value, list | tuple) else [value]:
        if _URL.match(str(part)):
            raise typer.BadParameter("expected a path on this machine, got a URL", ctx=context, param=parameter)
    return value


@contextmanager
def _urls_hidden() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if callable(getattr(error, "format_message", None)):  # of click: wrong usage
            error.message = without_urls(error.message, sys.argv[1:])  # type: ignore[attr-defined]
        raise


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(f"knnstore {version('knnstore')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", help="Show the version and end.", callback=_show_version, is_eager=True),
]


def filter_from(where: str | None) -> Filter | None:
    """The filter of ``--where``."""
    return None if where is None else parse_filter(where)


def counted(number: int, noun: str) -> str:
    """The number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_line(text: str) -> None:
    """A line on standard output."""
    typer.echo(text)


def print_json(value: Any) -> None:
    """One JSON document on standard output, with escapes where that cannot carry every letter."""
    plain = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    typer.echo(json.dumps(value, indent=2, ensure_ascii=not plain))
