"""The command ``knnseg explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from knnseg.cli.options import AsJson, Checkpoint, Device, Preset, known_names, names_of, open_segmenter, print_json
from knnstore._options import counted

__all__ = ["explain"]


def explain(
    image: Annotated[Path, typer.Argument(help="The image.")],
    store: Annotated[
        str | None, typer.Option("--store", "-s", help="URL of the concept database; without it the base alone.")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--classes", "-c", help="Class names, as for segment. All of the database by default."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("explained.html"),
    images: Annotated[
        Path | None, typer.Option(help="Folder to look in for photographs of examples that have moved.")
    ] = None,
    preset: Preset = "photo",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Segment an image, and write why each segment has its class, with the examples that voted, as one HTML file.

    knnseg explain photo.jpg -s faiss:///tmp/db --preset photo
    """
    from knnseg.studio.sheet import write_sheet

    if store is None and classes is None:
        raise typer.BadParameter("give --classes, or --store to take its concepts")
    with open_segmenter(preset, checkpoint, store, device, create=False) as segmenter:
        result = segmenter.predict(image, names_of(classes, known_names(segmenter)))
        count = write_sheet(segmenter, result, out, images=images)
    if as_json:
        print_json({"image": str(image), "file": str(out), "segments": count})
    else:
        Console(markup=False).print(f"{counted(count, 'segment')} explained: {out}", soft_wrap=True, highlight=False)
