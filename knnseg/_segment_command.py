"""The command ``knnseg segment``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from knnseg._options import AsJson, Checkpoint, Device, Preset, Strict, finish, names_of, open_segmenter, print_json
from knnseg.errors import skipping

if TYPE_CHECKING:
    from knnseg.pipeline import Segmenter
    from knnseg.segmentation import Segmentation
    from knnseg.types import Vocabulary

__all__ = ["segment"]

Classes = Annotated[
    str | None, typer.Option("--classes", "-c", help="Class names separated by commas; all of the database by default.")
]


def segment(
    images: Annotated[list[Path], typer.Argument(help="Images.")],
    store: Annotated[
        str | None, typer.Option("--store", "-s", help="URL of the concept database; none uses the base alone.")
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
    out.mkdir(parents=True, exist_ok=True)
    results, failed = list[dict[str, Any]](), list[str]()
    down: Literal["raise", "base"] = "base" if on_store_error == "base" else "raise"
    with open_segmenter(preset, checkpoint, store, device, create=False, on_store_error=down) as segmenter:
        vocabulary = segmenter.vocabulary(names_of(classes))
        for path, result, files in _segmented(segmenter, images, vocabulary, out, failed, strict):
            results.append({"image": str(path), "files": files, "degraded": result.degraded, "segments": result.rle()})
            if not as_json:
                _show_segments(path, result, files)
            if result.degraded:
                print(f"knnseg: base prediction only: {result.degraded}", file=sys.stderr)
    if as_json:
        print_json({"classes": list(vocabulary), "images": results, "failed": failed})
    finish(failed, len(results))


def _segmented(
    segmenter: Segmenter, images: list[Path], vocabulary: Vocabulary, out: Path, failed: list[str], strict: bool
) -> Iterator[tuple[Path, Segmentation, list[str]]]:
    """The images that can be read and whose results can be written, with the files of each."""
    stems = _stems(images)
    for path in images:
        files: list[str] = []
        with skipping(failed, str(path), strict=strict):
            result = segmenter.predict(path, vocabulary)
            with skipping(failed, str(path), strict=strict, also=(OSError,)):  # of writing, not of a store
                files = [str(file) for file in result.save(out, stems[path])]
        if files:
            yield path, result, files


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
