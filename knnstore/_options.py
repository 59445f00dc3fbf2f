"""Arguments that several commands take, and how they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated, Any

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


class Group(TyperGroup):
    """All commands of a program. What it says of a mistake in the command line quotes no URL as it was given."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the name of the command, and what stands before it."""
        with _urls_hidden():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the arguments of the command, and run it."""
        with _urls_hidden():
            return super().invoke(ctx)


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
