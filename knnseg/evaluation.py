"""Measuring a segmenter on labelled images, the base prediction and the final one in the same pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from knnseg.annotations import LabelledImage
from knnseg.metrics import ConfusionMatrix, PanopticQuality
from knnseg.painting import Segment, paint_panoptic, paint_semantic
from knnseg.pipeline import Segmenter
from knnseg.types import Vocabulary

__all__ = ["Report", "Scores", "evaluate"]


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Quality of one kind of prediction.

    Args:
        semantic: the confusion matrix of the whole set.
        panoptic: panoptic quality of the whole set.
    """

    semantic: ConfusionMatrix
    panoptic: PanopticQuality


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What :func:`evaluate` measured.

    Args:
        vocabulary: the classes.
        images: how many images.
        base: without the database.
        final: with it.
    """

    vocabulary: Vocabulary
    images: int
    base: Scores
    final: Scores

    def to_dict(self, groups: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """Everything as JSON-ready numbers; ``groups`` of class names get a mean IoU of their own.

        Means are over the classes that occur in the labels.
        """
        names = self.vocabulary.names
        result: dict[str, Any] = {"images": self.images, "classes": len(names)}
        for kind, scores in (("base", self.base), ("final", self.final)):
            quality = scores.panoptic.scores()
            # Over the classes of the labels, so that both kinds are means over the same classes.
            occurring = set(np.flatnonzero(scores.semantic.matrix.sum(axis=1)).tolist())
            entry: dict[str, Any] = {
                "miou": scores.semantic.mean_iou(sorted(occurring)),
                "pixel_accuracy": scores.semantic.pixel_accuracy,
                "pq": quality.pq, "sq": quality.sq, "rq": quality.rq,
                "iou": dict(zip(names, scores.semantic.iou.tolist(), strict=True)),
            }  # fmt: skip
            for group, members in (groups or {}).items():
                listed = sorted(occurring & {names.index(name) for name in members})
                entry[f"miou_{group}"] = scores.semantic.mean_iou(listed)
            result[kind] = _without_nan(entry)
        return result


def evaluate(
    segmenter: Segmenter,
    examples: Iterable[LabelledImage],
    classes: Vocabulary | Sequence[str],
    *,
    progress: bool = False,
) -> Report:
    """Segment every image and hold it against its labels.

    Args:
        segmenter: with a database or without.
        examples: labelled images; pixels of other classes than ``classes`` do not count.
        classes: the vocabulary.
        progress: show a progress bar on standard error.
    """
    vocabulary = segmenter.vocabulary(classes)
    kinds = [Scores(ConfusionMatrix(len(vocabulary)), PanopticQuality(len(vocabulary))) for _ in range(2)]
    count = 0
    total = len(examples) if isinstance(examples, Sized) else None
    for example in tqdm(examples, total=total, unit="image", desc="evaluating", disable=not progress):
        result = segmenter.predict(example.image, vocabulary)
        semantic = paint_semantic(result.masks, result.evidence.base)
        painting = segmenter.config.painting
        panoptic, segments = paint_panoptic(result.masks, result.evidence.base, semantic, vocabulary, painting)
        _count(kinds[0], example, vocabulary, semantic[0], panoptic, segments)
        _count(kinds[1], example, vocabulary, result.semantic, result.panoptic, result.segments_info)
        count += 1
    return Report(vocabulary, count, kinds[0], kinds[1])


def _count(
    scores: Scores,
    example: LabelledImage,
    vocabulary: Vocabulary,
    semantic: np.ndarray[Any, np.dtype[np.int32]],
    panoptic: np.ndarray[Any, np.dtype[np.int32]],
    segments: Sequence[Segment],
) -> None:
    index = vocabulary.names.index
    scores.semantic.add(example.semantic(vocabulary.names), semantic)
    known = {s.id: index(s.label) for s in example.info if s.label in vocabulary.names}
    scores.panoptic.add(example.segments, known, panoptic, {s.id: index(s.label) for s in segments})


def _without_nan(value: Any) -> Any:
    """NaN is no JSON; a class that does not occur is null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value
