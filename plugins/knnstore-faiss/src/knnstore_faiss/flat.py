"""The exact index: one matrix in memory, searched by matrix products in blocks.

NumPy's product is used and not ``faiss.IndexFlat``: on the CPU it was the faster of the two at every number of queries,
it gives all scores and not the k best alone (so nothing has to be searched twice when many are tied), and it starts no
OpenMP threads, which a forked child could not use. See docs/design/faiss-store.md for the measurements.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore.ranking import error_bound, overflows, pair_scores, product
from knnstore.types import Dtype, Metric
from knnstore_faiss.nominate import Candidates, Nominator, joined

__all__ = ["FlatIndex", "Matrix", "exact_scores", "rough_scores"]

_ROUGH_BYTES = 64 << 20
"""For the rough scores of one block; larger blocks are faster until they leave little memory to others."""
_GATHER_BYTES = 32 << 20
_PAIR_BYTES = 16 << 20
_MOST_QUERIES = 1024
"""In one product: more are no faster for each and need memory in proportion."""
_versions = itertools.count()
Matrix: TypeAlias = NDArray[np.float32] | NDArray[np.float16]
"""Vectors as they are kept: (N, D)."""


class FlatIndex:
    """Vectors and their rows, dense: the last record fills the hole of a deleted one.

    Args:
        dim: D.
        metric: the metric.
        capacity: records to make room for.
        dtype: what vectors are kept as; those that come have numbers of it alone.
    """

    def __init__(self, dim: int, metric: Metric, capacity: int = 0, dtype: Dtype = "float32") -> None:
        self.dim, self.metric, self.count = dim, metric, 0
        self._vectors: Matrix = np.empty((capacity, dim), dtype)
        self._rows = np.empty(capacity, np.int64)
        self._squares = np.empty(capacity, np.float32)
        self.largest = 0.0
        self.version = next(_versions)
        """Changes with the vectors; no two indexes share one."""
        self._scratch = np.empty(0, np.float32)
        self._order: NDArray[np.intp] | None = None

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64 (count,), in the order of :attr:`vectors`."""
        return self._rows[: self.count]

    @property
    def vectors(self) -> Matrix:
        """float32 or float16 (count, D)."""
        return self._vectors[: self.count]

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return self._vectors.nbytes + self._rows.nbytes + self._squares.nbytes + self._scratch.nbytes

    def add(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Append records: int64 (N,) and float32 (N, D)."""
        end = self.count + len(rows)
        if end > len(self._rows):
            self._grow(max(end, self.count + self.count // 2))
        squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
        self._vectors[self.count : end], self._rows[self.count : end] = vectors, rows
        with np.errstate(over="ignore"):
            self._squares[self.count : end] = squares
        self.largest = max(self.largest, float(np.sqrt(squares.max(initial=0))))
        self.count, self._order, self.version = end, None, next(_versions)

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Drop records; rows that are not here are ignored."""
        holes = self.positions(rows)
        left = self.count - len(holes)
        inner = holes[holes < left]
        last = np.setdiff1d(np.arange(left, self.count), holes, assume_unique=True)
        for array in (self._vectors, self._rows, self._squares):
            array[inner] = array[last]
        self.largest = float(np.sqrt(self._squares[:left].max(initial=0))) * (1 + 2.0**-20)  # the squares are rounded
        self.count, self._order, self.version = left, None, next(_versions)

    def positions(self, rows: NDArray[np.int64]) -> NDArray[np.intp]:
        """Where the rows that are here are: intp (≤ N,), rising."""
        if self._order is None:
            self._order = np.argsort(self.rows, kind="stable")
        if not self.count:
            return np.empty(0, np.intp)
        at = np.minimum(np.searchsorted(self.rows, rows, sorter=self._order), self.count - 1)
        positions = self._order[at]
        return np.sort(positions[self.rows[positions] == rows])

    def search(self, queries: NDArray[np.float32], k: int, chosen: NDArray[np.intp] | None) -> Candidates:
        """Everything that can be among the k best of each query, scored exactly.

        Args:
            queries: float32 (Q, D).
            k: how many are wanted.
            chosen: intp (M,) positions to choose from; None for all.
        """
        if not (self.count if chosen is None else len(chosen)):
            return joined([])
        safe = not overflows(queries, self.largest, self.metric)
        search, step = (self._search, _MOST_QUERIES) if safe else (self._search_everything, 1)
        found = []
        for first in range(0, len(queries), step):
            part = search(queries[first : first + step], k, chosen)
            found.append(Candidates(part.queries + first, part.rows, part.scores))
        return joined(found)

    def _search(self, queries: NDArray[np.float32], k: int, chosen: NDArray[np.intp] | None) -> Candidates:
        size = self.count if chosen is None else len(chosen)
        nominator = Nominator(len(queries), min(k, size), 2 * error_bound(queries, self.largest, self.metric))
        if chosen is not None and self._cheaper_masked(len(queries), size):
            position = self._masked(queries, nominator, chosen)
        else:
            position = self._gathered(queries, nominator, chosen)
        at = nominator.result()[0]
        return Candidates(at, self._rows[position], exact_scores(queries, at, self._vectors, position, self.metric))

    def _search_everything(self, query: NDArray[np.float32], k: int, chosen: NDArray[np.intp] | None) -> Candidates:
        """Score every record for one query: where float32 overflows, a product of matrices says nothing about it."""
        position = np.arange(self.count) if chosen is None else chosen
        scores = exact_scores(query, np.zeros(len(position), np.intp), self._vectors, position, self.metric)
        least = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
        stays = scores >= least
        return Candidates(np.zeros(int(stays.sum()), np.intp), self._rows[position[stays]], scores[stays])

    def _cheaper_masked(self, count: int, size: int) -> bool:
        """Whether to score everything and cross out the rest, instead of first copying what is chosen.

        In units of one product of a query and a vector, copying a vector took about 32 and reading one 8.
        """
        return self.count * (8 + count) < size * (40 + count)

    def _masked(self, queries: NDArray[np.float32], nominator: Nominator, chosen: NDArray[np.intp]) -> NDArray[np.intp]:
        out = np.ones(self.count, bool)
        out[chosen] = False
        for part in self._parts(len(queries), self.count):
            rough = self._rough(queries, self._vectors[part], self._squares[part])
            np.copyto(rough, -np.inf, where=out[part])
            nominator.offer(rough, part.start, crossed_out=True)
        return nominator.result()[1]

    def _gathered(
        self, queries: NDArray[np.float32], nominator: Nominator, chosen: NDArray[np.intp] | None
    ) -> NDArray[np.intp]:
        for part in self._parts(len(queries), self.count if chosen is None else len(chosen), chosen is not None):
            take = part if chosen is None else chosen[part]
            nominator.offer(self._rough(queries, self._vectors[take], self._squares[take]), part.start)
        number = nominator.result()[1]
        return number if chosen is None else chosen[number]

    def _rough(
        self, queries: NDArray[np.float32], vectors: Matrix, squares: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        shape = (len(queries), len(vectors))
        if self._scratch.size < shape[0] * shape[1]:  # kept: a fresh one costs a page fault every 4096 bytes
            self._scratch = np.empty(shape[0] * shape[1], np.float32)
        return rough_scores(queries, vectors, squares, self.metric, self._scratch[: shape[0] * shape[1]].reshape(shape))

    def _parts(self, count: int, size: int, copied: bool = False) -> Iterator[slice]:
        step = max(1024, _ROUGH_BYTES // (4 * count))
        if copied:
            step = min(step, max(1024, _GATHER_BYTES // (4 * self.dim)))
        for first in range(0, size, step):
            yield slice(first, min(first + step, size))

    def _grow(self, capacity: int) -> None:
        for name in ("_vectors", "_rows", "_squares"):
            old = getattr(self, name)
            new = np.empty((capacity, *old.shape[1:]), old.dtype)
            new[: self.count] = old[: self.count]
            setattr(self, name, new)


def rough_scores(
    queries: NDArray[np.float32],
    vectors: Matrix,
    squares: NDArray[np.float32],
    metric: Metric,
    out: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Scores by one product of matrices, rounded as it likes; under L2 without |q|², the same for every record.

    Args:
        queries: float32 (Q, D).
        vectors: float32 or float16 (M, D).
        squares: float32 (M,), |x|²; looked at under L2.
        metric: the metric.
        out: float32 (Q, M), for the result.
    """
    product(queries, vectors, out)
    if metric == "l2":
        out *= 2  # -|q-x|² = 2q·x - |x|² - |q|²
        out -= squares
    return out


def exact_scores(
    queries: NDArray[np.float32],
    at: NDArray[np.intp],
    vectors: Matrix,
    position: NDArray[np.intp],
    metric: Metric,
) -> NDArray[np.float32]:
    """The score of ``queries[at[i]]`` and ``vectors[position[i]]`` for each i, from that pair alone: float32 (P,)."""
    scores = np.empty(len(at), np.float32)
    size = max(1, _PAIR_BYTES // (4 * queries.shape[1]))
    for start in range(0, len(at), size):
        part = slice(start, start + size)
        scores[part] = pair_scores(queries[at[part]], vectors[position[part]].astype(np.float32, copy=False), metric)
    return scores
