"""An approximate index: any usable FAISS index, append-only, with the dead marked instead of removed.

It nominates more candidates than asked for; their scores are exact, from the stored vectors, so a score never depends
on how an index rounds, and a coarse index costs recall and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnstore.ranking import overflows
from knnstore.types import Metric
from knnstore_faiss.factory import Effort, bitmap, make_index, search_parameters
from knnstore_faiss.library import load_faiss

__all__ = ["AnnIndex"]

_MOST_EF = 4096
_LONGEST = 1e18
"""FAISS squares norms in float32, and where that overflows, its training ends the process. Longer vectors are given to
it shortened: their exact scores come from the stored ones, and a store that has any is searched exactly."""


class AnnIndex:
    """A FAISS index and the row of each of its entries.

    Args:
        text: the factory string.
        dim: D.
        metric: the metric.
        effort: how hard to look; changed by tuning.
    """

    def __init__(self, text: str, dim: int, metric: Metric, effort: Effort) -> None:
        self.index: Any = make_index(text, dim, metric)
        self.effort, self._metric = effort, metric
        self.rows = np.empty(0, np.int64)
        self.alive = np.empty(0, bool)
        self.recall: float | None = None
        self.trained_on = 0
        self.largest = 0.0
        """No vector of it has a larger norm."""

    @property
    def live(self) -> int:
        """Entries that are not dead."""
        return int(self.alive.sum())

    @property
    def dead(self) -> int:
        """Entries that are marked as gone."""
        return len(self.rows) - self.live

    def train(self, sample: NDArray[np.float32]) -> None:
        """Train on float32 (M, D), where there is something to train."""
        if not self.index.is_trained:
            self.index.train(_shortened(sample)[0])

    def add(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Append records; ``rows`` rise, beyond every row before."""
        vectors, largest = _shortened(vectors)
        self.index.add(vectors)
        self.largest = max(self.largest, largest)
        self.rows = np.concatenate([self.rows, rows])
        self.alive = np.concatenate([self.alive, np.ones(len(rows), bool)])

    def fits(self, queries: NDArray[np.float32]) -> bool:
        """Whether FAISS can compare float32 (Q, D) with what is here; where not, search exactly."""
        return self.largest <= _LONGEST and not overflows(queries, self.largest, self._metric)

    def remove(self, rows: NDArray[np.int64]) -> None:
        """Mark records as dead; rows that are not here are ignored."""
        self.alive[self._positions(rows)] = False

    def _positions(self, rows: NDArray[np.int64]) -> NDArray[np.intp]:
        if not len(self.rows):
            return np.empty(0, np.intp)
        at = np.minimum(np.searchsorted(self.rows, rows), len(self.rows) - 1)
        here: NDArray[np.intp] = at[self.rows[at] == rows]
        return here

    def nominate(self, queries: NDArray[np.float32], k: int, chosen: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """Rows that are probably among the k best of each query: int64 (Q, M ≥ k), -1 where nothing was found.

        Args:
            queries: float32 (Q, D).
            k: how many are wanted.
            chosen: int64, the rows to choose from; None for all.
        """
        faiss = load_faiss()
        allowed = self.alive
        if chosen is not None:
            allowed = np.zeros_like(self.alive)
            allowed[self._positions(chosen)] = True
            allowed &= self.alive
        bits = bitmap(allowed)
        everything = chosen is None and not self.dead
        selector = None if everything else faiss.IDSelectorBitmap(len(self.rows), faiss.swig_ptr(bits))
        share = max(int(allowed.sum()), 1) / max(len(self.rows), 1)
        count = min(max(k * self.effort.refine, 32), len(self.rows))
        effort = Effort(self.effort.nprobe, self._wider(share, count), self.effort.refine)
        _, found = self.index.search(queries, count, params=search_parameters(self.index, selector, effort))
        return np.where(found >= 0, self.rows[np.maximum(found, 0)], -1)

    def _wider(self, share: float, count: int) -> int:
        """A graph walked under a filter meets as many entries for each one allowed as the filter leaves out."""
        wanted = max(self.effort.ef_search, count)
        return max(count, min(_MOST_EF, int(wanted / max(share, 1 / 16))))


def _shortened(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Rows of a norm that FAISS can square, and the largest norm that there was."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    largest = float(norms.max(initial=0))
    if largest > _LONGEST:
        vectors = (vectors * np.minimum(1, _LONGEST / np.maximum(norms, 1))[:, None]).astype(np.float32)
    return vectors, largest
