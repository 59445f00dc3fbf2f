"""What annotation tools write, in one form: images with shapes, which become segments when an image is read.

A format is a reader of files into :class:`AnnotatedImage`; drawing and overlaps are done here, once for all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from knnseg.data.annotations import LabelledImage, LabelledSegment
from knnseg.data.arrays import IGNORE, ImageArray
from knnseg.data.reading import load_annotated, load_image
from knnseg.data.vocabulary import Vocabulary, tidied, tidy
from knnseg.datasets.folders import LabelledImages
from knnseg.datasets.formats.images import image_files
from knnseg.datasets.formats.source import Source, outliner
from knnseg.errors import DatasetError
from knnseg.method.boxes import check_point, edges
from knnseg.stages.protocols import Prompted

__all__ = [
    "AnnotatedImage",
    "Bitmap",
    "Box",
    "Drawn",
    "Points",
    "Polygons",
    "RunLengths",
    "Shape",
    "ShapeFile",
    "drawn",
    "ellipse",
    "turned",
]


class Drawn(Protocol):
    """The outline of a shape."""

    def draw(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The pixels inside, bool (H, W), in an image of ``size`` (H, W). Raises ValueError where it does not fit."""


@dataclass(frozen=True, slots=True)
class Polygons:
    """The union of polygons, filled as COCO fills them.

    Args:
        rings: of each its corners as x, y, x, y, …, in pixels or as shares of the width and height; at least three
            corners.
        shares: they are shares.
    """

    rings: tuple[tuple[float, ...], ...]
    shares: bool = False

    def draw(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Drawn`."""
        for ring in self.rings:
            if len(ring) < 6 or len(ring) % 2 or not np.isfinite(ring).all():
                raise ValueError(f"expected polygons of at least three corners, got {str(ring)[:60]}")
        scale = (size[1], size[0]) if self.shares else (1, 1)
        codes = coco_mask.frPyObjects([[v * scale[i % 2] for i, v in enumerate(ring)] for ring in self.rings], *size)
        return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0) -> Polygons:
    """An ellipse around (x, y), turned clockwise."""
    turns = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    return turned(zip(x + rx * np.cos(turns), y + ry * np.sin(turns), strict=True), (x, y), degrees)


def turned(corners: Iterable[tuple[float, float]], around: tuple[float, float], degrees: float) -> Polygons:
    """A polygon, turned clockwise around a point."""
    cos, sin, (x0, y0) = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), around
    pairs = ((x0 + (x - x0) * cos - (y - y0) * sin, y0 + (x - x0) * sin + (y - y0) * cos) for x, y in corners)
    return Polygons((tuple(float(v) for pair in pairs for v in pair),))


@dataclass(frozen=True, slots=True)
class RunLengths:
    """Lengths of runs, column after column, that begin with pixels outside: COCO's, as numbers or compressed.

    Args:
        size: (H, W) of the image that they were made for.
        counts: the lengths, or COCO's text of them.
    """

    size: tuple[int, int]
    counts: tuple[int, ...] | str

    def draw(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Drawn`."""
        if self.size != size:
            raise ValueError(f"expected a run-length code for {size}, got one for {self.size}")
        code = {"size": list(size), "counts": self.counts if isinstance(self.counts, str) else list(self.counts)}
        if not isinstance(self.counts, str):
            if min(self.counts, default=0) < 0 or sum(self.counts) != size[0] * size[1]:
                raise ValueError(f"expected runs of {size[0] * size[1]} pixels together, got {sum(self.counts)}")
            code = coco_mask.frPyObjects(code, *size)
        return coco_mask.decode(code).astype(bool)


@dataclass(frozen=True, slots=True, eq=False)
class Bitmap:
    """Pixels of a part of the image.

    Args:
        pixels: bool (h, w).
        left: x of its first column.
        top: y of its first row.
    """

    pixels: NDArray[np.bool_]
    left: int = 0
    top: int = 0

    def draw(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Drawn`; what lies outside of the image is cut off."""
        whole = np.zeros(size, bool)
        (y, x), (h, w) = (max(self.top, 0), max(self.left, 0)), self.pixels.shape
        inside = self.pixels[y - self.top : size[0] - self.top, x - self.left : size[1] - self.left]
        if not inside.size and self.pixels.size:
            raise ValueError(f"expected a mask inside of {size}, got {h}×{w} pixels at ({self.left}, {self.top})")
        whole[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        return whole


@dataclass(frozen=True, slots=True)
class Box:
    """A box without an outline.

    Args:
        left, top, right, bottom: its edges in pixels, or as shares of the width and height.
        shares: they are shares.
    """

    left: float
    top: float
    right: float
    bottom: float
    shares: bool = False

    def within(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom in pixels of an image of ``size`` (H, W)."""
        h, w = size if self.shares else (1, 1)
        return self.left * w, self.top * h, self.right * w, self.bottom * h


@dataclass(frozen=True, slots=True)
class Points:
    """Points on something, each (x, y) in pixels."""

    points: tuple[tuple[float, float], ...]


Geometry: TypeAlias = Drawn | Box | Points
Ways: TypeAlias = Mapping[type[Box | Points], Prompted | None]
"""What makes masks of each kind that has no outline."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One annotated object or region.

    Args:
        label: its class.
        geometry: where it is.
        thing: a countable object; None where nobody says, as in a map of classes.
        crowd: several objects that nobody parted: its pixels have a class and belong to no object.
        layer: shapes of a higher layer lie on top.
    """

    label: str
    geometry: Geometry
    thing: bool | None = True
    crowd: bool = False
    layer: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", tidied(self.label))


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image and its shapes.

    Args:
        image: the path that the annotation file gives, or the bytes of the image where the file has it inside.
        shapes: of the image, in order.
        size: (H, W) that the shapes were drawn on; None where the file does not say.
        image_id: of the image, in the file.
        place: where in which file this stands, for errors.
    """

    image: str | bytes
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None
    image_id: str
    place: str


class ShapeFile(LabelledImages):
    """Labelled images from shapes. Where shapes overlap, the smaller lies on top, and crowds lie below all objects.

    A box becomes the likely outline of what it was drawn around, see :func:`knnseg.method.boxes.outline`, unless the
    source says to leave boxes or what else makes masks of them; points are left out unless it says otherwise, and so
    are images in which nothing is left.

    Args:
        source: what was opened.
        images: what it says; what is wrong with one is raised when that image is read.
        classes: all class names in the order of the file, and whether one is a thing; None for those that occur,
            sorted, as things.

    Raises:
        DatasetError: no shape at all that can be used.
    """

    def __init__(
        self, source: Source, images: Iterable[AnnotatedImage | DatasetError], classes: Mapping[str, bool] | None = None
    ) -> None:
        self._ways = {Box: outliner("boxes", source.boxes), Points: outliner("points", source.points)}
        self._unusable = tuple(kind for kind, way in self._ways.items() if way is None)
        every = [one if isinstance(one, DatasetError) else _with_stuff(one, source.stuff) for one in images]
        shapes = [shape for one in every if not isinstance(one, DatasetError) for shape in one.shapes]
        self.outlined = sum(isinstance(s.geometry, Box | Points) for s in shapes if self._usable(s))
        self._left_out = Counter((s.label, type(s.geometry).__name__) for s in shapes if not self._usable(s))
        self._images = [one for one in every if isinstance(one, DatasetError) or any(map(self._usable, one.shapes))]
        self._files, self._classes = image_files(source), classes
        self._stuff = source.stuff | {tidy(name) for name, thing in (classes or {}).items() if not thing}
        if unknown := sorted(source.stuff - {shape.label for shape in shapes} - set(classes or ())):
            raise DatasetError(f"{source.path}: stuff", expected="classes of this file", got=repr(unknown[0]))
        wrong = next((one for one in self._images if isinstance(one, DatasetError)), None)
        if wrong is not None and all(isinstance(one, DatasetError) for one in self._images):
            raise wrong
        if not self._images:
            got = ", ".join(self.left_out[:3]) or f"{len(every)} images without shapes"
            raise DatasetError(source.path, expected="polygons, masks or boxes", got=got)

    def _usable(self, shape: Shape) -> bool:
        form = shape.geometry
        return not isinstance(form, self._unusable) and not (isinstance(form, Points) and not form.points)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the file has and this has not: how many boxes or points, by class."""
        return tuple(f"{count} {_MANY[kind]} of {label!r}" for (label, kind), count in sorted(self._left_out.items()))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The classes; a class is of things where all of its shapes are, and the file does not say otherwise."""
        shapes = [shape for one in self._images if not isinstance(one, DatasetError) for shape in one.shapes]
        stuff = {shape.label for shape in shapes if not shape.thing} | self._stuff
        names = sorted({shape.label for shape in shapes}) if self._classes is None else map(tidied, self._classes)
        found = tuple(dict.fromkeys(names))
        return Vocabulary(found, frozenset(found) - stuff)

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: int) -> LabelledImage:
        """Read one image and draw its shapes."""
        entry = self._images[index]
        if isinstance(entry, DatasetError):
            raise entry
        source = entry.image if isinstance(entry.image, bytes) else self._files.find(entry.image, entry.place)
        pixels = load_image(source) if entry.size is None else load_annotated(source, entry.size)
        size = pixels.shape[:2]
        if entry.size not in (None, size):
            raise DatasetError(
                entry.place, expected=f"an image of {entry.size}, as it was labelled", got=f"{size}: {source!s:.200}"
            )
        shapes = [shape for shape in entry.shapes if self._usable(shape)]
        uri = entry.place if isinstance(source, bytes) else Path(source).absolute().as_uri()
        return drawn(pixels, shapes, entry.place, self._ways, uri, entry.image_id)


def drawn(
    pixels: ImageArray, shapes: Sequence[Shape], place: str, ways: Ways, uri: str = "", image_id: str = ""
) -> LabelledImage:
    """An image with its shapes.

    Args:
        pixels: uint8 (H, W, 3).
        shapes: in order.
        place: where they come from, for errors.
        ways: what makes masks of boxes and points, where there are any.
        uri: of the image.
        image_id: of the image.

    Raises:
        DatasetError: a shape that does not fit the image, or not a mask for each box.
    """
    segments, crowd, info = _painted(shapes, _masks(shapes, pixels, place, ways), (pixels.shape[0], pixels.shape[1]))
    classes = _class_map(segments, crowd, shapes) if (crowd >= 0).any() else ()
    return LabelledImage(pixels, segments, info, uri, image_id, *classes)


def _with_stuff(image: AnnotatedImage, stuff: frozenset[str]) -> AnnotatedImage:
    return replace(
        image, shapes=tuple(replace(s, thing=s.thing if s.label not in stuff else False) for s in image.shapes)
    )


_MANY = {"Box": "boxes", "Points": "points"}


def _masks(shapes: Sequence[Shape], pixels: ImageArray, place: str, ways: Ways) -> list[NDArray[np.bool_]]:
    size, masks = (pixels.shape[0], pixels.shape[1]), dict[int, NDArray[np.bool_]]()
    boxes, points = dict[int, NDArray[np.float64]](), dict[int, NDArray[np.float64]]()
    for number, shape in enumerate(shapes):
        form = shape.geometry
        try:
            if isinstance(form, Box):
                boxes[number] = _corners(form, size)
            elif isinstance(form, Points):
                points[number] = _positions(form, size)
            else:
                masks[number] = form.draw(size)
        except ValueError as error:
            raise DatasetError(f"{place}: shape {number} ({shape.label!r}): {error}") from error
    if boxes and (way := ways[Box]) is not None:
        masks |= _each(boxes, way.masks(pixels, boxes=list(boxes.values())), size, place)
    if points and (way := ways[Points]) is not None:
        masks |= _each(points, way.masks(pixels, points=list(points.values())), size, place)
    return [masks[number] for number in range(len(shapes))]


def _corners(box: Box, size: tuple[int, int]) -> NDArray[np.float64]:
    corners = box.within(size)
    edges(corners, size)  # raises where no pixel is inside
    return np.clip(np.asarray(corners, np.float64), 0, [size[1], size[0]] * 2)


def _positions(form: Points, size: tuple[int, int]) -> NDArray[np.float64]:
    for point in form.points:
        check_point(point, size)
    return np.asarray(form.points, np.float64)


def _each(
    prompts: Iterable[int], found: NDArray[np.bool_], size: tuple[int, int], place: str
) -> dict[int, NDArray[np.bool_]]:
    """The mask of each shape, after a look at what somebody's own object has returned."""
    numbers, masks = list(prompts), np.asarray(found)
    if masks.shape != (len(numbers), *size) or masks.dtype != bool:
        expected = f"bool masks {(len(numbers), *size)} of its boxes or points"
        raise DatasetError(place, expected=expected, got=f"{masks.dtype} {masks.shape}")
    return dict(zip(numbers, masks, strict=True))


def _painted(
    shapes: Sequence[Shape], masks: Sequence[NDArray[np.bool_]], size: tuple[int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32], tuple[LabelledSegment, ...]]:
    """The segments, the position of the crowd of each pixel or -1, and what the numbers of segments mean."""
    segments, crowd = np.zeros(size, np.int32), np.full(size, -1, np.int32)
    order = sorted(range(len(shapes)), key=lambda i: (not shapes[i].crowd, shapes[i].layer, -int(masks[i].sum())))
    for i in order:
        if shapes[i].crowd:
            crowd[masks[i]] = i
        else:
            segments[masks[i]], crowd[masks[i]] = i + 1, -1
    info = tuple(LabelledSegment(i + 1, s.label, s.thing) for i, s in enumerate(shapes) if not s.crowd)
    return segments, crowd, info


def _class_map(
    segments: NDArray[np.int32], crowd: NDArray[np.int32], shapes: Sequence[Shape]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    names = tuple(dict.fromkeys(shape.label for shape in shapes))
    of_shape = np.array([*(names.index(shape.label) for shape in shapes), IGNORE], np.int32)
    return of_shape[np.where(segments > 0, segments - 1, crowd)], names
