"""Searching a collection: batches, ties, and the promise that an approximate search keeps behind any filter.

Qdrant's graph knows its filters, yet behind one that goes with the vectors (the classes asked for lie in some clusters,
the rest in others) it finds three quarters of the neighbours: where nothing near a query matches, the walk ends in the
wrong place. So the nearest of everything are asked for, more of them the less the filter leaves, with the fields that
it looks at; where enough of them match, those are the answer. The other queries are searched exactly among what
matches, and so are all of them where that takes no longer.

An engine that gives a pair of vectors always the same score still chooses freely among equal scores: which of two twins
gets the last of the k places depends on where they lie. So one hit more than asked for is fetched; where it equals the
k-th, the search is repeated with a larger limit until the whole group of equals is there; and equals are put in the
order of their ids. So the answer is the same whatever else is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from knnstore.filters import Filter
from knnstore.remote import row_slices
from knnstore.types import Hits, StoreSpec
from knnstore_qdrant.engine import QdrantEngine
from knnstore_qdrant.errors import refused_by_limits
from knnstore_qdrant.filters import Compiler
from knnstore_qdrant.floats import key
from knnstore_qdrant.points import ID, ScoredPoint, hits_of

__all__ = ["HIT_BYTES", "Searcher", "by_id", "complete_ties", "filter_bytes", "payload_of"]

HIT_BYTES = 512
"""About what a hit takes in an answer; with long texts more, but an answer has no limit of its own."""
_MOST_HITS = 100_000
_LARGEST = np.finfo(np.float32).max

_SCAN = 8000
"""Records that an exact search compares with a query while the graph is asked for its nearest (40,000 × 256)."""
_ORDINARY = 128
"""Hits that one look-up gives without looking deeper than it does anyway."""
_MARGIN = 2.0
"""How many more of the nearest are asked for than must be for those that match to be enough."""
_DEEPER = 4
_MOST = 1024
"""Of the nearest are never asked for more: each comes with fields, and exact search is near."""


class Searcher:
    """Searches one collection.

    Args:
        engine: with the collection.
        compiler: of its filters.
        spec: what is stored.
        max_bytes: most bytes of one request.
    """

    def __init__(self, engine: QdrantEngine, compiler: Compiler, spec: StoreSpec, max_bytes: int) -> None:
        self._engine, self._compiler, self._spec, self._bytes = engine, compiler, spec, max_bytes

    def search(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        """The best k of each query among those that match; see :meth:`EmbeddingStore.search`."""
        if self._engine.recall_floor >= 1:
            return self._ask(queries, k, where, fields, exact=True)
        if where is not None:
            return self._behind(queries, k, where, fields)
        hits = self._ask(queries, k, None, fields)
        short = np.flatnonzero(hits.ids[:, -1] == "")
        if len(short):  # an empty slot means that there are no more, and not that the graph led nowhere
            hits.put(short, self._exactly(queries[short], k, None, fields))
        return hits

    def _behind(self, queries: NDArray[np.float32], k: int, where: Filter, fields: list[str]) -> Hits:
        hits = Hits.empty(len(queries), k, self._spec, fields)
        matching = self._engine.count(self._compiler.compile(where), exact=False)
        total = self._engine.count(None, exact=False)
        depth = int(_MARGIN * k * max(total, 1) / max(matching, 1))
        names = list(dict.fromkeys([*fields, *(leaf.field for leaf in where.leaves())]))
        left = np.arange(len(queries))
        while len(left) and not self._exact_is_due(matching, depth, k):
            try:
                near = self._ask(queries[left], depth, None, names)
            except Exception as error:
                if not refused_by_limits(error):
                    raise
                break  # so many may not be asked for
            flat = {name: column.ravel() for name, column in near.fields.items()}
            allowed = where.mask(flat).reshape(near.ids.shape) & (near.ids != "")
            enough = allowed.sum(axis=1) >= k
            hits.put(left[enough], _first(near, enough, allowed, k))
            left, depth = left[~enough], depth * _DEEPER
        if len(left):
            hits.put(left, self._exactly(queries[left], k, where, fields))
        return hits

    def _exactly(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        """All of what matches is compared; the graph does what it can where the server does not allow that."""
        try:
            return self._ask(queries, k, where, fields, exact=True)
        except Exception as error:
            if not refused_by_limits(error):
                raise
        return self._ask(queries, k, where, fields)

    def _exact_is_due(self, matching: int, depth: int, k: int) -> bool:
        # Twice: of what is looked up in the graph, a part is searched once more.
        return depth > max(_MOST, _DEEPER * k) or matching <= 2 * _SCAN * max(1, depth / _ORDINARY)

    def _ask(
        self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str], *, exact: bool = False
    ) -> Hits:
        """What the engine answers, in requests of bounded size."""
        engine, compiled, payload = self._engine, self._compiler.compile(where), payload_of(fields, self._spec)
        limit = k + 1 if engine.repeatable else k  # one more shows whether the k-th place is shared
        each = 4 * self._spec.dim + filter_bytes(where) + HIT_BYTES
        answers: list[Sequence[ScoredPoint]] = []
        for part in row_slices(len(queries), each, self._bytes, max(1, _MOST_HITS // limit)):
            answers += engine.query(queries[part], limit, compiled, payload, exact=exact)
        if engine.repeatable:
            sign = -1 if self._spec.metric == "l2" else 1
            answers = complete_ties(
                answers, queries, k, lambda rows, more: engine.query(rows, more, compiled, payload, exact=exact), sign
            )
        hits = hits_of(answers, k, self._spec, fields, self._scores)
        return by_id(hits) if engine.repeatable else hits

    def _scores(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """The engine's scores as the contract's: Euclid is a plain distance, and infinity marks an empty slot."""
        if self._spec.metric == "l2":
            with np.errstate(over="ignore"):
                raw = -np.square(raw)
        return raw.clip(-_LARGEST, _LARGEST)


def payload_of(fields: list[str], spec: StoreSpec) -> list[str]:
    """The parts of the payload that hold the id and these fields."""
    return [ID, *(key(name, spec.fields[name]) for name in fields)]


def _first(near: Hits, rows: NDArray[np.bool_], allowed: NDArray[np.bool_], k: int) -> Hits:
    """The first k that are allowed, of some rows that have so many."""
    column = np.argsort(~allowed[rows], axis=1, kind="stable")[:, :k]
    at = np.flatnonzero(rows)[:, None], column
    return Hits(near.ids[at], near.scores[at], {name: values[at] for name, values in near.fields.items()})


def filter_bytes(where: Filter | None) -> int:
    """About what a filter takes in each query of a request."""
    if where is None:
        return 0
    total = 0
    for leaf in where.leaves():
        values = getattr(leaf, "values", None) or [getattr(leaf, "value", 0)]
        total += 64 + sum(len(value.encode()) + 8 if isinstance(value, str) else 16 for value in values)
    return total


Search = Callable[[NDArray[np.float32], int], Sequence[Sequence[ScoredPoint]]]


def complete_ties(
    answers: Sequence[Sequence[ScoredPoint]], queries: NDArray[np.float32], k: int, search: Search, sign: int
) -> list[Sequence[ScoredPoint]]:
    """At most k hits for each query; where the k-th place is shared, those with the smallest ids have it.

    Args:
        answers: for each query, its first k + 1 hits.
        queries: float32 (Q, D).
        k: how many are wanted.
        search: asks again, for some of the queries, with another limit.
        sign: 1 where a higher score is better, -1 where it is a distance.
    """
    whole, limit = list(answers), k + 1
    while open_ends := [q for q, found in enumerate(whole) if _tied(found, k, limit)]:
        limit *= 2
        for q, found in zip(open_ends, search(queries[open_ends], limit), strict=True):
            whole[q] = found
    return [_untied(found, k, sign) for found in whole]


def _tied(found: Sequence[ScoredPoint], k: int, limit: int) -> bool:
    """Whether the group of equals at the k-th place may go on beyond what was fetched."""
    return len(found) >= limit and found[-1].score == found[k - 1].score


def _untied(found: Sequence[ScoredPoint], k: int, sign: int) -> Sequence[ScoredPoint]:
    if len(found) <= k or found[k].score != found[k - 1].score:
        return found[:k]
    return sorted(found, key=lambda hit: (-sign * hit.score, hit.payload[ID]))[:k]


def by_id(hits: Hits) -> Hits:
    """The same hits, equal scores in the order of their ids."""
    for q, scores in enumerate(hits.scores):
        if (scores[1:] == scores[:-1]).any():
            order = np.array(sorted(range(len(scores)), key=lambda i: (-scores[i], hits.ids[q, i])), np.intp)
            hits.ids[q] = hits.ids[q, order]
            for column in hits.fields.values():
                column[q] = column[q, order]
    return hits
