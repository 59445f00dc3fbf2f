"""CVAT for images 1.1: one XML file with polygons, masks, boxes, ellipses and points."""

from __future__ import annotations

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
    ellipse,
    turned,
)
from knnseg.datasets.formats.source import Source, read_xml, wrong

__all__ = ["Cvat"]


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
        classes = dict.fromkeys(labels, True) if occurring <= set(labels) else None
        return ShapeFile(source, read, classes)


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
    degrees = _number(node, "rotation", place, 0)
    if node.tag == "ellipse":
        x, y, rx, ry = (_number(node, key, place) for key in ("cx", "cy", "rx", "ry"))
        return ellipse(x, y, rx, ry, degrees)
    if node.tag == "box" and degrees:
        return _turned_box(node, place, degrees)
    if node.tag == "box":
        left, top, right, bottom = (_number(node, key, place) for key in ("xtl", "ytl", "xbr", "ybr"))
        return Box(left, top, right, bottom)
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


def _turned_box(node: ET.Element, place: str, degrees: float) -> Polygons:
    """Turned around its centre."""
    x0, y0, x1, y1 = (_number(node, key, place) for key in ("xtl", "ytl", "xbr", "ybr"))
    return turned([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], ((x0 + x1) / 2, (y0 + y1) / 2), degrees)


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
