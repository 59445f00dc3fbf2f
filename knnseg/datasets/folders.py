"""Labelled images in folders: pairs of image and PNG label map, and COCO panoptic."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np

from knnseg.annotations import LabelledImage, LabelledSegment, positions
from knnseg.errors import DatasetError
from knnseg.images import load_image, load_label_map, load_panoptic_png
from knnseg.types import IGNORE, Vocabulary

__all__ = ["CocoPanoptic", "ImageLabelPairs", "LabelledImages", "WithVocabulary", "read_classes"]

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class LabelledImages(Sequence[LabelledImage]):
    """A list of labelled images, each read when it is asked for. Slices are lists of the same kind of promise."""

    @property
    def vocabulary(self) -> Vocabulary:
        """All classes that labels may have, in the order of the data set."""
        raise NotImplementedError

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


def read_classes(source: str | PathLike[str] | Mapping[int, str]) -> dict[int, tuple[str, bool]]:
    """Class numbers with name and "is a thing".

    Args:
        source: a mapping of number to name; or a JSON file: a list of ``{"id": 1, "name": "kettle", "isthing": true}``
            (``isthing`` may be missing), or a COCO file with such a list under ``categories``.

    Raises:
        DatasetError: unreadable, or a number or name twice.
    """
    if isinstance(source, Mapping):
        return {int(number): (name, False) for number, name in source.items()}
    entries = _read_json(source)
    entries = entries.get("categories", []) if isinstance(entries, dict) else entries
    try:
        rows = [(int(entry["id"]), str(entry["name"]), bool(entry.get("isthing", 0))) for entry in entries]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DatasetError(f'{source}: expected a list of {{"id": 1, "name": "kettle", "isthing": true}}') from error
    for what, values in (("id", [r[0] for r in rows]), ("name", [r[1] for r in rows])):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise DatasetError(f"{source}: expected each {what} once, got {twice[0]!r} more than once")
    if not rows:
        raise DatasetError(f"{source}: expected at least one class, got none")
    return {number: (name, thing) for number, name, thing in rows}


def _vocabulary(classes: Mapping[int, tuple[str, bool]]) -> Vocabulary:
    return Vocabulary(
        tuple(name for name, _ in classes.values()), frozenset(name for name, thing in classes.values() if thing)
    )


def _read_json(path: str | PathLike[str]) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected a JSON file: {error}") from error


def _folder(path: str | PathLike[str], what: str) -> Path:
    if not Path(path).is_dir():
        raise DatasetError(f"{what}: expected a folder, got {path}")
    return Path(path)


class ImageLabelPairs(LabelledImages):
    """Images in one folder, label maps of the same stems in another, as PNG with a class number in each pixel.

    Each class of an image is one segment. Images without a label map are left out; a label map without an image is an
    error, since it was meant to be used.

    Args:
        images: folder of images.
        labels: folder of ``STEM.png``: 8-bit, palette or 16-bit.
        classes: see :func:`read_classes`.
        ignore: numbers that mean "unlabelled".
        stems: take only these, in this order.

    Raises:
        DatasetError: folders or files missing. A label map with a number that is in neither ``classes`` nor ``ignore``
            raises when it is read.
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
        self._ignore = frozenset(ignore) - set(self.classes)
        found = {p.stem: p for p in sorted(_folder(images, "images").iterdir()) if p.suffix.lower() in _IMAGES}
        maps = {p.stem: p for p in sorted(_folder(labels, "label maps").glob("*.png"))}
        wanted = list(maps) if stems is None else list(stems)
        missing = [stem for stem in wanted if stem not in found or stem not in maps]
        if missing or not wanted:
            raise DatasetError(
                f"{images} and {labels}: expected an image and a .png label map of each stem, "
                f"got none for {missing[:5] or 'any'}"
            )
        self._files = [(found[stem], maps[stem]) for stem in wanted]

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes, in the order of their list."""
        return _vocabulary(self.classes)

    def __len__(self) -> int:
        return len(self._files)

    def load(self, index: int) -> LabelledImage:
        """Read one pair."""
        image, label_map = self._files[index]
        segments = load_label_map(label_map)
        present = set(np.unique(segments).tolist())
        unknown = sorted(present - set(self.classes) - self._ignore)
        if unknown:
            raise DatasetError(
                f"{label_map}: expected numbers of {len(self.classes)} classes, or {sorted(self._ignore)} for "
                f"unlabelled, got {unknown[:5]}. Add them to the classes, or to `ignore`."
            )
        # Segment numbers are positive; a class may well be number 0.
        known = sorted(present & set(self.classes))
        table = np.zeros(max(present, default=0) + 1, np.int32)
        table[known] = np.arange(1, len(known) + 1)
        info = tuple(LabelledSegment(i, *self.classes[number]) for i, number in enumerate(known, 1))
        return LabelledImage(load_image(image), table[segments], info, image.absolute().as_uri(), image.stem)


class CocoPanoptic(LabelledImages):
    """COCO panoptic annotations: a JSON file, and a folder of PNGs with R + 256·G + 65536·B for each pixel.

    Crowd segments are no objects: their pixels are in no segment, but their class is in the class map.

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
        data = _read_json(annotations)
        self.classes = read_classes(annotations)
        try:
            self._names = {entry["id"]: entry["file_name"] for entry in data["images"]}
            self._entries = [(a["image_id"], a["file_name"], a["segments_info"]) for a in data["annotations"]]
        except (KeyError, TypeError) as error:
            raise DatasetError(
                f"{annotations}: expected COCO panoptic with images and annotations: {error!r}"
            ) from error

    @property
    def vocabulary(self) -> Vocabulary:
        """The categories, in the order of their list."""
        return _vocabulary(self.classes)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def files(self) -> tuple[list[str], list[str]]:
        """The file names of the images and of the PNGs that the annotations speak of."""
        return [self._named(image_id, png) for image_id, png, _ in self._entries], [png for _, png, _ in self._entries]

    def segment_categories(self) -> dict[str, dict[int, int]]:
        """PNG file name -> {number of a segment: its category}, without crowds."""
        return {
            png: {int(s["id"]): int(s["category_id"]) for s in infos if not s.get("iscrowd", 0)}
            for _, png, infos in self._entries
        }

    def _named(self, image_id: Any, png: str) -> str:
        if image_id not in self._names:
            raise DatasetError(f"{png}: expected an image of id {image_id} in the annotations, got none")
        return str(self._names[image_id])

    def load(self, index: int) -> LabelledImage:
        """Read one image with its segments."""
        image_id, png, infos = self._entries[index]
        path = self._images / self._named(image_id, png)
        segments = load_panoptic_png(self._panoptic / png)
        unlisted = [entry["category_id"] for entry in infos if entry["category_id"] not in self.classes]
        if unlisted:
            raise DatasetError(f"{png}: expected a listed category, got category_id {unlisted[0]}")
        known = [LabelledSegment(int(entry["id"]), *self.classes[entry["category_id"]]) for entry in infos]
        kept = [s for s, entry in zip(known, infos, strict=True) if not entry.get("iscrowd", 0)]
        crowded: tuple[Any, ...] = ()
        if len(kept) < len(known):
            names = self.vocabulary.names
            of_segment = np.array([*(names.index(segment.label) for segment in known), IGNORE], np.int32)
            crowded = (of_segment[positions(segments, [segment.id for segment in known])], names)
        segments[positions(segments, [segment.id for segment in kept]) < 0] = 0
        uri = path.absolute().as_uri()
        return LabelledImage(load_image(path), segments, tuple(kept), uri, str(image_id), *crowded)
