"""The commands that add, segment, measure and demonstrate. Errors are left to :func:`knnseg.cli.main`."""

from __future__ import annotations

import difflib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from knnseg.cli.calibrating import calibrate
from knnseg.cli.concepts import concepts_app
from knnseg.cli.evaluating import print_report, run_eval, source_of, split_of
from knnseg.cli.examples import examples_app
from knnseg.cli.explaining import explain
from knnseg.cli.info import info
from knnseg.cli.label_studio import label_studio
from knnseg.cli.mining import discover, harvest
from knnseg.cli.models import models_command
from knnseg.cli.options import (
    AsJson,
    Checkpoint,
    Device,
    IgnoreSettings,
    Preset,
    Store,
    Strict,
    Version,
    finish,
    names_of,
    open_segmenter,
    print_json,
    printed_warnings,
    show_added,
)
from knnseg.cli.segmenting import segment
from knnseg.cli.sources import (
    Annotations,
    ClassFile,
    Coco,
    Dataset,
    GuessPoints,
    Ignore,
    Images,
    LeaveBoxes,
    Names,
    OutlinesBy,
    Pairs,
    Root,
    Split,
    StuffClasses,
    datasets_command,
    examples,
    say_unlabelled,
)
from knnseg.cli.studio import studio
from knnseg.errors import VocabularyError
from knnstore._options import Group

if TYPE_CHECKING:
    from knnseg.data.vocabulary import Vocabulary
    from knnseg.datasets import LabelledImages

__all__ = ["app"]

app = typer.Typer(
    name="knnseg",
    cls=Group,
    epilog="Start with `knnseg demo`. Stores are URLs: faiss:///folder keeps everything in a folder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(context: typer.Context, version: Version = False) -> None:  # noqa: ARG001  # its callback answers
    """Segment images into any classes; teach new ones from a few masked examples, without training."""
    context.with_resource(printed_warnings())


Subset = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        "-c",
        help="Class names separated by commas, or @FILE with one in each line; may be repeated. All of the data set by "
        "default. A name that has a comma: -c '\"a, b\"'.",
    ),
]
OneImage = Annotated[Path | None, typer.Argument(help="One image, with --mask and --label.")]
Mask = Annotated[Path | None, typer.Option(help="PNG of the image's size; the concept is where it is not 0.")]
Thing = Annotated[
    bool | None,
    typer.Option("--thing/--stuff", help="A countable object, or stuff; by default as the database knows it."),
]
Report = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for the report; a run that was stopped goes on there.")
]


@app.command()
def add(
    store: Store,
    image: OneImage = None,
    mask: Mask = None,
    label: Annotated[str | None, typer.Option(help="What the mask shows.")] = None,
    thing: Thing = None,
    annotations: Annotations = None,
    images: Images = None,
    leave_boxes: LeaveBoxes = False,
    guess_points: GuessPoints = False,
    outlines_by: OutlinesBy = None,
    stuff_classes: StuffClasses = None,
    pairs: Pairs = None,
    class_file: ClassFile = None,
    coco_panoptic: Coco = None,
    ignore: Ignore = "0,255",
    dataset: Dataset = None,
    root: Root = None,
    split: Split = "",
    classes: Subset = None,
    min_area: Annotated[int, typer.Option(help="Leave out segments with fewer pixels.")] = 1,
    writer: Annotated[str, typer.Option(help="Who adds, kept with each example.")] = "",
    preset: Preset = "photo",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Add labelled examples in one pass. Safe to interrupt and to run again.

    knnseg add -s faiss:///tmp/db photo.jpg --mask kettle.png --label kettle --thing

    knnseg add -s faiss:///tmp/db --annotations export.json --images photos

    knnseg add -s faiss:///tmp/db --pairs images labels --class-file classes.json

    knnseg add -s faiss:///tmp/db --dataset ade20k --root ADEChallengeData2016 --split training
    """
    one = {} if image is None else _one(image, mask, label)
    more = (dataset, root, split, annotations, images, leave_boxes, stuff_classes, guess_points, outlines_by, device)
    found, names = (None, None) if one else _named(classes, examples(pairs, class_file, coco_panoptic, ignore, *more))
    with open_segmenter(preset, checkpoint, store, device, create=True) as segmenter:
        assert segmenter.database is not None  # a store was given
        if found is None:
            report = segmenter.database.add_masks(**one, things=_things(label, thing), writer=writer)
        else:
            add_all = partial(segmenter.database.add, progress=sys.stderr.isatty())
            report = add_all(found, classes=names, min_area=min_area, writer=writer, strict=strict)
    show_added(report, as_json)


def _things(label: str | None, thing: bool | None) -> list[str] | None:
    return None if thing is None else [label or ""] if thing else []


def _named(classes: list[str] | None, labelled: LabelledImages) -> tuple[LabelledImages, list[str] | None]:
    """The data set and the chosen of its classes: of another, nothing would ever be added, without a word."""
    names = names_of(classes, labelled.vocabulary)
    known, there = labelled.vocabulary.names, frozenset(labelled.vocabulary.names)
    unknown = [name for name in names or () if name not in there]
    if unknown:
        near = ", ".join(map(repr, difflib.get_close_matches(unknown[0], known) or known[:5]))
        raise VocabularyError(
            "classes", expected=f"some of the {len(known)} of the data set, such as {near}", got=repr(unknown[0])
        )
    return labelled, names


def _one(image: Path, mask: Path | None, label: str | None) -> dict[str, Any]:
    """The one image of the command line with its mask, as arguments of ``add_masks``."""
    from knnseg.data.reading import load_annotated, load_label_map

    if mask is None or label is None:
        raise typer.BadParameter("an image needs --mask and --label")
    stack = load_label_map(mask)[None] != 0
    return {
        "image": load_annotated(image, stack.shape[1:]),
        "masks": stack,
        "labels": [label],
        "uri": image.absolute().as_uri(),
    }


@app.command(name="eval")
def evaluate_command(
    store: Annotated[str | None, typer.Option("--store", "-s", help="URL of the concept database.")] = None,
    dataset: Dataset = None,
    root: Root = None,
    split: Split = "",
    words: Names = None,
    annotations: Annotations = None,
    images: Images = None,
    pairs: Pairs = None,
    class_file: ClassFile = None,
    coco_panoptic: Coco = None,
    ignore: Ignore = "0,255",
    classes: Subset = None,
    out: Report = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start anew where --out has a run already.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on the first images only.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print every class, not only a few.")] = False,
    pictures: Annotated[int, typer.Option(min=0, help="Classes of each kind that the report shows as pictures.")] = 6,
    preset: Preset = "photo",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    ignore_settings: IgnoreSettings = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure on labelled images, without and with the database: IoU, accuracy, panoptic quality, average precision.

    knnseg eval -s faiss:///tmp/db --pairs images labels --class-file classes.json --out report

    knnseg eval -s faiss:///tmp/db --dataset ade20k --root ADEChallengeData2016 --out report
    """
    # To measure against outlines that were guessed would say little.
    more = (dataset, root, split, annotations, images, annotations is not None)
    labelled = examples(pairs, class_file, coco_panoptic, ignore, *more, names=words)
    active = _chosen(classes, labelled)
    source = source_of(
        dataset=dataset, root=root, split=split_of(dataset, split), names=words,
        annotations=annotations, images=images, pairs=pairs, class_file=class_file, coco_panoptic=coco_panoptic,
        ignore=ignore if pairs else None, device=device,
    )  # fmt: skip
    with open_segmenter(preset, checkpoint, store, device, create=False, settings=not ignore_settings) as segmenter:
        result = run_eval(
            segmenter, labelled, active, source,
            out=out, restart=restart, limit=limit, pictures=pictures, strict=strict,
        )  # fmt: skip
    _show_measured(result, out, per_class=per_class, as_json=as_json)


def _chosen(classes: list[str] | None, labelled: LabelledImages) -> Vocabulary:
    """The classes to measure, those of the data set by default."""
    names, vocabulary = names_of(classes, labelled.vocabulary), labelled.vocabulary
    say_unlabelled(names, labelled)
    return vocabulary if names is None else vocabulary.subset(names)


def _show_measured(result: dict[str, Any], out: Path | None, *, per_class: bool, as_json: bool) -> None:
    print_json(result) if as_json else print_report(result, per_class=per_class)
    if out is not None and not as_json:
        Console(markup=False).print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)
    finish(result["failed"], result["images"])


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the store and the pictures.")] = Path(
        "knnseg-demo"
    ),
    scenes: Annotated[int, typer.Option(min=1, help="Scenes to measure on.")] = 32,
    examples: Annotated[int, typer.Option(min=1, help="Example scenes for each new concept.")] = 6,
    photos: Annotated[Path | None, typer.Option(help="A folder of images/, labels/ and classes.json instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Segment rendered scenes, teach the model the concepts that it was never trained on, and segment again.

    With --photos: the same on labelled photographs, of which every other one is taught.
    """
    from knnseg.cli.demo import run_demo, run_photos

    progress = sys.stderr.isatty()
    if photos is None:
        result = run_demo(out, scenes=scenes, examples=examples, progress=progress)
    else:
        result = run_photos(photos, out, progress=progress)
    if as_json:
        print_json(result)
        return
    print_report(result["report"], result["groups"])
    console = Console(markup=False)
    new = result["groups"] and len(result["groups"]["new concepts"])
    what = f"examples of {new} new concepts and their surroundings" if new else "examples"
    console.print(f"{result['added']} {what} added in {result['seconds_adding']:.1f} s, no training", soft_wrap=True)
    console.print(f"picture:  {result['picture']}", soft_wrap=True)
    console.print(f"store:    {result['store']}", soft_wrap=True)
    console.print(f"try next: {result['try_next']}", soft_wrap=True, highlight=False)


# Those of other modules, in the order in which --help lists them.
app.command()(segment)
app.command()(explain)
app.command()(discover)
app.command()(harvest)
app.command()(calibrate)
app.command()(info)
app.add_typer(concepts_app)
app.add_typer(examples_app)
app.command(name="label-studio")(label_studio)
app.command()(studio)
app.command(name="datasets")(datasets_command)
app.command(name="models")(models_command)
