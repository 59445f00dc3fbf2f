"""Arguments that several commands take, and how they print."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer

from knnstore.filter_text import parse_filter
from knnstore.filters import Filter

__all__ = ["Json", "Url", "Version", "Where", "counted", "filter_from", "print_json", "print_line"]

Url = Annotated[str, typer.Argument(help="Store URL, such as faiss:///data/concepts or qdrant://host:6334/concepts.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
Where = Annotated[
    str | None,
    typer.Option(
        help="""Only matching records, such as 'label in ("kettle", "zebra") and area >= 100 and not thing'."""
    ),
]


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
