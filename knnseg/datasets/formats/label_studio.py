"""Label Studio's JSON export: polygons, brush masks, ellipses, boxes and key points of each task."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from knnseg.datasets._json import Node, read_json
from knnseg.datasets.folders import LabelledImages
from knnseg.datasets.formats.shapes import (
    AnnotatedImage,
    Bitmap,
    Box,
    Geometry,
    Points,
    Polygons,
    Shape,
    ShapeFile,
    ellipse,
    turned,
)
from knnseg.datasets.formats.source import Source

__all__ = ["LabelStudio", "decode_brush"]

_LABELS = ("polygonlabels", "brushlabels", "rectanglelabels", "ellipselabels", "keypointlabels", "labels")


class LabelStudio:
    """The exports "JSON" and "JSON-MIN" of Label Studio."""

    title = "Label Studio: the exports JSON and JSON-MIN"

    def recognises(self, source: Source) -> bool:
        """A JSON file with a list of tasks with ``data`` and ``annotations``, or with ``annotation_id``."""
        tasks = None if source.json is None or source.only(".json") is None else source.json.value
        return isinstance(tasks, list) and all(
            isinstance(t, dict) and ({"data", "annotations"} <= set(t) or "annotation_id" in t) for t in tasks[:1]
        )

    def open(self, source: Source) -> LabelledImages:
        """Read the file."""
        path = source.only(".json") or source.path
        file = read_json(path) if source.json is None else source.json
        if any("annotation_id" in node.mapping() for node in file.entries()[:1]):
            return ShapeFile(source, [image for node in _newest(file) if (image := _short(node))])
        read = [image for n, task in enumerate(file.entries()) if (image := _task(task, f"{path}: [{n}]"))]
        return ShapeFile(source, read)


def _newest(file: Node) -> Iterator[Node]:
    """Of several annotations of a task, which JSON-MIN has as entries of their own, the last."""
    tasks: dict[str, Node] = {}
    for node in file.entries():
        number = node["id"].identity()
        if number not in tasks or _changed(tasks[number]) <= _changed(node):
            tasks[number] = node
    yield from tasks.values()


def _changed(node: Node) -> str:
    return str(node.mapping().get("updated_at"))


def _short(task: Node) -> AnnotatedImage | None:
    """The image of an entry of JSON-MIN, where what the controls say stands under their names."""
    values = [
        value
        for key, given in task.mapping().items()
        if isinstance(given, list)
        for value in task[key].entries()
        if isinstance(value.value, dict) and "original_width" in value.value
    ]
    if not values:
        return None
    size = values[0]["original_height"].whole(1), values[0]["original_width"].whole(1)
    shapes = []
    for value in values:
        name, geometry = _label(value), _geometry(value, size)
        if name and geometry is not None:
            shapes.append(Shape(name, geometry))
    place = f"{task.file}: {task.place}"
    return AnnotatedImage(_file(task, values[0]), tuple(shapes), size, task["id"].identity(), place)


def _label(value: Node) -> str:
    """The first label of a shape, "" where it has none."""
    given = value.mapping()
    keys = (key for key in _LABELS if isinstance(given.get(key), list) and given[key])
    return next((value[key].entries()[0].text() for key in keys), "")


def _task(task: Node, place: str) -> AnnotatedImage | None:
    """The image of a task; of several annotations the one called ground truth, or else the last not cancelled."""
    done = [node for node in task["annotations"].entries() if not node.mapping().get("was_cancelled")]
    if not done:
        return None
    chosen = sorted(
        done, key=lambda node: (bool(node.mapping().get("ground_truth")), str(node.mapping().get("updated_at")))
    )[-1]
    results = [node for node in chosen["result"].entries() if "original_width" in node.mapping()]
    if not results:
        return None
    size = results[0]["original_height"].whole(1), results[0]["original_width"].whole(1)
    number = str(task.mapping().get("id", place))
    return AnnotatedImage(_file(task["data"], results[0]), tuple(_shapes(results, size)), size, number, place)


def _file(data: Node, result: Node) -> str:
    """The path that the task's image has; Label Studio wraps those of local files into an address."""
    given = data.mapping()
    key = next(
        (k for k in (str(result.mapping().get("to_name")), "image", "img", "url") if isinstance(given.get(k), str)), ""
    )
    if not key:
        key = next((k for k, v in given.items() if isinstance(v, str) and "/" in v), "image")
    address = urlsplit(data[key].text())
    local = parse_qs(address.query).get("d")
    return local[0] if local else unquote(address.path)


def _shapes(results: list[Node], size: tuple[int, int]) -> Iterator[Shape]:
    """Results of one id are one shape: with separate controls its outline and its label are results of their own."""
    labels: dict[str, str] = {}
    outlines: dict[str, Node] = {}
    for n, node in enumerate(results):
        identity = str(node.mapping().get("id", n))
        if name := _label(node["value"]):
            labels.setdefault(identity, name)
        if _geometry(node["value"], size) is not None:
            outlines.setdefault(identity, node["value"])
    for identity, node in outlines.items():
        geometry = _geometry(node, size)
        if geometry is not None and identity in labels:
            yield Shape(labels[identity], geometry)


def _geometry(node: Node, size: tuple[int, int]) -> Geometry | None:
    """The place of a result, whose coordinates are hundredths of the image's width and height."""
    value, (h, w) = node.mapping(), (size[0] / 100, size[1] / 100)
    if "rle" in value:
        return _brush(node["rle"], size)
    if "points" in value:
        pairs = [[_number(v) for v in pair.entries()] for pair in node["points"].entries()]
        return Polygons((tuple(v for x, y in pairs for v in (x * w, y * h)),))
    if "x" not in value or "y" not in value:
        return None
    x, y = _number(node["x"]) * w, _number(node["y"]) * h
    degrees = _number(node["rotation"]) if "rotation" in value else 0
    if "radiusX" in value:
        return ellipse(x, y, _number(node["radiusX"]) * w, _number(node["radiusY"]) * h, degrees)
    if "height" not in value:
        return Points(((x, y),))
    right, bottom = x + _number(node["width"]) * w, y + _number(node["height"]) * h
    if degrees:  # around the first corner
        return turned([(x, y), (right, y), (right, bottom), (x, bottom)], (x, y), degrees)
    return Box(x, y, right, bottom)


def _number(node: Node) -> float:
    if type(node.value) not in (int, float):
        raise node.wrong("a number")
    return float(node.value)


def _brush(node: Node, size: tuple[int, int]) -> Bitmap:
    try:
        values = decode_brush(bytes(node.value))
        return Bitmap(values.reshape(*size, 4)[..., 3] > 127)
    except (TypeError, ValueError) as error:
        raise node.wrong(f"the bytes of a brush mask of {size[0]}×{size[1]} pixels ({error})") from None


def decode_brush(data: bytes) -> NDArray[np.uint8]:
    """The RGBA values that Label Studio packs for a brush mask.

    The stream is of bits: 32 for the number of values, 5 for the bits of a value less 1, four times 4 for the bits of a
    length less 1; then blocks of 1 bit for "one value again and again", 2 bits for which of the four lengths, a length
    less 1, and one value or that many. It is the format of the package ``rle-pack`` of thi.ng/umbrella.

    Raises:
        ValueError: the stream ends early.
    """
    bits = _Bits(data)
    count, width = bits.take(32), bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in range(4)]
    if width != 8 or count > 1 << 31:
        raise ValueError(f"expected values of 8 bits, got {width}")
    values, at = np.zeros(count, np.uint8), 0
    while at < count:
        again = bits.take(1)
        run = min(bits.take(lengths[bits.take(2)]) + 1, count - at)
        values[at : at + run] = bits.take(8) if again else bits.bytes(run)
        at += run
    return values


class _Bits:
    """Numbers from a stream of bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._at = 0

    def take(self, count: int) -> int:
        """The next number of ``count`` bits."""
        number = 0
        for bit in self._next(count).tolist():
            number = number << 1 | bit
        return number

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` numbers of 8 bits."""
        return np.packbits(self._next(8 * count))

    def _next(self, count: int) -> NDArray[np.uint8]:
        self._at += count
        if self._at > len(self._bits):
            raise ValueError("it ends early")
        return self._bits[self._at - count : self._at]
