"""The sums over all images, the figures made of them, and the few classes of hundreds that one looks at first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from knnseg.data.vocabulary import Vocabulary
from knnseg.evaluation.average_precision import THRESHOLDS
from knnseg.evaluation.counts import ImageCounts, Quality

__all__ = ["MEANS", "Report", "Standing", "Standings", "standings"]

MEANS = {
    "miou": "mean IoU", "pixel_accuracy": "pixel accuracy", "class_accuracy": "mean class accuracy",
    "zero_iou": "classes at zero IoU", "boundary_miou": "mean boundary IoU",
    "pq": "PQ", "sq": "SQ", "rq": "RQ", "pq_things": "PQ things", "sq_things": "SQ things", "rq_things": "RQ things",
    "pq_stuff": "PQ stuff", "sq_stuff": "SQ stuff", "rq_stuff": "RQ stuff",
    "ap": "AP", "ap50": "AP50", "ap75": "AP75",
}  # fmt: skip
"""Key in the report, and what people call it."""
_AP50, _AP75 = THRESHOLDS.index(0.5), THRESHOLDS.index(0.75)


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What :func:`knnseg.evaluation.evaluate` measured.

    Args:
        vocabulary: the classes.
        counts: what was counted on each image, in order.
        base: without the database.
        final: with it.
        failed: images that could not be read or used, each with its name and the reason.
    """

    vocabulary: Vocabulary
    counts: tuple[ImageCounts, ...]
    base: Quality
    final: Quality
    failed: tuple[str, ...] = ()

    @classmethod
    def of(cls, vocabulary: Vocabulary, counts: Iterable[ImageCounts], failed: Iterable[str] = ()) -> Report:
        """Sum up."""
        listed = tuple(counts)
        base, final = Quality(vocabulary), Quality(vocabulary)
        for image in listed:
            base.merge(image.base)
            final.merge(image.final)
        return cls(vocabulary, listed, base, final, tuple(failed))

    @property
    def images(self) -> int:
        """How many images."""
        return len(self.counts)

    def to_dict(self, groups: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
        """Everything as JSON-ready numbers, 0 to 1; what has no value is None. docs/metrics.md defines each.

        Args:
            groups: class names that get a mean IoU of their own, ``miou_NAME``.
        """
        names = self.vocabulary.names
        pixels, objects = self.final.semantic.matrix.sum(axis=1), self.final.instances.objects
        rows = zip(names, pixels.tolist(), objects.tolist(), strict=True)
        return {
            "images": self.images,
            "failed": list(self.failed),
            "degraded": sum(bool(image.degraded) for image in self.counts),
            "classes": len(names),
            "occurring": len(self.final.semantic.occurring),
            "labels": {
                name: {"thing": name in self.vocabulary.things, "pixels": area, "objects": count}
                for name, area, count in rows
            },
            "base": self._figures(self.base, groups or {}),
            "final": self._figures(self.final, groups or {}),
        }

    def _figures(self, scores: Quality, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        names = self.vocabulary.names
        semantic, occurring = scores.semantic, scores.semantic.occurring
        iou = semantic.iou
        # Over the classes of the labels, so that both kinds of prediction are means over the same classes.
        result: dict[str, Any] = {
            "miou": semantic.mean_iou(occurring.tolist()),
            "pixel_accuracy": semantic.pixel_accuracy,
            "class_accuracy": _mean(semantic.accuracy),
            "zero_iou": _mean(np.where(np.isnan(iou), np.nan, iou == 0)[occurring]),
            "boundary_miou": scores.boundaries.mean_iou(occurring.tolist()),
        }
        for group, members in groups.items():
            listed = set(occurring.tolist()) & {names.index(name) for name in members}
            result[f"miou_{group}"] = semantic.mean_iou(sorted(listed))
        things = [i for i, name in enumerate(names) if name in self.vocabulary.things]
        stuff = [i for i, name in enumerate(names) if name not in self.vocabulary.things]
        for suffix, classes in (("", None), ("_things", things), ("_stuff", stuff)):
            quality = scores.panoptic.scores(classes)
            result |= {f"pq{suffix}": quality.pq, f"sq{suffix}": quality.sq, f"rq{suffix}": quality.rq}
        precision = scores.instances.by_class()
        average = precision.mean(axis=1)
        result |= {"ap": _mean(average), "ap50": _mean(precision[:, _AP50]), "ap75": _mean(precision[:, _AP75])}
        columns = {
            "iou": iou, "accuracy": semantic.accuracy, "boundary_iou": scores.boundaries.iou,
            **dict(zip(("pq", "sq", "rq"), scores.panoptic.by_class().T, strict=True)),
            "ap": average, "ap50": precision[:, _AP50], "ap75": precision[:, _AP75],
        }  # fmt: skip
        rows = zip(*(column.tolist() for column in columns.values()), strict=True)
        result["per_class"] = {
            name: dict(zip(columns, row, strict=True)) for name, row in zip(names, rows, strict=True)
        }
        return _without_nan(result)


def _mean(values: np.ndarray[Any, Any]) -> float:
    """The mean without NaN; NaN where nothing else is there."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def _without_nan(value: Any) -> Any:
    """NaN is no JSON; what has no value is null."""
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


@dataclass(frozen=True, slots=True)
class Standing:
    """One class.

    Args:
        name: the class.
        base: its IoU without the database, 0 to 1.
        final: with it.
    """

    name: str
    base: float
    final: float

    @property
    def gain(self) -> float:
        """What the database gives."""
        return self.final - self.base


@dataclass(frozen=True, slots=True)
class Standings:
    """Classes that occur in the labels.

    Args:
        improved: those that gain, most first.
        worsened: those that lose, most first.
        worst: those of lowest IoU with the database, lowest first.
    """

    improved: tuple[Standing, ...]
    worsened: tuple[Standing, ...]
    worst: tuple[Standing, ...]


def standings(result: Mapping[str, Any], most: int) -> Standings:
    """Pick from what :meth:`Report.to_dict` returned, at most ``most`` of each kind."""
    every = [
        Standing(name, base["iou"], result["final"]["per_class"][name]["iou"])
        for name, base in result["base"]["per_class"].items()
        if result["labels"][name]["pixels"]
    ]

    def first(key: Callable[[Standing], float], listed: list[Standing]) -> tuple[Standing, ...]:
        return tuple(sorted(listed, key=key)[:most])

    return Standings(
        first(lambda s: -s.gain, [s for s in every if s.gain > 0]),
        first(lambda s: s.gain, [s for s in every if s.gain < 0]),
        first(lambda s: s.final, every),
    )
