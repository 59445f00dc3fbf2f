"""ADE20K (Zhou et al., CVPR 2017, IJCV 2019): the scene parsing benchmark of 150 classes, and the full set with 847."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnseg.data.reading import load_panoptic_png
from knnseg.datasets._classes import benchmark_classes
from knnseg.datasets._label_maps import Entry, LabelMaps, Truth, present, read_map, to_positions
from knnseg.datasets._tree import Benchmark, Tree
from knnseg.datasets.folders import CocoPanoptic, LabelledImages
from knnseg.errors import DatasetError, ImageError

__all__ = ["ADE20K", "ADE20K_847", "open_ade20k", "open_ade20k_847"]

ADE20K = Benchmark(
    "ade20k",
    "ADE20K, the scene parsing benchmark with 150 classes",
    ("training", "validation"),
    "validation",
    """
ADEChallengeData2016/
  images/{training,validation}/ADE_*.jpg
  annotations/{training,validation}/ADE_*.png           8-bit, 0 for other, 1 to 150
  annotations_instance/{training,validation}/ADE_*.png  optional: R is the class, 1 to 100, G the object
  ade20k_panoptic_{train,val}/ADE_*.png                 optional, instead: as prepared for detectron2,
  ade20k_panoptic_{train,val}.json                      COCO panoptic with categories 0 to 149
""",
    "http://sceneparsing.csail.mit.edu",
    150,
    100,
    "Panoptic quality and AP need the objects, in one of the two optional forms; without them each thing class of an "
    "image is one segment.",
)

ADE20K_847 = Benchmark(
    "ade20k-847",
    "the full ADE20K with the 847 classes of MaskFormer",
    ("training", "validation"),
    "validation",
    """
ADE20K_2021_17_01/
  images_detectron2/{training,validation}/ADE_*.jpg       as prepared by MaskFormer's script,
  annotations_detectron2/{training,validation}/ADE_*.tif  16-bit, 0 to 846, 65535 for other
or, as released,
  images/ADE/{training,validation}/*/*/ADE_*.jpg
  images/ADE/{training,validation}/*/*/ADE_*_seg.png      the class is R // 10 * 256 + G
""",
    "https://ade20k.csail.mit.edu",
    847,
    0,
    "The prepared images are at most 512 pixels on the short side, those of the release as large as they are.",
)

_SHORT = {"training": "train", "validation": "val"}


def open_ade20k(tree: Tree, split: str) -> LabelledImages:
    """ADE20K-150, with objects where the tree has them."""
    images = tree.files(tree.need(f"images/{split}"), ".jpg")
    labels = tree.files(tree.need(f"annotations/{split}"), ".png")
    pictures = tree.picked(labels, images, f"images of images/{split}")
    tree.picked(images, labels, f"label maps of annotations/{split}")
    instances = tree.find(f"annotations_instance/{split}")
    prepared = tree.find(f"ade20k_panoptic_{_SHORT[split]}.json")
    objects: list[str | None] = [None] * len(labels)
    read = _Reader(None)
    if instances is not None:
        objects = [*tree.picked(labels, tree.files(instances, ".png"), f"maps of annotations_instance/{split}")]
    elif prepared is not None:
        folder = tree.need(f"ade20k_panoptic_{_SHORT[split]}")
        read = _Reader(CocoPanoptic(tree.need(f"images/{split}"), folder, prepared))
        objects = [*tree.picked(labels, tree.files(folder, ".png"), f"maps of {folder.name}")]
    entries = [
        Entry(stem, image, label, overlay)
        for (stem, label), image, overlay in zip(labels.items(), pictures, objects, strict=True)
    ]
    return LabelMaps(benchmark_classes("ade20k").vocabulary, entries, read)


class _Reader:
    """Reads the maps of ADE20K-150; objects come from the prepared annotations, or from instance maps without those."""

    def __init__(self, prepared: CocoPanoptic | None) -> None:
        self._prepared = prepared
        self._rows = {} if prepared is None else prepared.segment_categories()
        self._table = benchmark_classes("ade20k")

    def __call__(self, entry: Entry) -> Truth:
        classes = to_positions(read_map(entry.labels), self._table.numbers, {0}, entry.labels)
        if entry.objects is None:
            return Truth(classes)
        values = _panoptic(entry.objects)
        if self._prepared is None:
            return Truth(classes, values // 256 % 256, self._instances(values, entry.objects))
        return Truth(classes, values, self._segments(entry.objects))

    def _instances(self, values: NDArray[np.int32], path: str) -> dict[int, int]:
        """R is the class among the things, G the object, whose pixels are all of one class."""
        place = {other: i for i, other in enumerate(self._table.others) if other}
        pairs = [divmod(pair, 256) for pair in present(values % 65536) if pair >= 256]
        owners = {number: place.get(other, -1) for number, other in pairs}
        if len(owners) != len(pairs) or -1 in owners.values():
            expected = f"in R the number of a thing, 1 to {len(place)}, and in G one for each object of the image"
            raise DatasetError(path, expected=expected, got=f"(R, G) {[(r, g) for g, r in pairs][:5]}")
        return owners

    def _segments(self, path: str) -> dict[int, int]:
        """The things among the segments of the prepared annotations; stuff is in the label map."""
        name = Path(path).name
        if name not in self._rows:
            raise DatasetError(path, expected="segments of this file in the annotations", got="none")
        names, things = self._table.vocabulary.names, self._table.vocabulary.things
        wrong = [category for category in self._rows[name].values() if not 0 <= category < len(names)]
        if wrong:
            raise DatasetError(path, expected=f"categories 0 to {len(names) - 1}", got=wrong[:5])
        return {number: c for number, c in self._rows[name].items() if names[c] in things}


def _panoptic(path: str) -> NDArray[np.int32]:
    try:
        return load_panoptic_png(path)
    except ImageError as error:
        raise DatasetError.of(error) from error


def open_ade20k_847(tree: Tree, split: str) -> LabelledImages:
    """ADE20K-847, as prepared or as released."""
    table = benchmark_classes("ade20k-847")
    if tree.find("annotations_detectron2") is not None:
        labels = tree.files(tree.need(f"annotations_detectron2/{split}"), ".tif")
        images = tree.files(tree.need(f"images_detectron2/{split}"), ".jpg")
        pictures = tree.picked(labels, images, f"images of images_detectron2/{split}")
        tree.picked(images, labels, f"label maps of annotations_detectron2/{split}")
        entries = [Entry(s, image, m) for (s, m), image in zip(labels.items(), pictures, strict=True)]
        return LabelMaps(table.vocabulary, entries, _read_prepared)
    folders = [Path(folder) for folder, _, _ in os.walk(tree.need(f"images/ADE/{split}"))]
    photos, maps = (tree.files_of(folders, ending) for ending in (".jpg", "_seg.png"))
    drawn = tree.picked(photos, maps, f"label maps of images/ADE/{split}")
    tree.picked(maps, photos, f"images of images/ADE/{split}")
    entries = [Entry(*files) for files in zip(photos, photos.values(), drawn, strict=True)]
    return LabelMaps(table.vocabulary, entries, _read_released)


def _read_prepared(entry: Entry) -> Truth:
    numbers = benchmark_classes("ade20k-847").numbers
    return Truth(to_positions(read_map(entry.labels), numbers, {65535}, entry.labels))


def _read_released(entry: Entry) -> Truth:
    """The release knows more than 3,000 classes; those that are not among the 847 are ignored."""
    values = _panoptic(entry.labels)
    numbers = values % 256 // 10 * 256 + values // 256 % 256
    return Truth(to_positions(numbers, benchmark_classes("ade20k-847").others, range(26 * 256), entry.labels))
