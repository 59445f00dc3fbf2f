"""Images with their annotation, in the one form that every source can take: COCO panoptic's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnseg.data.arrays import IGNORE, ImageArray, expect, narrow
from knnseg.data.vocabulary import tidied
from knnseg.errors import MaskError, VocabularyError

__all__ = ["LabelledImage", "LabelledSegment", "positions"]


@dataclass(frozen=True, slots=True)
class LabelledSegment:
    """One annotated region.

    Args:
        id: its number in the segment map.
        label: its class name.
        thing: whether it is a countable object; None where nobody says, as in a map of classes. A database then takes
            it as what it knows of the class, and a new class as stuff.
    """

    id: int
    label: str
    thing: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not self.label.strip():
            raise VocabularyError(f"label of segment {self.id}", expected="a non-empty name", got=repr(self.label))
        object.__setattr__(self, "label", tidied(self.label))


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImage:
    """An image with its annotation, in the one form that every source can take: COCO panoptic's.

    Args:
        image: uint8 (H, W, 3), RGB.
        segments: int32 (H, W), the number of the segment that each pixel belongs to; 0 is unlabelled. Other whole
            numbers and booleans are taken where int32 has room for them.
        info: what the numbers mean, each at most once.
        uri: where the image comes from, for people.
        image_id: the id of the image within its dataset, for evaluation files.
        class_map: int32 (H, W), position in ``class_names`` of each pixel's class, ``IGNORE`` where it has no class;
            for data sets that know the class of more pixels than they have segments for, such as crowds. None: the
            segments say all that is known.
        class_names: what the positions of ``class_map`` mean.
        crowds: pixels that have a class and no segment are crowds, whose objects are not told apart; false where the
            annotation of objects says nothing of them, so that they are void for panoptic quality.

    Raises:
        MaskError: a map has another size than the image, or numbers in ``info`` repeat or are below 1.
    """

    image: ImageArray
    segments: NDArray[np.int32]
    info: tuple[LabelledSegment, ...]
    uri: str = ""
    image_id: str = ""
    class_map: NDArray[np.int32] | None = None
    class_names: tuple[str, ...] = ()
    crowds: bool = True

    def __post_init__(self) -> None:
        expect(self.image, "LabelledImage.image", np.uint8, 3)
        object.__setattr__(self, "segments", narrow(self.segments, "LabelledImage.segments"))
        for what, array in (("segment", self.segments), ("class", self.class_map)):
            if array is not None and self.image.shape[:2] != array.shape:
                raise MaskError(
                    self.uri or "labelled image",
                    expected=f"a {what} map of {self.image.shape[:2]} like the image",
                    got=array.shape,
                )
        numbers = [segment.id for segment in self.info]
        if len(set(numbers)) != len(numbers) or any(number <= 0 for number in numbers):
            raise MaskError(self.uri or "labelled image", expected="distinct positive segment numbers", got=numbers)

    def semantic(self, classes: Sequence[str]) -> NDArray[np.int32]:
        """int32 (H, W): index into ``classes`` of each pixel, ``IGNORE`` elsewhere."""
        position = {name: i for i, name in enumerate(classes)}
        if self.class_map is not None:  # IGNORE is -1, and so finds the last entry
            return np.array([*(position.get(name, IGNORE) for name in self.class_names), IGNORE], np.int32)[
                self.class_map
            ]
        table = np.array([*(position.get(segment.label, IGNORE) for segment in self.info), IGNORE], np.int32)
        return table[positions(self.segments, [segment.id for segment in self.info])]


def positions(values: NDArray[np.integer], wanted: Sequence[int]) -> NDArray[np.int64]:
    """Where each value is in a list of distinct numbers, -1 where it is not: int64, the shape of ``values``."""
    if not wanted:
        return np.full(values.shape, -1, np.int64)
    order = np.argsort(wanted, kind="stable")
    ascending = np.asarray(wanted, np.int64)[order]
    place = np.minimum(np.searchsorted(ascending, values), len(order) - 1)
    return np.where(ascending[place] == values, order[place], -1)
