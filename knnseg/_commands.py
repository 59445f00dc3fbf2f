"""The commands that add, segment, measure and demonstrate. Errors are left to :func:`knnseg.cli.main`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from knnseg._calibrate_command import calibrate
from knnseg._concept_commands import concepts_app
from knnseg._evaluate import print_report, run_eval, source_of, split_of
from knnseg._models_command import models_command
from knnseg._options import AsJson, Checkpoint, Device, Preset, Store, print_json
from knnseg._sources import (
    ClassFile,
    Coco,
    Dataset,
    Ignore,
    Names,
    Pairs,
    Root,
    Split,
    datasets_command,
    examples,
    say_unlabelled,
)
from knnseg.errors import VocabularyError

if TYPE_CHECKING:
    from knnseg.concepts import ConceptDatabase
    from knnseg.datasets import LabelledImages
    from knnseg.pipeline import Segmenter

__all__ = ["app"]

app = typer.Typer(
    name="knnseg",
    help="Segment images into any classes; teach new ones from a few masked examples, without training.",
    epilog="Start with `knnseg demo`. Stores are URLs: faiss:///folder keeps everything in a folder.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Vocabulary = Annotated[
    str | None, typer.Option("--classes", "-c", help="Class names separated by commas; all of the database by default.")
]
Subset = Annotated[
    str | None, typer.Option("--classes", "-c", help="Class names separated by commas; all of the data set by default.")
]


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


@contextmanager
def _segmenter(
    preset: str,
    checkpoint: Path | None,
    store: str | None,
    device: str,
    *,
    create: bool,
    on_store_error: Literal["raise", "base"] = "raise",
) -> Iterator[Segmenter]:
    from knnseg.pipeline import Segmenter, read_config
    from knnseg.stages import with_checkpoint

    config = read_config(preset)
    if checkpoint is not None:
        config = with_checkpoint(config, str(checkpoint))
    with Segmenter.from_config(config, store, device=device, create=create, on_store_error=on_store_error) as segmenter:
        yield segmenter


@app.command()
def add(
    store: Store,
    image: Annotated[Path | None, typer.Argument(help="One image, with --mask and --label.")] = None,
    mask: Annotated[
        Path | None, typer.Option(help="PNG of the image's size; the concept is where it is not 0.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="What the mask shows.")] = None,
    thing: Annotated[bool, typer.Option("--thing/--stuff", help="A countable object, or stuff.")] = True,
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
    preset: Preset = "tiny",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Add labelled examples in one pass. Safe to interrupt and to run again.

    knnseg add -s faiss:///tmp/db photo.jpg --mask kettle.png --label kettle

    knnseg add -s faiss:///tmp/db --pairs images labels --class-file classes.json

    knnseg add -s faiss:///tmp/db --dataset ade20k --root ADEChallengeData2016 --split training
    """
    with _segmenter(preset, checkpoint, store, device, create=True) as segmenter:
        database = segmenter.database
        assert database is not None  # a store was given
        if image is not None:
            report = _add_one(database, image, mask, label, thing, writer)
        else:
            labelled = examples(pairs, class_file, coco_panoptic, ignore, dataset, root, split)
            report = _add_labelled(database, labelled, _names(classes), min_area, writer)
    if as_json:
        print_json({name: getattr(report, name) for name in ("images", "added", "present", "skipped")})
    else:
        print(
            f"images read: {report.images}; examples added: {report.added}, there already: {report.present}, "
            f"too small or featureless: {report.skipped}"
        )


def _add_labelled(
    database: ConceptDatabase, labelled: LabelledImages, names: list[str] | None, min_area: int, writer: str
) -> Any:
    known = labelled.vocabulary.names
    unknown = [name for name in names or () if name not in known]
    if unknown:  # nothing would ever be added of it, without a word
        near = ", ".join(map(repr, difflib.get_close_matches(unknown[0], known) or known[:5]))
        raise VocabularyError(
            f"classes: expected some of the {len(known)} of the data set, such as {near}, got {unknown[0]!r}"
        )
    return database.add(labelled, classes=names, min_area=min_area, writer=writer, progress=sys.stderr.isatty())


def _add_one(
    database: ConceptDatabase, image: Path, mask: Path | None, label: str | None, thing: bool, writer: str
) -> Any:
    from knnseg.images import load_image, load_label_map

    if mask is None or label is None:
        raise typer.BadParameter("an image needs --mask and --label")
    pixels, stack = load_image(image), load_label_map(mask)[None] != 0
    things = [label] if thing else []
    return database.add_masks(pixels, stack, [label], things=things, uri=image.absolute().as_uri(), writer=writer)


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Images.")],
    store: Annotated[
        str | None, typer.Option("--store", "-s", help="URL of the concept database; none uses the base alone.")
    ] = None,
    classes: Vocabulary = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for overlays, label maps and COCO panoptic files.")
    ] = Path("segmented"),
    preset: Preset = "tiny",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    on_store_error: Annotated[str, typer.Option(help="When the store is down: raise, or base.")] = "raise",
    as_json: AsJson = False,
) -> None:
    """Segment images.

    knnseg segment photo.jpg -s faiss:///tmp/db --classes "kettle, grass, sky"
    """
    if store is None and classes is None:
        raise typer.BadParameter("give --classes, or --store to take its concepts")
    if on_store_error not in ("raise", "base"):
        raise typer.BadParameter("--on-store-error takes raise or base")
    names, results = _names(classes), []
    down: Literal["raise", "base"] = "base" if on_store_error == "base" else "raise"
    with _segmenter(preset, checkpoint, store, device, create=False, on_store_error=down) as segmenter:
        stems = _stems(images)
        for path in images:
            result = segmenter.predict(path, names)
            files = [str(file) for file in result.save(out, stems[path])]
            results.append({"image": str(path), "files": files, "degraded": result.degraded, "segments": result.rle()})
            if not as_json:
                _show_segments(path, result, files)
            if result.degraded:
                print(f"knnseg: base prediction only: {result.degraded}", file=sys.stderr)
    if as_json:
        print_json({"classes": list(result.vocabulary), "images": results})


def _stems(images: list[Path]) -> dict[Path, str]:
    """A name for the files of each image; images of one name in different folders are numbered."""
    stems: dict[Path, str] = {}
    for path in images:
        taken, stem, number = set(stems.values()), path.stem, 2
        while stem in taken:
            stem, number = f"{path.stem}-{number}", number + 1
        stems[path] = stem
    return stems


def _show_segments(path: Path, result: Any, files: list[str]) -> None:
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


@app.command(name="eval")
def evaluate_command(
    store: Annotated[str | None, typer.Option("--store", "-s", help="URL of the concept database.")] = None,
    dataset: Dataset = None,
    root: Root = None,
    split: Split = "",
    words: Names = None,
    pairs: Pairs = None,
    class_file: ClassFile = None,
    coco_panoptic: Coco = None,
    ignore: Ignore = "0,255",
    classes: Subset = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report; a run that was stopped goes on there.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start anew where --out has a run already.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure on the first images only.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print every class, not only a few.")] = False,
    pictures: Annotated[int, typer.Option(min=0, help="Classes of each kind that the report shows as pictures.")] = 6,
    preset: Preset = "tiny",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure on labelled images, without and with the database: IoU, accuracy, panoptic quality, average precision.

    knnseg eval -s faiss:///tmp/db --pairs images labels --class-file classes.json --out report

    knnseg eval -s faiss:///tmp/db --dataset ade20k --root ADEChallengeData2016 --out report
    """
    labelled = examples(pairs, class_file, coco_panoptic, ignore, dataset, root, split, words)
    names, vocabulary = _names(classes), labelled.vocabulary
    say_unlabelled(names, labelled)
    active = vocabulary if names is None else vocabulary.subset(names)
    source = source_of(
        dataset=dataset, root=root, split=split_of(dataset, split), names=words,
        pairs=pairs, class_file=class_file, coco_panoptic=coco_panoptic, ignore=ignore if pairs else None,
        device=device,
    )  # fmt: skip
    with _segmenter(preset, checkpoint, store, device, create=False) as segmenter:
        result = run_eval(segmenter, labelled, active, source, out=out, restart=restart, limit=limit, pictures=pictures)
    if as_json:
        print_json(result)
        return
    print_report(result, per_class=per_class)
    if out is not None:
        Console(markup=False).print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the store and the pictures.")] = Path(
        "knnseg-demo"
    ),
    scenes: Annotated[int, typer.Option(min=1, help="Scenes to measure on.")] = 32,
    examples: Annotated[int, typer.Option(min=1, help="Example scenes for each new concept.")] = 6,
    as_json: AsJson = False,
) -> None:
    """Segment rendered scenes, teach the model the concepts that it was never trained on, and segment again."""
    from knnseg.demo import run_demo

    result = run_demo(out, scenes=scenes, examples=examples, progress=sys.stderr.isatty())
    if as_json:
        print_json(result)
        return
    print_report(result["report"], result["groups"])
    console = Console(markup=False)
    console.print(
        f"{result['added']} examples of {len(result['groups']['new concepts'])} new concepts and their "
        f"surroundings added in {result['seconds_adding']:.1f} s, no training",
        soft_wrap=True,
    )
    console.print(f"picture:  {result['picture']}", soft_wrap=True)
    console.print(f"store:    {result['store']}", soft_wrap=True)
    console.print(f"try next: {result['try_next']}", soft_wrap=True, highlight=False)


# Those of other modules, in the order in which --help lists them.
app.command()(calibrate)
app.add_typer(concepts_app)
app.command(name="datasets")(datasets_command)
app.command(name="models")(models_command)
