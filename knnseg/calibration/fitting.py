"""Fitting k, τ, λ and T on the database itself: every image of it is asked about as if it were not there.

Where there is no base and the configuration knows the class ``unknown``, T keeps most of the right answers. What
becomes of a class that nobody taught is asked as if the examples of its own were not there.

No test labels are needed. The stored masks say what is where in an image. What the proposer cuts out of it is embedded,
its neighbours are taken from the other images, and what the fusion would say is compared with what is there.

What is best of many choices looks better than it is on the masks that chose it. So the gain is measured apart: each
fifth of the images is judged by what the others choose, and only a gain above its standard error changes a number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from knnseg.calibration.leave_one_out import ExampleAsker, ProposalAsker, Queries
from knnseg.config import Config, FusionConfig, RetrievalConfig
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnseg.database.concepts import ConceptDatabase
from knnseg.database.originals import Originals
from knnseg.errors import ConfigError
from knnseg.method.fusion import fuse
from knnseg.method.voting import confidence, vote, vote_weights
from knnseg.models.base import NoBase
from knnseg.segmenter import Segmenter

__all__ = ["Calibration", "Trial", "calibrate"]

_NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64)
_TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_BALANCES = (0.0, 0.2, 0.5)
_WEIGHTS = tuple(i / 10 for i in range(11))
_QUANTILES = tuple(i / 20 for i in range(1, 20))
_NO_THRESHOLD = -1.0
_PARTS = 5
"""Of the images, to measure the gain on."""
_KEPT = 0.95
"""Share of the right answers that T keeps where there is no base; the least certain of them become ``unknown``."""
_LEAST = 1e-3
"""A probability of 0 for the right class would cost infinitely much, and one mislabelled example decide alone."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How good one choice of numbers is; every class counts alike, and within a class proposals by their area.

    Args:
        retrieval: with its k, τ and γ.
        fusion: with its λ and T.
        accuracy: share of the masks whose class gets the highest probability, 0 to 1.
        loss: mean of -ln P_final of the right class, which decides; lower is better.
    """

    retrieval: RetrievalConfig
    fusion: FusionConfig
    accuracy: float
    loss: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """What :func:`calibrate` found.

    Args:
        config: the segmenter's, with the best numbers.
        before: the numbers that the segmenter has.
        best: the best ones; those of ``before`` where the gain is not above its spread.
        gain: how much lower the loss is on images that had no part in the choice.
        spread: standard error of ``gain``. Both are 0 where all masks come from one image.
        base: what the base alone gets right, as a share like :attr:`Trial.accuracy`; 0 without a base.
        asked: how many masks were asked about.
        alone: masks left out because their class has no example in another image.
        missing: examples left out because their image has to be seen, or their mask, and it was not found.
        unknown: share of the masks that the best numbers would call ``unknown`` if their class had not been taught; 0
            where nothing is called so.
    """

    config: Config
    before: Trial
    best: Trial
    gain: float
    spread: float
    base: float
    asked: int
    alone: int
    missing: int
    unknown: float = 0.0


def calibrate(
    segmenter: Segmenter,
    originals: Originals | None = None,
    *,
    on: Literal["proposals", "examples"] = "proposals",
    most: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> Calibration:
    """Choose k, τ, γ, λ and T by leave-one-image-out.

    All combinations of a fixed grid are compared; T is tried at the twentieths of the confidences met. The rest of the
    configuration stays. Without a base predictor λ and T have no effect, and stay too. So does everything where the
    choice is not better by more than its spread.

    Args:
        segmenter: with a database; its stages are used as for a prediction.
        originals: finds the images that have to be seen; by default where they were when they were added.
        on: ``"proposals"`` asks about what the proposer cuts out of the images, which is what a prediction will meet,
            as far as the stored masks say what it is. ``"examples"`` asks about the stored masks themselves: quicker,
            right for masks that are given, and needs no images where there is no base; but parts of objects are less
            certain than whole ones, so its numbers are too sharp for region proposals.
        most: masks to ask about; from a larger database, images are drawn at random until there are enough.
        seed: of that draw.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: no database, or no mask that can be asked about.
    """
    if segmenter.database is None:
        raise ConfigError("calibrate", expected="a segmenter with a concept database", got="none")
    if on not in ("proposals", "examples"):
        raise ConfigError("on", expected="proposals or examples", got=repr(on))
    kind = ProposalAsker if on == "proposals" else ExampleAsker
    asker = kind(segmenter, segmenter.database, originals or Originals(), neighbours=_NEIGHBOURS[-1])
    asked = asker.ask(most, seed=seed, progress=progress)
    may_be_unknown = isinstance(segmenter.base, NoBase) and segmenter.config.painting.unknown
    judge = _Judge(asked, segmenter.config, segmenter.database, may_be_unknown=may_be_unknown)
    choices = [judge.start, *judge.choices(with_base=not isinstance(segmenter.base, NoBase))]
    gain, spread = judge.gain(choices)
    best = judge.trial(min(choices, key=lambda choice: choice.costs.sum()) if gain > spread else judge.start)
    untaught = 0.0
    if may_be_unknown:
        best, untaught = judge.with_unknown(best)
    config = replace(segmenter.config, retrieval=best.retrieval, fusion=best.fusion)
    counted = (len(asked.truth), asked.alone, asked.missing)
    return Calibration(
        config, judge.trial(judge.start), best, gain, spread, judge.base_accuracy, *counted, unknown=untaught
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """Numbers to choose from, and what they cost.

    Args:
        retrieval: with its k, τ and γ.
        weight: λ.
        threshold: T.
        costs: float64 (parts,), what each part of the images adds to the loss.
    """

    retrieval: RetrievalConfig
    weight: float
    threshold: float
    costs: NDArray[np.float64]


class _Judge:
    """Compares what a choice of numbers would say with what the examples are.

    Where a mask may be unknown, choices are judged by the votes of all masks: T comes after.
    """

    def __init__(self, asked: Queries, config: Config, database: ConceptDatabase, *, may_be_unknown: bool) -> None:
        self._asked, self._config, self._may_be_unknown = asked, config, may_be_unknown
        self._counts = {concept.label: concept.keys for concept in database.concepts()}
        self._supported = np.array([name in self._counts for name in asked.base.classes])
        sizes = np.bincount(asked.truth, asked.size, minlength=len(asked.base.classes))
        self._share = asked.size / (sizes[asked.truth] * np.count_nonzero(sizes))  # of each mask in a mean over classes
        parts = asked.image % min(_PARTS, int(asked.image.max()) + 1)  # images come in a random order
        self._parts = self._share[:, None] * (parts[:, None] == np.arange(parts.max() + 1))
        self._base = self._outcome(asked.base)
        self.start = self._choices(config.retrieval, [config.fusion.weight], [config.fusion.threshold])[0]

    @property
    def base_accuracy(self) -> float:
        """What the base alone gets right."""
        return float(self._share @ self._base[0])

    def trial(self, choice: _Choice) -> Trial:
        """How good one choice is."""
        right, cost = self._judged(choice)
        fusion = replace(self._config.fusion, weight=choice.weight, threshold=choice.threshold)
        return Trial(choice.retrieval, fusion, float(self._share @ right), float(self._share @ cost))

    def choices(self, *, with_base: bool) -> Iterator[_Choice]:
        """Those of the grid; λ and T only where there is a base."""
        start = self._config.retrieval
        temperatures = _TEMPERATURES if start.weighting == "exponential" else (start.temperature,)
        for k, temperature, balance in itertools.product(_NEIGHBOURS, temperatures, _BALANCES):
            retrieval = replace(start, k=k, temperature=temperature, class_balance=balance)
            if with_base:
                yield from self._choices(retrieval, _WEIGHTS, None)
            else:
                yield from self._choices(retrieval, [self.start.weight], [self.start.threshold])

    def gain(self, choices: list[_Choice]) -> tuple[float, float]:
        """How much lower the loss of each part is with what the other parts choose, and the standard error of that."""
        costs = np.stack([choice.costs for choice in choices])
        lower = np.zeros(len(self._share))
        for part in range(costs.shape[1]):
            chosen = choices[int(np.argmin(costs.sum(axis=1) - costs[:, part]))]
            lower += self._parts[:, part] * (self._judged(self.start)[1] - self._judged(chosen)[1])
        of_images = np.bincount(self._asked.image, lower)
        count = len(of_images)
        if count < 2:
            return 0.0, 0.0
        return float(of_images.sum()), float(of_images.std(ddof=1) * math.sqrt(count))

    def with_unknown(self, trial: Trial) -> tuple[Trial, float]:
        """The choice with the T that keeps most of its right answers, and what share T would call unknown of masks
        whose class has no example.
        """
        retrieved, certainty = self._retrieve(trial.retrieval)
        right = self._outcome(retrieved)[0] & np.isfinite(certainty)
        threshold = _lowest(certainty[right], self._share[right], 1 - _KEPT) if right.any() else _NO_THRESHOLD
        _, others = self._retrieve(trial.retrieval, self._asked.of_other_classes())
        fusion = replace(trial.fusion, threshold=threshold)
        return replace(trial, fusion=fusion), float(self._share @ (others < threshold))

    def _choices(self, retrieval: RetrievalConfig, weights: Iterable[float], by: list[float] | None) -> list[_Choice]:
        """One for each λ and T; where no T are given, at the twentieths of the confidences met."""
        retrieved, certainty = self._retrieve(retrieval)
        thresholds = [_NO_THRESHOLD, *_thresholds(certainty)] if by is None else by
        kept = certainty >= np.array(thresholds, np.float32)[:, None]
        choices = list[_Choice]()
        for weight in weights:
            cost = self._outcome(self._fused(retrieved, certainty, weight, _NO_THRESHOLD))[1]
            # A row below T is the base's, so one fusion serves every T.
            costs = np.where(kept | self._may_be_unknown, cost, self._base[1]) @ self._parts
            choices += [_Choice(retrieval, weight, *one) for one in zip(thresholds, costs, strict=True)]
        return choices

    def _judged(self, choice: _Choice) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """See :meth:`_outcome`."""
        retrieved, certainty = self._retrieve(choice.retrieval)
        return self._outcome(self._fused(retrieved, certainty, choice.weight, choice.threshold))

    def _retrieve(
        self, retrieval: RetrievalConfig, asked: Queries | None = None
    ) -> tuple[ClassScores, NDArray[np.float32]]:
        """P_ret and what T is compared with."""
        nearest, classes = (asked or self._asked).first(retrieval.k), Vocabulary(self._asked.base.classes)
        retrieved = vote(nearest, vote_weights(nearest, retrieval, self._counts), classes)
        return retrieved, confidence(nearest, retrieved, self._config.fusion)

    def _fused(
        self, retrieved: ClassScores, certainty: NDArray[np.float32], weight: float, threshold: float
    ) -> ClassScores:
        if self._may_be_unknown:
            return retrieved
        fusion = replace(self._config.fusion, weight=weight, threshold=threshold)
        return fuse(self._asked.base, retrieved, certainty, self._supported, fusion)

    def _outcome(self, scores: ClassScores) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether the right class is on top, bool (N,); and -ln of its probability, float64 (N,)."""
        own = scores.probabilities[np.arange(len(scores)), self._asked.truth].astype(np.float64)
        right = (own > 0) & (scores.probabilities.argmax(axis=1) == self._asked.truth)  # a row of zeros says nothing
        return right, -np.log(np.maximum(own, _LEAST))


def _lowest(values: NDArray[np.float32], weights: NDArray[np.float64], share: float) -> float:
    """The value below which a share of the weight is, rounded down."""
    order = np.argsort(values)
    at = np.searchsorted(np.cumsum(weights[order]), share * weights.sum(), side="right")
    return math.floor(float(values[order[min(int(at), len(order) - 1)]]) * 1e4) / 1e4


def _thresholds(certainty: NDArray[np.float32]) -> list[float]:
    found = certainty[np.isfinite(certainty)]
    return sorted({round(float(q), 4) for q in np.quantile(found, _QUANTILES)}) if len(found) else []
