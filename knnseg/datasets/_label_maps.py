"""From label maps on disk to labelled images: class numbers to classes, and objects laid over them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnseg.data.annotations import LabelledImage, LabelledSegment, positions
from knnseg.data.arrays import IGNORE, ImageArray
from knnseg.data.reading import load_annotated, load_label_map
from knnseg.data.vocabulary import Vocabulary
from knnseg.datasets.folders import LabelledImages
from knnseg.errors import DatasetError, ImageError

__all__ = [
    "Entry",
    "LabelMaps",
    "Truth",
    "check_size",
    "majority_owners",
    "present",
    "read_image",
    "read_map",
    "to_positions",
]

_HIGHEST = 65535  # the largest number that 16 bits hold


@dataclass(frozen=True, slots=True)
class Entry:
    """The paths of the files of one image.

    Args:
        image_id: unique within the data set.
        image: the picture.
        labels: the map of class numbers.
        objects: the map of objects, or None.
    """

    image_id: str
    image: str
    labels: str
    objects: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What is known of one image.

    Args:
        classes: int32 (H, W), position of each pixel's class, ``IGNORE`` without.
        objects: integer (H, W), number of the object that a pixel belongs to; None where objects are not told apart.
        owners: position of the class of each object number; other numbers are not objects.
        crowds: see :class:`knnseg.LabelledImage`.
    """

    classes: NDArray[np.int32]
    objects: NDArray[np.int32] | None = None
    owners: Mapping[int, int] = field(default_factory=dict)
    crowds: bool = False


class LabelMaps(LabelledImages):
    """Images with maps of class numbers, and perhaps maps of objects.

    Without objects each class of an image is one segment. With them each object is one, each stuff class is one, and
    pixels of a thing without an object are in no segment; their class is still in the class map.

    Args:
        vocabulary: the classes.
        entries: the files.
        read: takes what is known from the files of an image.
    """

    def __init__(self, vocabulary: Vocabulary, entries: Sequence[Entry], read: Callable[[Entry], Truth]) -> None:
        self._vocabulary, self._entries, self._read = vocabulary, entries, read
        self._thing = np.array([*(name in vocabulary.things for name in vocabulary), False])  # the last: IGNORE

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes of the benchmark."""
        return self._vocabulary

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, index: int) -> LabelledImage:
        """Read the files of one image.

        Raises:
            DatasetError: a file that is unreadable, of another size or with numbers that mean nothing.
        """
        entry = self._entries[index]
        truth = self._read(entry)
        image = read_image(entry.image, truth.classes.shape)
        for path, array in ((entry.labels, truth.classes), (entry.objects, truth.objects)):
            if array is not None:
                check_size(path, array, image.shape[:2], Path(entry.image).name)
        segments, info = self._segments(truth)
        class_map, names = (None, ()) if truth.objects is None else (truth.classes, self._vocabulary.names)
        uri = Path(entry.image).absolute().as_uri()
        return LabelledImage(image, segments, info, uri, entry.image_id, class_map, names, truth.crowds)

    def _segments(self, truth: Truth) -> tuple[NDArray[np.int32], tuple[LabelledSegment, ...]]:
        """Classes are numbered by their position from 1, objects after them."""
        count = len(self._vocabulary)
        segments, owners = truth.classes + np.int32(1), list(range(count))
        if truth.objects is not None:
            segments[self._thing[truth.classes]] = 0
            numbers = sorted(truth.owners)
            rank = positions(truth.objects, numbers)
            segments = np.where(rank >= 0, count + 1 + rank, segments).astype(np.int32)
            owners += [truth.owners[number] for number in numbers]
        names, things = self._vocabulary.names, self._thing
        listed = [(n, owners[n - 1]) for n in present(segments) if n]
        return segments, tuple(LabelledSegment(n, names[c], bool(things[c])) for n, c in listed)


def check_size(path: str | None, array: NDArray[np.int32], size: tuple[int, ...], like: str) -> None:
    """Check a map against the size (H, W) of what it belongs to; errors are :class:`DatasetError`."""
    if array.shape != size:
        wanted, got = ("×".join(map(str, shape)) for shape in (size, array.shape))
        raise DatasetError(path, expected=f"a map of {wanted} pixels like {like}", got=got)


def read_image(path: str, size: tuple[int, ...]) -> ImageArray:
    """The picture of a map of ``size`` (H, W); errors are :class:`DatasetError`.

    Which of its two views is :func:`knnseg.data.reading.load_annotated`'s to say.
    """
    try:
        return load_annotated(path, size)
    except ImageError as error:
        raise DatasetError.of(error) from error


def read_map(path: str) -> NDArray[np.int32]:
    """A map of one channel, see :func:`knnseg.load_label_map`; errors are :class:`DatasetError`."""
    try:
        values = load_label_map(path)
    except ImageError as error:
        raise DatasetError.of(error) from error
    if values.min() < 0 or values.max() > _HIGHEST:
        raise DatasetError(path, expected=f"numbers from 0 to {_HIGHEST}", got=f"{values.min()} to {values.max()}")
    return values


def present(values: NDArray[np.int32]) -> list[int]:
    """The values that occur in a map of small non-negative numbers, ascending; much faster than sorting the pixels."""
    return np.flatnonzero(np.bincount(values.reshape(-1))).tolist()


def to_positions(
    values: NDArray[np.int32], numbers: Sequence[int], ignored: Collection[int], path: str
) -> NDArray[np.int32]:
    """Class numbers as positions in ``numbers``, ``IGNORE`` for those that are ``ignored``: int32, same shape.

    Raises:
        DatasetError: a number that is neither.
    """
    occurring, place = present(values), {number: i for i, number in enumerate(numbers)}
    unknown = [number for number in occurring if number not in place and number not in ignored]
    if unknown:
        raise DatasetError(
            path,
            expected=f"the numbers of {len(numbers)} classes, {min(numbers)} to {max(numbers)}, or of ignored pixels",
            got=unknown[:5],
        )
    table = np.full(max(occurring, default=0) + 1, IGNORE, np.int32)
    table[occurring] = [place.get(number, IGNORE) for number in occurring]
    return table[values]


def majority_owners(objects: NDArray[np.int32], classes: NDArray[np.int32], count: int) -> dict[int, int]:
    """The class, of ``count``, that most pixels of each object have; objects without a class and 0 are left out."""
    valid = (objects > 0) & (classes != IGNORE)
    pairs, pixels = np.unique(objects[valid].astype(np.int64) * count + classes[valid], return_counts=True)
    order = np.argsort(pixels, kind="stable")  # so that the largest part of an object comes last
    return dict(zip((pairs[order] // count).tolist(), (pairs[order] % count).tolist(), strict=True))
