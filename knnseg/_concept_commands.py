"""The commands below ``knnseg concepts``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from knnseg._options import AsJson, Device, Preset, Store, print_json

if TYPE_CHECKING:
    from knnseg.concepts import ConceptDatabase

__all__ = ["concepts_app"]

concepts_app = typer.Typer(
    name="concepts", help="List, rename, merge and remove what a database knows.", no_args_is_help=True
)


@contextmanager
def _database(store: str, preset: str, device: str, *, read_only: bool) -> Iterator[ConceptDatabase]:
    from knnseg import stages
    from knnseg.concepts import ConceptDatabase
    from knnseg.pipeline import read_config

    extractor = stages.make_extractor(read_config(preset), device=device)
    with ConceptDatabase.open(store, extractor, create=False, read_only=read_only) as database:
        yield database


@concepts_app.command(name="list")
def list_concepts(store: Store, preset: Preset = "tiny", device: Device = "auto", as_json: AsJson = False) -> None:
    """List the concepts with their numbers of examples."""
    with _database(store, preset, device, read_only=True) as database:
        concepts = database.concepts()
    if as_json:
        print_json([{"label": c.label, "count": c.count, "thing": c.thing} for c in concepts])
        return
    table = Table("concept", "examples", "kind")
    for concept in concepts:
        table.add_row(concept.label, str(concept.count), "thing" if concept.thing else "stuff")
    Console().print(table)


@concepts_app.command()
def rename(
    old: str, new: str, store: Store, preset: Preset = "tiny", device: Device = "auto", as_json: AsJson = False
) -> None:
    """Give a concept another name; merges where the new name exists."""
    with _database(store, preset, device, read_only=False) as database:
        moved = database.rename(old, new)
    print_json({"renamed": moved}) if as_json else print(f"{moved} examples of {old!r} are now {new!r}")


@concepts_app.command()
def merge(
    labels: Annotated[list[str], typer.Argument(help="Concepts to merge.")],
    into: Annotated[str, typer.Option(help="The concept that they become.")],
    store: Store,
    preset: Preset = "tiny",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make one concept of several."""
    with _database(store, preset, device, read_only=False) as database:
        moved = database.merge(labels, into)
    print_json({"merged": moved}) if as_json else print(f"{moved} examples are now {into!r}")


@concepts_app.command()
def remove(
    label: str,
    store: Store,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    preset: Preset = "tiny",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Forget a concept and all its examples."""
    with _database(store, preset, device, read_only=False) as database:
        counts = {concept.label: concept.count for concept in database.concepts()}
        if not yes and label in counts:
            typer.confirm(f"Remove {counts[label]} examples of {label!r} from {store}?", abort=True, err=True)
        gone = database.remove(label)
    print_json({"removed": gone}) if as_json else print(f"{gone} examples of {label!r} removed")
