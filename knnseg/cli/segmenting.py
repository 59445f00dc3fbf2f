"""The command ``knnseg segment``."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from knnseg.cli.options import (
    AsJson,
    Checkpoint,
    Device,
    IgnoreSettings,
    Preset,
    Strict,
    finish,
    known_names,
    names_of,
    open_segmenter,
    print_json,
    say_unknown,
)
from knnseg.data.listing import images_of
from knnseg.data.vocabulary import Vocabulary
from knnseg.errors import skipping
from knnstore._options import counted

if TYPE_CHECKING:
    from knnseg.export import Export, Written
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
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        help="What to write: overlay (pictures), semantic (label maps with a legend), panoptic (COCO), instances "
        "(COCO, with stuff), yolo, label-studio; may be repeated, or separated by commas. By default the first three.",
    ),
]


def segment(
    images: Annotated[
        list[Path], typer.Argument(help="Images, folders of images, and patterns such as 'photos/**/*.jpg'.")
    ],
    store: Annotated[
        str | None, typer.Option("--store", "-s", help="URL of the concept database; without it the base alone.")
    ] = None,
    classes: Classes = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("segmented"),
    format: Formats = None,  # noqa: A002  # its name
    preset: Preset = "photo",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    on_store_error: Annotated[str, typer.Option(help="When the store is down: raise, or base.")] = "raise",
    ignore_settings: IgnoreSettings = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Segment images.

    knnseg segment photo.jpg -s faiss:///tmp/db --classes "kettle, grass, sky"
    """
    if store is None and classes is None:
        raise typer.BadParameter("give --classes, or --store to take its concepts")
    down = _when_down(on_store_error)
    names = names_of(classes)
    if names is not None:
        Vocabulary.of(names)  # a mistake in them is found before weights are read
    from knnseg.export import Export  # pictures and masks are not what every command loads

    listed, failed = images_of(images), list[str]()
    export = Export(out, _formats(format), images=_common(listed))
    opened = partial(open_segmenter, preset, checkpoint, store, device, create=False, settings=not ignore_settings)
    with opened(on_store_error=down) as segmenter, export:
        vocabulary = segmenter.vocabulary(names and names_of(classes, known_names(segmenter)))
        say_unknown(segmenter, vocabulary)
        done, shown = _shown(_written(segmenter, listed, vocabulary, export, failed, strict), as_json)
    files = {name: str(file) for name, file in export.files.items()}
    if as_json:
        print_json({"classes": list(vocabulary), "images": shown, "files": files, "failed": failed})
    else:
        print("".join(f"{name}: {file}\n" for name, file in files.items()), end="")
    finish(failed, done)


def _when_down(text: str) -> Literal["raise", "base"]:
    if text not in ("raise", "base"):
        raise typer.BadParameter("--on-store-error takes raise or base")
    return "base" if text == "base" else "raise"


def _written(
    segmenter: Segmenter, images: list[Path], vocabulary: Vocabulary, export: Export, failed: list[str], strict: bool
) -> Iterator[tuple[Segmentation, Written]]:
    """The images that can be read and whose results can be written."""
    for result in segmenter.stream(images, vocabulary, failed=None if strict else failed):
        written = None
        with skipping(failed, result.source, strict=strict, also=(OSError,)):
            written = export.write(result)
        if written is not None:
            yield result, written


def _shown(written: Iterator[tuple[Segmentation, Written]], as_json: bool) -> tuple[int, list[dict[str, Any]]]:
    """How many images there were, and what to print of them where that is one document."""
    done, described = 0, list[dict[str, Any]]()
    for result, files in written:
        done += 1
        if as_json:
            described.append(_described(result, files))
        else:
            _show_segments(result, files)
        if result.degraded:
            print(f"knnseg: base prediction only: {result.degraded}", file=sys.stderr)
    return done, described


def _common(images: list[Path]) -> str:
    """The folder that all of them are below."""
    return os.path.commonpath([Path(os.path.abspath(path)).parent for path in images])  # noqa: PTH100  # keep links


def _formats(given: list[str] | None) -> list[str]:
    """Names of formats from an option that may be repeated, and take several separated by commas."""
    from knnseg.export import DEFAULT, FORMATS

    names = list(DEFAULT) if given is None else [name.strip() for text in given for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise typer.BadParameter(f"--format: expected some of {', '.join(FORMATS)}, got {name!r}.{hint}")
    return names


def _described(result: Segmentation, written: Written) -> dict[str, Any]:
    own = {name: str(file) for name, file in written.files.items()}
    described = {"image": result.source, "image_id": written.image_id, "files": own, "degraded": result.degraded}
    return {**described, "segments": result.rle(written.image_id)}


def _show_segments(result: Segmentation, written: Written) -> None:
    table = Table(
        title=f"{Path(result.source).name}: {counted(len(result.segments_info), 'segment')}", title_justify="left"
    )
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
    if "overlay" in written.files:
        console.print(f"picture: {written.files['overlay']}", soft_wrap=True)
