"""Training, filling and tuning an approximate index, with the stored vectors at hand; and measuring its recall."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from knnstore_faiss.ann import AnnIndex
from knnstore_faiss.database import Commit, Database
from knnstore_faiss.factory import Effort, training_size
from knnstore_faiss.nominate import Candidates
from knnstore_faiss.options import Options
from knnstore_faiss.schema import Connection
from knnstore_faiss.searching import Searcher

__all__ = ["build", "first_effort", "recall_of"]

_SAMPLE = 64
_DEPTH = 10
_GOOD = 0.95
_DOUBLINGS = 6
_MOST_TRAINING = 100_000


def first_effort(options: Options) -> Effort:
    """Where tuning starts, or what the URL asks for."""
    return Effort(options.nprobe or 8, options.ef_search or 64, options.refine)


def build(database: Database, connection: Connection, options: Options, commit: Commit) -> AnnIndex:
    """An index of every record of the snapshot, trained, filled and tuned."""
    spec = database.spec
    index = AnnIndex(options.index, spec.dim, spec.metric, first_effort(options), spec.dtype)
    rows = database.matching(connection, None)
    if not index.index.is_trained:
        wanted = min(_MOST_TRAINING, max(options.train_at, 2 * training_size(options.index, spec.dim)))
        index.train(database.vectors_of(connection, _sample(rows, wanted, options.seed)))
    for part, vectors in database.vectors_after(connection, 0):
        index.add(part, vectors)
    index.trained_on = commit.count
    if not options.nprobe and not options.ef_search:
        _tune(index, database, connection, options.seed)
    return index


def _sample(rows: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    if len(rows) <= count:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False))


def _tune(index: AnnIndex, database: Database, connection: Connection, seed: int) -> None:
    """Look harder until recall on stored vectors is good; what it takes depends on the data, not on a default."""
    probe = _Probe(index, database, connection, seed)
    for attempt in range(_DOUBLINGS + 1):
        index.recall = probe.recall(None, shortcut=False)
        if index.recall >= _GOOD or attempt == _DOUBLINGS:
            return
        index.effort = index.effort.doubled()


def recall_of(index: AnnIndex, database: Database, connection: Connection, seed: int) -> float:
    """Share of the true 10 nearest that are found, for a sample of the stored vectors.

    The smaller of two: among everything, and among one half of it that lies together, which leaves nothing near to
    most of the queries from the other half.
    """
    probe = _Probe(index, database, connection, seed)
    return min(probe.recall(None), probe.recall(probe.one_side()))


class _Probe:
    """Some of the stored vectors, to search with."""

    def __init__(self, index: AnnIndex, database: Database, connection: Connection, seed: int) -> None:
        stored = partial(database.vectors_of, connection)
        self._searcher = Searcher(index, stored, database.spec.metric)
        self._live = index.rows[index.alive]
        self._queries = stored(_sample(self._live, _SAMPLE, seed))

    def one_side(self) -> NDArray[np.int64]:
        """The half of the rows that is farther from one of the sample."""
        found = self._searcher.among(self._queries[:1], (len(self._live) + 1) // 2, self._live)
        return np.setdiff1d(self._live, found.rows)

    def recall(self, chosen: NDArray[np.int64] | None, *, shortcut: bool = True) -> float:
        """Of the 10 best of each query among the chosen rows, or all, the share found; what scores as well counts."""
        rows = self._live if chosen is None else chosen
        depth, count = min(_DEPTH, len(rows)), len(self._queries)
        if not depth:
            return 1.0
        truth = _top(self._searcher.among(self._queries, depth, rows), count, depth)
        found = replace(self._searcher, shortcut=shortcut).search(self._queries, depth, chosen)
        return float((_top(found, count, depth) >= truth[:, -1:]).mean())


def _top(found: Candidates, count: int, depth: int) -> NDArray[np.float32]:
    """The best scores of each query, falling: float32 (Q, depth)."""
    scores = np.full((count, depth), -np.inf, np.float32)
    for q in range(count):
        best = -np.sort(-found.scores[found.queries == q])[:depth]
        scores[q, : len(best)] = best
    return scores
