"""CVAT for images 1.1: one XML file with polygons, masks, boxes, ellipses and points."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np

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
    image_files,
)
from knnseg.datasets.formats.source import Source, read_xml, wrong

__all__ = ["Cvat"]

_CORNERS = 64
"""Of an ellipse."""


class Cvat:
    """The export "CVAT for images 1.1"."""

    title = "CVAT for images 1.1: an XML file"

    def recognises(self, source: Source) -> bool:
        """An XML file with the root ``annotations``."""
        return source.xml is not None and source.xml.tag == "annotations"

    def open(self, source: Source) -> LabelledImages:
        """Read the file, or each of a folder."""
        files = source.files(".xml")
        read = [
            _image(node, f"{file}: image {n}") for file in files for n, node in enumerate(read_xml(file).iter("image"))
        ]
        labels = [node.text or "" for file in files for node in read_xml(file).iterfind(".//labels/label/name")]
        occurring = {shape.label for image in read for shape in image.shapes}
        classes = labels if occurring <= set(labels) else None
        return ShapeFile(str(source.path), read, image_files(source), classes)


def _image(node: ET.Element, place: str) -> AnnotatedImage:
    size = round(_number(node, "height", place)), round(_number(node, "width", place))
    shapes = [
        Shape(_text(child, "label", place), _geometry(child, place), layer=round(_number(child, "z_order", place, 0)))
        for child in node
        if child.tag in _SHAPES
    ]
    return AnnotatedImage(_text(node, "name", place), tuple(shapes), size, node.get("id", ""), place)


_SHAPES = ("polygon", "mask", "box", "ellipse", "points", "polyline")


def _geometry(node: ET.Element, place: str) -> Geometry:
    if node.tag == "mask":
        return _mask(node, place)
    if node.tag == "box" and not _number(node, "rotation", place, 0):
        return Box(*(_number(node, key, place) for key in ("xtl", "ytl", "xbr", "ybr")))
    if node.tag in ("ellipse", "box"):
        return Polygons((_turned(node, place),))
    pairs = _pairs(node, place)
    return Polygons((tuple(v for pair in pairs for v in pair),)) if node.tag == "polygon" else Points(pairs)


def _pairs(node: ET.Element, place: str) -> tuple[tuple[float, float], ...]:
    try:
        return tuple(
            (float(x), float(y)) for x, y in (pair.split(",") for pair in node.get("points", "").split(";") if pair)
        )
    except ValueError:
        raise wrong(f"{place}: {node.tag}.points", "pairs of numbers x,y;x,y", node.get("points")) from None


def _mask(node: ET.Element, place: str) -> Bitmap:
    """Runs row after row over the mask's own box, which begin outside."""
    left, top, width, height = (round(_number(node, key, place)) for key in ("left", "top", "width", "height"))
    try:
        runs = [int(run) for run in _text(node, "rle", place).split(",")]
    except ValueError:
        raise wrong(f"{place}: mask.rle", "whole numbers separated by commas", node.get("rle")) from None
    if min(runs) < 0 or sum(runs) != width * height:
        raise wrong(f"{place}: mask.rle", f"runs of {width * height} pixels together", sum(runs))
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return Bitmap(pixels.reshape(height, width), left, top)


def _turned(node: ET.Element, place: str) -> tuple[float, ...]:
    """The outline of an ellipse, or the corners of a box that is turned, clockwise by degrees."""
    if node.tag == "ellipse":
        cx, cy, rx, ry = (_number(node, key, place) for key in ("cx", "cy", "rx", "ry"))
        turns = [2 * math.pi * i / _CORNERS for i in range(_CORNERS)]
        flat = [(rx * math.cos(t), ry * math.sin(t)) for t in turns]
    else:
        x0, y0, x1, y1 = (_number(node, key, place) for key in ("xtl", "ytl", "xbr", "ybr"))
        cx, cy, w, h = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2
        flat = [(-w, -h), (w, -h), (w, h), (-w, h)]
    angle = math.radians(_number(node, "rotation", place, 0))
    cos, sin = math.cos(angle), math.sin(angle)
    return tuple(v for x, y in flat for v in (cx + x * cos - y * sin, cy + x * sin + y * cos))


def _text(node: ET.Element, key: str, place: str) -> str:
    value = node.get(key)
    if not value:
        raise wrong(f"{place}: {node.tag}", f"the attribute {key!r}", sorted(node.keys()))
    return value


def _number(node: ET.Element, key: str, place: str, missing: float | None = None) -> float:
    if missing is not None and key not in node.keys():  # noqa: SIM118  # an element is not a mapping
        return missing
    try:
        return float(_text(node, key, place))
    except ValueError:
        raise wrong(f"{place}: {node.tag}.{key}", "a number", node.get(key)) from None
