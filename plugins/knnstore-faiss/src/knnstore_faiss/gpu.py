"""Exact search on a GPU. Written against FAISS's GPU interface and **not yet run on a GPU**; see docs/design.

The GPU nominates; the scores are computed on the CPU from the stored vectors, as everywhere, so results are the same
bit for bit. Where the nominated cannot be shown to contain the k best (ties, very large k), the CPU searches instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import BackendUnavailableError
from knnstore.ranking import error_bound, overflows
from knnstore.types import Metric
from knnstore_faiss.flat import FlatIndex, Matrix, exact_scores
from knnstore_faiss.library import load_faiss
from knnstore_faiss.nominate import Candidates

__all__ = ["GpuNominator", "GpuSearcher", "device_number"]

_MOST = 2048
"""Largest k of FAISS on a GPU."""

Rough: TypeAlias = tuple[NDArray[np.float32], NDArray[np.int64]]
Nominate: TypeAlias = Callable[[NDArray[np.float32], Matrix, int, object], Rough]
"""(queries, vectors, k, version) to rough scores (Q, k), higher is better, falling, and positions (Q, k).
Vectors of the same version are the same; None is never kept."""


def device_number(device: str) -> int | None:
    """Which GPU ``device`` means, None for the CPU.

    Raises:
        BackendUnavailableError: a GPU is asked for by name and cannot be used.
    """
    if device in ("auto", "cpu"):  # until this has run on a GPU, it is for those who ask for it by name
        return None
    faiss = load_faiss()
    count = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    number = int(device.partition(":")[2] or 0)
    if number >= count:
        built = hasattr(faiss, "StandardGpuResources")
        raise BackendUnavailableError(
            f"device={device}",
            expected=f"more than {number} usable GPUs",
            got=f"{count} of them" if built else "a FAISS without GPU support",
            hint="" if built else 'Replace faiss-cpu: pip uninstall faiss-cpu && pip install "knnstore-faiss[gpu]"',
        )
    return number


class GpuNominator:
    """Nomination on one GPU: an index there for all vectors, ``faiss.knn_gpu`` for a selection.

    Args:
        number: which GPU.
        dim: D.
        metric: the metric.
    """

    def __init__(self, number: int, dim: int, metric: Metric) -> None:
        self._faiss, self._number, self._squared = load_faiss(), number, metric == "l2"
        self._resources = self._faiss.StandardGpuResources()
        config = self._faiss.GpuIndexFlatConfig()
        config.device = number
        kind = self._faiss.GpuIndexFlatL2 if self._squared else self._faiss.GpuIndexFlatIP
        self._index = kind(self._resources, dim, config)
        self._version: object = None

    def __call__(self, queries: NDArray[np.float32], vectors: Matrix, k: int, version: object) -> Rough:
        """See :data:`Nominate`."""
        if version is None:
            kind = self._faiss.METRIC_L2 if self._squared else self._faiss.METRIC_INNER_PRODUCT
            rough, positions = self._faiss.knn_gpu(
                self._resources, queries, _wide(vectors), k, metric=kind, device=self._number
            )
        else:
            if version != self._version:
                self._version = None
                self._index.reset()
                self._index.add(_wide(vectors))
                self._version = version
            rough, positions = self._index.search(queries, k)
        return (-rough if self._squared else rough), positions


def _wide(vectors: Matrix) -> NDArray[np.float32]:
    """In float32: there, halves would be multiplied as such, and the error has no bound that we know."""
    return vectors.astype(np.float32, copy=False)


class GpuSearcher:
    """Searches a :class:`FlatIndex` with another nominator.

    Args:
        flat: the vectors, in main memory.
        nominate: how candidates are found.
    """

    def __init__(self, flat: FlatIndex, nominate: Nominate) -> None:
        self._flat, self._nominate = flat, nominate

    def search(self, queries: NDArray[np.float32], k: int, chosen: NDArray[np.intp] | None) -> Candidates:
        """See :meth:`FlatIndex.search`."""
        vectors = self._flat.vectors if chosen is None else self._flat.vectors[chosen]
        wanted = min(len(vectors), k + max(16, k // 4), _MOST)
        overflow = overflows(queries, self._flat.largest, self._flat.metric)
        if overflow or wanted < min(k, len(vectors)) or not wanted:
            return self._flat.search(queries, k, chosen)
        rough, positions = self._nominate(queries, vectors, wanted, self._flat.version if chosen is None else None)
        at = np.repeat(np.arange(len(queries)), wanted)
        position = np.maximum(positions, 0).ravel()  # -1, where NaN keeps FAISS from filling up, fails the check below
        scores = exact_scores(queries, at, vectors, position, self._flat.metric)
        safe: NDArray[np.bool_] = np.all(positions >= 0, axis=1)
        if wanted < len(vectors):
            kth = np.partition(scores.reshape(len(queries), wanted), -k, axis=1)[:, -k]
            bound = error_bound(queries, self._flat.largest, self._flat.metric)
            safe = safe & (kth.astype(np.float64) > rough[:, -1].astype(np.float64) + bound)
        stays = safe[at]
        rows = self._flat.rows[position if chosen is None else chosen[position]]
        return self._with_doubtful(Candidates(at[stays], rows[stays], scores[stays]), queries, k, chosen, ~safe)

    def _with_doubtful(
        self,
        found: Candidates,
        queries: NDArray[np.float32],
        k: int,
        chosen: NDArray[np.intp] | None,
        doubtful: NDArray[np.bool_],
    ) -> Candidates:
        numbers = np.flatnonzero(doubtful)
        if not len(numbers):
            return found
        more = self._flat.search(queries[numbers], k, chosen)
        return Candidates(
            np.concatenate([found.queries, numbers[more.queries]]),
            np.concatenate([found.rows, more.rows]),
            np.concatenate([found.scores, more.scores]),
        )
