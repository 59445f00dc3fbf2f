"""CVAT: an auto-annotation function, which ``cvat-cli task auto-annotate`` takes as a module.

Needs ``cvat-sdk``, which the extra ``cvat`` brings.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import PIL.Image
from cvat_sdk import auto_annotation as cvat
from cvat_sdk.masks import encode_mask
from cvat_sdk.models import LabeledShapeRequest

from knnseg.data.vocabulary import UNKNOWN, Vocabulary
from knnseg.export.polygons import outlines
from knnseg.segmenter import Segmenter

__all__ = ["SegmentFunction", "create"]


class SegmentFunction:
    """Draws each segment as a mask of its class, or as polygons where CVAT wants those.

    Args:
        segmenter: what predicts.
        classes: as for :meth:`knnseg.Segmenter.predict`. They stay as they are now: CVAT asks for the labels once.
    """

    def __init__(self, segmenter: Segmenter, classes: Vocabulary | Iterable[str] | None = None) -> None:
        self._segmenter, self._vocabulary = segmenter, segmenter.vocabulary(classes)
        self._numbers = {name: i for i, name in enumerate(self._vocabulary) if name != UNKNOWN}

    @property
    def spec(self) -> cvat.DetectionFunctionSpec:
        """The labels, which CVAT matches with those of the task by name."""
        labels = [cvat.label_spec(name, number, type="mask") for name, number in self._numbers.items()]
        return cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: cvat.DetectionFunctionContext, image: PIL.Image.Image) -> list[LabeledShapeRequest]:
        """The segments of an image that are at least as sure as CVAT asks for."""
        result = self._segmenter.predict(image, self._vocabulary)
        shapes = []
        for segment in result.segments_info:
            if segment.label in self._numbers and segment.score >= (context.conf_threshold or 0):
                mask = result.panoptic == segment.id
                shapes += _shapes(self._numbers[segment.label], mask, segment.score, polygons=context.conv_mask_to_poly)
        return shapes


def _shapes(
    number: int, mask: np.typing.NDArray[np.bool_], score: float, *, polygons: bool
) -> list[LabeledShapeRequest]:
    score = min(max(score, 0.0), 1.0)  # a mean of probabilities may be a rounding error above 1
    if not polygons:
        return [cvat.mask(number, encode_mask(mask), score=score)]
    return [cvat.polygon(number, corners.reshape(-1).tolist(), score=score) for corners in outlines(mask)]


def create(
    store: str = "", preset: str = "photo", classes: str = "", device: str = "auto"
) -> SegmentFunction:  # what cvat-cli looks for in a module
    """The function, from what stands after ``-p`` on the command line of CVAT.

    Args:
        store: URL of the concept database; "" for none.
        preset: a preset, or the path of a TOML configuration.
        classes: names separated by commas; "" takes all of the database.
        device: for the models.
    """
    names = [name.strip() for name in classes.split(",")] if classes else None
    segmenter = Segmenter.from_config(preset, store or None, device=device, create=False)
    return SegmentFunction(segmenter, names)
