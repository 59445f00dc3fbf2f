"""Labelled images in folders: pairs of image and label map, and COCO panoptic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np

from knnseg.data.annotations import LabelledImage, LabelledSegment, positions
from knnseg.data.arrays import IGNORE
from knnseg.data.listing import IMAGES, LABEL_MAPS, listed
from knnseg.data.reading import load_annotated, load_label_map, load_panoptic_png
from knnseg.data.vocabulary import Vocabulary
from knnseg.datasets._json import Node, read_json
from knnseg.errors import DatasetError

__all__ = [
    "CocoPanoptic",
    "ImageLabelPairs",
    "LabelledImages",
    "WithVocabulary",
    "classes_of",
    "read_classes",
    "unknown_of",
]

_MOST = 256**3 - 1
"""The highest number of a segment that a panoptic PNG can hold."""


class LabelledImages(Sequence[LabelledImage]):
    """A list of labelled images, each read when it is asked for. Slices are lists of the same kind of promise."""

    @property
    def vocabulary(self) -> Vocabulary:
        """All classes that labels may have, in the order of the data set."""
        raise NotImplementedError

    outlined: int = 0
    """How many segments are the likely outline of a box, and not drawn by anyone."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is there and takes no part, for people."""
        return ()

    def load(self, index: int) -> LabelledImage:
        """Read the image of a valid, non-negative index."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...

    @overload
    def __getitem__(self, index: slice) -> LabelledImages: ...

    def __getitem__(self, index: int | slice) -> LabelledImage | LabelledImages:
        if isinstance(index, slice):
            return _Part(self, range(len(self))[index])
        return self.load(range(len(self))[index])


class _Part(LabelledImages):
    def __init__(self, whole: LabelledImages, picked: Sequence[int]) -> None:
        self._whole, self._picked = whole, picked

    @property
    def vocabulary(self) -> Vocabulary:
        """Those of the whole."""
        return self._whole.vocabulary

    def __len__(self) -> int:
        return len(self._picked)

    def load(self, index: int) -> LabelledImage:
        return self._whole.load(self._picked[index])


class WithVocabulary(LabelledImages):
    """Labelled images whose vocabulary says more of the same names: other words for text encoders, say.

    Args:
        whole: the images.
        vocabulary: has every name that a label may have.
    """

    def __init__(self, whole: LabelledImages, vocabulary: Vocabulary) -> None:
        self._whole, self._vocabulary = whole, vocabulary

    @property
    def vocabulary(self) -> Vocabulary:
        """The given one."""
        return self._vocabulary

    def __len__(self) -> int:
        return len(self._whole)

    def load(self, index: int) -> LabelledImage:
        return self._whole.load(index)


def read_classes(source: str | PathLike[str] | Mapping[int, str]) -> dict[int, tuple[str, bool | None]]:
    """Class numbers with name and "is a thing", None where nobody says.

    Args:
        source: a mapping of number to name; or a JSON file: a list of ``{"id": 1, "name": "kettle", "isthing": true}``
            (``isthing`` may be missing), or a COCO file with such a list under ``categories``. What is marked
            ``"unknown": 1`` there, as results mark what belongs to none of their classes, is left out.

    Raises:
        DatasetError: unreadable, or a number or name twice.
    """
    if isinstance(source, Mapping):
        named = [(Node(number, "classes", repr(number)).whole(), name, None) for number, name in source.items()]
        return _distinct(named, "classes")
    return classes_of(read_json(source))


def classes_of(file: Node) -> dict[int, tuple[str, bool | None]]:
    """The same of a JSON file that was read."""
    rows = [
        (e["id"].whole(), e["name"].text(), e.flag("isthing") if "isthing" in e.mapping() else None)
        for e in _categories(file)
        if not e.flag("unknown")
    ]
    return _distinct(rows, file.file)


def unknown_of(file: Node) -> frozenset[int]:
    """The numbers of what is marked as none of the classes, in results of ours: it is not to be taught as one."""
    return frozenset(e["id"].whole() for e in _categories(file) if e.flag("unknown"))


def _categories(file: Node) -> list[Node]:
    return (file["categories"] if isinstance(file.value, dict) else file).entries()


def _distinct(rows: Sequence[tuple[int, str, bool | None]], source: str) -> dict[int, tuple[str, bool | None]]:
    for what, values in (("id", [r[0] for r in rows]), ("name", [r[1] for r in rows])):
        twice = [value for value, count in Counter[Any](values).items() if count > 1]
        if twice:
            raise DatasetError(source, expected=f"each {what} once", got=f"{twice[0]!r} more than once")
    if not rows:
        raise DatasetError(source, expected="at least one class", got="none")
    return {number: (name, thing) for number, name, thing in rows}


def _vocabulary(classes: Mapping[int, tuple[str, bool | None]]) -> Vocabulary:
    return Vocabulary(
        tuple(name for name, _ in classes.values()), frozenset(name for name, thing in classes.values() if thing)
    )


def _folder(path: str | PathLike[str], what: str) -> Path:
    if not Path(path).is_dir():
        raise DatasetError(what, expected="a folder", got=path)
    return Path(path)


class ImageLabelPairs(LabelledImages):
    """Images in one folder, label maps of the same stems in another, with a class number in each pixel.

    Each class of an image is one segment. Images without a label map are left out; a label map without an image is an
    error, since it was meant to be used.

    Args:
        images: folder of images.
        labels: folder of label maps: ``STEM.png``, or another format that :func:`knnseg.load_label_map` takes.
        classes: see :func:`read_classes`.
        ignore: numbers that mean "unlabelled".
        stems: take only these, in this order.

    Raises:
        DatasetError: folders or files missing, or two files of one stem in a folder. A label map with a number that is
            in neither ``classes`` nor ``ignore`` raises when it is read.
    """

    def __init__(
        self,
        images: str | PathLike[str],
        labels: str | PathLike[str],
        classes: str | PathLike[str] | Mapping[int, str],
        *,
        ignore: Sequence[int] = (0, 255),
        stems: Sequence[str] | None = None,
    ) -> None:
        self.classes = read_classes(classes)
        unknown = frozenset[int]() if isinstance(classes, Mapping) else unknown_of(read_json(classes))
        self._ignore = (frozenset(ignore) | unknown) - set(self.classes)
        found = listed(_folder(images, "images"), IMAGES)
        maps = listed(_folder(labels, "label maps"), LABEL_MAPS)
        wanted = list(maps.files) if stems is None else list(stems)
        missing = [stem for stem in wanted if stem not in found.files or stem not in maps.files]
        if missing or not wanted:
            raise DatasetError(
                f"{images} and {labels}",
                expected="an image and a label map, such as STEM.png, of each stem",
                got=f"none for {missing[:5] or 'any'}",
            )
        self._files = [(Path(found.files[stem]), maps.files[stem]) for stem in wanted]
        unpaired = [] if stems is not None else [path for stem, path in found.files.items() if stem not in maps.files]
        folders = ((images, found), (labels, maps))
        self._left_out = (*unpaired, *(str(Path(f) / name) for f, listing in folders for name in listing.others))

    @property
    def left_out(self) -> tuple[str, ...]:
        """Files of both folders that take no part: images without a label map, unless stems were chosen, and files
        that are not images, or not label maps.
        """
        return self._left_out

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes, in the order of their list."""
        return _vocabulary(self.classes)

    def __len__(self) -> int:
        return len(self._files)

    def load(self, index: int) -> LabelledImage:
        """Read one pair."""
        image, label_map = self._files[index]
        numbers = load_label_map(label_map)
        present = set(np.unique(numbers).tolist())
        unknown = sorted(present - set(self.classes) - self._ignore)
        if unknown:
            raise DatasetError(
                label_map,
                expected=f"numbers of {len(self.classes)} classes, or {sorted(self._ignore)} for unlabelled",
                got=unknown[:5],
                hint="Add them to the classes, or to `ignore`.",
            )
        # Segment numbers are positive; a class may well be number 0.
        known = sorted(present & set(self.classes))
        segments = (positions(numbers, known) + 1).astype(np.int32)
        info = tuple(LabelledSegment(i, *self.classes[number]) for i, number in enumerate(known, 1))
        pixels = load_annotated(image, segments.shape)
        return LabelledImage(pixels, segments, info, image.absolute().as_uri(), image.stem)


@dataclass(frozen=True, slots=True)
class _Annotation:
    """What COCO panoptic says of one image; segments are (number, category, is a crowd)."""

    image_id: str
    image: str
    png: str
    segments: tuple[tuple[int, int, bool], ...]


class CocoPanoptic(LabelledImages):
    """COCO panoptic annotations: a JSON file, and a folder of PNGs with R + 256·G + 65536·B for each pixel.

    Crowd segments are not objects: their pixels are in no segment, but their class is in the class map. Segments of
    what results mark as ``unknown`` are left out.

    Args:
        images: folder of images.
        panoptic: folder of the PNGs.
        annotations: the JSON file.

    Raises:
        DatasetError: folders missing, or a file that is not laid out as published.
    """

    def __init__(
        self, images: str | PathLike[str], panoptic: str | PathLike[str], annotations: str | PathLike[str]
    ) -> None:
        self._images, self._panoptic = _folder(images, "images"), _folder(panoptic, "panoptic PNGs")
        file = read_json(annotations)
        self.classes, self._unknown = classes_of(file), unknown_of(file)
        names: dict[str, str] = {}
        for entry in file["images"].entries():
            image_id = entry["id"].identity()
            if image_id in names:
                raise entry["id"].wrong(f"an id that no other image has, such as {names[image_id]}")
            names[image_id] = entry["file_name"].text()
        self._entries = [self._parsed(entry, names) for entry in file["annotations"].entries()]
        twice = [png for png, count in Counter(entry.png for entry in self._entries).items() if count > 1]
        if twice:
            raise DatasetError(annotations, expected="each PNG in one annotation", got=f"{twice[0]} in several")

    def _parsed(self, entry: Node, names: Mapping[str, str]) -> _Annotation:
        image_id = entry["image_id"].identity()
        if image_id not in names:
            raise entry["image_id"].wrong("the id of an image of this file")
        png, segments = entry["file_name"].text(), []
        for segment in entry["segments_info"].entries():
            category = segment["category_id"].whole()
            if category in self._unknown:
                continue
            if category not in self.classes:
                raise segment["category_id"].wrong("the id of a category of this file")
            segments.append((segment["id"].whole(1, _MOST), category, segment.flag("iscrowd")))
        return _Annotation(image_id, names[image_id], png, tuple(segments))

    @property
    def vocabulary(self) -> Vocabulary:
        """The categories, in the order of their list."""
        return _vocabulary(self.classes)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def files(self) -> tuple[list[str], list[str]]:
        """The file names of the images and of the PNGs that the annotations speak of."""
        return [entry.image for entry in self._entries], [entry.png for entry in self._entries]

    def segment_categories(self) -> dict[str, dict[int, int]]:
        """PNG file name -> {number of a segment: its category}, without crowds."""
        return {
            entry.png: {number: category for number, category, crowd in entry.segments if not crowd}
            for entry in self._entries
        }

    def load(self, index: int) -> LabelledImage:
        """Read one image with its segments."""
        entry = self._entries[index]
        path, segments = self._images / entry.image, load_panoptic_png(self._panoptic / entry.png)
        known = [LabelledSegment(number, *self.classes[category]) for number, category, _ in entry.segments]
        kept = [s for s, (_, _, crowd) in zip(known, entry.segments, strict=True) if not crowd]
        crowded: tuple[Any, ...] = ()
        if len(kept) < len(known):
            names = self.vocabulary.names
            of_segment = np.array([*(names.index(segment.label) for segment in known), IGNORE], np.int32)
            crowded = (of_segment[positions(segments, [segment.id for segment in known])], names)
        segments[positions(segments, [segment.id for segment in kept]) < 0] = 0
        pixels, uri = load_annotated(path, segments.shape), path.absolute().as_uri()
        return LabelledImage(pixels, segments, tuple(kept), uri, entry.image_id, *crowded)
