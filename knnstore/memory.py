"""The store in memory: exact, lost when the process ends. The reference that the others are measured against."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnstore.abc import Backend, EmbeddingStore, OpenRequest
from knnstore.errors import ConflictError, StoreNotFoundError
from knnstore.filters import Filter, Scalar
from knnstore.hookspecs import Register, hookimpl
from knnstore.ranking import best, nominated, pair_scores
from knnstore.types import Batch, Capabilities, Column, Conflict, Hits, Records, StoreSpec, StoreStats, empty_column
from knnstore.url import StoreURL

__all__ = ["MemoryBackend", "MemoryStore", "knnstore_register"]


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """The columns at one moment. Rows below its length are never written again, so readers need no lock."""

    ids: NDArray[np.object_]
    vectors: NDArray[np.float32] | NDArray[np.float16]
    norms: NDArray[np.float64]
    fields: dict[str, Column]

    def match(self, where: Filter | None) -> NDArray[np.intp]:
        return np.arange(len(self.ids)) if where is None else np.flatnonzero(where.mask(self.fields))

    def take(self, rows: NDArray[np.intp] | slice) -> _View:
        columns = {name: column[rows] for name, column in self.fields.items()}
        return _View(self.ids[rows], self.vectors[rows], self.norms[rows], columns)

    def records(self, rows: NDArray[np.intp], fields: list[str], with_vectors: bool) -> Records:
        """Copies, which the caller may scribble on."""
        columns = {name: self.fields[name][rows] for name in fields}
        return Records(self.ids[rows], self.wide(rows) if with_vectors else None, columns)

    def wide(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """A copy of some vectors, in float32 whatever they are kept as."""
        return self.vectors[rows].astype(np.float32, copy=False)


class _Collection:
    """Columns that grow at the end, shared by every store opened on the same name in this process.

    A write appends; replaced and deleted rows are only marked, and squeezed out before the next search or scan. So a
    write costs what it writes, and a row that a reader may be looking at never changes.
    """

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self.lock = threading.RLock()
        self.revision = 0
        self.removed = False
        self.rows: dict[str, int] = {}
        self._dead: set[int] = set()
        self._used = 0
        self._columns = _View(
            empty_column(str, 0),
            np.empty((0, spec.dim), spec.dtype),
            np.empty(0, np.float64),
            {name: empty_column(kind, 0) for name, kind in spec.fields.items()},
        )

    def view(self) -> _View:
        """All live records; no copy unless rows have died since the last one."""
        with self.lock:
            if self._dead:
                alive = np.ones(self._used, np.bool_)
                alive[list(self._dead)] = False
                self._columns = self._columns.take(np.flatnonzero(alive))
                self._dead, self._used = set(), len(self._columns.ids)
                self.rows = {value: row for row, value in enumerate(self._columns.ids.tolist())}
            return self._columns.take(slice(self._used))

    def find(self, ids: list[str]) -> tuple[_View, NDArray[np.intp]]:
        """The columns as they are, and the rows of those ids that are stored."""
        with self.lock:
            rows = [self.rows[value] for value in ids if value in self.rows]
            return self._columns.take(slice(self._used)), np.array(rows, np.intp)

    def remove(self, ids: Iterable[str]) -> int:
        """Forget records and count them; the caller holds the lock."""
        gone = [self.rows.pop(value) for value in ids if value in self.rows]
        self._dead.update(gone)
        self.revision += bool(gone)
        return len(gone)

    def write(self, batch: Batch, picked: list[int]) -> None:
        """Add records, in place of those of the same ids; the caller holds the lock."""
        self._reserve(self._used + len(picked))
        part, here = self._columns, slice(self._used, self._used + len(picked))
        part.ids[here] = [batch.ids[i] for i in picked]
        part.vectors[here] = batch.vectors[picked]
        part.norms[here] = np.einsum("nd,nd->n", batch.vectors[picked], batch.vectors[picked], dtype=np.float64)
        for name, column in part.fields.items():
            column[here] = batch.fields[name][picked]
        # Nothing has changed for anyone up to here, should memory have run out on the way.
        self._dead.update(self.rows[batch.ids[i]] for i in picked if batch.ids[i] in self.rows)
        self.rows.update({batch.ids[i]: self._used + n for n, i in enumerate(picked)})
        self._used += len(picked)
        self.revision += 1

    def change(self, rows: NDArray[np.intp], fields: dict[str, Any]) -> int:
        """Put values into fields of live rows and count the rows; the caller holds the lock.

        Into copies of those columns, whole, as a reader may be looking at the old ones; vectors are not touched.
        """
        columns = dict(self._columns.fields)
        for name, values in fields.items():
            columns[name] = columns[name].copy()
            columns[name][rows] = values
        self._columns = replace(self._columns, fields=columns)
        self.revision += 1
        return len(rows)

    def _reserve(self, rows: int) -> None:
        """Room for this many rows: at least doubled, into new arrays, as readers may hold the old ones."""
        if rows > len(self._columns.ids):
            old, size = self._columns, max(rows, 2 * len(self._columns.ids), 64)
            columns = {name: _grown(column, size) for name, column in old.fields.items()}
            self._columns = _View(
                _grown(old.ids, size), _grown(old.vectors, size), _grown(old.norms, size), columns
            )  # fmt: skip


def _grown(column: NDArray[Any], size: int) -> NDArray[Any]:
    grown = np.empty((size, *column.shape[1:]), column.dtype)
    grown[: len(column)] = column
    return grown


class MemoryStore(EmbeddingStore):
    """See the module. Thread-safe; searching holds no lock while it computes."""

    def __init__(self, request: OpenRequest, collection: _Collection) -> None:
        super().__init__(request.url, collection.spec, read_only=request.read_only)
        self._data = collection

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            persistent=False, conditional=True, update_in_place=True, revision=True, half_precision=True
        )  # fmt: skip

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        with self._data.lock:
            if self._data.removed:
                raise StoreNotFoundError(
                    f"{self.url}: the collection that was opened has been removed",
                    hint="Open it again. Nothing was written.",
                )
            stored = [value for value in batch.ids if value in self._data.rows]
            if on_conflict == "error" and stored:
                raise ConflictError(f"{self.url}: id {stored[0]!r} is stored already", hint="Nothing was written.")
            kept = set(stored) if on_conflict == "skip" else set()
            picked = [i for i, value in enumerate(batch.ids) if value not in kept]
            self._data.write(batch, picked)
            return len(picked)

    def _delete_ids(self, ids: list[str]) -> int:
        with self._data.lock:
            return self._data.remove(ids)

    def _delete_where(self, where: Filter) -> int:
        with self._data.lock:
            view = self._data.view()
            return self._data.remove(view.ids[view.match(where)].tolist())

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        with self._data.lock:
            _, rows = self._data.find(ids)
            there = [i for i, value in enumerate(ids) if value in self._data.rows]
            return self._data.change(rows, {name: column[there] for name, column in fields.items()})

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        with self._data.lock:
            return self._data.change(self._data.view().match(where), fields)

    def _search(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        view = self._data.view()
        if where is not None and len(rows := view.match(where)) < len(view.ids):  # a copy of all of them takes as long
            view = view.take(rows)
        hits = Hits.empty(len(queries), k, self.spec, fields)
        metric = self.spec.metric
        for q, candidates in enumerate(nominated(queries, view.vectors, view.norms, k, metric)):
            scores = pair_scores(queries[q], view.wide(candidates), metric)
            order = best(view.ids[candidates], scores, k)
            found, picked = len(order), candidates[order]
            hits.ids[q, :found], hits.scores[q, :found] = view.ids[picked], scores[order]
            for name in fields:
                hits.fields[name][q, :found] = view.fields[name][picked]
        return hits

    def _get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        view, rows = self._data.find(ids)
        return view.records(rows, fields, with_vectors)

    def _count(self, where: Filter | None) -> int:
        return len(self._data.rows) if where is None else len(self._data.view().match(where))

    def _scan(self, where: Filter | None, fields: list[str], with_vectors: bool, batch_size: int) -> Iterator[Records]:
        view = self._data.view()
        rows = view.match(where)
        for start in range(0, len(rows), batch_size):
            yield view.records(rows[start : start + batch_size], fields, with_vectors)

    def _revision(self) -> str:
        return str(self._data.revision)

    def _stats(self) -> StoreStats:
        view = self._data.view()
        return StoreStats("memory", len(view.ids), bytes_in_memory=view.vectors.nbytes, recall=1.0)


class MemoryBackend(Backend):
    """Collections by name, shared within this process."""

    name = "memory"
    summary = "in this process only, exact, nothing is kept; for tests, notebooks and small jobs"
    store_type: type[MemoryStore] = MemoryStore

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._collections: dict[str, _Collection] = {}

    def open(self, request: OpenRequest) -> MemoryStore:
        request.url.check_options(())
        key = _key(request.url)
        with self._lock:
            collection = self._collections.get(key)
            if collection is None and (request.spec is None or request.read_only):
                raise StoreNotFoundError(f"nothing is stored at {request.url}", hint="Give a spec to create it.")
            if collection is None:
                assert request.spec is not None  # by the branch above
                collection = self._collections[key] = _Collection(request.spec)
        if request.spec is not None:
            request.spec.check_against(collection.spec, str(request.url))
        return self.store_type(request, collection)

    def collections(self, url: StoreURL) -> list[StoreURL]:
        here, prefix = _key(url), _key(url) + "/"
        with self._lock:
            keys = sorted(self._collections)
        below = [key[len(prefix) :] for key in keys if key.startswith(prefix) and "/" not in key[len(prefix) :]]
        return [url] * (here in keys) + [url.child(name) for name in below]

    def remove_empty(self, url: StoreURL) -> bool:
        with self._lock:
            collection = self._collections.get(_key(url))
            if collection is None or collection.rows:
                return False
            del self._collections[_key(url)]
            collection.removed = True
            return True

    def drop(self, url: StoreURL) -> bool:
        with self._lock:
            return self._collections.pop(_key(url), None) is not None


def _key(url: StoreURL) -> str:
    return (url.host + url.path).rstrip("/")


_backend = MemoryBackend()


@hookimpl
def knnstore_register(register: Register) -> None:
    """Register the memory backend."""
    register(_backend)
