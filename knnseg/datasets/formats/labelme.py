"""labelme, AnyLabeling and X-AnyLabeling: a JSON file for each image, with the image inside or not."""

from __future__ import annotations

import base64
import binascii
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from knnseg.data.reading import load_image
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
)
from knnseg.datasets.formats.source import Source

__all__ = ["Labelme"]


class Labelme:
    """labelme's files; those of AnyLabeling and X-AnyLabeling are alike."""

    title = "labelme: a JSON file for each image, or a folder of them"

    def recognises(self, source: Source) -> bool:
        """A JSON file with ``shapes`` and ``imagePath``, or a folder whose first JSON file is one."""
        return {"shapes", "imagePath"} <= source.json_keys()

    def open(self, source: Source) -> LabelledImages:
        """Read the file, or every JSON file of the folder."""
        inside = source.images is None
        read = source.each(".json", lambda file: _image(read_json(file), file, inside=inside))
        return ShapeFile(source, read)


def _image(file: Node, path: Path, *, inside: bool) -> AnnotatedImage:
    """What a file says of its image; with ``inside`` the image itself is taken from it where it is there."""
    image: str | bytes = file["imagePath"].text()
    if inside and file.mapping().get("imageData"):
        image = _decoded(file["imageData"])
    size = None
    if {"imageHeight", "imageWidth"} <= set(file.mapping()) and file.mapping()["imageHeight"] is not None:
        size = file["imageHeight"].whole(1), file["imageWidth"].whole(1)
    shapes = tuple(_grouped(file["shapes"].entries()))
    return AnnotatedImage(image, shapes, size, path.stem, str(path))


def _decoded(node: Node) -> bytes:
    try:
        return base64.b64decode(node.text(), validate=True)
    except (binascii.Error, ValueError):
        raise node.wrong("an image in base64") from None


def _grouped(nodes: list[Node]) -> Iterator[Shape]:
    """Polygons of one label and group are one object, as labelme means it."""
    groups = defaultdict[tuple[str, object], list[Polygons]](list)
    for number, node in enumerate(nodes):
        label, geometry = node["label"].text(), _geometry(node)
        group = node.mapping().get("group_id")
        if isinstance(geometry, Polygons):
            groups[label, number if group is None else f"group {group}"].append(geometry)
        else:
            yield Shape(label, geometry)
    for (label, _), parts in groups.items():
        yield Shape(label, Polygons(tuple(ring for part in parts for ring in part.rings)))


def _geometry(node: Node) -> Geometry:
    kind = node.mapping().get("shape_type", "polygon")
    points = [_pair(point) for point in node["points"].entries()]
    if kind == "mask" and node.mapping().get("mask"):
        pixels = load_image(_decoded(node["mask"]))[..., 0] > 0
        return Bitmap(pixels, round(points[0][0]), round(points[0][1]))
    if kind in ("polygon", "rotation", "oriented_rectangle") and len(points) > 2:
        return Polygons((tuple(v for point in points for v in point),))
    if kind == "circle" and len(points) == 2:
        radius = math.dist(*points)  # from the centre to a point on the line
        return ellipse(*points[0], radius, radius)
    if kind == "rectangle" and len(points) > 1:
        (x, y) = zip(*points, strict=True)
        return Box(min(x), min(y), max(x), max(y))
    return Points(tuple(points))


def _pair(node: Node) -> tuple[float, float]:
    value = node.value
    if not isinstance(value, list) or len(value) != 2 or not all(type(v) in (int, float) for v in value):
        raise node.wrong("a point [x, y]")
    return float(value[0]), float(value[1])
