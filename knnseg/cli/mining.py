"""The commands ``knnseg discover`` and ``knnseg harvest``: concepts in images that nobody has drawn on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from knnseg.cli.options import (
    AsJson,
    Checkpoint,
    Device,
    Preset,
    Store,
    Strict,
    finish,
    open_segmenter,
    print_json,
    show_added,
)
from knnseg.data.listing import images_of
from knnseg.data.vocabulary import tidy

if TYPE_CHECKING:
    from knnseg.database.concepts import ConceptDatabase
    from knnseg.mining.discovering import Discovery

__all__ = ["discover"]

_LISTED = 20
"""Clusters in the table of the terminal."""


def discover(
    store: Store,
    images: Annotated[list[Path] | None, typer.Argument(help="Images, and folders of images.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and the regions.")] = Path("discovered"),
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="NUMBER=NAME", help="Add a cluster that was found before.")
    ] = None,
    names: Annotated[Path | None, typer.Option(help="The same from the file that the page has saved.")] = None,
    thing: Annotated[
        bool | None,
        typer.Option("--thing/--stuff", help="Countable objects, or stuff; by default as the database knows it."),
    ] = None,
    least: Annotated[float, typer.Option(help="Leave out smaller regions; a share of the image.")] = 0.005,
    distance: Annotated[float, typer.Option(help="Lower gives more clusters, and purer ones.")] = 0.6,
    writer: Annotated[str, typer.Option(help="Who adds, kept with each example.")] = "",
    preset: Preset = "photo",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Cluster what is unknown in images, as a page; naming a cluster adds its regions to the database.

    knnseg discover photos -s faiss:///tmp/db -p photo

    knnseg discover -s faiss:///tmp/db -p photo --name 1=kettle --name 4=lava
    """
    if (images is None) is (name is None and names is None):
        raise typer.BadParameter("give images to look at, or --name or --names for clusters that were found before")
    if images is None:
        chosen, left_out = _chosen(name, names)
        with open_segmenter(preset, checkpoint, store, device, create=False) as segmenter:
            assert segmenter.database is not None  # a store was given
            _add(segmenter.database, out, chosen, left_out, thing, writer, strict=strict, as_json=as_json)
        return
    from knnseg.mining.discovering import discover as look
    from knnseg.mining.discovering import save

    listed = images_of(images)
    with open_segmenter(preset, checkpoint, store, device, create=False) as segmenter:
        found = look(segmenter, listed, least=least, distance=distance, strict=strict, progress=sys.stderr.isatty())
    page = save(found, out)
    print_json(_found(found) | {"page": str(page)}) if as_json else _show(found, page)
    finish(found.failed, found.images)


def _chosen(name: list[str] | None, names: Path | None) -> tuple[dict[int, str], list[int]]:
    """Names by the numbers of clusters, and the ids of regions to leave out."""
    from knnseg.mining.discovering import read_names

    chosen, left_out = read_names(names) if names is not None else (dict[int, str](), list[int]())
    for text in name or ():
        number, equals, given = text.partition("=")
        if not equals or not number.strip().isdecimal() or not given.strip():
            raise typer.BadParameter(f"--name: expected the number of a cluster and a name, as 3=kettle, got {text!r}")
        chosen[int(number)] = given
    return chosen, left_out


def _add(
    database: ConceptDatabase, out: Path, chosen: dict[int, str], left_out: list[int], thing: bool | None, writer: str,
    *, strict: bool, as_json: bool,
) -> None:  # fmt: skip
    from knnseg.mining.discovering import named

    known = [concept.label for concept in database.concepts() if concept.thing]
    things = known if thing is None else list(map(tidy, chosen.values())) if thing else []
    labelled = named(out, chosen, leave_out=left_out, things=things)
    show_added(database.add(labelled, writer=writer, strict=strict, progress=sys.stderr.isatty()), as_json)


def _found(found: Discovery) -> dict[str, Any]:
    clusters = [
        {"number": c.number, "regions": len(c.regions), "images": c.images, "area": c.area} for c in found.clusters
    ]
    return {"images": found.images, "clusters": clusters, "failed": found.failed}


def _show(found: Discovery, page: Path) -> None:
    table = Table(
        title=f"{found.images} images, {len(found.clusters)} clusters of unknown regions", title_justify="left"
    )
    for heading in ("cluster", "regions", "images", "area"):
        table.add_column(heading, justify="right")
    for c in found.clusters[:_LISTED]:
        table.add_row(str(c.number), str(len(c.regions)), str(c.images), f"{c.area / max(found.images, 1):.2%}")
    console = Console(markup=False)
    console.print(table)
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
