"""Label maps in colours, and the table that says what each colour means."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnseg.data.annotations import LabelledImage, LabelledSegment, positions
from knnseg.data.listing import IMAGES, LABEL_MAPS, listed
from knnseg.data.reading import load_annotated, load_colour_map
from knnseg.data.vocabulary import Vocabulary, tidied
from knnseg.datasets.folders import LabelledImages
from knnseg.datasets.formats.source import Source, wrong
from knnseg.errors import DatasetError

__all__ = ["ColourMaps"]

_TABLE = "labelmap.txt"
_READY = ("cityscapes",)
"""Tables that need not be written: the name alone stands for ``tables/NAME.labelmap.txt``."""
_NOTHING = frozenset({"background", "void", "unlabeled", "unlabelled", "ignore"})
"""Names of colours that say that a pixel has no class."""


class ColourMaps:
    """What CVAT exports as "Segmentation mask": ``labelmap.txt``, and maps in ``SegmentationClass`` and
    ``SegmentationObject``; and any other folder of maps in colours, once such a table is written, or in its place the
    name of a ready one as its only line: ``cityscapes``.
    """

    title = "maps in colours, as CVAT's segmentation masks: labelmap.txt, or the folder that has it"

    def recognises(self, source: Source) -> bool:
        """The file ``labelmap.txt``, or a folder that has it."""
        return _table(source).is_file()

    def open(self, source: Source) -> LabelledImages:
        """Read the table, and find the maps."""
        return _Maps(source, _table(source))


def _table(source: Source) -> Path:
    return source.path if source.path.name == _TABLE else source.path / _TABLE


def _colours(table: Path) -> dict[int, str]:
    """The name of each colour, R + 256·G + 65536·B, in the order of the lines ``NAME:R,G,B:…``."""
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(table, expected="a text file", got=str(error)) from error
    expected = "NAME:R,G,B with numbers up to 255"
    if len(written := [line.strip() for line in lines if line.strip() and not line.startswith("#")]) == 1:
        expected += f", or alone the name of a ready table, {' or '.join(_READY)}"
        if written[0] in _READY:
            ready = files("knnseg.datasets").joinpath("tables", f"{written[0]}.labelmap.txt")
            lines = ready.read_text(encoding="utf-8").splitlines()
    found: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        # A name may have colons; parts and actions, which follow the colour, are often empty.
        fields = line.split(":")
        at = next((i for i in range(1, len(fields)) if len(fields[i].split(",")) == 3), 0)
        values = [v.strip() for v in fields[at].split(",")]
        if not at or not all(v.isdecimal() and int(v) < 256 for v in values):
            raise wrong(f"{table}:{number}", expected, line)
        r, g, b = map(int, values)
        name = tidied(":".join(fields[:at]))
        if (code := r + 256 * g + 65536 * b) in found:
            raise wrong(f"{table}:{number}", f"a colour that no other class has; {found[code]!r} has this one", line)
        found[code] = name
    return found


class _Maps(LabelledImages):
    def __init__(self, source: Source, table: Path) -> None:
        self._colours, self._table, root = _colours(table), table, table.parent
        self._classes = tuple(dict.fromkeys(n for n in self._colours.values() if n.lower() not in _NOTHING))
        if not self._classes:
            raise DatasetError(table, expected="a colour of at least one class", got=list(self._colours.values()))
        folder = root / "SegmentationClass"
        maps = listed(folder if folder.is_dir() else root, LABEL_MAPS).files
        photos = listed(_photos(source, root), IMAGES).files
        objects = root / "SegmentationObject"
        self._objects = listed(objects, LABEL_MAPS).files if objects.is_dir() else {}
        self._files = [(stem, Path(path), photos.get(stem)) for stem, path in maps.items()]
        self._given, self._stuff = source.stuff, source.stuff if self._objects else frozenset(self._classes)
        if unknown := sorted(source.stuff - set(self._classes)):
            raise DatasetError(f"{table}: stuff", expected="classes of this file", got=repr(unknown[0]))
        if not self._files:
            raise DatasetError(table, expected=f"maps in {folder} or beside it", got="none")

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes of the table; things where objects are told apart."""
        return Vocabulary(self._classes, frozenset(self._classes) - self._stuff)

    def __len__(self) -> int:
        return len(self._files)

    def load(self, index: int) -> LabelledImage:
        stem, file, photo = self._files[index]
        if photo is None:
            raise DatasetError(
                file, expected=f"its image, called {stem}", got="none", hint="Give the folder of the images."
            )
        codes = load_colour_map(file)
        objects = np.zeros_like(codes)
        if stem in self._objects:
            objects = load_colour_map(self._objects[stem])
            if objects.shape != codes.shape:
                raise DatasetError(self._objects[stem], expected=f"a map of {codes.shape}", got=objects.shape)
        segments, info = self._segments(codes, objects, file)
        pixels = load_annotated(photo, codes.shape)
        return LabelledImage(pixels, segments, info, Path(photo).absolute().as_uri(), stem)

    def _segments(
        self, codes: NDArray[np.int32], objects: NDArray[np.int32], file: Path
    ) -> tuple[NDArray[np.int32], tuple[LabelledSegment, ...]]:
        """A segment of each class, or of each object of a class."""
        pairs, numbers = np.unique(codes.astype(np.int64) << 32 | objects, return_inverse=True)
        labels = [self._name(int(pair) >> 32, codes, file) for pair in pairs]
        known = [i for i, label in enumerate(labels) if label in self._classes]
        segments = positions(numbers.reshape(codes.shape), known) + 1
        # A map of classes says nothing of objects.
        info = tuple(
            LabelledSegment(n, labels[i], labels[i] not in self._stuff if self._objects else None)
            for n, i in enumerate(known, 1)
        )
        return segments.astype(np.int32), info

    def _thing(self, label: str) -> bool | None:
        """Whether a class is of things; a map of classes alone does not say."""
        return False if label in self._given else True if self._objects else None

    def _name(self, code: int, codes: NDArray[np.int32], file: Path) -> str:
        if code not in self._colours:
            y, x = np.argwhere(codes == code)[0].tolist()
            colour = (code % 256, code // 256 % 256, code // 65536)
            raise DatasetError(
                file, expected=f"colours of {self._table}", got=f"{colour} at ({x}, {y})", hint="Add it there."
            )
        return self._colours[code]


def _photos(source: Source, root: Path) -> Path:
    """The folder of the images: what was given, or where VOC has them, or ``images`` beside the table."""
    if source.images is not None:
        return Path(source.images)
    found = [root / name for name in ("JPEGImages", "images") if (root / name).is_dir()]
    if not found:
        raise DatasetError(
            root, expected="the folder of the images", got="no JPEGImages or images there", hint="Give it."
        )
    return found[0]
