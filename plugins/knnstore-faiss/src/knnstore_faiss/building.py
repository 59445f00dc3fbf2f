"""Training, filling, tuning and searching an approximate index, with the stored vectors at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from knnstore_faiss.ann import AnnIndex
from knnstore_faiss.database import Commit, Database
from knnstore_faiss.factory import Effort, training_size
from knnstore_faiss.flat import FlatIndex, exact_scores
from knnstore_faiss.nominate import Candidates, joined
from knnstore_faiss.options import Options
from knnstore_faiss.schema import Connection

__all__ = ["build", "exact_among", "first_effort", "recall_of", "search_approximately"]

_BLOCK = 8192
_FEW = 4096
"""A selection of no more rows is searched exactly: it is faster than an index that has to skip nearly everything."""
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
    index = AnnIndex(options.index, spec.dim, spec.metric, first_effort(options))
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
    queries, truth = _truth(index, database, connection, seed)
    for attempt in range(_DOUBLINGS + 1):
        index.recall = _recall(index, database, connection, queries, truth)
        if index.recall >= _GOOD or attempt == _DOUBLINGS:
            return
        index.effort = index.effort.doubled()


def recall_of(index: AnnIndex, database: Database, connection: Connection, seed: int) -> float:
    """Share of the true 10 nearest that are found, for a sample of the stored vectors."""
    queries, truth = _truth(index, database, connection, seed)
    return _recall(index, database, connection, queries, truth)


def _truth(
    index: AnnIndex, database: Database, connection: Connection, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sampled vectors and the score of the last of their 10 best: what scores as well is as good an answer."""
    live = index.rows[index.alive]
    queries = database.vectors_of(connection, _sample(live, _SAMPLE, seed))
    depth = min(_DEPTH, len(live))
    return queries, _top(exact_among(database, connection, queries, depth, live), len(queries), depth)


def _recall(
    index: AnnIndex,
    database: Database,
    connection: Connection,
    queries: NDArray[np.float32],
    truth: NDArray[np.float32],
) -> float:
    depth = truth.shape[1]
    found = _top(search_approximately(index, database, connection, queries, depth, None), len(queries), depth)
    return float((found >= truth[:, -1:]).mean())


def _top(found: Candidates, count: int, depth: int) -> NDArray[np.float32]:
    """The best scores of each query, falling: float32 (Q, depth)."""
    scores = np.full((count, depth), -np.inf, np.float32)
    for q in range(count):
        best = -np.sort(-found.scores[found.queries == q])[:depth]
        scores[q, : len(best)] = best
    return scores


def search_approximately(
    index: AnnIndex,
    database: Database,
    connection: Connection,
    queries: NDArray[np.float32],
    k: int,
    chosen: NDArray[np.int64] | None,
) -> Candidates:
    """What the index nominates, scored from the stored vectors; exactly where the index does not find enough."""
    available = index.live if chosen is None else len(chosen)
    if available <= k or (chosen is not None and available <= _FEW) or not index.fits(queries):
        everything = index.rows[index.alive] if chosen is None else chosen
        return exact_among(database, connection, queries, k, everything)
    nominated = index.nominate(queries, k, chosen)
    enough = (nominated >= 0).sum(axis=1) >= k
    at, column = np.nonzero((nominated >= 0) & enough[:, None])
    found = _scored(database, connection, queries, at, nominated[at, column])
    if enough.all():
        return found
    short = np.flatnonzero(~enough)
    everything = index.rows[index.alive] if chosen is None else chosen
    more = exact_among(database, connection, queries[short], k, everything)
    return joined([found, Candidates(short[more.queries], more.rows, more.scores)])


def _scored(
    database: Database,
    connection: Connection,
    queries: NDArray[np.float32],
    at: NDArray[np.intp],
    rows: NDArray[np.int64],
) -> Candidates:
    distinct, inverse = np.unique(rows, return_inverse=True)
    scores = np.empty(len(at), np.float32)
    order = np.argsort(inverse, kind="stable")
    for start in range(0, len(distinct), _BLOCK):
        vectors = database.vectors_of(connection, distinct[start : start + _BLOCK])
        low, high = np.searchsorted(inverse[order], [start, start + len(vectors)])
        part = order[low:high]
        scores[part] = exact_scores(queries, at[part], vectors, inverse[part] - start, database.spec.metric)
    return Candidates(at, rows, scores)


def exact_among(
    database: Database, connection: Connection, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]
) -> Candidates:
    """The exact search of some rows, read from the database block by block: bounded memory, whatever their number."""
    found = []
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        flat = FlatIndex(database.spec.dim, database.spec.metric, len(part))
        flat.add(part, database.vectors_of(connection, part))
        found.append(flat.search(queries, k, None))
    return joined(found)
