"""The command ``knnseg segment``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from knnseg.cli.options import (
    AsJson,
    Checkpoint,
    Device,
    Preset,
    Strict,
    finish,
    names_of,
    open_segmenter,
    print_json,
    say_unknown,
)
from knnseg.data.listing import images_of
from knnseg.data.vocabulary import Vocabulary
from knnseg.errors import skipping
from knnstore.errors import StoreConnectionError, StoreTimeoutError

if TYPE_CHECKING:
    from knnseg.result import Segmentation
    from knnseg.segmenter import Segmenter

__all__ = ["segment"]

Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        "-c",
        help="Class names separated by commas, or @FILE with one in each line; may be repeated. All of the database by "
        "default. A name that has a comma: -c '\"a, b\"'.",
    ),
]


def segment(
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    store: Annotated[
        str | None, typer.Option("--store", "-s", help="URL of the concept database; without it the base alone.")
    ] = None,
    classes: Classes = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for overlays, label maps and COCO panoptic files.")
    ] = Path("segmented"),
    preset: Preset = "tiny",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    on_store_error: Annotated[str, typer.Option(help="When the store is down: raise, or base.")] = "raise",
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Segment images.

    knnseg segment photo.jpg -s faiss:///tmp/db --classes "kettle, grass, sky"
    """
    if store is None and classes is None:
        raise typer.BadParameter("give --classes, or --store to take its concepts")
    if on_store_error not in ("raise", "base"):
        raise typer.BadParameter("--on-store-error takes raise or base")
    names = names_of(classes)
    if names is not None:
        Vocabulary.of(names)  # a mistake in them is found before weights are read
    out.mkdir(parents=True, exist_ok=True)
    run, failed = _Run(out, images_of(images), strict), list[str]()
    down: Literal["raise", "base"] = "base" if on_store_error == "base" else "raise"
    with open_segmenter(preset, checkpoint, store, device, create=False, on_store_error=down) as segmenter:
        vocabulary = segmenter.vocabulary(names and _chosen(classes, segmenter))
        say_unknown(segmenter, vocabulary)
        for path, result, files in run.segmented(segmenter, vocabulary, failed):
            if not as_json:
                _show_segments(path, result, files)
            if result.degraded:
                print(f"knnseg: base prediction only: {result.degraded}", file=sys.stderr)
    if as_json:
        coco = str(run.joined) if run.shown else ""
        print_json({"classes": list(vocabulary), "images": run.shown, "coco": coco, "failed": failed})
    elif run.shown:
        print(f"COCO panoptic: {run.joined}")
    finish(failed, len(run.shown))


def _chosen(classes: list[str] | None, segmenter: Segmenter) -> list[str]:
    """The names of the option; a value may be one that the database knows as a whole, now or from before."""
    called: dict[str, str] = {}
    if segmenter.database is not None:
        with suppress(StoreConnectionError, StoreTimeoutError):  # if it is down, the segmenter knows what to do
            concepts = segmenter.database.concepts()
            called = {alias: concept.label for concept in concepts for alias in concept.aliases}
            called |= {concept.label: concept.label for concept in concepts}
    names = names_of(classes, called) or []
    for name in names:
        if called.get(name, name) != name:
            print(f"knnseg: {name!r} is called {called[name]!r} now, and taken as that", file=sys.stderr)
    return list(dict.fromkeys(called.get(name, name) for name in names))


class _Run:
    """The images of one call, their results, and one COCO panoptic file of all of them."""

    def __init__(self, out: Path, images: list[Path], strict: bool) -> None:
        self._out, self._images, self._strict = out, images, strict
        self.joined = out / "panoptic.json"
        self.shown: list[dict[str, Any]] = []
        self._documents: list[dict[str, Any]] = []

    def segmented(
        self, segmenter: Segmenter, vocabulary: Vocabulary, failed: list[str]
    ) -> Iterator[tuple[Path, Segmentation, list[str]]]:
        """The images that can be read and whose results can be written, with the files of each."""
        stems, names = _stems(self._images), _relative(self._images)
        places = {str(path): (number, path) for number, path in enumerate(self._images, 1)}
        try:
            for result in segmenter.stream(self._images, vocabulary, failed=None if self._strict else failed):
                (number, path), files = places[result.source], list[str]()
                with skipping(failed, str(path), strict=self._strict, also=(OSError,)):
                    saved = result.save(self._out, stems[path], image_id=number, image_file=names[path])
                    files = [str(file) for file in saved]
                if files:
                    self._keep(number, path, result, files, names[path])
                    yield path, result, files
        finally:
            if self._documents:
                from knnseg.result import joined_coco  # pictures and masks are not what every command loads

                self.joined.write_text(json.dumps(joined_coco(self._documents), indent=1), encoding="utf-8")

    def _keep(self, number: int, path: Path, result: Segmentation, files: list[str], name: str) -> None:
        self._documents.append(result.coco_panoptic(Path(files[2]).name, number, name))
        shown = {"image": str(path), "image_id": number, "files": files, "degraded": result.degraded}
        self.shown.append({**shown, "segments": result.rle(number)})


def _relative(images: list[Path]) -> dict[Path, str]:
    """The images as seen from the folder that all of them are below."""
    full = [Path(os.path.abspath(path)) for path in images]  # noqa: PTH100  # resolve() would follow links
    common = os.path.commonpath([path.parent for path in full])
    return {path: place.relative_to(common).as_posix() for path, place in zip(images, full, strict=True)}


def _stems(images: list[Path]) -> dict[Path, str]:
    """A name for the files of each image; images of one name in different folders are numbered."""
    stems: dict[Path, str] = {}
    for path in images:
        taken, stem, number = set(stems.values()), path.stem, 2
        while stem in taken:
            stem, number = f"{path.stem}-{number}", number + 1
        stems[path] = stem
    return stems


def _show_segments(path: Path, result: Segmentation, files: list[str]) -> None:
    table = Table(title=f"{path.name}: {len(result.segments_info)} segments", title_justify="left")
    for heading, side in (
        ("#", "right"),
        ("class", "left"),
        ("kind", "left"),
        ("score", "right"),
        ("area", "right"),
        ("box", "left"),
    ):
        table.add_column(heading, justify=side)  # type: ignore[arg-type]  # rich's literal
    for s in result.segments_info:
        kind = "thing" if s.thing else "stuff"
        table.add_row(str(s.id), s.label, kind, f"{s.score:.2f}", f"{s.area / result.semantic.size:.1%}", str(s.box))
    console = Console(markup=False)
    console.print(table)
    console.print(f"picture: {files[0]}", soft_wrap=True)
