"""What is counted on one image, and the sums over a set of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnseg.data.annotations import LabelledImage, positions
from knnseg.data.arrays import IGNORE
from knnseg.data.vocabulary import Vocabulary
from knnseg.evaluation.average_precision import AveragePrecision, DetectionCounts
from knnseg.evaluation.metrics import BoundaryIoU, ConfusionMatrix, PanopticQuality
from knnseg.method.instances import Instance
from knnseg.method.painting import Segment

__all__ = ["Counts", "ImageCounts", "Quality"]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """One kind of prediction on one image, in whole numbers and a few sums: small enough to keep of every image.

    Args:
        pixels: of :meth:`ConfusionMatrix.measure`.
        boundaries: of :meth:`BoundaryIoU.measure`.
        segments: of :meth:`PanopticQuality.measure`.
        instances: of :meth:`AveragePrecision.measure`.
    """

    pixels: NDArray[np.int64]
    boundaries: NDArray[np.int64]
    segments: NDArray[np.float64]
    instances: DetectionCounts

    def to_json(self) -> dict[str, Any]:
        """Lists of numbers; floats survive JSON bit for bit."""
        return {
            "pixels": self.pixels.tolist(), "boundaries": self.boundaries.tolist(), "segments": self.segments.tolist(),
            "found": self.instances.found.tolist(), "objects": self.instances.objects.tolist(),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Counts:
        """The inverse of :meth:`to_json`."""
        detections = DetectionCounts(
            np.array(data["found"], np.float64).reshape(-1, 4), np.array(data["objects"], np.int64).reshape(-1, 2)
        )
        pixels, boundaries = (np.array(data[key], np.int64).reshape(-1, 3) for key in ("pixels", "boundaries"))
        return cls(pixels, boundaries, np.array(data["segments"], np.float64).reshape(-1, 5), detections)


@dataclass(frozen=True, slots=True, eq=False)
class ImageCounts:
    """Both kinds of prediction on one image.

    Args:
        image: where it comes from, for people.
        base: without the database.
        final: with it.
        degraded: why the database was not used though it should have been; "" normally.
        place: of the image in the data set, from 0.
    """

    image: str
    base: Counts
    final: Counts
    degraded: str = ""
    place: int = 0

    def to_json(self) -> dict[str, Any]:
        """One line of a journal; a final prediction that is the base prediction is left out."""
        final = {} if self.final is self.base else {"final": self.final.to_json()}
        head = {"n": self.place, "image": self.image, "degraded": self.degraded}
        return {**head, "base": self.base.to_json(), **final}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> ImageCounts:
        """The inverse of :meth:`to_json`."""
        base = Counts.from_json(data["base"])
        final = Counts.from_json(data["final"]) if "final" in data else base
        return cls(data["image"], base, final, data["degraded"], data["n"])


class Quality:
    """Quality of one kind of prediction over a set of images.

    Args:
        vocabulary: the C classes.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        things = np.array([name in vocabulary.things for name in vocabulary], bool)
        self._position = {name: i for i, name in enumerate(vocabulary)}
        self.semantic = ConfusionMatrix(len(vocabulary))
        self.boundaries = BoundaryIoU(len(vocabulary))
        self.panoptic = PanopticQuality(len(vocabulary))
        self.instances = AveragePrecision(things)

    def measure(
        self,
        example: LabelledImage,
        semantic: NDArray[np.int32],
        panoptic: tuple[NDArray[np.int32], Sequence[Segment]],
        instances: Sequence[Instance],
    ) -> Counts:
        """Check one prediction against its labels, without adding it.

        Args:
            example: the image and its labels; pixels of classes out of the vocabulary are void.
            semantic: int32 (H, W), class positions; what is out of the vocabulary is nothing.
            panoptic: int32 (H, W) of segment numbers, and the segments.
            instances: the objects.
        """
        truth = example.semantic(self._vocabulary.names)
        known = {s.id: self._position[s.label] for s in example.info if s.label in self._position}
        found = {s.id: self._position[s.label] for s in panoptic[1] if s.label in self._position}  # others are unknown
        classes = [self._position[instance.label] for instance in instances]
        crowd = _crowd(example, truth, known)
        semantic = without_unknown(semantic, self._vocabulary)
        return Counts(
            self.semantic.measure(truth, semantic),
            self.boundaries.measure(truth, semantic),
            self.panoptic.measure(example.segments, known, panoptic[0], found, crowd),
            self.instances.measure(example.segments, known, instances, classes, crowd),
        )

    def merge(self, counts: Counts) -> None:
        """Add what :meth:`measure` returned."""
        self.semantic.merge(counts.pixels)
        self.boundaries.merge(counts.boundaries)
        self.panoptic.merge(counts.segments)
        self.instances.merge(counts.instances)


def without_unknown(semantic: NDArray[np.int32], vocabulary: Vocabulary) -> NDArray[np.int32]:
    """A semantic map with ``IGNORE`` for what a result knows as ``unknown``, at the end of its own vocabulary."""
    return np.where(semantic < len(vocabulary), semantic, np.int32(IGNORE))


def _crowd(example: LabelledImage, truth: NDArray[np.int32], known: Mapping[int, int]) -> NDArray[np.int32] | None:
    """The class of pixels that are of a crowd: they have one and are in no segment; None where there are none."""
    if example.class_map is None or not example.crowds:
        return None
    return np.where(positions(example.segments, list(known)) < 0, truth, np.int32(IGNORE))
