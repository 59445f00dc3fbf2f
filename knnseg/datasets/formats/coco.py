"""COCO and LVIS instances: polygons, run-length codes and crowds in one JSON file; and COCO panoptic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from knnseg.datasets._json import Node, read_json
from knnseg.datasets.folders import CocoPanoptic, LabelledImages, classes_of, unknown_of
from knnseg.datasets.formats.shapes import (
    AnnotatedImage,
    Box,
    Geometry,
    Polygons,
    RunLengths,
    Shape,
    ShapeFile,
)
from knnseg.datasets.formats.source import Source
from knnseg.errors import DatasetError

__all__ = ["CocoInstances", "CocoPanopticFile"]


def _annotations(source: Source) -> dict[str, Any] | None:
    """The first annotation of a COCO file, {} where there is none; None where this is not a COCO file."""
    keys = {"images", "annotations", "categories"}
    if source.json is None or source.only(".json") is None or not keys <= source.json_keys():
        return None
    found = source.json.value["annotations"]
    return found[0] if isinstance(found, list) and found and isinstance(found[0], dict) else {}


class CocoInstances:
    """COCO's and LVIS's instances, and what other tools export in their form."""

    title = "COCO or LVIS instances: a JSON file"

    def recognises(self, source: Source) -> bool:
        """A JSON file whose annotations have no ``segments_info``."""
        first = _annotations(source)
        return first is not None and "segments_info" not in first

    def open(self, source: Source) -> LabelledImages:
        """Read the file."""
        path = source.only(".json") or source.path
        file = read_json(path) if source.json is None else source.json
        # An outline is of one object, unless the file says that it is stuff.
        classes = {number: (name, thing is not False) for number, (name, thing) in classes_of(file).items()}
        shapes = defaultdict[str, list[Shape]](list)
        unknown = unknown_of(file)
        entries = {entry["id"].identity(): entry for entry in file["images"].entries()}
        sizes = {number: _size(entry) for number, entry in entries.items()}
        for entry in file["annotations"].entries():
            number = entry["image_id"].identity()
            if number not in entries:
                raise entry["image_id"].wrong("the id of an image of this file")
            if entry["category_id"].whole() not in unknown:
                shapes[number] += _shapes(entry, sizes[number], classes)
        read = [
            AnnotatedImage(_file_name(entry), tuple(shapes[number]), sizes[number], number, f"{path}: {entry.place}")
            for number, entry in entries.items()
        ]
        return ShapeFile(source, read, dict(classes.values()))


def _size(entry: Node) -> tuple[int, int] | None:
    if not {"height", "width"} <= set(entry.mapping()):
        return None
    return entry["height"].whole(1), entry["width"].whole(1)


def _file_name(entry: Node) -> str:
    """LVIS has the address of the image and no file name; its last two parts are COCO's folder and file."""
    if "file_name" in entry.mapping():
        return entry["file_name"].text()
    return "/".join(entry["coco_url"].text().rsplit("/", 2)[-2:])


def _shapes(entry: Node, size: tuple[int, int] | None, classes: Mapping[int, tuple[str, bool]]) -> list[Shape]:
    category = entry["category_id"].whole()
    if category not in classes:
        raise entry["category_id"].wrong("the id of a category of this file")
    given = entry.mapping()
    if given.get("segmentation"):
        geometry = _outline(entry["segmentation"], size)
    elif given.get("bbox"):
        x, y, w, h = entry["bbox"].numbers(4)
        geometry = Box(x, y, x + w, y + h)
    else:
        return []
    name, thing = classes[category]
    return [Shape(name, geometry, thing, entry.flag("iscrowd"))]


def _outline(node: Node, size: tuple[int, int] | None) -> Geometry:
    if isinstance(node.value, list):
        return Polygons(tuple(ring.numbers() for ring in node.entries()))
    counts = node["counts"]
    made = node["size"].entries() if "size" in node.mapping() else []
    shape = (made[0].whole(1), made[1].whole(1)) if len(made) == 2 else size
    if shape is None:
        raise node.wrong("a run-length code with its size")
    if isinstance(counts.value, list):
        return RunLengths(shape, tuple(count.whole(0) for count in counts.entries()))
    return RunLengths(shape, counts.text())


class CocoPanopticFile:
    """COCO panoptic: the JSON file, with its PNGs in a folder of the same name."""

    title = "COCO panoptic: a JSON file, and PNGs in a folder of its name"

    def recognises(self, source: Source) -> bool:
        """A JSON file whose annotations have ``segments_info``."""
        return "segments_info" in (_annotations(source) or {})

    def open(self, source: Source) -> LabelledImages:
        """Read the file."""
        path, images = source.only(".json") or source.path, source.images
        if images is None and not (path.parent / "images").is_dir():
            raise DatasetError(
                f"{path}: COCO panoptic", expected="the folder of the images", got="none", hint="Give it."
            )
        return CocoPanoptic(images or path.parent / "images", path.with_suffix(""), path)
