"""Where a command takes labelled images from: its options, and the data set that they open."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from knnseg.cli.options import AsJson, names_of, print_json
from knnseg.errors import DatasetError
from knnstore.errors import did_you_mean
from knnstore.url import without_urls

if TYPE_CHECKING:
    from knnseg.datasets import LabelledImages
    from knnseg.datasets.formats import Boxes
    from knnseg.stages.protocols import Prompted

__all__ = [
    "Annotations",
    "ClassFile",
    "Coco",
    "Dataset",
    "GuessPoints",
    "Ignore",
    "Images",
    "LeaveBoxes",
    "Names",
    "OutlinesBy",
    "Pairs",
    "Root",
    "Split",
    "StuffClasses",
    "datasets_command",
    "examples",
    "say_unlabelled",
]

Pairs = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--pairs", metavar="IMAGES LABELS", help="Folders of images and of label maps of the same stems."),
]
ClassFile = Annotated[
    Path | None, typer.Option("--class-file", help='For --pairs: JSON list of {"id", "name", "isthing"}.')
]
Ignore = Annotated[
    str, typer.Option(help="For --pairs: numbers in the label maps that mean unlabelled, separated by commas.")
]
Coco = Annotated[
    tuple[Path, Path, Path] | None,
    typer.Option(
        "--coco-panoptic", metavar="IMAGES PNGS JSON", help="Folders of images and panoptic PNGs, and the JSON."
    ),
]
Annotations = Annotated[
    Path | None,
    typer.Option(
        "--annotations",
        "-a",
        help="What a labelling tool has exported, a file or folder: COCO or LVIS instances, COCO panoptic, Label "
        "Studio, CVAT, labelme, YOLO, FiftyOne, maps in colours. Its format is recognised.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Option("--images", help="For --annotations: folder of the images, where they do not lie beside the file."),
]
LeaveBoxes = Annotated[
    bool,
    typer.Option("--leave-boxes", help="For --annotations: use no boxes, instead of guessing outlines inside of them."),
]
GuessPoints = Annotated[
    bool,
    typer.Option("--guess-points", help="For --annotations: guess at the object around a point, instead of no points."),
]
OutlinesBy = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--outlines-by",
        metavar="NAME MODEL",
        help="For --annotations: make masks of boxes, and with --guess-points of points, by a network instead of from "
        "colours: `sam` or `sam2`, and a folder of its weights or an id of the hub.",
    ),
]
StuffClasses = Annotated[
    list[str] | None,
    typer.Option(help="For --annotations: classes that are stuff, as grass and sky; names as for --classes."),
]
Dataset = Annotated[
    str | None, typer.Option("--dataset", help="A data set of the field by its name; `knnseg datasets` lists them.")
]
Root = Annotated[Path | None, typer.Option("--root", help="For --dataset: its folder, or the one above it.")]
Split = Annotated[
    str, typer.Option("--split", help="For --dataset: which part of it; by default the one that one measures on.")
]
Names = Annotated[
    Path | None,
    typer.Option("--names", help="For --dataset: a file of other words for its classes, NUMBER:word,word in a line."),
]


def examples(
    pairs: tuple[Path, Path] | None,
    class_file: Path | None,
    coco: tuple[Path, Path, Path] | None,
    ignore: str,
    dataset: str | None = None,
    root: Path | None = None,
    split: str = "",
    annotations: Path | None = None,
    images: Path | None = None,
    leave_boxes: bool = False,
    stuff: list[str] | None = None,
    guess_points: bool = False,
    outlines_by: tuple[str, str] | None = None,
    device: str = "auto",
    names: Path | None = None,
) -> LabelledImages:
    """The labelled images that the options speak of.

    Raises:
        typer.BadParameter: options missing, or of more than one source.
    """
    from knnseg.datasets import CocoPanoptic, open_dataset

    if sum(given is not None for given in (annotations, pairs, coco, dataset)) != 1:
        raise typer.BadParameter(
            "give one of --annotations, --pairs with --class-file, --coco-panoptic, and --dataset with --root (add "
            "also takes one IMAGE)"
        )
    if annotations is None and (images or leave_boxes or stuff or guess_points or outlines_by):
        needing = "--images, --leave-boxes, --guess-points, --outlines-by and --stuff-classes"
        raise typer.BadParameter(f"{needing} need --annotations")
    if annotations is not None:
        if outlines_by and leave_boxes and not guess_points:
            raise typer.BadParameter("--outlines-by has nothing to do with --leave-boxes and without --guess-points")
        way: Boxes = _prompted(*outlines_by, device) if outlines_by else "outline"
        ways: tuple[Boxes, Boxes] = ("leave" if leave_boxes else way, way if guess_points else "leave")
        return _annotated(annotations, images, *ways, stuff, outlines_by[0] if outlines_by else "")
    if dataset is None and (root or split or names):
        raise typer.BadParameter("--root, --split and --names need --dataset")
    if dataset is not None:
        if root is None:
            raise typer.BadParameter("--dataset needs --root")
        return open_dataset(dataset, root, split, names=names)
    return CocoPanoptic(*coco) if coco is not None else _pairs(pairs, class_file, ignore)


def _prompted(name: str, model: str, device: str) -> Prompted:
    """What makes masks of boxes and points, by its registered name."""
    from knnseg.config import StageConfig
    from knnseg.stages.registry import make

    made: Prompted = make("prompted", StageConfig(name, {"model": model}), device=device)
    return made


def _annotated(
    path: Path, images: Path | None, boxes: Boxes, points: Boxes, stuff: list[str] | None, by: str
) -> LabelledImages:
    from knnseg.datasets import open_annotations

    labelled = open_annotations(path, images, boxes=boxes, stuff=names_of(stuff) or (), points=points)
    if labelled.outlined:
        how = f"made by {by}" if by else "guessed from colours"
        said = f"outlines were {how} in {labelled.outlined} boxes or around points"
        print(f"knnseg: {said}; --leave-boxes uses no boxes", file=sys.stderr)
    return _saying(labelled, "kinds of shapes have no outline")


def _pairs(pairs: tuple[Path, Path] | None, class_file: Path | None, ignore: str) -> LabelledImages:
    from knnseg.datasets import ImageLabelPairs

    if class_file is None or pairs is None:
        raise typer.BadParameter("--pairs needs --class-file")
    try:
        numbers = [int(number) for number in ignore.split(",") if number.strip()]
    except ValueError:
        raise typer.BadParameter(f"--ignore: expected numbers separated by commas, got {ignore!r}") from None
    return _saying(ImageLabelPairs(*pairs, class_file, ignore=numbers), "files have no part in a pair")


def _saying(labelled: LabelledImages, what: str) -> LabelledImages:
    """The same images, after a word on what takes no part."""
    if labelled.left_out:
        some = ", ".join(labelled.left_out[:3]) + (", …" if len(labelled.left_out) > 3 else "")
        print(f"knnseg: {len(labelled.left_out)} {what}: {some}", file=sys.stderr)
    return labelled


def say_unlabelled(names: Iterable[str] | None, labelled: LabelledImages) -> None:
    """Name on standard error the chosen classes that no image can have: one may be wanted, but most are misspelt."""
    known = list(labelled.vocabulary)
    for name in names or ():
        if name not in known:
            said = f"knnseg: {name!r} is not a class of these labels. {did_you_mean(name, known)}"
            print(without_urls(said.rstrip(), sys.argv[1:]), file=sys.stderr)


def datasets_command(
    layout: Annotated[
        str | None, typer.Option("--layout", metavar="NAME", help="Print the tree that this data set must have.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the data sets of the field that `add` and `eval` read in their published layouts.

    knnseg datasets --layout ade20k
    """
    from knnseg.datasets import benchmarks

    known = benchmarks()
    if layout is not None and layout not in known:
        raise DatasetError("data set", expected=f"one of {', '.join(known)}", got=repr(layout))
    listed = list(known.values()) if layout is None else [known[layout]]
    if as_json:
        fields = ("name", "title", "classes", "things", "splits", "evaluation", "layout", "source", "note")
        print_json([{field: getattr(benchmark, field) for field in fields} for benchmark in listed])
        return
    if layout is not None:
        print("\n\n".join(filter(None, (known[layout].layout.strip("\n"), known[layout].note, known[layout].source))))
        return
    table = Table(title=f"{len(listed)} data sets", title_justify="left")
    table.add_column("name", no_wrap=True)
    for heading in ("classes", "things"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("splits", overflow="fold")
    for b in listed:
        splits = ", ".join(f"{split} (measured)" if split == b.evaluation else split for split in b.splits)
        table.add_row(b.name, str(b.classes), str(b.things or "–"), splits)
    Console(markup=False).print(table)
    print("The tree and the source of one: knnseg datasets --layout NAME")
