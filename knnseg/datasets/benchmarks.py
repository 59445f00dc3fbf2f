"""The data sets of the field by name, in the folder layouts in which they are published. Nothing is ever written."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

from knnseg.data.vocabulary import Vocabulary
from knnseg.datasets import _ade20k, _cityscapes, _coco, _pascal
from knnseg.datasets._tree import Benchmark, Tree
from knnseg.datasets.folders import LabelledImages, WithVocabulary
from knnseg.errors import DatasetError

__all__ = ["Benchmark", "benchmarks", "open_dataset", "with_names"]

_VOC_2010 = ("VOC2010", "VOCdevkit/VOC2010", "pascal_ctx_d2")
_VOC_2012 = ("VOC2012", "VOCdevkit/VOC2012")
_ALL: tuple[tuple[Benchmark, tuple[str, ...], Callable[[Tree, str], LabelledImages]], ...] = (
    (_ade20k.ADE20K, ("ADEChallengeData2016",), _ade20k.open_ade20k),
    (_ade20k.ADE20K_847, ("ADE20K_2021_17_01",), _ade20k.open_ade20k_847),
    (_pascal.CONTEXT_59, _VOC_2010, _pascal.open_context),
    (_pascal.CONTEXT_459, _VOC_2010, _pascal.open_context),
    (_pascal.VOC_20, _VOC_2012, _pascal.open_voc),
    (_pascal.VOC_21, _VOC_2012, _pascal.open_voc),
    (_coco.COCO_PANOPTIC, ("coco",), _coco.open_coco),
    (_cityscapes.CITYSCAPES, ("cityscapes",), _cityscapes.open_cityscapes),
)


def benchmarks() -> dict[str, Benchmark]:
    """What is known of each data set, by the name that :func:`open_dataset` takes."""
    return {benchmark.name: benchmark for benchmark, _, _ in _ALL}


def open_dataset(
    name: str, root: str | PathLike[str], split: str = "", *, names: str | PathLike[str] | None = None
) -> LabelledImages:
    """Open a data set in its published layout. Folders are listed, no image is opened yet.

    Args:
        name: one of :func:`benchmarks`.
        root: the data set's folder, or the one above it.
        split: one of the data set's own; "" is the one that one measures on.
        names: a file of other words for the classes, see :func:`with_names`.

    Returns:
        The images of the split, in the order of their names or of the published list. Labels are names of its
        ``vocabulary``, and image ids are unique.

    Raises:
        DatasetError: an unknown name or split; or a folder that is not as published, with the expected tree and what
            is missing. A file that is unreadable raises when it is read.
    """
    entry = next((entry for entry in _ALL if entry[0].name == name), None)
    if entry is None:
        raise DatasetError("data set", expected=f"one of {', '.join(benchmarks())}", got=repr(name))
    benchmark, homes, opener = entry
    if split and split not in benchmark.splits:
        raise DatasetError(name, expected=f"a split of {', '.join(benchmark.splits)}", got=repr(split))
    dataset = opener(Tree(benchmark, root, homes), split or benchmark.evaluation)
    return dataset if names is None else with_names(dataset, names)


def with_names(dataset: LabelledImages, path: str | PathLike[str]) -> LabelledImages:
    """The same images, with other words for their classes.

    Labels stay as they are, so a database needs no other words than before; only text encoders see the new ones.

    Args:
        dataset: labelled images of C classes.
        path: a text file with a line ``NUMBER:word,other word,…`` for each class, in ascending order of the data set's
            numbers, as OpenSeg and FC-CLIP publish. Numbers without a class, which those call ``invalid_class_id``,
            are left out; and so is a number 0 for which there is no class, VOC's background.

    Raises:
        DatasetError: unreadable, a line of another form, or another number of classes.
    """
    known = dataset.vocabulary
    rows = [row for row in _read_names(Path(path)) if row[1] != ("invalid_class_id",)]
    if len(rows) == len(known) + 1 and rows[0][0] == 0:
        rows = rows[1:]
    if len(rows) != len(known):
        raise DatasetError(path, expected=f"a line for each of {len(known)} classes", got=len(rows))
    wording = {name: words for name, (_, words) in zip(known.names, rows, strict=True)}
    return WithVocabulary(dataset, Vocabulary(known.names, known.things, wording))


def _read_names(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """(number, words) of each line, with ascending numbers."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(path, expected="a text file with class names", got=str(error)) from error
    rows: list[tuple[int, tuple[str, ...]]] = []
    for line in filter(str.strip, lines):
        number, _, text = line.partition(":")
        words = tuple(word.strip() for word in text.split(",") if word.strip())
        if not number.strip().isdecimal() or not words or (rows and int(number) <= rows[-1][0]):
            raise DatasetError(path, expected="lines NUMBER:word,other word in ascending order", got=repr(line))
        rows.append((int(number), words))
    return rows
