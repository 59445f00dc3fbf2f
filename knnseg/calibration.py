"""Fitting k, τ, λ and T on the database itself: every example is asked about as if its image were not there.

No test labels are needed. An example is a mask whose class is known; its neighbours are taken from the other images,
and the base predictor sees it in its own image. What the fusion would say is compared with what the example is.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from knnseg.base import NoBase
from knnseg.concepts import ConceptDatabase
from knnseg.config import Config, FusionConfig, RetrievalConfig
from knnseg.errors import ConfigError
from knnseg.features import EncodedImage
from knnseg.fusion import confidence, fuse, vote, vote_weights
from knnseg.originals import Originals, StoredImage, stored_images
from knnseg.pipeline import Segmenter
from knnseg.types import ClassScores, Embeddings, ImageArray, Neighbours, Vocabulary

__all__ = ["Calibration", "Trial", "calibrate"]

_NEIGHBOURS = (1, 2, 4, 8, 16, 32, 64)
_TEMPERATURES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_WEIGHTS = tuple(i / 10 for i in range(11))
_QUANTILES = tuple(i / 20 for i in range(1, 20))
_NO_THRESHOLD = -1.0
_LEAST = 1e-3
"""A probability of 0 for the right class would cost infinitely much, and one mislabelled example decide alone."""


@dataclass(frozen=True, slots=True)
class Trial:
    """How good one choice of numbers is on the examples; every class counts alike.

    Args:
        retrieval: with its k and τ.
        fusion: with its λ and T.
        accuracy: share of examples whose class gets the highest probability, 0 to 1.
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
        best: the best ones.
        base: what the base alone gets right, as a share like :attr:`Trial.accuracy`; 0 without a base.
        examples: how many were asked about.
        alone: examples left out because their class has none in another image.
        missing: examples left out because the base has to see their image or mask, and it was not found.
    """

    config: Config
    before: Trial
    best: Trial
    base: float
    examples: int
    alone: int
    missing: int


def calibrate(
    segmenter: Segmenter,
    originals: Originals | None = None,
    *,
    most: int = 2000,
    seed: int = 0,
    progress: bool = False,
) -> Calibration:
    """Choose k, τ, λ and T by leave-one-image-out.

    All combinations of a fixed grid are compared; T is tried at the twentieths of the confidences met. The rest of the
    configuration stays. Without a base predictor λ and T have no effect, and stay too.

    Args:
        segmenter: with a database; its base predictor is asked about the stored masks.
        originals: finds the images that the base has to see; by default where they were when they were added.
        most: examples to ask about; of a larger database, whole images are drawn until there are so many.
        seed: of that draw.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: no database, or no example that can be asked about.
    """
    if segmenter.database is None:
        raise ConfigError("calibrate: expected a segmenter with a concept database, got none")
    asked = _Asker(segmenter, segmenter.database, originals or Originals()).ask(most, seed, progress)
    judge = _Judge(asked, segmenter.config, segmenter.database)
    before = judge.trial(segmenter.config.retrieval, segmenter.config.fusion)
    trials = judge.trials(with_base=not isinstance(segmenter.base, NoBase))
    best = min(itertools.chain([before], trials), key=lambda trial: trial.loss)
    config = replace(segmenter.config, retrieval=best.retrieval, fusion=best.fusion)
    return Calibration(config, before, best, judge.base_accuracy, len(asked.truth), asked.alone, asked.missing)


@dataclass(frozen=True, slots=True, eq=False)
class _Queries:
    """Examples as they would be met in a new image.

    Args:
        truth: int64 (N,), positions in the vocabulary.
        neighbours: (N, K), from other images.
        base: P_base, (N, C).
        alone: examples that are not among them, since their class has none in another image.
        missing: examples that are not, since the base could not see them.
    """

    truth: NDArray[np.int64]
    neighbours: Neighbours
    base: ClassScores
    alone: int
    missing: int

    def first(self, k: int) -> Neighbours:
        """The k nearest of each."""
        found = self.neighbours
        return Neighbours(found.ids[:, :k], found.scores[:, :k], found.labels[:, :k])


class _Asker:
    """Asks database and base about stored examples, image by image."""

    def __init__(self, segmenter: Segmenter, database: ConceptDatabase, originals: Originals) -> None:
        self._base, self._database, self._originals = segmenter.base, database, originals
        self._silent = isinstance(segmenter.base, NoBase)
        self._vocabulary = segmenter.vocabulary()
        self._counts = {concept.label: concept.count for concept in database.concepts()}

    def ask(self, most: int, seed: int, progress: bool) -> _Queries:
        """About whole images in a random order, until there are ``most`` queries or no more images."""
        store, parts, taken = self._database.store, list[_Queries](), 0
        hashes = sorted(str(value) for value in store.count_by("image_hash"))
        order = np.random.default_rng(seed).permutation(len(hashes)).tolist()
        groups = stored_images(store, [hashes[i] for i in order], with_vectors=True)
        with tqdm(total=min(most, store.count()), unit="example", disable=not progress, desc="asking") as bar:
            for image in itertools.chain.from_iterable(groups):
                parts.append(self._about(image))
                taken += len(parts[-1].truth)
                bar.update(len(parts[-1].truth))
                if taken >= most:
                    break
        if not taken:
            raise ConfigError(
                "calibrate: expected examples of classes that have others in other images, got "
                f"{sum(p.alone for p in parts)} without, and {sum(p.missing for p in parts)} whose image or mask was "
                "not found"
            )
        return _joined(parts)

    def _about(self, image: StoredImage) -> _Queries:
        records, labels = image.records, image.records.fields["label"]
        assert records.vectors is not None  # asked for above
        pixels = None if self._silent else self._originals.find(image)
        usable = image.with_mask if pixels is not None else np.arange(len(records) if self._silent else 0)
        own = Counter(labels.tolist())
        elsewhere = [self._counts[label] > own[label] for label in labels[usable].tolist()]
        rows = usable[np.array(elsewhere, bool)]
        embeddings = Embeddings(records.vectors[rows], np.ones(len(rows), np.float32))
        found = self._database.neighbours(embeddings, _NEIGHBOURS[-1], exclude_image=image.image_hash)
        truth, base = self._vocabulary.index(labels[rows]), self._opinion(image, rows, pixels)
        return _Queries(truth, found, base, len(usable) - len(rows), len(records) - len(usable))

    def _opinion(self, image: StoredImage, rows: NDArray[np.int64], pixels: ImageArray | None) -> ClassScores:
        """P_base of some rows; zeros without a base."""
        if pixels is None or not len(rows):
            zeros = np.zeros((len(rows), len(self._vocabulary)), np.float32)
            return ClassScores(zeros, self._vocabulary.names)
        masks = image.masks(rows.tolist(), (int(pixels.shape[0]), int(pixels.shape[1])))
        return self._base.predict(EncodedImage(pixels), masks, self._vocabulary)


def _joined(parts: list[_Queries]) -> _Queries:
    found = [part.neighbours for part in parts]
    return _Queries(
        np.concatenate([part.truth for part in parts]),
        Neighbours(*(np.concatenate([getattr(n, name) for n in found]) for name in ("ids", "scores", "labels"))),
        ClassScores(np.concatenate([part.base.probabilities for part in parts]), parts[0].base.classes),
        sum(part.alone for part in parts),
        sum(part.missing for part in parts),
    )


class _Judge:
    """Holds what a choice of numbers would say against what the examples are."""

    def __init__(self, asked: _Queries, config: Config, database: ConceptDatabase) -> None:
        self._asked, self._config = asked, config
        self._counts = {concept.label: concept.count for concept in database.concepts()}
        self._supported = np.array([name in self._counts for name in asked.base.classes])
        sizes = np.bincount(asked.truth, minlength=len(asked.base.classes))
        self._share = 1 / (sizes[asked.truth] * np.count_nonzero(sizes))  # of each example in a mean over classes
        self._base = self._outcome(asked.base)

    @property
    def base_accuracy(self) -> float:
        """What the base alone gets right."""
        return float(self._share @ self._base[0])

    def trial(self, retrieval: RetrievalConfig, fusion: FusionConfig) -> Trial:
        """One choice."""
        retrieved, certainty = self._retrieve(retrieval, fusion)
        return self._trial(retrieval, fusion, *self._outcome(self._fuse(retrieved, certainty, fusion)))

    def trials(self, *, with_base: bool) -> Iterator[Trial]:
        """The choices of the grid, each with its best T; λ and T only where there is a base."""
        start = self._config
        temperatures = _TEMPERATURES if start.retrieval.weighting == "exponential" else (start.retrieval.temperature,)
        for k, temperature in itertools.product(_NEIGHBOURS, temperatures):
            retrieval = replace(start.retrieval, k=k, temperature=temperature)
            if not with_base:
                yield self.trial(retrieval, start.fusion)
                continue
            retrieved, certainty = self._retrieve(retrieval, start.fusion)
            thresholds = [_NO_THRESHOLD, *_thresholds(certainty)]
            for weight in _WEIGHTS:
                fusion = replace(start.fusion, weight=weight, threshold=_NO_THRESHOLD)
                right, cost = self._outcome(self._fuse(retrieved, certainty, fusion))
                # A row below T is the base's, so one fusion serves every T; of them only the best is worth a trial.
                kept = certainty >= np.array(thresholds, np.float32)[:, None]
                best = int(np.argmin(np.where(kept, cost, self._base[1]) @ self._share))
                right, cost = np.where(kept[best], right, self._base[0]), np.where(kept[best], cost, self._base[1])
                yield self._trial(retrieval, replace(fusion, threshold=thresholds[best]), right, cost)

    def _retrieve(self, retrieval: RetrievalConfig, fusion: FusionConfig) -> tuple[ClassScores, NDArray[np.float32]]:
        """P_ret and what T is compared with."""
        nearest, classes = self._asked.first(retrieval.k), Vocabulary(self._asked.base.classes)
        retrieved = vote(nearest, vote_weights(nearest, retrieval, self._counts), classes)
        return retrieved, confidence(nearest, retrieved, fusion)

    def _fuse(self, retrieved: ClassScores, certainty: NDArray[np.float32], fusion: FusionConfig) -> ClassScores:
        return fuse(self._asked.base, retrieved, certainty, self._supported, fusion)

    def _outcome(self, scores: ClassScores) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Whether the right class is on top, bool (N,); and -ln of its probability, float64 (N,)."""
        own = scores.probabilities[np.arange(len(scores)), self._asked.truth].astype(np.float64)
        right = (own > 0) & (scores.probabilities.argmax(axis=1) == self._asked.truth)  # a row of zeros says nothing
        return right, -np.log(np.maximum(own, _LEAST))

    def _trial(
        self, retrieval: RetrievalConfig, fusion: FusionConfig, right: NDArray[np.bool_], cost: NDArray[np.float64]
    ) -> Trial:
        return Trial(retrieval, fusion, float(self._share @ right), float(self._share @ cost))


def _thresholds(certainty: NDArray[np.float32]) -> list[float]:
    found = certainty[np.isfinite(certainty)]
    return sorted({round(float(q), 4) for q in np.quantile(found, _QUANTILES)}) if len(found) else []
