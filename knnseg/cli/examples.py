"""The commands below ``knnseg examples``: single examples, listed, shown and corrected."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import typer
from rich.console import Console
from rich.table import Column, Table

from knnseg.cli.concepts import Of, Space, Yes, opened_database
from knnseg.cli.options import AsJson, Checkpoint, Device, Store, print_json
from knnstore import StoreURL
from knnstore._options import Group, counted

if TYPE_CHECKING:
    from knnseg.database.concepts import ConceptDatabase
    from knnseg.database.examples import Examples

__all__ = ["examples_app"]

examples_app = typer.Typer(
    name="examples", cls=Group, help="List, show, relabel and delete single examples.", no_args_is_help=True
)

OfConcept = Annotated[str | None, typer.Option("--concept", "-c", help="Only the examples of this concept.")]
Writer = Annotated[str | None, typer.Option(help="Only what this writer has added.")]
OfImage = Annotated[
    str | None, typer.Option("--image", help="Only those of this image: its path, its URI, or its content hash.")
]
Since = Annotated[
    datetime | None, typer.Option(help="Only those added then or later: 2026-11-27, 2026-11-27T14:30:00.")
]
Images = Annotated[Path | None, typer.Option(help="Folder to look in for images that have moved.")]
Ids = Annotated[list[str] | None, typer.Argument(help="Ids, or the beginnings of ids.")]


def _chosen(
    database: ConceptDatabase, ids: list[str] | None, concept: str | None, writer: str | None, image: str | None,
    since: datetime | None,
) -> Examples:  # fmt: skip
    """The examples that a command is about, of which some are expected."""
    if not ids and {concept, writer, image, since} == {None}:
        raise typer.BadParameter("give ids, or --concept, --writer, --image or --since")
    full = database.ids(ids) if ids else None
    return database.examples(ids=full, concept=concept, writer=writer, image=image, since=since)


@examples_app.command(name="list")
def list_examples(
    store: Store,
    concept: OfConcept = None,
    writer: Writer = None,
    image: OfImage = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """List examples, newest first."""
    with opened_database(store, space, preset, checkpoint, device, read_only=True) as database:
        found = database.examples(concept=concept, writer=writer, image=image, since=since, limit=limit + 1)
    if as_json:
        print_json([asdict(example) for example in found[:limit]])
        return
    table = Table(Column("id", no_wrap=True), Column("concept", overflow="fold"), "writer", "added", "image")
    for example in found[:limit]:
        name = unquote(urlsplit(example.image).path).rpartition("/")[2] or example.image
        added = datetime.fromtimestamp(example.added).strftime("%Y-%m-%d %H:%M")
        table.add_row(example.id[:10], example.concept, example.writer, added, name)
    Console(markup=False).print(table)
    if len(found) > limit:
        print(f"the newest {limit}; --limit shows more")


@examples_app.command()
def show(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    store: Store,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("example.png"),
    images: Images = None,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw one example, with the outline of its mask, on its image; and say what is known of it."""
    from knnseg.database.originals import Originals
    from knnseg.sheets import show as drawn

    originals = Originals(images)
    with opened_database(store, space, preset, checkpoint, device, read_only=True) as database:
        (example,) = database.examples(ids=database.ids([identity]))
        drawn(database, example.id, originals).save(out, "PNG")
    said = {**asdict(example), "out": str(out)}
    if as_json:
        print_json(said)
        return
    said["added"] = datetime.fromtimestamp(example.added).isoformat(" ", "seconds")
    for name, value in said.items():
        print(f"{name}: {value}")


@examples_app.command()
def relabel(
    to: Annotated[str, typer.Option(help="The concept that they become, new or there.")],
    store: Store,
    ids: Ids = None,
    concept: OfConcept = None,
    writer: Writer = None,
    image: OfImage = None,
    since: Since = None,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Move examples to another concept, in every embedding space."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        found = _chosen(database, ids, concept, writer, image, since)
        moved = database.relabel(found.id.tolist(), to)
    print_json({"relabelled": moved}) if as_json else print(f"moved to {to!r}: {counted(moved, 'example')}")


@examples_app.command()
def delete(
    store: Store,
    ids: Ids = None,
    concept: OfConcept = None,
    writer: Writer = None,
    image: OfImage = None,
    since: Since = None,
    yes: Yes = False,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Delete examples, in every embedding space."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        found = _chosen(database, ids, concept, writer, image, since)
        if not yes and len(found):
            place = StoreURL.parse(store)  # whose text keeps secrets to itself
            typer.confirm(f"Delete {counted(len(found), 'example')} from {place}?", abort=True, err=True)
        gone = database.delete_examples(found.id.tolist())
    print_json({"deleted": gone}) if as_json else print(f"{counted(gone, 'example')} deleted")
