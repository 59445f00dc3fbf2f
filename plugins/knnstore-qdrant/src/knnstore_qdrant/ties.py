"""The same answer whatever else is stored, from an engine that gives a pair of vectors always the same score.

Such an engine still chooses freely among equal scores: which of two twins gets the last of the k places depends on
where they lie. So one hit more than asked for is fetched; where it equals the k-th, the search is repeated with a
larger limit until the whole group of equals is there; and equals are put in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from knnstore.types import Hits
from knnstore_qdrant.points import ID, ScoredPoint

__all__ = ["by_id", "complete_ties"]

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
    return [_first(found, k, sign) for found in whole]


def _tied(found: Sequence[ScoredPoint], k: int, limit: int) -> bool:
    """Whether the group of equals at the k-th place may go on beyond what was fetched."""
    return len(found) >= limit and found[-1].score == found[k - 1].score


def _first(found: Sequence[ScoredPoint], k: int, sign: int) -> Sequence[ScoredPoint]:
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
