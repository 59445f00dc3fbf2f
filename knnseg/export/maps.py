"""Label maps: a class in each pixel, with a legend of what the numbers and their colours mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from knnseg.drawing import class_colours
from knnseg.export.coco import categories

if TYPE_CHECKING:
    from knnseg.data.vocabulary import Vocabulary
    from knnseg.result import Segmentation

__all__ = ["label_map", "legend"]


def label_map(result: Segmentation) -> Image.Image:
    """Position in the vocabulary + 1, 0 for no class; in colour up to 255 classes, and 16 bits of grey beyond."""
    numbers = result.semantic + 1
    if len(result.vocabulary) > 255:
        return Image.fromarray(numbers.astype(np.uint16))
    picture = Image.fromarray(numbers.astype(np.uint8))
    picture.putpalette([0, 0, 0, *class_colours(result.vocabulary.names).reshape(-1).tolist()])
    return picture


def legend(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """What the numbers mean, in the form that :func:`knnseg.datasets.folders.read_classes` takes, with colours."""
    shown = class_colours(vocabulary.names).tolist()
    return [entry | {"color": colour} for entry, colour in zip(categories(vocabulary), shown, strict=True)]
