"""YOLO's segmentation labels: a line of text for each segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from knnseg.data.vocabulary import UNKNOWN
from knnseg.export.polygons import one_polygon, rings

if TYPE_CHECKING:
    from knnseg.data.vocabulary import Vocabulary
    from knnseg.result import Segmentation

__all__ = ["description", "lines"]


def lines(result: Segmentation) -> str:
    """``CLASS x y x y …`` of each segment, the coordinates as shares of width and height.

    What is unknown is left out: there what has no label is background.
    """
    height, width = result.panoptic.shape
    named = [name for name in result.vocabulary.names if name != UNKNOWN]
    text = []
    for segment in result.segments_info:
        if segment.label != UNKNOWN:
            ring = one_polygon(rings(result.panoptic == segment.id)) / (width, height)
            text.append(f"{named.index(segment.label)} {' '.join(f'{v:.7g}' for v in ring[:-1].reshape(-1))}\n")
    return "".join(text)


def description(vocabulary: Vocabulary) -> str:
    """Ultralytics' ``data.yaml``."""
    names = dict(enumerate(name for name in vocabulary.names if name != UNKNOWN))
    fixed = {"path": ".", "train": "images", "val": "images"}
    return yaml.safe_dump(fixed | {"names": names}, sort_keys=False, allow_unicode=True)
