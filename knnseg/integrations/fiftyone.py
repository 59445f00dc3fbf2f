"""FiftyOne: a model for ``dataset.apply_model``, whose labels carry the votes.

Needs ``fiftyone``, which no extra brings: it pins much that others want newer, so it is for the user to install.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.models import Model
from numpy.typing import NDArray

from knnseg.data.image import Image
from knnseg.data.vocabulary import Vocabulary
from knnseg.method.painting import Segment
from knnseg.result import Segmentation
from knnseg.segmenter import Segmenter

__all__ = ["SegmentModel"]


class SegmentModel(Model):  # type: ignore[misc]  # published without type information
    """Predicts ``segments``, detections with masks, and ``semantic``, a segmentation.

    ``dataset.apply_model(SegmentModel(segmenter), label_field="knnseg")`` fills ``knnseg_segments`` and
    ``knnseg_semantic``.

    Args:
        segmenter: what predicts.
        classes: as for :meth:`knnseg.Segmenter.predict`; they stay as they are now, and so do their numbers.
        votes: how many examples of the database are listed with each segment; 0 asks the database for none.
    """

    def __init__(
        self, segmenter: Segmenter, classes: Vocabulary | Iterable[str] | None = None, *, votes: int = 5
    ) -> None:
        self._segmenter, self._votes = segmenter, votes
        self._vocabulary = segmenter.vocabulary(classes)
        self._preprocess = False

    @property
    def mask_targets(self) -> dict[int, str]:
        """What the numbers of ``semantic`` mean, for ``dataset.mask_targets``; 0 is no class."""
        painted = self._vocabulary.with_unknown() if self._segmenter.config.painting.unknown else self._vocabulary
        return dict(enumerate(painted.names, 1))

    media_type = "image"
    ragged_batches = True
    transforms = None

    @property
    def preprocess(self) -> bool:
        """FiftyOne sets it; there is nothing that it would change."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def predict(self, arg: NDArray[np.uint8]) -> dict[str, Any]:
        """The labels of an image, uint8 (H, W, 3)."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Iterable[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """The labels of several images, which need not be of one size."""
        images: list[Any] = [Image.read(np.asarray(arg)) for arg in args]
        return [self._labels(result) for result in self._segmenter.predict(images, self._vocabulary)]

    def _labels(self, result: Segmentation) -> dict[str, Any]:
        detections = [self._detection(result, segment) for segment in result.segments_info]
        numbers = result.semantic + 1
        mask = numbers.astype(np.uint8 if len(result.vocabulary) < 256 else np.uint16)
        return {"segments": fo.Detections(detections=detections), "semantic": fo.Segmentation(mask=mask)}

    def _detection(self, result: Segmentation, segment: Segment) -> Any:
        """A segment with its box in shares of the image, and why it has its class."""
        (x0, y0, x1, y1), (height, width) = segment.box, result.panoptic.shape
        detection = fo.Detection(
            label=segment.label, confidence=segment.score, mask=result.panoptic[y0:y1, x0:x1] == segment.id,
            bounding_box=[x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
            thing=segment.thing,
        )  # fmt: skip
        if self._votes:
            why = self._segmenter.explain(result, segment.id, most=self._votes)
            for name in ("base", "retrieved", "final"):
                detection[name] = getattr(why, name).get(segment.label, 0.0)
            detection["votes"] = [{**asdict(vote), "box": list(vote.box)} for vote in why.votes]
        return detection
