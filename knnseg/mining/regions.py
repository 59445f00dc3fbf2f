"""Regions of images, and the file in which they leave for the database or for another tool."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnseg.data.masks import Masks

__all__ = ["Region", "coco_instances"]


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an image that was found.

    Args:
        id: its number, from 1.
        image: path of the image.
        size: (H, W) of the image.
        rle: its pixels as COCO's compressed run-length encoding.
        share: of the image, 0 to 1.
    """

    id: int
    image: Path
    size: tuple[int, int]
    rle: str
    share: float

    def mask(self) -> NDArray[np.bool_]:
        """Bool (H, W)."""
        return Masks.from_rle([self.rle], self.size)[0]


def coco_instances(
    regions: Sequence[tuple[Region, int]], names: Sequence[str], things: Container[str] = ()
) -> dict[str, Any]:
    """Regions as COCO instances.

    Args:
        regions: each with the number of its category, from 1.
        names: of the categories.
        things: the names among them that are countable objects.
    """
    sizes = {region.image: region.size for region, _ in regions}
    number = {path: i for i, path in enumerate(sizes, 1)}
    return {
        "images": [
            {"id": i, "file_name": str(path.absolute()), "height": sizes[path][0], "width": sizes[path][1]}
            for path, i in number.items()
        ],
        "annotations": [
            {
                "id": region.id, "image_id": number[region.image], "category_id": category, "iscrowd": 0,
                "segmentation": {"size": list(region.size), "counts": region.rle},
            }
            for region, category in regions
        ],
        "categories": [{"id": i, "name": name, "isthing": int(name in things)} for i, name in enumerate(names, 1)],
    }  # fmt: skip
