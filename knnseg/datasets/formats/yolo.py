"""YOLO's segmentation labels: a text file for each image, and a YAML file that names the classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from knnseg.data.listing import IMAGES
from knnseg.datasets.folders import LabelledImages
from knnseg.datasets.formats.shapes import AnnotatedImage, Box, Geometry, Polygons, Shape, ShapeFile
from knnseg.datasets.formats.source import Source, tried, wrong
from knnseg.errors import DatasetError

__all__ = ["Yolo"]


class Yolo:
    """``labels`` beside each folder ``images``, and the names of the classes: Ultralytics' ``data.yaml``, or a name in
    each line of ``classes.txt``, as LabelImg and Label Studio write it.
    """

    title = "YOLO, segmentation or boxes: data.yaml or classes.txt, or the folder that has it"

    def recognises(self, source: Source) -> bool:
        """A YAML file with ``names``, or ``classes.txt``, or a folder that has one."""
        return _description(source) is not None

    def open(self, source: Source) -> LabelledImages:
        """Read every text file in a folder ``labels`` below."""
        path = _description(source) or source.path
        names = _names(_lines(path) if path.name == _CLASSES else _yaml(path).get("names"), str(path))
        texts = sorted(
            file for file in path.parent.rglob("*.txt") if "labels" in file.relative_to(path.parent).parts[:-1]
        )
        beside = source.images is None
        read = [tried(lambda t: _image(t, names, beside=beside), text) for text in texts if text.stat().st_size]
        return ShapeFile(source, read, dict.fromkeys(names.values(), True))


_CLASSES = "classes.txt"


def _description(source: Source) -> Path | None:
    described = (file for ending in (".yaml", ".yml") for file in source.files(ending) if "names" in _yaml(file))
    listed = (file for file in source.files(".txt") if file.name == _CLASSES)
    return next(described, None) or next(listed, None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(path, expected="a text file", got=str(error)) from error


def _yaml(path: Path) -> Mapping[str, Any]:
    try:
        read = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DatasetError(path, expected="a YAML file", got=str(error)) from error
    return read if isinstance(read, dict) else {}


def _names(given: object, path: str) -> dict[int, str]:
    pairs = (
        list(given.items()) if isinstance(given, dict) else list(enumerate(given)) if isinstance(given, list) else []
    )
    if not pairs or not all(type(n) is int and isinstance(name, str) and name.strip() for n, name in pairs):
        raise wrong(f"{path}: names", "class names, in a list or by number", given)
    return dict(pairs)


def _image(text: Path, names: Mapping[int, str], *, beside: bool) -> AnnotatedImage:
    """The shapes of a file of labels, and the image of its name: in ``images`` beside ``labels``, or anywhere."""
    parts = list(text.parts)
    parts[len(parts) - 1 - parts[::-1].index("labels")] = "images"
    near = Path(*parts)
    found = [near.with_suffix(ending) for ending in IMAGES if beside and near.with_suffix(ending).is_file()]
    shapes = tuple(_shape(line, f"{text}:{n}", names) for n, line in enumerate(_lines(text), 1) if line.strip())
    return AnnotatedImage(str(found[0].absolute()) if found else text.stem, shapes, None, text.stem, str(text))


def _shape(line: str, place: str, names: Mapping[int, str]) -> Shape:
    try:
        number, *values = map(float, line.split())
    except ValueError:
        raise wrong(place, "numbers: a class and x y of each corner", line) from None
    if number not in names:
        raise wrong(place, f"a class of {sorted(names)[:8]}", number)
    geometry: Geometry = Polygons((tuple(values),), shares=True)
    if len(values) == 4:
        x, y, w, h = values
        geometry = Box(x - w / 2, y - h / 2, x + w / 2, y + h / 2, shares=True)
    return Shape(names[int(number)], geometry)
