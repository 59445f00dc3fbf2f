"""Pascal VOC: an XML file of boxes for each image."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from knnseg.datasets.folders import LabelledImages
from knnseg.datasets.formats.shapes import AnnotatedImage, Box, Shape, ShapeFile
from knnseg.datasets.formats.source import Source, read_xml, wrong

__all__ = ["VocBoxes"]


class VocBoxes:
    """VOC's boxes, which LabelImg and many others write."""

    title = "Pascal VOC boxes: an XML file for each image, or a folder of them"

    def recognises(self, source: Source) -> bool:
        """An XML file with the root ``annotation``."""
        return source.xml is not None and source.xml.tag == "annotation"

    def open(self, source: Source) -> LabelledImages:
        """Read the file, or each of a folder."""
        read = source.each(".xml", lambda file: _image(read_xml(file), str(file)))
        return ShapeFile(source, read)


def _image(root: ET.Element, place: str) -> AnnotatedImage:
    name = _text(root, "filename", place)
    shapes = tuple(_shape(node, f"{place}: object {n}") for n, node in enumerate(root.iterfind("object")))
    size = None
    if root.find("size") is not None:
        size = round(_number(root, "size/height", place)), round(_number(root, "size/width", place))
    return AnnotatedImage(name, shapes, size if size and all(size) else None, name.rpartition(".")[0] or name, place)


def _shape(node: ET.Element, place: str) -> Shape:
    """VOC counts pixels from 1, and the right and bottom ones are inside."""
    left, top, right, bottom = (_number(node, f"bndbox/{key}", place) for key in ("xmin", "ymin", "xmax", "ymax"))
    return Shape(_text(node, "name", place), Box(left - 1, top - 1, right, bottom))


def _text(node: ET.Element, path: str, place: str) -> str:
    value = (node.findtext(path) or "").strip()
    if not value:
        raise wrong(place, f"the element {path}", [child.tag for child in node])
    return value


def _number(node: ET.Element, path: str, place: str) -> float:
    try:
        return float(_text(node, path, place))
    except ValueError:
        raise wrong(f"{place}: {path}", "a number", node.findtext(path)) from None
