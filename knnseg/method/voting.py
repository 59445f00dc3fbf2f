"""Equation 3: the votes of the neighbours, and how certain they are. Pure functions on arrays."""

from __future__ import annotations

import math
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from knnseg.config import FusionConfig, RetrievalConfig
from knnseg.data.scores import ClassScores, Neighbours
from knnseg.data.vocabulary import Vocabulary

__all__ = ["confidence", "vote", "vote_weights"]


_PART = 4.0
"""So many times as large as a region is what it is a part of, at least, to be no reason for doubt."""


def vote_weights(
    neighbours: Neighbours, config: RetrievalConfig, counts: dict[str, int] | None = None, *, whole: bool = False
) -> NDArray[np.float64]:
    """w_j of equation 3, normalised over the neighbours of each mask: float64 (N, K), rows that sum to 1 or 0.

    Args:
        neighbours: the neighbours; empty slots weigh nothing.
        config: weighting, τ, γ and β.
        counts: n_c, entries of each class; needed where γ > 0.
        whole: the masks are whole things, as the entries are, and not regions, which are parts of some; for β > 0.
    """
    found = neighbours.found
    scores = np.where(found, neighbours.scores.astype(np.float64), 0)
    if config.weighting == "exponential":
        # The common factor exp((s_1 - 1)/τ) cancels in the normalisation; without it small τ would underflow to 0/0.
        best = np.where(found, scores, -np.inf).max(axis=1, initial=-np.inf, keepdims=True)
        weights = np.exp((scores - np.where(np.isfinite(best), best, 0)) / config.temperature)
    elif config.weighting == "similarity":
        weights = np.maximum(scores, 0)
    else:
        weights = np.ones_like(scores)
    if config.class_balance and counts:
        labels = neighbours.labels.reshape(-1).tolist()  # a loop in Python takes longer than all the rest
        sizes = np.fromiter(map(counts.get, labels, repeat(1)), np.float64, len(labels))
        weights = weights * np.maximum(sizes, 1).reshape(weights.shape) ** -config.class_balance
    if config.size_match and neighbours.sizes is not None:
        weights = weights * _alike_in_size(neighbours.sizes, whole=whole) ** config.size_match
    weights = np.where(found, weights, 0)
    total = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _alike_in_size(sizes: NDArray[np.float32], *, whole: bool) -> NDArray[np.float64]:
    """How well the size of each entry goes with that of the mask, float64 (N, K), above 0 and at most 1.

    Of two whole things it is the smaller's share of the larger. A region has no size of its own, but it is not likely
    to be a part of something that is hardly larger: of the area of an image, small things have little.
    """
    ratio = np.maximum(sizes.astype(np.float64), 1e-6)
    return np.minimum(ratio, 1 / ratio) if whole else np.minimum(ratio / _PART, 1)


def vote(neighbours: Neighbours, weights: NDArray[np.float64], vocabulary: Vocabulary) -> ClassScores:
    """Equation 3: P_ret(c) = Σ_{j: y_j=c} w_j / Σ_j w_j.

    Args:
        neighbours: (N, K) neighbours.
        weights: float64 (N, K) of :func:`vote_weights`.
        vocabulary: the C active classes.

    Returns:
        (N, C); a mask without neighbours has a row of zeros.
    """
    columns = vocabulary.index(neighbours.labels)
    shape, known = (len(columns), len(vocabulary)), columns >= 0
    cells = (np.arange(len(columns))[:, None] * len(vocabulary) + columns)[known]
    shares = np.bincount(cells, weights[known], minlength=math.prod(shape)).reshape(shape)
    return ClassScores(shares.astype(np.float32), vocabulary.names)


def confidence(neighbours: Neighbours, retrieved: ClassScores, config: FusionConfig) -> NDArray[np.float32]:
    """What T is compared with, float32 (N,); -inf where nothing was retrieved."""
    if config.confidence == "similarity":
        return neighbours.scores.max(axis=1, initial=-np.inf)
    return np.where(neighbours.found.any(axis=1), retrieved.probabilities.max(axis=1), -np.inf).astype(np.float32)
