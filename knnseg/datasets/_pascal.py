"""PASCAL VOC 2012 (Everingham et al., IJCV 2015) and PASCAL Context (Mottaghi et al., CVPR 2014)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from knnseg.data.arrays import IGNORE
from knnseg.datasets._classes import ClassTable, benchmark_classes
from knnseg.datasets._label_maps import Entry, LabelMaps, Truth, check_size, majority_owners, read_map, to_positions
from knnseg.datasets._tree import Benchmark, Tree
from knnseg.datasets.folders import LabelledImages
from knnseg.errors import DatasetError

__all__ = ["CONTEXT_59", "CONTEXT_459", "VOC_20", "VOC_21", "open_context", "open_voc"]

_VOC = """
VOCdevkit/VOC2012/
  JPEGImages/*.jpg
  SegmentationClass/*.png                           palette: 0 for background, 1 to 20, 255 for void
  SegmentationObject/*.png                          optional, palette: the number of the object
  ImageSets/Segmentation/{train,val,trainval}.txt
"""
_VOC_NOTE = "Without SegmentationObject each class of an image is one segment."
_VOC_SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/"

VOC_20 = Benchmark(
    "voc-20", "PASCAL VOC 2012 without the background", ("train", "val", "trainval"), "val",
    _VOC, _VOC_SOURCE, 20, 20, _VOC_NOTE,
)  # fmt: skip
VOC_21 = Benchmark(
    "voc-21", "PASCAL VOC 2012 with the background as a class", ("train", "val", "trainval"), "val",
    _VOC, _VOC_SOURCE, 21, 20, _VOC_NOTE,
)  # fmt: skip

_CONTEXT_59 = """
VOCdevkit/VOC2010/
  JPEGImages/*.jpg
and one of
  SegmentationClassContext/*.png                  as prepared for mmsegmentation: 8-bit, 0 for other, 1 to 59,
  ImageSets/SegmentationContext/{train,val}.txt   with its lists
  annotations_detectron2/pc59_{train,val}/*.png   8-bit, 0 to 58, 255 for other
  trainval/*.mat                                  as released: LabelMap, 16-bit, 1 to 459, 0 for other,
  ImageSets/Main/{train,val}.txt                  with VOC 2010's own lists, or pascalcontext_{train,val}.txt
or, as prepared for FC-CLIP,
pascal_ctx_d2/
  images/{training,validation}/*.jpg
  annotations_ctx59/{training,validation}/*.png   8-bit, 0 to 58, 255 for other
"""
_CONTEXT_459 = """
VOCdevkit/VOC2010/
  JPEGImages/*.jpg
and one of
  annotations_detectron2/pc459_{train,val}/*.tif  16-bit, 0 to 458, 65535 for other
  trainval/*.mat                                  as released: LabelMap, 16-bit, 1 to 459, 0 for other,
  ImageSets/Main/{train,val}.txt                  with VOC 2010's own lists, or pascalcontext_{train,val}.txt
or, as prepared for FC-CLIP,
pascal_ctx_d2/
  images/{training,validation}/*.jpg
  annotations_ctx459/{training,validation}/*.tif  16-bit, 0 to 458, 65535 for other
"""
_CONTEXT_SOURCE = "https://cs.stanford.edu/~roozbeh/pascal-context/"

CONTEXT_59 = Benchmark(
    "pascal-context-59", "PASCAL Context with the 59 most frequent classes", ("train", "val"), "val",
    _CONTEXT_59, _CONTEXT_SOURCE, 59,
)  # fmt: skip
CONTEXT_459 = Benchmark(
    "pascal-context-459", "PASCAL Context with all 459 classes", ("train", "val"), "val",
    _CONTEXT_459, _CONTEXT_SOURCE, 459,
)  # fmt: skip

_LONG = {"train": "training", "val": "validation"}


def open_voc(tree: Tree, split: str) -> LabelledImages:
    """VOC 2012 with 20 or 21 classes."""
    stems = tree.lines(tree.need(f"ImageSets/Segmentation/{split}.txt"))
    images = tree.picked(stems, tree.files(tree.need("JPEGImages"), ".jpg"), "images of JPEGImages")
    labels = tree.picked(stems, tree.files(tree.need("SegmentationClass"), ".png"), "maps of SegmentationClass")
    folder = tree.find("SegmentationObject")
    objects: list[str | None] = [None] * len(stems)
    if folder is not None:
        objects = [*tree.picked(stems, tree.files(folder, ".png"), "maps of SegmentationObject")]
    table = benchmark_classes(tree.benchmark.name)
    entries = [Entry(*files) for files in zip(stems, images, labels, objects, strict=True)]
    return LabelMaps(table.vocabulary, entries, partial(_read_voc, table))


def _read_voc(table: ClassTable, entry: Entry) -> Truth:
    classes = to_positions(read_map(entry.labels), table.numbers, {0, 255}, entry.labels)
    if entry.objects is None:
        return Truth(classes)
    objects = read_map(entry.objects)
    objects[objects == 255] = 0  # the void borders between objects
    check_size(entry.objects, objects, classes.shape, "the class map")
    thing = np.array([name in table.vocabulary.things for name in table.vocabulary])
    countable = np.where((classes != IGNORE) & thing[classes], classes, IGNORE)
    return Truth(classes, objects, majority_owners(objects, countable, len(table.numbers)))


def open_context(tree: Tree, split: str) -> LabelledImages:
    """PASCAL Context in whichever of its forms is there; the prepared ones first, since those are what papers use."""
    table = benchmark_classes(tree.benchmark.name)
    pictures, labels, read = _context_maps(tree, split, table)
    stems = [Path(path).stem for path in labels]
    images = tree.picked(stems, tree.files(tree.need(pictures), ".jpg"), f"images of {pictures}")
    return LabelMaps(table.vocabulary, [Entry(*files) for files in zip(stems, images, labels, strict=True)], read)


def _context_maps(tree: Tree, split: str, table: ClassTable) -> tuple[str, list[str], Callable[[Entry], Truth]]:
    """The folder of the pictures, the label maps, and how those are read."""
    count = len(table.numbers)
    ending, void = (".png", 255) if count == 59 else (".tif", 65535)
    from_zero = partial(_read_numbers, range(count), {void})
    if count == 59 and (folder := tree.find("SegmentationClassContext")):
        stems = tree.lines(tree.need(f"ImageSets/SegmentationContext/{split}.txt"))
        labels = tree.picked(stems, tree.files(folder, ".png"), f"maps of {folder.name}")
        return "JPEGImages", labels, partial(_read_numbers, range(1, 60), {0, 255})
    if folder := tree.find(f"annotations_detectron2/pc{count}_{split}"):
        return "JPEGImages", list(tree.files(folder, ending).values()), from_zero
    if folder := tree.find(f"annotations_ctx{count}/{_LONG[split]}"):
        return f"images/{_LONG[split]}", list(tree.files(folder, ending).values()), from_zero
    if folder := tree.find("trainval"):
        labels = tree.picked(_published_split(tree, split), tree.files(folder, ".mat"), "label maps of trainval")
        return "JPEGImages", labels, partial(_read_mat, table)
    raise tree.wrong(f"no label maps of the split {split} are there")


def _published_split(tree: Tree, split: str) -> list[str]:
    """PASCAL Context labels the training and validation images of VOC 2010's main challenge: 4,998 and 5,105."""
    lists = (f"ImageSets/SegmentationContext/{split}.txt", f"pascalcontext_{split}.txt")
    found = next((path for name in lists if (path := tree.find(name)) is not None), None)
    return tree.lines(found or tree.need(f"ImageSets/Main/{split}.txt"))


def _read_numbers(numbers: range, ignored: Collection[int], entry: Entry) -> Truth:
    return Truth(to_positions(read_map(entry.labels), numbers, ignored, entry.labels))


def _read_mat(table: ClassTable, entry: Entry) -> Truth:
    """Numbers of all 459 classes; those that the benchmark leaves out are ignored."""
    try:
        # A file with anything but plain arrays is not what was published, whatever SciPy says of it.
        values = np.asarray(loadmat(entry.labels, variable_names=["LabelMap"])["LabelMap"])
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise DatasetError(entry.labels, expected="a MATLAB file with the array LabelMap", got=got) from error
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.min() < 0:
        raise DatasetError(entry.labels, expected="LabelMap as integers (H, W)", got=f"{values.dtype} {values.shape}")
    return Truth(to_positions(values.astype(np.int32), table.numbers, range(460), entry.labels))
