"""Exact scores and a total order, for stores that hold their vectors in this process.

A matrix product may round a score differently when the shape of the matrix changes, so which of two nearly equal records
wins could depend on what else is stored. Here the product only nominates candidates, with a bound on its error; the
score of each candidate is then computed from its own pair of vectors alone, and ties are broken by id. The same pair
gets the same score whatever else is stored, in whatever order it came.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knnstore.types import Metric

__all__ = ["best", "error_bound", "pair_scores"]


def pair_scores(queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """The score of each pair, independent of every other pair.

    Args:
        queries: float32 (..., D).
        vectors: float32 (..., D), broadcast against ``queries``.
        metric: dot product for ``"cosine"`` and ``"dot"``, negative squared distance for ``"l2"``.

    Returns:
        float32, the broadcast shape without D.
    """
    if metric == "l2":
        difference = vectors - queries
        return np.asarray(-np.vecdot(difference, difference), np.float32)
    # vecdot is one BLAS dot product a pair, so the summation order depends on D only.
    return np.asarray(np.vecdot(vectors, queries), np.float32)


def error_bound(queries: NDArray[np.float32], largest: float, metric: Metric) -> NDArray[np.float64]:
    """How far a float32 matrix product may be from the exact score, for each query: float64 (Q,).

    Args:
        queries: float32 (Q, D).
        largest: the largest Euclidean norm among the vectors.
        metric: the metric.

    Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.5: an inner product of D terms is within
    D·u·Σ|x||y| of the exact one, u = 2^-24; Cauchy-Schwarz bounds the sum. The expanded square |q|² + |x|² - 2q·x that
    libraries use for L2 has three such terms.
    """
    norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))
    unit = (queries.shape[1] + 2) * 2.0**-24
    product = unit * norms * largest
    return 2 * product if metric != "l2" else 2 * unit * (norms + largest) ** 2


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
    tied = np.flatnonzero(np.diff(scores[order]) == 0)
    if len(tied):
        order = np.array(sorted(order.tolist(), key=lambda i: (-scores[i], ids[i])), np.intp)
    return order[:k]
