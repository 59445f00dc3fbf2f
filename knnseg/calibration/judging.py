"""Which of many choices is best, and whether images that had no part in choosing it confirm it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnseg.calibration.leave_one_out import Asker, Queries
from knnseg.calibration.recipes import Recipe
from knnseg.config import FusionConfig, RetrievalConfig
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnseg.method.fusion import fuse
from knnseg.method.voting import confidence, vote, vote_weights
from knnseg.models.base import NoBase
from knnseg.segmenter import Segmenter

__all__ = ["NEIGHBOURS", "Axis", "Choice", "Judge", "Trial"]

NEIGHBOURS = (1, 2, 5, 10, 20, 40, 64)
_TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_BALANCES = (0.0, 0.2, 0.5)
_WEIGHTS = tuple(i / 10 for i in range(11))
_QUANTILES = tuple(i / 20 for i in range(1, 20))
_NO_THRESHOLD = -1.0
_PARTS = 5
"""Of the images, to measure the gain on."""
_PASSES = 3
"""Over everything that can be chosen, one after the other, unless nothing changes before."""
_KEPT = 0.95
"""Share of the right answers that T keeps where there is no base; the least certain of them become ``unknown``."""
_MAP_LOST = 0.005
"""And how much of the map's mean IoU it may cost: a class that nobody will ask for is not worth more."""
_LEAST = 1e-3
"""A probability of 0 for the right class would cost infinitely much, and one mislabelled example decide alone."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How good one choice of numbers is.

    Args:
        retrieval: with its k, τ and γ.
        fusion: with its λ and T.
        iou: mean IoU over classes of the map at the pixels asked about (or of the masks, where those are given), 0 to
            1; this decides.
        accuracy: share of the masks whose class gets the highest probability, every class alike, and within a class
            masks by their area; 0 to 1.
        loss: in the same way, mean of -ln P_final of the right class.
    """

    retrieval: RetrievalConfig
    fusion: FusionConfig
    iou: float
    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen together: numbers with λ and T, and keys; None where those are not chosen."""

    retrieval: RetrievalConfig
    weight: float
    threshold: float
    recipe: Recipe | None


Axis: TypeAlias = Callable[[Choice], list[Choice]]
"""The choices that differ from one in a certain thing."""


class Judge:
    """Compares what a choice would say with what the examples are.

    Where a mask may be unknown, choices are judged by the votes of all masks: T comes after.

    Args:
        look: the masks with the neighbours that some keys find.
        recipe: the keys of now.
        segmenter: the numbers of now, and whether there is a base.
        asker: knows what the masks are compared with.
    """

    def __init__(
        self, look: Callable[[Recipe | None], Queries], recipe: Recipe | None, segmenter: Segmenter,
        asker: Asker,
    ) -> None:  # fmt: skip
        config = segmenter.config
        self._look, self._config, self._counts = lru_cache(maxsize=3)(look), config, asker.counts
        self._whole = not asker.parts
        self._silent = isinstance(segmenter.base, NoBase)
        self._may_be_unknown = self._silent and config.painting.unknown
        asked = self._look(recipe)
        self._supported = np.array([name in self._counts for name in asked.base.classes])
        self._truth, self._base_scores, self._sites = asked.truth, asked.base, asked.sites
        self._of_image = asked.image
        known = asked.truth >= 0
        size = np.where(known, asked.size, 0.0)
        sizes = np.bincount(np.maximum(asked.truth, 0), size, minlength=len(asked.base.classes))
        of_class = sizes[asked.truth] * float(max(int(np.count_nonzero(sizes)), 1))
        self._share = np.divide(size, of_class, out=np.zeros(len(size)), where=known)  # in a mean over classes
        self.asked, self._images = int(known.sum()), int(asked.image.max()) + 1
        self._part = np.arange(self._images) % min(_PARTS, self._images)  # images come in a random order
        self._tallies: dict[Choice, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self.start = Choice(config.retrieval, config.fusion.weight, config.fusion.threshold, recipe)

    @property
    def base_accuracy(self) -> float:
        """What the base alone gets right."""
        return float(self._share @ self._outcome(self._base_scores)[0])

    def trial(self, choice: Choice) -> Trial:
        """How good one choice is."""
        right, cost = self._outcome(self._final(choice))
        fusion = replace(self._config.fusion, weight=choice.weight, threshold=choice.threshold)
        iou = float(_iou(self._measured(choice)[0].sum(axis=0)))
        return Trial(choice.retrieval, fusion, iou, float(self._share @ right), float(self._share @ cost))

    def numbers(self) -> list[Axis]:
        """Those that can be chosen; λ and T only where there is a base."""

        def of(name: str, values: tuple[Any, ...]) -> Axis:
            return lambda choice: [
                replace(choice, retrieval=replace(choice.retrieval, **{name: value})) for value in values
            ]

        axes = [of("k", NEIGHBOURS), of("class_balance", _BALANCES)]
        if self._config.retrieval.weighting == "exponential":
            axes.insert(1, of("temperature", _TEMPERATURES))
        if not self._silent:
            axes.append(lambda choice: [replace(choice, weight=weight) for weight in _WEIGHTS])
            axes.append(lambda choice: [replace(choice, threshold=t) for t in self._thresholds(choice)])
        return axes

    def improved(self, start: Choice, axes: list[Axis]) -> tuple[Choice, float, float]:
        """The best choice if images that had no part in it confirm it, ``start`` if not; with the gain on them, and the
        standard error of that.
        """
        gain, spread = self._gain(start, axes)
        return (self._best(start, axes) if gain > spread else start), gain, spread

    def _best(self, start: Choice, axes: list[Axis], but: int = -1) -> Choice:
        """The best on the images of all parts but one, by changing one thing after the other.

        Of equals the one with less loss is better, and then the one that there is.
        """

        def quality(choice: Choice) -> tuple[float, float]:
            tally, costs = self._measured(choice)
            return float(_iou(tally[parts].sum(axis=0)).round(9)), -float(costs[parts].sum())

        parts = np.unique(self._part[self._part != but])
        best = start
        for _ in range(_PASSES):
            before = best
            for axis in axes:
                best = max([best, *axis(best)], key=quality)
            if best == before:
                break
        return best

    def _gain(self, start: Choice, axes: list[Axis]) -> tuple[float, float]:
        """How much higher the mean IoU is where each part of the images has what the other parts choose."""
        if self._images < 2:
            return 0.0, 0.0
        before = self._tally(start)
        after = before.copy()
        for part in range(int(self._part.max()) + 1):
            own, chosen = self._part == part, self._best(start, axes, part)
            after[own] = self._tally(chosen)[own]
        gain = float(_iou(after.sum(axis=0)) - _iou(before.sum(axis=0)))
        # The jackknife over images (Efron, 1979), since a mean IoU is no sum over them.
        without = _iou(after.sum(axis=0) - after) - _iou(before.sum(axis=0) - before)
        return gain, float(without.std() * math.sqrt(self._images - 1))

    def with_unknown(self, choice: Choice) -> tuple[Trial, float]:
        """The choice with a T that keeps most of its right answers and of its map, and what share T would call unknown
        of masks whose class has no example; where nothing is called so, as it is.
        """
        if not self._may_be_unknown:
            return self.trial(choice), 0.0
        retrieved, certainty = self._retrieve(choice)
        right = self._outcome(retrieved)[0] & np.isfinite(certainty) & (self._share > 0)
        of_right, share = certainty[right], self._share[right]
        tried = [_lowest(of_right, share, (1 - _KEPT) * i / 10) for i in range(10, -1, -1)] if right.any() else []
        enough = self.trial(choice).iou - _MAP_LOST
        kept = (t for t in tried if _iou(self._tallied(choice, t)) >= enough)
        threshold = next(kept, _NO_THRESHOLD)
        _, others = self._retrieve(choice, self._look(choice.recipe).of_other_classes())
        done = self.trial(choice)
        done = replace(done, fusion=replace(done.fusion, threshold=threshold))
        return done, float(self._share @ (others < threshold))

    def _measured(self, choice: Choice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The tally of each part of the images, and what it adds to the loss, float64 (parts,)."""
        if choice not in self._tallies:
            final = self._final(choice)
            lost = self._share * self._outcome(final)[1]
            costs = np.bincount(self._part[self._of_image], lost).astype(np.float64)
            self._tallies[choice] = self._counted(final.probabilities, self._part), costs
        return self._tallies[choice]

    def _tally(self, choice: Choice) -> NDArray[np.float64]:
        """The same of each image."""
        return self._counted(self._final(choice).probabilities, np.arange(self._images))

    def _tallied(self, choice: Choice, threshold: float) -> NDArray[np.float64]:
        """The same for all images, where masks below a T are unknown."""
        retrieved, certainty = self._retrieve(choice)
        known = np.where((certainty >= threshold)[:, None], retrieved.probabilities, np.float32(0))
        return self._counted(known, np.zeros(self._images, np.int64), unknown=True)[0]

    def _counted(
        self, probabilities: NDArray[np.float32], groups: NDArray[np.int64], *, unknown: bool = False
    ) -> NDArray[np.float64]:
        """float64 (G, 3, C) for groups of images: pixels that are rightly of a class, are said to be, and are."""
        sites = self._sites
        sums = np.asarray(sites.votes @ probabilities)
        rest = np.asarray(sites.votes.sum(axis=1)).reshape(-1) - sums.sum(axis=1) if unknown else np.zeros(len(sums))
        said = np.where(sums.max(axis=1) > rest, sums.argmax(axis=1), -1)
        counts = np.zeros((int(groups.max()) + 1, 3, probabilities.shape[1]))
        group = groups[sites.image]
        for row, (classes, there) in enumerate(
            [(said, said == sites.truth), (said, said >= 0), (sites.truth, np.ones(len(said), bool))]
        ):
            np.add.at(counts[:, row], (group[there], classes[there]), 1)
        return counts

    def _thresholds(self, choice: Choice) -> list[float]:
        _, certainty = self._retrieve(choice)
        found = certainty[np.isfinite(certainty)]
        steps = {round(float(q), 4) for q in np.quantile(found, _QUANTILES)} if len(found) else set[float]()
        return [_NO_THRESHOLD, *sorted(steps)]

    def _retrieve(self, choice: Choice, asked: Queries | None = None) -> tuple[ClassScores, NDArray[np.float32]]:
        """P_ret and what T is compared with."""
        nearest = (asked or self._look(choice.recipe)).first(choice.retrieval.k)
        classes = Vocabulary(self._base_scores.classes)
        retrieved = vote(nearest, vote_weights(nearest, choice.retrieval, self._counts, whole=self._whole), classes)
        return retrieved, confidence(nearest, retrieved, self._config.fusion)

    def _final(self, choice: Choice) -> ClassScores:
        retrieved, certainty = self._retrieve(choice)
        if self._may_be_unknown:
            return retrieved
        fusion = replace(self._config.fusion, weight=choice.weight, threshold=choice.threshold)
        return fuse(self._base_scores, retrieved, certainty, self._supported, fusion)

    def _outcome(self, scores: ClassScores) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether the right class is on top, bool (N,); and -ln of its probability, float64 (N,)."""
        own = scores.probabilities[np.arange(len(scores)), self._truth].astype(np.float64)
        right = (own > 0) & (scores.probabilities.argmax(axis=1) == self._truth)  # a row of zeros says nothing
        return right, -np.log(np.maximum(own, _LEAST))


def _iou(tally: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over classes that are there, of counts (..., 3, C)."""
    right, said, there = np.moveaxis(tally, -2, 0)
    known = there > 0
    each = np.divide(right, said + there - right, out=np.zeros_like(right), where=known)
    return np.asarray(each.sum(axis=-1) / np.maximum(known.sum(axis=-1), 1))


def _lowest(values: NDArray[np.float32], weights: NDArray[np.float64], share: float) -> float:
    """The value below which a share of the weight is, rounded down."""
    order = np.argsort(values)
    at = np.searchsorted(np.cumsum(weights[order]), share * weights.sum(), side="right")
    return math.floor(float(values[order[min(int(at), len(order) - 1)]]) * 1e4) / 1e4
