"""One store and a clock, in a process of its own: what this process grows by is what the store takes.

Times are taken around the calls of the store alone; how the data comes here does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import psutil
from numpy.typing import NDArray

from knnstore._plugins import collections, open_store, remove_empty
from knnstore.abc import EmbeddingStore
from knnstore.errors import StoreNotFoundError
from knnstore.filters import Filter
from knnstore.types import Batch, StoreSpec
from knnstore.url import StoreURL
from knnstore_bench.results import Detail, Footprint, Opened

__all__ = ["Search", "Session"]

_REMOVED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Search:
    """What is asked in every search.

    Args:
        k: hits of each query.
        fields: returned with the hits.
        where: the filter, or None.
    """

    k: int
    fields: list[str]
    where: Filter | None = None


class Session:
    """The store at one place. Every method is one request of :class:`knnstore_bench.worker.Worker`.

    Args:
        url: of the collection that is measured, secrets and all.
        spec: what it holds.
    """

    def __init__(self, url: StoreURL, spec: StoreSpec) -> None:
        self._url, self._spec = url, spec
        self._store: EmbeddingStore | None = None
        self._before = _resident()

    @property
    def _open(self) -> EmbeddingStore:
        if self._store is None:
            self._store = open_store(self._url, self._spec)
        return self._store

    def open(self) -> Opened:
        """Open or create the collection."""
        seconds = _timed(lambda: self._open)
        can = self._open.capabilities
        return Opened(seconds, _resident() - self._before, can.server, can.persistent, can.approximate)

    def count(self) -> int:
        """How many records there are."""
        return self._open.count()

    def upsert(self, batch: Batch) -> float:
        """Seconds to write a batch."""
        return _timed(lambda: self._open.upsert(batch.ids, batch.vectors, batch.fields))

    def add_missing(self, batch: Batch) -> None:
        """Write those that are not there."""
        self._open.upsert(batch.ids, batch.vectors, batch.fields, on_conflict="skip")

    def flush(self) -> float:
        """Seconds until everything is where it will stay."""
        return _timed(lambda: self._open.flush())

    def optimize(self) -> float:
        """Seconds until the engine is as fast as it gets."""
        return _timed(lambda: self._open.optimize())

    def search(self, queries: NDArray[np.float32], asked: Search, *, size: int) -> tuple[float, ...]:
        """Seconds of each search, ``size`` queries at a time."""
        parts = [queries[start : start + size] for start in range(0, len(queries), size)]
        return tuple(_timed(partial(self._searched, part, asked)) for part in parts)

    def answer(self, queries: NDArray[np.float32], asked: Search) -> NDArray[np.object_]:
        """The ids that a search finds: object (Q, K)."""
        return self._searched(queries, asked)

    def indexed(self) -> int | None:
        """Records that an approximate index covers; None where there is no such thing."""
        return self._open.stats().indexed

    def reopen(self, query: NDArray[np.float32], asked: Search) -> float:
        """Seconds to close the store, open it again and have the first answer."""

        def work() -> None:
            self.close()
            self._searched(query, asked)

        return _timed(work)

    def delete_ids(self, ids: list[str]) -> float:
        """Seconds to delete records by id."""
        return _timed(lambda: self._open.delete(ids))

    def delete_where(self, where: Filter) -> float:
        """Seconds to delete the records that match."""
        return _timed(lambda: self._open.delete(where=where))

    def footprint(self) -> Footprint:
        """What the records take."""
        process = _resident() - self._before
        stats = self._open.stats()
        details = tuple(Detail(name, self._url.redact(str(value))) for name, value in stats.details.items())
        return Footprint(stats.bytes_on_disk, stats.bytes_in_memory, process, details)

    def empty(self) -> None:
        """Delete every record of the collection."""
        store = self._open
        ids = [value for records in store.scan(fields=[]) for value in records.ids.tolist()]
        for start in range(0, len(ids), _REMOVED_AT_ONCE):
            store.delete(ids[start : start + _REMOVED_AT_ONCE])

    def remove(self) -> bool:
        """Empty the collection and remove it; whether it is gone."""
        try:
            self._store = self._store or open_store(self._url)
        except StoreNotFoundError:
            return True
        self.empty()
        self.close()
        return remove_empty(self._url) or str(self._url) not in map(str, collections(self._url))

    def close(self) -> None:
        """Close the store; the next request opens it again."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _searched(self, queries: NDArray[np.float32], asked: Search) -> NDArray[np.object_]:
        return self._open.search(queries, asked.k, where=asked.where, fields=asked.fields).ids


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)
