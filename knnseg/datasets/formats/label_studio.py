"""Label Studio's JSON export: polygons, brush masks, ellipses, boxes and key points of each task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from knnseg.data.annotations import LabelledImage
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
from knnseg.method.brush import decode_brush

__all__ = ["LabelStudio", "labelled_task"]

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
    return AnnotatedImage(_file(_address(task, values[0])), tuple(shapes), size, task["id"].identity(), place)


def _label(value: Node) -> str:
    """The first label of a shape, "" where it has none."""
    given = value.mapping()
    keys = (key for key in _LABELS if isinstance(given.get(key), list) and given[key])
    return next((value[key].entries()[0].text() for key in keys), "")


def labelled_task(
    task: Mapping[str, Any], fetch: Callable[[str], tuple[str | bytes, str]], stuff: Collection[str] = ()
) -> tuple[LabelledImage, int] | None:
    """One task as Label Studio's API gives it, and the number of the annotation that counts.

    Args:
        task: with its ``data`` and ``annotations``.
        fetch: the image, as a path or bytes, and where it is, by the address in the data.
        stuff: classes that are stuff, such as grass and sky.

    Returns:
        None where no annotation has a shape that can be used.

    Raises:
        DatasetError: as for reading an export.
    """
    node = Node(task, f"task {task.get('id')}")
    chosen, results = _chosen(node)
    read = _task(node, node.file)
    if chosen is None or read is None or all(isinstance(shape.geometry, Points) for shape in read.shapes):
        return None
    image, place = fetch(_address(node["data"], results[0]))
    here = frozenset(stuff) & {shape.label for shape in read.shapes}
    shapes = ShapeFile(Source(Path(node.file), stuff=here), [replace(read, image=image)])
    return replace(shapes[0], uri=place), chosen["id"].whole()


def _chosen(task: Node) -> tuple[Node | None, list[Node]]:
    """Of several annotations the one called ground truth, or else the last not cancelled; and its shapes."""
    done = [node for node in task["annotations"].entries() if not node.mapping().get("was_cancelled")]
    if not done:
        return None, []
    chosen = sorted(
        done, key=lambda node: (bool(node.mapping().get("ground_truth")), str(node.mapping().get("updated_at")))
    )[-1]
    return chosen, [node for node in chosen["result"].entries() if "original_width" in node.mapping()]


def _task(task: Node, place: str) -> AnnotatedImage | None:
    """The image of a task with the shapes of the annotation that counts."""
    _, results = _chosen(task)
    if not results:
        return None
    size = results[0]["original_height"].whole(1), results[0]["original_width"].whole(1)
    number = str(task.mapping().get("id", place))
    file = _file(_address(task["data"], results[0]))
    return AnnotatedImage(file, tuple(_shapes(results, size)), size, number, place)


def _address(data: Node, result: Node) -> str:
    """Where the image of a task is, in Label Studio's words."""
    given = data.mapping()
    key = next(
        (k for k in (str(result.mapping().get("to_name")), "image", "img", "url") if isinstance(given.get(k), str)), ""
    )
    if not key:
        key = next((k for k, v in given.items() if isinstance(v, str) and "/" in v), "image")
    return data[key].text()


def _file(given: str) -> str:
    """The path in an address; Label Studio wraps those of local files into one of its own."""
    address = urlsplit(given)
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
