"""The commands below ``knnseg concepts``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from knnseg.cli.options import (
    AsJson,
    Checkpoint,
    Device,
    Preset,
    Store,
    Strict,
    ask_to_write,
    finish,
    print_json,
    there_is,
)
from knnstore import StoreURL
from knnstore._options import Group, counted

if TYPE_CHECKING:
    from knnseg.config import Config
    from knnseg.database.concepts import ConceptDatabase
    from knnseg.database.reembedding import ReembedReport
    from knnseg.stages.protocols import FeatureExtractor
    from knnstore import EmbeddingSpace

__all__ = ["Of", "Space", "Yes", "concepts_app", "opened_database"]

concepts_app = typer.Typer(
    name="concepts",
    cls=Group,
    help="List, rename, merge, remove and re-embed what a database knows, and take it back.",
    no_args_is_help=True,
)


Space = Annotated[
    str, typer.Option(help="The embedding space, where the store has several, as `knnstore info` names it.")
]
Of = Annotated[
    str | None,
    typer.Option(
        "--preset", "-p", help="Instead of --space: the preset or TOML configuration that the examples are of."
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@contextmanager
def opened_database(
    store: str, space: str, preset: str | None, checkpoint: Path | None, device: str, *, read_only: bool
) -> Iterator[ConceptDatabase]:
    """The database of a space. Only a preset takes its model: by its weights a space is known."""
    from knnseg.database.concepts import ConceptDatabase

    if space and preset:
        raise typer.BadParameter("give --space or --preset")
    if checkpoint is not None and preset is None:
        raise typer.BadParameter("--checkpoint needs --preset")
    config = None if preset is None else _config(preset, checkpoint)
    if config is not None or not read_only:
        there = there_is(store)
        if not read_only:
            ask_to_write(store, there)
    if config is None:
        opened = ConceptDatabase.existing(store, space, read_only=read_only)
    else:
        opened = ConceptDatabase.open(store, _extractor(config, device), create=False, read_only=read_only)
    with opened as database:
        yield database


def _config(preset: str, checkpoint: Path | None) -> Config:
    from knnseg.segmenter import read_config
    from knnseg.stages.registry import with_checkpoint

    config = read_config(preset)
    return config if checkpoint is None else with_checkpoint(config, str(checkpoint))


def _extractor(config: Config, device: str) -> FeatureExtractor:
    from knnseg.stages.registry import make_extractor

    return make_extractor(config, device=device)


@concepts_app.command(name="list")
def list_concepts(
    store: Store,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """List the concepts with their numbers of examples."""
    with opened_database(store, space, preset, checkpoint, device, read_only=True) as database:
        concepts = database.concepts()
    if as_json:
        print_json([{**asdict(c), "thing": c.thing, "aliases": list(c.aliases)} for c in concepts])
        return
    table = Table(Column("concept", overflow="fold"), "examples", "kind")  # cut, two of them might look alike
    if any(concept.aliases for concept in concepts):
        table.add_column("also", overflow="fold")
    for concept in concepts:
        kind = "thing" if concept.thing else "stuff"
        kind += f" (of {concept.count}, {concept.things} say thing)" if concept.mixed else ""
        also = [", ".join(map(_quoted, concept.aliases))] if len(table.columns) > 3 else []
        table.add_row(concept.label, str(concept.count), kind, *also)
    Console(markup=False).print(table)


def _quoted(name: str) -> str:
    """A name in a list of names, as in a CSV file."""
    return '"' + name.replace('"', '""') + '"' if "," in name else name


@concepts_app.command()
def rename(
    old: str,
    new: str,
    store: Store,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Give a concept another name; merges where the new name exists."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        moved = database.rename(old, new)
    print_json({"renamed": moved}) if as_json else print(f"{old!r} is now {new!r}: {counted(moved, 'example')}")


@concepts_app.command()
def kind(
    label: str,
    thing: Annotated[bool, typer.Option("--thing/--stuff", help="A countable object, or stuff.")],
    store: Store,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Say of a concept and all its examples that it is a countable object, or stuff."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        changed = database.set_kind(label, thing=thing)
    what = "a thing" if thing else "stuff"
    print_json({"changed": changed}) if as_json else print(f"{label!r} is now {what}: {counted(changed, 'example')}")


@concepts_app.command()
def merge(
    labels: Annotated[list[str], typer.Argument(help="Concepts to merge.")],
    into: Annotated[str, typer.Option(help="The concept that they become.")],
    store: Store,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Make one concept of several."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        moved = database.merge(labels, into)
    print_json({"merged": moved}) if as_json else print(f"merged into {into!r}: {counted(moved, 'example')}")


@concepts_app.command()
def remove(
    label: str,
    store: Store,
    yes: Yes = False,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Forget a concept and all its examples."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        counts = {concept.label: concept.count for concept in database.concepts()}
        if not yes and label in counts:
            place = StoreURL.parse(store)  # whose text keeps secrets to itself
            typer.confirm(
                f"Remove {counted(counts[label], 'example')} of {label!r} from {place}?", abort=True, err=True
            )
        gone = database.remove(label)
    print_json({"removed": gone}) if as_json else print(f"{counted(gone, 'example')} of {label!r} removed")


@concepts_app.command()
def sheet(
    label: str,
    store: Store,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")],
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 60,
    columns: Annotated[int, typer.Option(min=1, help="Examples in a row.")] = 6,
    images: Annotated[Path | None, typer.Option(help="Folder to look in for images that have moved.")] = None,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw a contact sheet of a concept: its examples, newest first, with outlines and the ids to correct them by.

    knnseg concepts sheet kettle -s faiss:///tmp/db --out kettle.png
    """
    from knnseg.database.originals import Originals
    from knnseg.sheets import contact_sheet

    originals = Originals(images)
    with opened_database(store, space, preset, checkpoint, device, read_only=True) as database:
        found = database.examples(concept=label, limit=limit)
        counts = {concept.label: concept.count for concept in database.concepts()}
        total = counts.get(found.concept[0] if len(found) else label, len(found))
        title = f"{label}: " + (
            counted(total, "example") if total == len(found) else f"the newest {len(found)} of {total}"
        )
        contact_sheet(database, found, originals, title=title, columns=columns).save(out, "PNG")
    if as_json:
        print_json({"out": str(out), "ids": found.id.tolist()})
    else:
        print(f"{title}; in {out}")


@concepts_app.command()
def history(
    store: Store,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """List the last corrections of everybody, newest first, with the numbers to undo them by."""
    with opened_database(store, space, preset, checkpoint, device, read_only=True) as database:
        made = database.history(limit)
    if as_json:
        print_json([asdict(correction) for correction in made])
        return
    table = Table("number", "when", Column("what", overflow="fold"), "examples")
    for one in made:
        when = datetime.fromtimestamp(one.time).strftime("%Y-%m-%d %H:%M")
        what = one.what + (f" (undone by {one.undone})" if one.undone else "")
        table.add_row(str(one.number), when, what, str(one.examples or ""))
    Console(markup=False).print(table)


@concepts_app.command()
def undo(
    number: Annotated[int, typer.Argument(help="Of the correction, as `knnseg concepts history` tells it.")],
    store: Store,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Take a correction back: a renaming, a merge, a kind, or what was done to single examples."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        undone = database.undo(number)
    print_json(asdict(undone)) if as_json else print(f"undone: {undone.number}, {undone.what}")


@concepts_app.command()
def purge(
    store: Store,
    yes: Yes = False,
    space: Space = "",
    preset: Of = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Delete for good what was deleted one by one, or was there twice; it cannot be brought back then."""
    with opened_database(store, space, preset, checkpoint, device, read_only=False) as database:
        if not yes:
            typer.confirm(f"Purge what was deleted from {StoreURL.parse(store)}?", abort=True, err=True)
        gone = database.purge()
    print_json({"purged": gone}) if as_json else print(f"{gone} deleted examples have gone for good")


@concepts_app.command()
def reembed(
    store: Store,
    preset: Preset = "photo",
    source: Annotated[str, typer.Option(help="The embedding space to read, where the store has several.")] = "",
    into: Annotated[str | None, typer.Option(help="URL of the store to write; the same one by default.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder to look in for images that have moved.")] = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Embed all examples again in the space of another preset, from their images and kept masks.

    knnseg concepts reembed -s faiss:///tmp/db --preset base

    The examples keep their ids, and the space that they came from stays as it is. Safe to interrupt and to run again.
    """
    from knnseg.database.concepts import ConceptDatabase
    from knnseg.database.originals import Originals
    from knnseg.database.reembedding import reembed as embed_again
    from knnstore import open_store

    originals = Originals(images)
    there = there_is(store)
    ask_to_write(into or store, None if into else there)
    extractor = _extractor(_config(preset, checkpoint), device)
    with (
        open_store(_other_space(store, extractor.space, source), read_only=True) as original,
        ConceptDatabase.open(into or store, extractor) as database,
    ):
        report = embed_again(original, database, originals, strict=strict, progress=sys.stderr.isatty())
    print_json(asdict(report)) if as_json else _print_reembedded(report)
    if report.failed:
        print(f"knnseg: for images that were not found: {originals.advice}", file=sys.stderr)
    finish(report.failed, report.images + report.present)


def _other_space(store: str, own: EmbeddingSpace, wanted: str) -> StoreURL:
    """The collection to read: the one that is named, or the only one of another space."""
    from knnseg.database.spaces import space_name, spaces
    from knnseg.errors import ConfigError

    there = spaces(store)
    others = {name: place for name, place in there.items() if name != space_name(own)}
    picked = [place for name, place in others.items() if wanted in ("", name)]
    if len(picked) != 1:
        raise ConfigError(
            f"source: expected {wanted or 'one'} among the other embedding spaces of {StoreURL.parse(store)}, "
            f"got {sorted(others) or 'none'}." + (" Name one of them with --source." if others else "")
        )
    return picked[0]


def _print_reembedded(report: ReembedReport) -> None:
    print(f"images read: {report.images}; examples added: {report.added}, there already: {report.present}")
    left = {"without a mask": report.maskless, "featureless": report.featureless, "image not found": report.missing}
    if any(left.values()):
        print("left out: " + ", ".join(f"{count} {why}" for why, count in left.items() if count))
