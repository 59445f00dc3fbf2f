"""An approximate index: any usable FAISS index, append-only, with the dead marked instead of removed.

It nominates more candidates than asked for; their scores are exact, from the stored vectors, so a score never depends
on how an index rounds, and a coarse index costs recall and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnstore.ranking import overflows
from knnstore.types import Dtype, Metric
from knnstore_faiss.factory import Effort, bitmap, make_index, search_parameters
from knnstore_faiss.library import load_faiss

__all__ = ["AnnIndex"]

_OF_GRAPH, _OF_LIST = 60, 4
_SHALLOW = 32
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
        dtype: what the numbers of the vectors are.
    """

    def __init__(self, text: str, dim: int, metric: Metric, effort: Effort, dtype: Dtype) -> None:
        self.index: Any = make_index(text, dim, metric)
        self.effort, self._metric, self._dtype = effort, metric, dtype
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

    def allowed(self, chosen: NDArray[np.int64] | None) -> NDArray[np.bool_]:
        """Which entries are alive and among the chosen rows, or alive where None: bool (N,)."""
        if chosen is None:
            return self.alive
        allowed = np.zeros_like(self.alive)
        allowed[self._positions(chosen)] = True
        return allowed & self.alive

    @property
    def lossless(self) -> bool:
        """Whether the index holds the very vectors, so that nothing has to be read from the database."""
        if self.largest > _LONGEST:
            return False  # shortened
        faiss, held = load_faiss(), self._holder()
        if isinstance(held, faiss.IndexScalarQuantizer | faiss.IndexIVFScalarQuantizer):
            whole = held.sq.qtype == faiss.ScalarQuantizer.QT_fp16 and not getattr(held, "by_residual", False)
            return self._dtype == "float16" and whole
        return type(held) in (faiss.IndexFlat, faiss.IndexFlatIP, faiss.IndexFlatL2, faiss.IndexIVFFlat)

    def _holder(self) -> Any:
        """What keeps the entries: of a graph, the part that it walks over."""
        faiss = load_faiss()
        index = faiss.downcast_index(self.index)
        return faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index

    def vectors_of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of rows that are here, where the index is lossless: float32 (M, D)."""
        faiss, held = load_faiss(), self._holder()
        at = np.searchsorted(self.rows, rows)
        if isinstance(held, faiss.IndexIVF):
            if held.direct_map.no():
                held.make_direct_map()  # 8 bytes an entry
            return np.asarray(held.reconstruct_batch(at), np.float32)
        if isinstance(held, faiss.IndexScalarQuantizer):
            return np.asarray(held.reconstruct_batch(at), np.float32)
        matrix = faiss.rev_swig_ptr(held.get_xb(), held.ntotal * held.d).reshape(held.ntotal, held.d)
        return np.asarray(matrix[at], np.float32)  # a copy: the matrix moves when it grows

    def nearest(self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Entries that are probably the nearest of all: intp (Q, M ≤ count); -1 for one that is not allowed.

        They are looked for without any filter. A graph walked under one goes astray: it stops once it has seen enough
        that is nearer than anything allowed, wherever it is then.
        """
        count = min(count, len(self.rows))
        parameters = search_parameters(self.index, None, self._deep(count))
        _, found = self.index.search(queries, count, params=parameters)
        return np.where((found >= 0) & allowed[np.maximum(found, 0)], found, -1)

    def _deep(self, count: int) -> Effort:
        """The effort at which the last of ``count`` are as right as the first few; those may fill further cells."""
        core = self._core()
        cell = len(self.rows) / getattr(core, "nlist", 1)  # how many it holds
        further = max(0, count - _SHALLOW) / max(cell, 1)
        return Effort(int(self.effort.nprobe * (1 + further)), max(self.effort.ef_search, count), self.effort.refine)

    def _core(self) -> Any:
        """What is behind a transform of the vectors."""
        faiss = load_faiss()
        index = faiss.downcast_index(self.index)
        return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index

    def everywhere(self, queries: NDArray[np.float32], count: int, allowed: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The allowed entries of the best codes, without any shortcut: intp (Q, count), -1 where there are no more."""
        faiss, index = load_faiss(), self._holder()
        bits = bitmap(allowed)
        selector = faiss.IDSelectorBitmap(len(self.rows), faiss.swig_ptr(bits))
        parameters = search_parameters(index, selector, Effort(len(self.rows), len(self.rows), 1))
        _, found = index.search(queries, min(count, len(self.rows)), params=parameters)
        return np.asarray(found, np.intp)

    def products(self, count: int) -> float:
        """What :meth:`nearest` costs a query, in products of a query and a vector that a scan would make meanwhile.

        Measured on 40,000 × 256 with 200 queries at once; a graph jumps about in memory, a list is read in order, but
        by no product of matrices.
        """
        faiss, effort, core = load_faiss(), self._deep(count), self._core()
        if isinstance(core, faiss.IndexHNSW):
            return _OF_GRAPH * effort.ef_search
        probed = min(1.0, effort.nprobe / core.nlist) if isinstance(core, faiss.IndexIVF) else 1.0
        return _OF_LIST * len(self.rows) * probed


def _shortened(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Rows of a norm that FAISS can square, and the largest norm that there was."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    largest = float(norms.max(initial=0))
    if largest > _LONGEST:
        vectors = (vectors * np.minimum(1, _LONGEST / np.maximum(norms, 1))[:, None]).astype(np.float32)
    return vectors, largest
