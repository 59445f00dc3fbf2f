"""The loop over the images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace

from tqdm import tqdm

from knnseg.data.annotations import LabelledImage
from knnseg.data.vocabulary import Vocabulary, tidy
from knnseg.database.schema import readable
from knnseg.errors import ConfigError, DatasetError, skipping, warn_left_out
from knnseg.evaluation.counts import Counts, ImageCounts, Quality
from knnseg.evaluation.journal import Journal
from knnseg.evaluation.report import Report
from knnseg.method.instances import find_instances
from knnseg.method.painting import Painting, paint
from knnseg.result import Segmentation
from knnseg.segmenter import Segmenter

__all__ = ["base_painting", "evaluate"]


def evaluate(
    segmenter: Segmenter,
    examples: Iterable[LabelledImage],
    classes: Vocabulary | Sequence[str],
    *,
    limit: int | None = None,
    journal: Journal | None = None,
    strict: bool = False,
    progress: bool = False,
) -> Report:
    """Segment every image and compare it with its labels, the base prediction and the final one.

    An image of a sequence that cannot be read or used is left out, and the report says so. A generator that raises has
    ended, so what it raises is raised here.

    Args:
        segmenter: with a database or without.
        examples: labelled images; pixels of other classes than ``classes`` do not count.
        classes: the vocabulary. Of plain names, one that a concept had before is taken as the one of now, in the labels
            too.
        limit: take only the first images, this many.
        journal: keeps what was counted; images that are in it already are not segmented again. It is the caller's to
            enter and leave, and to make with the settings that the numbers depend on, see
            :func:`knnseg.evaluation.settings_of`.
        strict: raise at the first image that cannot be used.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: a limit below 1.
        DatasetError: not one image could be used.
    """
    if limit is not None and limit < 1:
        raise ConfigError("limit", expected="at least 1 image", got=limit)
    vocabulary = segmenter.vocabulary(classes)
    former = [] if isinstance(classes, Vocabulary) else [name for name in map(tidy, classes) if name not in vocabulary]
    now = {name: segmenter.vocabulary([name]).names[0] for name in former}
    done = {counts.place: counts for counts in journal or () if limit is None or counts.place < limit}
    scores, failed = Quality(vocabulary), list[str]()
    remaining = readable(examples, failed, strict=strict, done=frozenset(done), limit=limit)
    total = _total(examples, limit)
    with tqdm(total=total, initial=len(done), unit="image", desc="evaluating", disable=not progress) as bar:
        for place, example in remaining:
            with skipping(failed, example.uri, strict=strict):
                counts = done[place] = _count(segmenter, _called(example, now), scores, vocabulary, place)
                if journal is not None:
                    journal.append(counts)
            bar.update()
    if failed and not done:
        raise DatasetError("evaluate", expected="images", got=f"none that can be used, such as {failed[0]}")
    warn_left_out("evaluate", failed)
    return Report.of(vocabulary, (done[place] for place in sorted(done)), failed)


def base_painting(result: Segmentation, segmenter: Segmenter) -> Painting:
    """The maps of the base alone."""
    return paint(result.image, result.masks, result.evidence.base, result.vocabulary, segmenter.config.painting)


def _called(example: LabelledImage, now: Mapping[str, str]) -> LabelledImage:
    """The example with other names for some classes."""
    info = tuple(replace(segment, label=now.get(segment.label, segment.label)) for segment in example.info)
    return replace(example, info=info, class_names=tuple(now.get(name, name) for name in example.class_names))


def _total(examples: Iterable[LabelledImage], limit: int | None) -> int | None:
    if not isinstance(examples, Sized):
        return limit
    return len(examples) if limit is None else min(limit, len(examples))


def _count(
    segmenter: Segmenter, example: LabelledImage, scores: Quality, vocabulary: Vocabulary, place: int
) -> ImageCounts:
    result = segmenter.predict(example.image, vocabulary)
    final = scores.measure(example, result.semantic, (result.panoptic, result.segments_info), result.instances())
    base = final if result.scores is result.evidence.base else _base(result, example, scores, segmenter)
    return ImageCounts(example.uri or example.image_id, base, final, result.degraded, place)


def _base(result: Segmentation, example: LabelledImage, scores: Quality, segmenter: Segmenter) -> Counts:
    maps = base_painting(result, segmenter)
    panoptic = (maps.panoptic, maps.segments)
    objects = find_instances(result.masks, result.evidence.base, result.vocabulary, panoptic)
    return scores.measure(example, maps.semantic, panoptic, objects)
