"""Searching an approximate index so that it keeps its promise behind any filter.

A filter that goes with the vectors (the classes asked for lie in some clusters, the rest in others) takes away all that
is near some of the queries, and an index that is walked under it then looks in the wrong place and does not know. So
the index is asked for the nearest of everything, more of them the less the filter leaves; where enough of them are
allowed, those are the answer, as good as without a filter. The other queries are searched exactly among what
matches; and so are all of them where that costs no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore.ranking import error_bound
from knnstore.types import Metric
from knnstore_faiss.ann import AnnIndex
from knnstore_faiss.flat import FlatIndex, exact_scores, rough_scores
from knnstore_faiss.nominate import Candidates, Nominator, joined

__all__ = ["Searcher", "Source"]

Source: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Rows to their stored vectors, float32 (M, D)."""

_BLOCK, _MOST_QUERIES = 8192, 1024
_FEW, _MANY, _READABLE = 4096, 48, 100_000
"""Where an index has only codes, rows are read from the database if they are few; or for so many queries at once that
reading (2.4 µs for a vector of 256) costs less than comparing each with each code, unless there are too many."""
_LEAST, _MOST = 64, 8192
_MARGIN = 2.0
"""How many more of the nearest are looked at than must be for the allowed ones among them to be enough."""
_PREFERRED = 6
"""Up to so many times the price of a look-up an exact search is made instead: it misses nothing, and a part of what is
looked up is searched once more."""
_DEEPER = 4
"""How many times as many of the nearest are looked at for queries that had too few allowed ones among them."""
_COPYING = 24
"""What it costs to fetch a vector that is to be compared, in products of a query and a vector."""


@dataclass(frozen=True, slots=True)
class Searcher:
    """An approximate index, and where the vectors are that it has only codes of.

    Args:
        index: to search.
        stored: reads from the database.
        metric: the metric.
        shortcut: search exactly where that costs no more; not when the index itself is to be measured.
    """

    index: AnnIndex
    stored: Source
    metric: Metric
    shortcut: bool = True

    def search(self, queries: NDArray[np.float32], k: int, chosen: NDArray[np.int64] | None) -> Candidates:
        """What the index finds, with exact scores; searched exactly where it does not find enough.

        Args:
            queries: float32 (Q, D).
            k: how many are wanted.
            chosen: int64, the rows to choose from; None for all.
        """
        index, allowed = self.index, self.index.allowed(chosen)
        matching = int(allowed.sum())
        if not matching:
            return joined([])
        wanted = min(k if index.lossless else k * index.effort.refine, matching)
        depth = _depth(wanted, matching, len(index.rows))
        parts: list[Candidates] = []
        left = np.arange(len(queries))
        while len(left) and not self._exact_is_due(queries[left], k, matching, depth):
            near = index.nearest(queries[left], depth, allowed)
            enough = (near >= 0).sum(axis=1) >= wanted
            parts.append(_of(left, self._best(queries[left], near, enough)))
            left, depth = left[~enough], depth * _DEEPER
        if len(left):
            parts.append(_of(left, self._exactly(queries[left], k, allowed)))
        return joined(parts)

    def _exact_is_due(self, queries: NDArray[np.float32], k: int, matching: int, depth: int) -> bool:
        index = self.index
        if matching <= k or depth >= len(index.rows) or not index.fits(queries):
            return True
        dear = _PREFERRED * len(queries) * index.products(depth)
        return self.shortcut and matching * (len(queries) + _COPYING) <= dear

    def _exactly(self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]) -> Candidates:
        """The best of what is allowed. Where the index has only codes, and many of them, the best codes nominate."""
        index, matching = self.index, int(allowed.sum())
        readable = matching <= _FEW or (len(queries) >= _MANY and matching <= _READABLE)
        if index.lossless or readable or not index.fits(queries):
            return self.among(queries, k, index.rows[allowed])
        found = index.everywhere(queries, k * index.effort.refine, allowed)
        return self._best(queries, found, np.ones(len(queries), bool))

    def _best(self, queries: NDArray[np.float32], found: NDArray[np.intp], taken: NDArray[np.bool_]) -> Candidates:
        """The entries found for the queries taken, scored."""
        at, column = np.nonzero((found >= 0) & taken[:, None])
        return self._scored(queries, at, self.index.rows[found[at, column]])

    def among(self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Candidates:
        """The exact search of some rows of the index, fetched block by block: bounded memory, whatever their number."""
        if not self.index.fits(queries):
            return joined([self._one_by_one(queries, k, rows[part]) for part in _slices(len(rows), _BLOCK)])
        found = []
        for part in _slices(len(queries), _MOST_QUERIES):
            at, number = self._nominated(queries[part], k, rows)
            found.append(_of(np.arange(part.start, part.stop), self._scored(queries[part], at, rows[number])))
        return joined(found)

    def _one_by_one(self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Candidates:
        """Where float32 overflows, a product of matrices says nothing."""
        flat = FlatIndex(queries.shape[1], self.metric, len(rows))
        flat.add(rows, self.stored(rows))
        return flat.search(queries, k, None)

    def _nominated(
        self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Query and number of each row that could be among the k best: intp (P,) each."""
        slack = 2 * error_bound(queries, self.index.largest, self.metric)
        nominator = Nominator(len(queries), min(k, len(rows)), slack)
        scratch = np.empty(len(queries) * min(_BLOCK, len(rows)), np.float32)
        for part in _slices(len(rows), _BLOCK):
            vectors = self._vectors(rows[part])
            squares = np.vecdot(vectors, vectors) if self.metric == "l2" else vectors[:, 0]
            rough = scratch[: len(queries) * len(vectors)].reshape(len(queries), len(vectors))
            nominator.offer(rough_scores(queries, vectors, squares, self.metric, rough), part.start)
        return nominator.result()

    def _scored(self, queries: NDArray[np.float32], at: NDArray[np.intp], rows: NDArray[np.int64]) -> Candidates:
        distinct, inverse = np.unique(rows, return_inverse=True)
        scores = np.empty(len(at), np.float32)
        order = np.argsort(inverse, kind="stable")
        for block in _slices(len(distinct), _BLOCK):
            vectors = self._vectors(distinct[block])
            low, high = np.searchsorted(inverse[order], [block.start, block.stop])
            part = order[low:high]
            scores[part] = exact_scores(queries, at[part], vectors, inverse[part] - block.start, self.metric)
        return Candidates(at, rows, scores)

    def _vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.index.vectors_of(rows) if self.index.lossless else self.stored(rows)


def _depth(wanted: int, matching: int, entries: int) -> int:
    """How many of the nearest to look at, so that those allowed among them are probably enough."""
    margin = _MARGIN if matching < entries else 1.0
    return int(min(max(margin * wanted * entries / max(matching, 1), _LEAST), _MOST))


def _of(queries: NDArray[np.intp], found: Candidates) -> Candidates:
    """What was found for some of the queries, under their own numbers."""
    return Candidates(queries[found.queries], found.rows, found.scores)


def _slices(count: int, step: int) -> Iterator[slice]:
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))
