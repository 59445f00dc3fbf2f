"""Exact scores and a total order, for stores that hold their vectors in this process.

A matrix product may round a score differently when the shape of the matrix changes, so which of two nearly equal
records wins could depend on what else is stored. Here the product only nominates candidates, with a bound on its error;
the score of each candidate is then computed from its own pair of vectors alone, and ties are broken by id. The same
pair gets the same score whatever else is stored, in whatever order it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnstore.types import Metric

__all__ = ["best", "error_bound", "nominated", "overflows", "pair_scores", "product"]

_LARGEST = float(np.finfo(np.float32).max)
_PRODUCT = 16_000_000
"""Entries of a score matrix held at once: 64 MB in float32."""
_GROUP = 64
_WIDENED = 512
"""Rows of float16 made float32 at once, so few that they are multiplied before they leave the cache."""


def pair_scores(queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """The score of each pair, independent of every other pair.

    Args:
        queries: float32 (..., D).
        vectors: float32 (..., D), broadcast against ``queries``.
        metric: dot product for ``"cosine"`` and ``"dot"``, negative squared distance for ``"l2"``.

    Returns:
        float32, the broadcast shape without D. Always finite, as -inf marks an empty slot: where float32 overflows,
        the score is computed in float64 and limited to the largest float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.asarray(_scores(queries, vectors, metric), np.float32)
    overflown = ~np.isfinite(scores)
    if overflown.any():
        wide = _scores(queries.astype(np.float64), vectors.astype(np.float64), metric)
        scores = np.where(overflown, np.clip(wide, -_LARGEST, _LARGEST), scores).astype(np.float32)
    return scores


def _scores(queries: NDArray[Any], vectors: NDArray[Any], metric: Metric) -> NDArray[Any]:
    if metric == "l2":
        difference = vectors - queries
        return np.asarray(-np.vecdot(difference, difference))
    # vecdot is one BLAS dot product a pair, so the summation order depends on D only.
    return np.asarray(np.vecdot(vectors, queries))


def error_bound(queries: NDArray[np.float32], largest: float, metric: Metric) -> NDArray[np.float64]:
    """How far a float32 matrix product may be from the exact score, for each query: float64 (Q,).

    Args:
        queries: float32 (Q, D).
        largest: the largest Euclidean norm among the vectors.
        metric: the metric.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.5: an inner product of D terms is within
    D·u·Σ|x||y| of the exact one, u = 2^-24; Cauchy-Schwarz bounds the sum. The expanded square |q|² + |x|² - 2q·x that
    libraries use for L2 has three such terms. Twice that covers the rounding of the product and of the pair's score.
    """
    norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
    unit = (queries.shape[1] + 2) * 2.0**-24
    tiny = (queries.shape[1] + 2) * 2.0**-147  # what products lose that fall below the smallest float32
    spread = norms * largest if metric != "l2" else (norms + largest) ** 2
    return np.asarray(2 * unit * spread + tiny)


def overflows(queries: NDArray[np.float32], largest: float, metric: Metric) -> bool:
    """Whether a float32 product of these queries with vectors up to the norm ``largest`` may leave float32's range.

    Args:
        queries: float32 (Q, D).
        largest: the largest Euclidean norm among the vectors.
        metric: the metric; under ``"l2"`` the expanded square must not overflow either.
    """
    longest = float(np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64).max(initial=0)))
    reach = (longest + largest) ** 2 if metric == "l2" else longest * largest  # Cauchy-Schwarz
    return not reach < _LARGEST / 4


def product(
    queries: NDArray[np.float32], vectors: NDArray[np.float32] | NDArray[np.float16], out: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The dot product of every pair by products of matrices, in float32 whatever the vectors are kept as.

    Args:
        queries: float32 (Q, D).
        vectors: float32 or float16 (N, D).
        out: float32 (Q, N), for the result.
    """
    step = max(len(vectors), 1) if vectors.dtype == np.float32 else _WIDENED
    for start in range(0, len(vectors), step):
        wide, part = vectors[start : start + step].astype(np.float32, copy=False), out[:, start : start + step]
        if len(queries) == 1:
            np.matmul(wide, queries[0], out=part[0])
        else:
            np.matmul(queries, wide.T, out=part)
    return out


def best(ids: NDArray[np.object_], scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    """Positions of the k best of M candidates, by falling score, then by rising id.

    Args:
        ids: object (M,), str.
        scores: float32 (M,).
        k: how many.
    """
    order = np.argsort(-scores, kind="stable")
    if len(order) > k:  # only ties with the k-th best matter
        order = order[scores[order] >= scores[order[k - 1]]]
    if (scores[order][1:] == scores[order][:-1]).any():
        order = np.array(sorted(order.tolist(), key=lambda i: (-scores[i], ids[i])), np.intp)
    return order[:k]


def nominated(
    queries: NDArray[np.float32],
    vectors: NDArray[np.float32] | NDArray[np.float16],
    norms: NDArray[np.float64],
    k: int,
    metric: Metric,
) -> Iterator[NDArray[np.intp]]:
    """For each query, the positions of every record that could be among its k best once scored exactly.

    Args:
        queries: float32 (Q, D).
        vectors: float32 or float16 (N, D).
        norms: float64 (N,), the squared Euclidean norm of each vector.
        k: how many are wanted.
        metric: the metric.
    """
    lengths = np.einsum("qd,qd->q", queries, queries, dtype=np.float64)
    largest = float(np.sqrt(norms.max(initial=0)))
    bounds = error_bound(queries, largest, metric)
    safe = not overflows(queries, largest, "dot")  # the rest of the square is added in float64
    step = max(1, _PRODUCT // max(1, len(vectors)))  # many queries against many vectors would not fit in memory
    for start in range(0, len(queries), step):
        rough = _rough(queries[start : start + step], vectors, safe=safe)
        for q, row in enumerate(rough, start):
            if len(row) <= k:
                yield np.arange(len(row))
                continue
            values = 2 * row.astype(np.float64) - norms - lengths[q] if metric == "l2" else row
            if values.dtype == np.float64:  # scores are limited, so records beyond the limit tie
                values = np.clip(values, -_LARGEST, _LARGEST)
            yield _near_the_best(values, k, 2 * float(bounds[q]))


def _near_the_best(values: NDArray[Any], k: int, slack: float) -> NDArray[np.intp]:
    """Positions of all values within ``slack`` of the k-th largest, rising; there are more than k.

    The k-th largest of the maxima of groups is no larger than that of all values and found in a single pass, so only
    what comes near it is looked at again.
    """
    count = len(values) // _GROUP
    tops = values[: count * _GROUP].reshape(_GROUP, count).max(axis=0) if count > k else values
    near = np.flatnonzero(values >= _below(np.partition(tops, -k)[-k], slack))
    return near[values[near] >= _below(np.partition(values[near], -k)[-k], slack)]


def _below(value: np.floating[Any], slack: float) -> np.floating[Any]:
    """At most value - slack, of the type of ``value``, so that comparing an array with it makes no copy in double."""
    kind = type(value)
    return np.nextafter(kind(max(float(value) - slack, -_LARGEST)), kind(-np.inf))


def _rough(
    queries: NDArray[np.float32], vectors: NDArray[np.float32] | NDArray[np.float16], *, safe: bool
) -> NDArray[Any]:
    """The matrix product, in float64 where float32 overflows; ``safe`` says that it cannot."""
    with np.errstate(over="ignore", invalid="ignore"):
        rough = product(queries, vectors, np.empty((len(queries), len(vectors)), np.float32))
    if safe or np.isfinite(rough).all():
        return rough
    return np.asarray(queries.astype(np.float64) @ vectors.astype(np.float64).T)
