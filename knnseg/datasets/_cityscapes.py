"""Cityscapes (Cordts et al., CVPR 2016)."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from knnseg.datasets._classes import ClassTable, benchmark_classes
from knnseg.datasets._label_maps import Entry, LabelMaps, Truth, present, read_map, to_positions
from knnseg.datasets._tree import Benchmark, Tree
from knnseg.datasets.folders import LabelledImages

__all__ = ["CITYSCAPES", "open_cityscapes"]

CITYSCAPES = Benchmark(
    "cityscapes",
    "Cityscapes with fine annotations",
    ("train", "val"),
    "val",
    """
cityscapes/
  leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
  gtFine/{train,val}/CITY/*_gtFine_labelIds.png     8-bit, the 19 classes by their own numbers, the rest ignored
  gtFine/{train,val}/CITY/*_gtFine_instanceIds.png  16-bit, optional: class * 1000 + number for objects
""",
    "https://www.cityscapes-dataset.com",
    19,
    8,
    "Without instanceIds each class of an image is one segment.",
)

_LABELS, _OBJECTS, _IMAGE = "_gtFine_labelIds.png", "_gtFine_instanceIds.png", "_leftImg8bit.png"
_LAST = 33  # the highest number of a label


def open_cityscapes(tree: Tree, split: str) -> LabelledImages:
    """Cityscapes, with objects where the tree has them."""
    labels = _of_cities(tree, tree.need(f"gtFine/{split}"), _LABELS)
    objects = _of_cities(tree, tree.need(f"gtFine/{split}"), _OBJECTS)
    images = _of_cities(tree, tree.need(f"leftImg8bit/{split}"), _IMAGE)
    pictures = tree.picked(labels, images, f"images of leftImg8bit/{split}")
    maps = tree.picked(images, labels, f"label maps of gtFine/{split}")
    overlays: list[str | None] = [None] * len(maps)
    if objects:
        overlays = [*tree.picked(labels, objects, f"maps of instances of gtFine/{split}")]
    table = benchmark_classes("cityscapes")
    entries = [Entry(*files) for files in zip(labels, pictures, labels.values(), overlays, strict=True)]
    return LabelMaps(table.vocabulary, entries, partial(_read, table))


def _of_cities(tree: Tree, folder: Path, ending: str) -> dict[str, str]:
    """The files of all cities; their names begin with the city, so they differ."""
    return tree.files_of([Path(entry) for entry in os.scandir(folder) if entry.is_dir()], ending)


def _read(table: ClassTable, entry: Entry) -> Truth:
    """Groups of objects that nobody parted have the number of their class, below 1000, and are not an object."""
    classes = to_positions(read_map(entry.labels), table.numbers, range(_LAST + 1), entry.labels)
    if entry.objects is None:
        return Truth(classes)
    objects, names = read_map(entry.objects), table.vocabulary.names
    place = {number: i for i, number in enumerate(table.numbers) if names[i] in table.vocabulary.things}
    owners = {number: place[number // 1000] for number in present(objects) if number // 1000 in place}
    return Truth(classes, objects, owners, crowds=True)
