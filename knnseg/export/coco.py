"""COCO's formats: panoptic PNGs with their annotations, instances as run-length codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from knnseg.data.vocabulary import UNKNOWN, Vocabulary
from knnseg.method.instances import encode_parts

if TYPE_CHECKING:
    from knnseg.result import Segmentation

__all__ = ["categories", "image_entry", "instances", "panoptic_document", "panoptic_entry", "panoptic_picture"]


def categories(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """The classes: their ids are positions in the vocabulary from 1; that of everything else is marked ``unknown``."""
    return [
        {"id": i, "name": name, "isthing": int(name in vocabulary.things)} | ({"unknown": 1} if name == UNKNOWN else {})
        for i, name in enumerate(vocabulary.names, 1)
    ]


def image_entry(result: Segmentation, image_id: int, file_name: str) -> dict[str, Any]:
    """What ``images`` says of an image."""
    height, width = result.panoptic.shape
    return {"id": image_id, "file_name": file_name, "height": height, "width": width}


def panoptic_entry(result: Segmentation, image_id: int, png: str) -> dict[str, Any]:
    """What ``annotations`` of COCO panoptic says of an image whose segments are in a PNG of this name."""
    return {"image_id": image_id, "file_name": png, "segments_info": _segments(result)}


def panoptic_document(result: Segmentation, png: str, image_id: int, image_file: str) -> dict[str, Any]:
    """COCO panoptic's annotations of one image."""
    return {
        "images": [image_entry(result, image_id, image_file)],
        "annotations": [panoptic_entry(result, image_id, png)],
        "categories": categories(result.vocabulary),
    }


def panoptic_picture(result: Segmentation) -> Image.Image:
    """The numbers of segments as COCO's panoptic PNGs have them: R + 256·G + 65536·B."""
    digits = [(result.panoptic // 256**i % 256).astype(np.uint8) for i in range(3)]
    return Image.fromarray(np.stack(digits, -1))


def instances(result: Segmentation, image_id: int) -> list[dict[str, Any]]:
    """The segments as COCO results: ``segmentation`` (compressed RLE), ``category_id``, ``bbox``, ``area``, ``score``.

    Stuff is there too, as in COCO's annotations of stuff.
    """
    counts, size = encode_parts(result.panoptic), list(result.panoptic.shape)
    return [
        {"image_id": image_id}
        | {key: segment[key] for key in ("category_id", "bbox", "area", "score")}
        | {"segmentation": {"size": size, "counts": counts[segment["id"]]}}
        for segment in _segments(result)
    ]


def _segments(result: Segmentation) -> list[dict[str, Any]]:
    number = {name: i for i, name in enumerate(result.vocabulary.names, 1)}
    return [
        {
            "id": s.id, "category_id": number[s.label], "iscrowd": 0, "area": s.area,
            "bbox": [s.box[0], s.box[1], s.box[2] - s.box[0], s.box[3] - s.box[1]], "score": s.score,
        }
        for s in result.segments_info
    ]  # fmt: skip
