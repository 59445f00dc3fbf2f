"""A segmentation as a prediction of Label Studio, in the words of a project's labelling configuration."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from knnseg.data.vocabulary import UNKNOWN, Vocabulary
from knnseg.drawing import colours
from knnseg.errors import DatasetError
from knnseg.export.polygons import outlines
from knnseg.method.brush import encode_brush
from knnseg.method.painting import Segment

if TYPE_CHECKING:
    from knnseg.result import Segmentation

__all__ = ["Control", "LabelConfig", "ShapeKind", "local_file", "prediction", "task"]

ShapeKind: TypeAlias = Literal["brush", "polygon", "rectangle"]
_KINDS: tuple[ShapeKind, ...] = get_args(ShapeKind)


@dataclass(frozen=True, slots=True)
class Control:
    """A tag that regions are drawn with.

    Args:
        name: of the tag.
        kind: of the regions.
        labels: the names that they can get.
        labelled_by: the tag ``Labels`` that gives them, where the names are not in this tag; "" where they are.
    """

    name: str
    kind: ShapeKind
    labels: tuple[str, ...]
    labelled_by: str = ""


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """What a labelling configuration says of its image.

    Args:
        image: name of the tag ``Image``.
        key: where the data of a task have the address of the image.
        controls: the tags that segments can be drawn with, in order.
    """

    image: str
    key: str
    controls: tuple[Control, ...]

    @classmethod
    def parse(cls, xml: str) -> LabelConfig:
        """Read the configuration of a project.

        Raises:
            DatasetError: no XML, no image or several, or nothing to draw segments with.
        """
        try:
            tags = list(ET.fromstring(xml).iter())  # noqa: S314  # expat refuses entities that grow since 2.4.1
        except ET.ParseError as error:
            raise DatasetError("labelling configuration", expected="XML", got=str(error)) from error
        images = [tag for tag in tags if tag.tag.lower() == "image" and tag.get("name") and tag.get("value")]
        if len(images) != 1:
            raise DatasetError(
                "labelling configuration", expected="one <Image name=… value=…/>", got=f"{len(images)} of them"
            )
        image = images[0].get("name", "")
        controls = tuple(_controls([tag for tag in tags if tag.get("toName") == image]))
        if not controls:
            raise DatasetError(
                "labelling configuration",
                expected=f"<BrushLabels>, <PolygonLabels> or <RectangleLabels> with labels for the image {image!r}",
                got=sorted({tag.tag for tag in tags}),
            )
        return cls(image, images[0].get("value", "").removeprefix("$"), controls)

    @classmethod
    def of(cls, vocabulary: Vocabulary, kind: ShapeKind = "brush") -> LabelConfig:
        """A configuration for new projects, with every class; see :attr:`xml`."""
        return cls("image", "image", (Control("label", kind, tuple(n for n in vocabulary.names if n != UNKNOWN)),))

    @property
    def labels(self) -> tuple[str, ...]:
        """Every name that a region can get."""
        return tuple(dict.fromkeys(label for control in self.controls for label in control.labels))

    @property
    def xml(self) -> str:
        """The configuration as Label Studio takes it, for one made by :meth:`of`."""
        view = ET.Element("View")
        ET.SubElement(view, "Image", name=self.image, value=f"${self.key}", zoom="true")
        for control in self.controls:
            tag = ET.SubElement(view, f"{control.kind.capitalize()}Labels", name=control.name, toName=self.image)
            for label, colour in zip(control.labels, colours(len(control.labels)).tolist(), strict=True):
                ET.SubElement(tag, "Label", value=label, background="#{:02x}{:02x}{:02x}".format(*colour))
        ET.indent(view)
        return ET.tostring(view, encoding="unicode")

    def control(self, label: str, prefer: ShapeKind = "brush") -> Control | None:
        """What a segment of a class is drawn with, of several controls the preferred; None for another name."""
        fitting = [control for control in self.controls if label in control.labels]
        order = [prefer, *_KINDS]
        return min(fitting, key=lambda control: order.index(control.kind), default=None)


def _controls(tags: list[ET.Element]) -> Iterator[Control]:
    """The controls of an image, with what they may say or what the ``Labels`` beside them may."""
    beside = next((tag for tag in tags if tag.tag.lower() == "labels"), None)
    for tag in tags:
        kind = next((k for k in _KINDS if tag.tag.lower() in (k, f"{k}labels")), None)
        if kind is not None and tag.tag.lower() != kind:
            yield Control(tag.get("name", ""), kind, _labels(tag))
        elif kind is not None and beside is not None:
            yield Control(tag.get("name", ""), kind, _labels(beside), beside.get("name", ""))


def _labels(tag: ET.Element) -> tuple[str, ...]:
    """What the results of a tag say: the alias of a label, if it has one."""
    return tuple(
        child.get("alias", "") or child.get("value", "") for child in tag.iter() if child.tag.lower() == "label"
    )


def prediction(
    result: Segmentation, config: LabelConfig, *, prefer: ShapeKind = "brush", model_version: str = "knnseg"
) -> dict[str, Any]:
    """The segments whose class the project knows, as a prediction: ``result``, ``score`` and ``model_version``.

    Brush masks are exact. A polygon is one piece of a segment without its holes, a rectangle its box.

    Args:
        result: of an image.
        config: of the project.
        prefer: what to draw with where a class has several controls.
        model_version: what Label Studio calls the model.
    """
    regions: list[dict[str, Any]] = []
    shown: list[Segment] = []
    for segment in result.segments_info:
        control = config.control(segment.label, prefer)
        if control is not None:
            shown.append(segment)
            regions += _regions(result.panoptic == segment.id, segment, control, config.image)
    total = sum(segment.area for segment in shown)
    score = sum(segment.score * segment.area for segment in shown) / total if total else 0.0
    return {"model_version": model_version, "score": score, "result": regions}


def _regions(mask: NDArray[np.bool_], segment: Segment, control: Control, image: str) -> Iterator[dict[str, Any]]:
    """The results of one segment: one, or one for each piece of a polygon, or two where the label stands beside it."""
    height, width = mask.shape
    for n, value in enumerate(_values(mask, segment, control.kind)):
        common = {
            "id": f"knnseg{segment.id}" + (f"-{n}" if n else ""), "to_name": image, "original_width": width,
            "original_height": height, "image_rotation": 0, "score": segment.score,
        }  # fmt: skip
        kind = f"{control.kind}labels"
        if control.labelled_by:
            yield {**common, "from_name": control.name, "type": control.kind, "value": value}
            kind = "labels"
        name = control.labelled_by or control.name
        yield {**common, "from_name": name, "type": kind, "value": {**value, kind: [segment.label]}}


def _values(mask: NDArray[np.bool_], segment: Segment, kind: ShapeKind) -> Iterator[dict[str, Any]]:
    """Where a segment is; places are in hundredths of the width and height."""
    shares = 100 / np.array(mask.shape[::-1])
    if kind == "brush":
        yield {"format": "rle", "rle": list(encode_brush(mask))}
    elif kind == "polygon":
        yield from ({"points": (corners * shares).tolist(), "closed": True} for corners in outlines(mask))
    else:
        x0, y0, x1, y1 = (np.reshape(segment.box, (2, 2)) * shares).reshape(-1).tolist()
        yield {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}


def task(
    result: Segmentation, config: LabelConfig, address: str, *,
    prefer: ShapeKind = "brush", model_version: str = "knnseg",
) -> dict[str, Any]:  # fmt: skip
    """A task to import, with its prediction.

    Args:
        result: of an image.
        config: of the project.
        address: where Label Studio finds the image.
        prefer: as for :func:`prediction`.
        model_version: as for :func:`prediction`.
    """
    predicted = prediction(result, config, prefer=prefer, model_version=model_version)
    return {"data": {config.key: address}, "predictions": [predicted]}


def local_file(source: str) -> str:
    """The address of a file of Label Studio's local storage, by its path below ``LOCAL_FILES_DOCUMENT_ROOT``."""
    return f"/data/local-files/?d={quote(source, errors='surrogateescape')}"
