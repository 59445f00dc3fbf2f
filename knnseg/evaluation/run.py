"""The loop over the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice

from tqdm import tqdm

from knnseg.annotations import LabelledImage
from knnseg.errors import ConfigError
from knnseg.evaluation.counts import Counts, ImageCounts, Scores
from knnseg.evaluation.journal import Journal
from knnseg.evaluation.report import Report
from knnseg.instances import find_instances
from knnseg.painting import Painting, paint
from knnseg.pipeline import Segmenter
from knnseg.segmentation import Segmentation
from knnseg.types import Vocabulary

__all__ = ["base_painting", "evaluate"]


def evaluate(
    segmenter: Segmenter,
    examples: Iterable[LabelledImage],
    classes: Vocabulary | Sequence[str],
    *,
    limit: int | None = None,
    journal: Journal | None = None,
    progress: bool = False,
) -> Report:
    """Segment every image and hold it against its labels, the base prediction and the final one.

    Args:
        segmenter: with a database or without.
        examples: labelled images; pixels of other classes than ``classes`` do not count.
        classes: the vocabulary.
        limit: take only so many images, the first ones.
        journal: keeps what was counted; images that are in it already are not segmented again. It is the caller's to
            enter and leave, and to make with the settings that the numbers depend on, see
            :func:`knnseg.evaluation.settings_of`.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected at least 1 image, got {limit}")
    vocabulary = segmenter.vocabulary(classes)
    done = list(islice(journal or (), limit))
    scores = Scores(vocabulary)
    with tqdm(
        total=_total(examples, limit), initial=len(done), unit="image", desc="evaluating", disable=not progress
    ) as bar:
        for example in _remaining(examples, len(done), limit):
            counts = _count(segmenter, example, scores, vocabulary)
            if journal is not None:
                journal.append(counts)
            done.append(counts)
            bar.update()
    return Report.of(vocabulary, done)


def base_painting(result: Segmentation, segmenter: Segmenter) -> Painting:
    """The maps of the base alone."""
    return paint(result.image, result.masks, result.evidence.base, result.vocabulary, segmenter.config.painting)


def _total(examples: Iterable[LabelledImage], limit: int | None) -> int | None:
    if not isinstance(examples, Sized):
        return limit
    return len(examples) if limit is None else min(limit, len(examples))


def _remaining(examples: Iterable[LabelledImage], done: int, limit: int | None) -> Iterator[LabelledImage]:
    """What is left to do; of a list, images that are done are not even read."""
    if isinstance(examples, Sequence):
        return (examples[i] for i in range(len(examples))[done:limit])
    return islice(examples, done, limit)


def _count(segmenter: Segmenter, example: LabelledImage, scores: Scores, vocabulary: Vocabulary) -> ImageCounts:
    result = segmenter.predict(example.image, vocabulary)
    final = scores.measure(example, result.semantic, (result.panoptic, result.segments_info), result.instances())
    base = final if result.scores is result.evidence.base else _base(result, example, scores, segmenter)
    return ImageCounts(example.uri or example.image_id, base, final, result.degraded)


def _base(result: Segmentation, example: LabelledImage, scores: Scores, segmenter: Segmenter) -> Counts:
    maps = base_painting(result, segmenter)
    panoptic = (maps.panoptic, maps.segments)
    objects = find_instances(result.masks, result.evidence.base, result.vocabulary, panoptic)
    return scores.measure(example, maps.semantic, panoptic, objects)
