"""The store in memory: exact, lost when the process ends. The reference that the others are measured against."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from knnstore.abc import Backend, EmbeddingStore, OpenRequest
from knnstore.errors import ConflictError, StoreNotFoundError
from knnstore.filters import Filter
from knnstore.hookspecs import Register, hookimpl
from knnstore.ranking import best, error_bound, pair_scores
from knnstore.types import Batch, Capabilities, Column, Conflict, Hits, Records, StoreSpec, StoreStats, empty_column
from knnstore.url import StoreURL

__all__ = ["MemoryBackend", "MemoryStore", "knnstore_register"]


class _Collection:
    """Parallel columns, one entry a record. Shared by every store opened on the same name in this process."""

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self.lock = threading.RLock()
        self.revision = 0
        self.ids = np.empty(0, object)
        self.vectors = np.empty((0, spec.dim), np.float32)
        self.fields: dict[str, Column] = {name: empty_column(kind, 0) for name, kind in spec.fields.items()}

    def positions(self, ids: list[str]) -> NDArray[np.intp]:
        """Where each id is, -1 where it is not."""
        where = {value: i for i, value in enumerate(self.ids)}
        return np.array([where.get(value, -1) for value in ids], np.intp)

    def keep(self, kept: NDArray[np.bool_]) -> None:
        self.revision += 1
        self.ids, self.vectors = self.ids[kept], self.vectors[kept]
        self.fields = {name: column[kept] for name, column in self.fields.items()}

    def append(self, batch: Batch, rows: NDArray[np.intp]) -> None:
        self.revision += 1
        ids = np.array(batch.ids, object)[rows]
        self.ids, self.vectors = np.concatenate([self.ids, ids]), np.concatenate([self.vectors, batch.vectors[rows]])
        self.fields = {name: np.concatenate([self.fields[name], batch.fields[name][rows]]) for name in self.fields}

    def match(self, where: Filter | None) -> NDArray[np.intp]:
        return np.arange(len(self.ids)) if where is None else np.flatnonzero(where.mask(self.fields))


class MemoryStore(EmbeddingStore):
    """See the module. Thread-safe; every write replaces the columns, so readers keep a consistent view."""

    def __init__(self, request: OpenRequest, collection: _Collection) -> None:
        super().__init__(request.url, collection.spec, read_only=request.read_only)
        self._data = collection

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(persistent=False, multi_process=False, snapshot=False)

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        with self._data.lock:
            there = self._data.positions(batch.ids)
            stored = there >= 0
            if on_conflict == "error" and stored.any():
                first = batch.ids[int(np.flatnonzero(stored)[0])]
                raise ConflictError(f"{self.url}: id {first!r} is stored already", hint="Nothing was written.")
            rows = np.flatnonzero(~stored) if on_conflict == "skip" else np.arange(len(batch))
            if on_conflict == "replace" and stored.any():
                kept = np.ones(len(self._data.ids), bool)
                kept[there[stored]] = False
                self._data.keep(kept)
            self._data.append(batch, rows)
            return len(rows)

    def _delete_ids(self, ids: list[str]) -> None:
        with self._data.lock:
            gone = set(ids)
            self._data.keep(np.array([value not in gone for value in self._data.ids], bool))

    def _delete_where(self, where: Filter) -> None:
        with self._data.lock:
            self._data.keep(~where.mask(self._data.fields))

    def _search(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        with self._data.lock:
            rows = self._data.match(where)
            all_ids, vectors = self._data.ids[rows], self._data.vectors[rows]
            columns = {name: self._data.fields[name][rows] for name in fields}
        hits = Hits(
            empty_column(str, (len(queries), k)),
            np.full((len(queries), k), -np.inf, np.float32),
            {name: empty_column(self.spec.fields[name], (len(queries), k)) for name in fields},
        )
        for q, candidates in enumerate(_nominated(queries, vectors, k, self.spec.metric == "l2")):
            scores = pair_scores(queries[q], vectors[candidates], self.spec.metric)
            order = best(all_ids[candidates], scores, k)
            found, picked = len(order), candidates[order]
            hits.ids[q, :found], hits.scores[q, :found] = all_ids[picked], scores[order]
            for name in fields:
                hits.fields[name][q, :found] = columns[name][picked]
        return hits

    def _get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        with self._data.lock:
            there = self._data.positions(ids)
            return self._records(there[there >= 0], fields, with_vectors)

    def _count(self, where: Filter | None) -> int:
        with self._data.lock:
            return len(self._data.match(where))

    def _revision(self) -> str:
        return str(self._data.revision)

    def _scan(self, where: Filter | None, fields: list[str], with_vectors: bool, batch_size: int) -> Iterator[Records]:
        with self._data.lock:
            records = self._records(self._data.match(where), fields, with_vectors)
        for start in range(0, len(records), batch_size):
            part = slice(start, start + batch_size)
            vectors = None if records.vectors is None else records.vectors[part]
            yield Records(records.ids[part], vectors, {name: column[part] for name, column in records.fields.items()})

    def _records(self, rows: NDArray[np.intp], fields: list[str], with_vectors: bool) -> Records:
        vectors = self._data.vectors[rows] if with_vectors else None
        return Records(self._data.ids[rows], vectors, {name: self._data.fields[name][rows] for name in fields})

    def _stats(self) -> StoreStats:
        with self._data.lock:
            return StoreStats("memory", len(self._data.ids), None, self._data.vectors.nbytes, recall=1.0)


def _nominated(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int, squared: bool
) -> Iterator[NDArray[np.intp]]:
    """For each query, every record that could be among its k best once scored exactly; see :mod:`knnstore.ranking`."""
    norms = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    product = queries @ vectors.T
    rough = 2 * product.astype(np.float64) - norms if squared else product  # |q|² is the same for every record
    bounds = error_bound(queries, float(np.sqrt(norms.max(initial=0))), "l2" if squared else "dot")
    for row, bound in zip(rough, bounds, strict=True):
        if len(row) <= k:
            yield np.arange(len(row))
        else:
            yield np.flatnonzero(row >= np.partition(row, -k)[-k] - 2 * bound)


class MemoryBackend(Backend):
    """Collections by name, shared within this process."""

    name = "memory"
    summary = "in this process only, exact, nothing is kept; for tests, notebooks and small jobs"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._collections: dict[str, _Collection] = {}

    def open(self, request: OpenRequest) -> MemoryStore:
        request.url.check_options(())
        key = request.url.host + request.url.path
        with self._lock:
            collection = self._collections.get(key)
            if collection is None and (request.spec is None or request.read_only):
                raise StoreNotFoundError(f"nothing is stored at {request.url}", hint="Give a spec to create it.")
            if collection is None:
                assert request.spec is not None  # by the branch above
                collection = self._collections[key] = _Collection(request.spec)
        if request.spec is not None:
            request.spec.check_against(collection.spec, str(request.url))
        return MemoryStore(request, collection)

    def collections(self, url: StoreURL) -> list[StoreURL]:
        prefix = (url.host + url.path).rstrip("/")
        below = [key for key in self._collections if key.startswith(prefix + "/") and "/" not in key[len(prefix) + 1 :]]
        here = [url] if url.host + url.path in self._collections else []
        return here + [url.child(key[len(prefix) + 1 :]) for key in sorted(below)]


_backend = MemoryBackend()


@hookimpl
def knnstore_register(register: Register) -> None:
    """Register the memory backend."""
    register(_backend)
