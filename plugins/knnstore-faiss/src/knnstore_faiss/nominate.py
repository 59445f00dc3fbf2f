"""Choosing candidates from matrix products, without ever missing one; and ordering them once they are scored exactly.

A product of whole matrices is fast but rounds differently with its shape, so it only nominates: everything whose rough
score comes within twice the error bound of the k-th best. What is left, little more than k a query, is scored pair by
pair (:func:`knnstore.ranking.pair_scores`) and ordered by falling score, then by rising id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Candidates", "Nominator", "joined", "ranked"]

_GROUP = 64


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Pairs of a query and a stored record.

    Args:
        queries: intp (P,), which query.
        rows: int64 (P,), which record.
        scores: float32 (P,), exact.
    """

    queries: NDArray[np.intp]
    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


def joined(parts: list[Candidates]) -> Candidates:
    """All of them, one after the other."""
    return Candidates(
        np.concatenate([part.queries for part in parts] or [np.empty(0, np.intp)]),
        np.concatenate([part.rows for part in parts] or [np.empty(0, np.int64)]),
        np.concatenate([part.scores for part in parts] or [np.empty(0, np.float32)]),
    )


class Nominator:
    """Keeps, block by block, every record that could be among the k best of its query.

    Args:
        count: Q.
        k: how many are wanted for each query.
        slack: float64 (Q,), twice the error bound of each query's rough scores.
    """

    def __init__(self, count: int, k: int, slack: NDArray[np.float64]) -> None:
        self._k, self._slack = k, slack
        self._best = np.empty((count, 0), np.float32)
        self._lowest = np.float32(-np.inf)
        self._kept: list[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]] = []

    def offer(self, rough: NDArray[np.float32], first: int, *, crossed_out: bool = False) -> None:
        """Take the rough scores of one block, all of them finite.

        Every column belongs to a group, and groups are so small that the best of each serves twice: the k-th best of
        them is no better than the k-th best of all and much faster to find; and only a group whose best comes near
        that has members to look at. So each score is touched once, by a maximum.

        Args:
            rough: float32 (Q, M).
            first: number of the first column.
            crossed_out: -inf marks what must not be found.
        """
        self._lowest = np.float32(np.finfo(np.float32).min if crossed_out else -np.inf)
        width = rough.shape[1]
        group = min(_GROUP, max(1, width // (4 * self._k)))
        count = width // group
        tops = rough[:, : group * count].reshape(len(rough), group, count).max(axis=1)
        tail = rough[:, group * count :]
        self._raise_threshold(tops, tail)
        members = np.arange(0, group * count, count)
        query, column = self._near(tops)
        self._keep(rough, np.repeat(query, group), (column[:, None] + members).ravel(), first)
        query, column = self._near(tail)
        self._keep(rough, query, column + group * count, first)

    def result(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Query and number of each candidate: intp (P,) each."""
        queries, numbers, rough = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        stays = rough >= self._threshold()[queries]
        return queries[stays], numbers[stays]

    def _near(self, rough: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        near = np.flatnonzero(rough >= self._threshold()[:, None])
        query, column = np.divmod(near, max(rough.shape[1], 1))
        return query, column

    def _keep(self, rough: NDArray[np.float32], query: NDArray[np.intp], column: NDArray[np.intp], first: int) -> None:
        scores = rough[query, column]
        stays = np.flatnonzero(scores >= self._threshold()[query])
        self._kept.append((query[stays], column[stays] + first, scores[stays]))

    def _raise_threshold(self, *some: NDArray[np.float32]) -> None:
        best = np.concatenate([self._best, *some], axis=1)
        if best.shape[1] > self._k:
            best = np.partition(best, -self._k, axis=1)[:, -self._k :]
        self._best = best

    def _threshold(self) -> NDArray[np.float32]:
        if self._best.shape[1] < self._k:
            return np.full(len(self._best), self._lowest)
        lowest = self._best.min(axis=1).astype(np.float64) - self._slack
        below = np.nextafter(lowest.astype(np.float32), np.float32(-np.inf))
        return np.asarray(np.maximum(below, self._lowest), np.float32)


def ranked(
    found: Candidates, shape: tuple[int, int], ids_of: Callable[[NDArray[np.int64]], NDArray[np.object_]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The best of each query in order.

    Args:
        found: candidates with exact scores.
        shape: (Q, K).
        ids_of: the ids of distinct rows; asked only for what is tied.

    Returns:
        rows int64 (Q, K), -1 where nothing was found, and scores float32 (Q, K), -inf there.
    """
    rows, scores = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
    if not len(found.rows):
        return rows, scores
    k = shape[1]
    order = np.lexsort((-found.scores, found.queries))
    place = _places(found.queries[order])
    tied = _tied(found, order, place, k) if len(order) else order
    if len(tied):
        names = np.zeros(len(found.rows), np.int64)
        names[tied] = _name_order(found.rows[tied], ids_of)
        order = np.lexsort((names, -found.scores, found.queries))
        place = _places(found.queries[order])
    order, place = order[place < k], place[place < k]
    rows[found.queries[order], place] = found.rows[order]
    scores[found.queries[order], place] = found.scores[order]
    return rows, scores


def _places(queries: NDArray[np.intp]) -> NDArray[np.intp]:
    """The position of each candidate among those of its query; ``queries`` is sorted."""
    return np.arange(len(queries)) - np.searchsorted(queries, queries)


def _tied(found: Candidates, order: NDArray[np.intp], place: NDArray[np.intp], k: int) -> NDArray[np.intp]:
    """Candidates with the score of another of their query, where that decides about the first k places."""
    queries, scores = found.queries[order], found.scores[order]
    same = (queries[1:] == queries[:-1]) & (scores[1:] == scores[:-1])
    run = np.concatenate([[0], np.cumsum(~same)])  # numbers the groups of equal score
    size = np.bincount(run)
    start = np.concatenate([[0], np.flatnonzero(~same) + 1])
    matters = (size > 1) & (place[start] < k)
    return np.asarray(order[matters[run]], np.intp)


def _name_order(
    rows: NDArray[np.int64], ids_of: Callable[[NDArray[np.int64]], NDArray[np.object_]]
) -> NDArray[np.int64]:
    """The position of each row's id among all their ids."""
    distinct, inverse = np.unique(rows, return_inverse=True)
    ids = ids_of(distinct)
    position = np.empty(len(distinct), np.int64)
    position[sorted(range(len(distinct)), key=ids.__getitem__)] = np.arange(len(distinct))
    return np.asarray(position[inverse], np.int64)
