"""The commands ``knnseg discover`` and ``knnseg harvest``: concepts in images that nobody has drawn on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
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
    names_of,
    open_segmenter,
    print_json,
    show_added,
)
from knnseg.data.listing import images_of
from knnseg.data.vocabulary import tidy
from knnstore._options import counted

if TYPE_CHECKING:
    from knnseg.database.concepts import ConceptDatabase
    from knnseg.mining.discovering import Discovery
    from knnseg.mining.harvesting import Harvest
    from knnseg.mining.sources import NamedImage
    from knnseg.segmenter import Segmenter

__all__ = ["discover", "harvest"]

_LISTED = 20
"""Clusters in the table of the terminal."""
_FEW = 5
"""Images of a name, with fewer of which chance decides what they share."""


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


def harvest(
    images: Annotated[
        str, typer.Option("--images", metavar="DIR|CSV|PLUGIN", help="Images with the names of what they show.")
    ],
    store: Annotated[
        str | None, typer.Option("--store", "-s", help="URL of the concept database; without it nothing is added.")
    ] = None,
    names: Annotated[
        Path | None, typer.Option(help="File with a name in each line; all that the images have by default.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and the regions.")] = Path("harvested"),
    margin: Annotated[float, typer.Option(help="Least share of a name among those of its image.")] = 0.5,
    shared: Annotated[float, typer.Option(help="Least share of the image's names in what neighbours show.")] = 0.3,
    least: Annotated[float, typer.Option(help="Drop smaller regions; a share of the image.")] = 0.005,
    thing: Annotated[
        bool | None,
        typer.Option("--thing/--stuff", help="Countable objects, or stuff; by default as the database knows it."),
    ] = None,
    ask_base: Annotated[
        bool, typer.Option("--ask-base/--ignore-base", help="Drop what the base disagrees with.")
    ] = True,
    writer: Annotated[str, typer.Option(help="Who adds, kept with each example.")] = "harvest",
    preset: Preset = "photo",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Make examples of images known only to show a concept: what those of one name share, and others do not.

    knnseg harvest --images kinds --names names.txt -o harvested

    knnseg harvest --images pictures.csv -s faiss:///tmp/db
    """
    from knnseg.mining.sources import open_named

    wanted = names_of([f"@{names}"]) if names is not None else None
    source, limits = open_named(images, wanted or ()), {"margin": margin, "shared": shared, "least": least}
    with open_segmenter(preset, checkpoint, store, device, create=True) as segmenter:
        found = _harvested(segmenter, source, out, limits, thing, writer, ask_base=ask_base, strict=strict)
    print_json(_gathered(found)) if as_json else _show_gathered(found)
    finish(found.failed, found.images)


def _harvested(
    segmenter: Segmenter, source: Iterable[NamedImage], out: Path, limits: dict[str, float], thing: bool | None,
    writer: str, *, ask_base: bool, strict: bool,
) -> Harvest:  # fmt: skip
    from knnseg.mining.harvesting import harvest as gather

    database = segmenter.database
    known = [] if database is None else [concept.label for concept in database.concepts() if concept.thing]
    progress = sys.stderr.isatty()
    things = known if thing is None else thing
    found = gather(segmenter, source, out, **limits, things=things, ask_base=ask_base, strict=strict, progress=progress)
    if database is not None and found.kept:
        database.add(found.labelled(), writer=writer, strict=strict, progress=progress)
    return found


def _gathered(found: Harvest) -> dict[str, Any]:
    kept, dropped = (Counter(one.name for one in some) for some in (found.kept, found.dropped))
    names = {name: {"kept": kept[name], "dropped": dropped[name]} for name in sorted(kept | dropped)}
    page = str(found.folder / "harvest.html")
    return {"images": found.images, "names": names, "page": page, "failed": found.failed}


def _show_gathered(found: Harvest) -> None:
    table = Table(
        title=f"{counted(found.images, 'image')}, {counted(len(found.kept), 'region')} kept", title_justify="left"
    )
    table.add_column("name")
    for heading in ("kept", "dropped"):
        table.add_column(heading, justify="right")
    gathered = _gathered(found)
    for name, counts in gathered["names"].items():
        table.add_row(name, str(counts["kept"]), str(counts["dropped"]))
    console = Console(markup=False)
    console.print(table)
    few = [name for name, counts in gathered["names"].items() if counts["kept"] + counts["dropped"] < _FEW]
    if few:
        said = f"too few images to tell for certain what they share, less than {_FEW}: {', '.join(few)}"
        console.print(said, soft_wrap=True, highlight=False)
    console.print(f"page: {gathered['page']}", soft_wrap=True, highlight=False)


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
        title=f"{counted(found.images, 'image')}, {counted(len(found.clusters), 'cluster')} of unknown regions",
        title_justify="left",
    )
    for heading in ("cluster", "regions", "images", "area"):
        table.add_column(heading, justify="right")
    for c in found.clusters[:_LISTED]:
        table.add_row(str(c.number), str(len(c.regions)), str(c.images), f"{c.area / max(found.images, 1):.2%}")
    console = Console(markup=False)
    console.print(table)
    console.print(f"page: {page}", soft_wrap=True, highlight=False)
