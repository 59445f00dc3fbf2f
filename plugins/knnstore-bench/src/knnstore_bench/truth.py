"""The right answers, by brute force in float64, and how much of them an answer holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnstore.ranking import error_bound
from knnstore.types import Metric
from knnstore_bench.workload import Workload

__all__ = ["Truth", "find_truth"]

_BLOCK = 4096
_SLACK = 4.0
"""Rounding that an engine is allowed, in multiples of what one float32 product may be off by."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The score that a record must reach to be among the k best of a query.

    Args:
        k: how many.
        least: float64 (Q,), the k-th best score less the rounding allowed; ties with it count as right.
        wanted: right answers of each query: k, or fewer where fewer match.
        allowed: bool (N,), which records may be found.
    """

    k: int
    least: NDArray[np.float64]
    wanted: int
    allowed: NDArray[np.bool_]

    def recall(self, workload: Workload, found: NDArray[np.object_]) -> float:
        """The share of the k best that an answer holds.

        Args:
            workload: what was stored and asked.
            found: object (Q, K), ids; "" where there is none.

        Raises:
            ValueError: the answer has records that were not stored or do not match the filter, or one twice. That is
                no matter of recall.
        """
        where = {value: row for row, value in enumerate(workload.ids)}
        right = 0
        for q, row in enumerate(found[:, : self.k].tolist()):
            ids = [value for value in row if value]
            if strangers := [value for value in ids if value not in where or not self.allowed[where[value]]]:
                raise ValueError(f"found {strangers[0]!r}, which is not stored or does not match the filter")
            if len(set(ids)) < len(ids):
                raise ValueError(f"found a record twice for one query: {ids}")
            rows = workload.vectors[[where[value] for value in ids]]
            right += int((_scores(workload.queries[q : q + 1], rows, workload.spec.metric)[0] >= self.least[q]).sum())
        return right / (self.wanted * len(found)) if self.wanted else 1.0


def find_truth(workload: Workload, k: int, allowed: NDArray[np.bool_]) -> Truth:
    """Search by brute force.

    Args:
        workload: what is stored and asked.
        k: how many are wanted.
        allowed: bool (N,), which records may be found.
    """
    rows = np.flatnonzero(allowed)
    wanted = min(k, len(rows))
    top = np.full((len(workload.queries), k), -np.inf)
    for start in range(0, len(rows), _BLOCK):
        part = workload.vectors[rows[start : start + _BLOCK]]
        joined = np.concatenate([top, _scores(workload.queries, part, workload.spec.metric)], axis=1)
        top = -np.partition(-joined, k - 1, axis=1)[:, :k]
    least = np.sort(top, axis=1)[:, ::-1][:, wanted - 1] if wanted else np.full(len(top), np.inf)
    return Truth(k, least - _rounding(workload), wanted, allowed)


def _scores(queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """The score of every pair by the definition: float64 (Q, N), higher is better."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "cosine":
        q, x = q / np.linalg.norm(q, axis=1, keepdims=True), x / np.linalg.norm(x, axis=1, keepdims=True)
    product = q @ x.T
    if metric == "l2":
        product = 2 * product - (q * q).sum(1)[:, None] - (x * x).sum(1)
    return np.asarray(product)


def _rounding(workload: Workload) -> NDArray[np.float64]:
    queries, vectors, metric = workload.queries, workload.vectors, workload.spec.metric
    if metric == "cosine":
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    largest = 1.0 if metric == "cosine" else float(norms.max(initial=0))
    return _SLACK * error_bound(queries, largest, metric)
