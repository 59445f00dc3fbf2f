"""Options that several commands take, and how results are printed for machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "Checkpoint", "Device", "Preset", "Store", "print_json"]

Store = Annotated[str, typer.Option("--store", "-s", help="URL of the concept database, such as faiss:///folder.")]
Preset = Annotated[
    str, typer.Option("--preset", "-p", help="A preset (`tiny`, `base`, `fcclip`) or the path of a TOML configuration.")
]
Device = Annotated[str, typer.Option(help="Where models run: auto, cpu, cuda, cuda:1.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights for the stages that take a checkpoint.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def print_json(result: object) -> None:
    print(json.dumps(result, indent=1, ensure_ascii=False))
