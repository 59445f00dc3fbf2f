"""FiftyOne's own format on disk: ``samples.json``, ``metadata.json`` and the media beside them."""

from __future__ import annotations

import base64
import binascii
import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnseg.data.masks import nearest
from knnseg.data.reading import load_label_map
from knnseg.datasets._json import Node, read_json
from knnseg.datasets.folders import LabelledImages
from knnseg.datasets.formats.shapes import (
    AnnotatedImage,
    Bitmap,
    Box,
    Drawn,
    Geometry,
    Points,
    Polygons,
    Shape,
    ShapeFile,
)
from knnseg.datasets.formats.source import Source
from knnseg.errors import DatasetError, ImageError

__all__ = ["FiftyOne"]

_SAMPLES = "samples.json"
_TRUTH = "ground_truth"
_KINDS = {"Detection", "Detections", "Polyline", "Polylines", "Keypoint", "Keypoints", "Segmentation"}


class FiftyOne:
    """What ``dataset.export(dataset_type=fiftyone.types.FiftyOneDataset)`` writes.

    Labels are taken from the field ``ground_truth``, or from the only one that has some.
    """

    title = "FiftyOne: a folder with samples.json and metadata.json, as FiftyOneDataset writes it"

    def recognises(self, source: Source) -> bool:
        """A folder with both files, or the file of samples."""
        return all((_folder(source) / name).is_file() for name in (_SAMPLES, "metadata.json"))

    def open(self, source: Source) -> LabelledImages:
        """Read the samples."""
        folder = _folder(source)
        samples = read_json(folder / _SAMPLES)["samples"].entries()
        field = _field(samples, folder / _SAMPLES)
        classes = _targets(read_json(folder / "metadata.json"), field)
        return ShapeFile(source, [_image(sample, field, classes, folder) for sample in samples])


def _folder(source: Source) -> Path:
    return source.path.parent if source.path.name == _SAMPLES else source.path


def _field(samples: list[Node], file: Path) -> str:
    found = {
        name: None
        for sample in samples
        for name, value in sample.mapping().items()
        if isinstance(value, dict) and value.get("_cls") in _KINDS
    }
    if _TRUTH in found or not found:
        return _TRUTH
    if len(found) > 1:
        raise DatasetError(
            file,
            expected=f"labels in the field {_TRUTH!r}, or in one field alone",
            got=", ".join(found),
            hint="Export a view that has the one: dataset.select_fields(…)",
        )
    return next(iter(found))


def _targets(metadata: Node, field: str) -> dict[int, str]:
    """What the numbers of a segmentation mean; 0 is the background."""
    for key in ("mask_targets", "default_mask_targets"):
        given = metadata.mapping().get(key) or {}
        given = given.get(field, {}) if key == "mask_targets" else given
        if given:
            named = Node(given, metadata.file, key).mapping()
            return {Node(n, metadata.file, f"{key}.{n}").whole(): str(name) for n, name in named.items() if n != "0"}
    return {}


def _image(sample: Node, field: str, classes: Mapping[int, str], folder: Path) -> AnnotatedImage:
    shapes: tuple[Shape, ...] = ()
    if sample.mapping().get(field):
        shapes = tuple(_shapes(sample[field], classes, folder))
    file = sample["filepath"].text()
    number = str(Node(sample.mapping().get("_id", {}), sample.file).mapping().get("$oid", file))
    return AnnotatedImage(file, shapes, None, number, f"{sample.file}: {sample.place}")


def _shapes(label: Node, classes: Mapping[int, str], folder: Path) -> Iterator[Shape]:
    kind = label["_cls"].text()
    if kind == "Segmentation":
        yield from _segmentation(label, classes, folder)
        return
    several = label[kind.lower()].entries() if kind.endswith("s") else [label]
    for one in several:
        geometry = _geometry(one, folder)
        yield Shape(one["label"].text(), geometry, crowd=one.flag("iscrowd"))


def _geometry(one: Node, folder: Path) -> Geometry:
    if "bounding_box" in one.mapping():
        x, y, w, h = one["bounding_box"].numbers(4)
        mask = _mask(one, folder)
        return Box(x, y, x + w, y + h, shares=True) if mask is None else _InBox(mask != 0, x, y, w, h)
    if one["_cls"].value == "Polyline" and (one.flag("filled") or one.flag("closed")):
        rings = [tuple(v for pair in ring.entries() for v in pair.numbers(2)) for ring in one["points"].entries()]
        return Polygons(tuple(rings), shares=True)
    return Points(())  # points, and lines without an inside


def _segmentation(label: Node, classes: Mapping[int, str], folder: Path) -> Iterator[Shape]:
    numbers = _mask(label, folder)
    if numbers is None:
        return
    for number in np.unique(numbers[numbers > 0]).tolist():
        if number not in classes:
            raise label.wrong(f"numbers of the data set's mask_targets, {sorted(classes)[:8]}, and not {number}")
        yield Shape(classes[number], _InBox(numbers == number, 0, 0, 1, 1), thing=None)


def _mask(label: Node, folder: Path) -> NDArray[np.integer] | None:
    """The array of a label, which is inside the file, or a PNG beside it."""
    given = label.mapping()
    if given.get("mask_path"):
        try:
            return load_label_map(folder / label["mask_path"].text())
        except ImageError as error:
            raise label["mask_path"].wrong(f"a label map ({error})") from error
    if not given.get("mask"):
        return None
    text = label["mask"]["$binary"]["base64"]
    try:
        array: NDArray[np.integer] = np.load(
            io.BytesIO(zlib.decompress(base64.b64decode(text.text()))), allow_pickle=False
        )
    except (ValueError, zlib.error, binascii.Error, EOFError) as error:
        raise text.wrong(f"an array of NumPy, compressed ({error})") from error
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise text.wrong(f"a mask (h, w) of whole numbers, and not {array.dtype.name} {array.shape}")
    return array


@dataclass(frozen=True, slots=True, eq=False)
class _InBox(Drawn):
    """A mask that is stretched over a box, whose place is given in shares of the width and height."""

    pixels: NDArray[np.bool_]
    left: float
    top: float
    width: float
    height: float

    def draw(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`knnseg.datasets.formats.Drawn`."""
        (h, w), (left, top) = size, (round(self.left * size[1]), round(self.top * size[0]))
        right, bottom = round((self.left + self.width) * w), round((self.top + self.height) * h)
        if right <= left or bottom <= top or not self.pixels.size:
            raise ValueError(f"expected a mask in a box with pixels inside, got ({left}, {top}) to ({right}, {bottom})")
        return Bitmap(nearest(self.pixels, (bottom - top, right - left)), left, top).draw(size)
