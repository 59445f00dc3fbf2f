"""The pages to look at what was found: one HTML file each. Jinja escapes whatever comes from names and paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import find_objects

from knnseg.data.arrays import ImageArray
from knnseg.data.reading import resize, within
from knnseg.drawing import data_uri, outlined

__all__ = ["crop", "write_page"]

SIDE = 160
"""Pixels of the longer side of a crop."""
_AROUND = 0.25
"""What is shown around a region, as a share of its longer side."""


def crop(image: ImageArray, region: NDArray[np.bool_]) -> str:
    """A region with an outline, and something of what is around it, faded, as a JPEG for a page.

    Args:
        image: uint8 (H, W, 3).
        region: bool (H, W); at least one pixel.
    """
    box = find_objects(region.astype(np.int8))[0]
    margin = max(8, round(_AROUND * max(side.stop - side.start for side in box)))
    around = tuple(slice(max(side.start - margin, 0), side.stop + margin) for side in box)
    part, inside = image[around], region[around]
    size = within((part.shape[0], part.shape[1]), SIDE)
    rows, columns = (np.arange(n) * m // n for n, m in zip(size, inside.shape, strict=True))
    small, shown = resize(part, size), inside[rows][:, columns]
    faded = np.where(shown[..., None], small, small // 3 + 160).astype(np.uint8)  # which side of a line is meant
    return data_uri(Image.fromarray(outlined(faded, shown)))


def write_page(template: str, path: Path, **values: Any) -> None:
    """Fill in a template of this folder.

    Args:
        template: its name.
        path: where to.
        values: what it shows.
    """
    environment = Environment(
        loader=PackageLoader("knnseg.mining", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template(template).render(values)
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
