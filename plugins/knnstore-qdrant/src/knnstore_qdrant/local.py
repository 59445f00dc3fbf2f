"""The client's local mode: Qdrant's API in Python, for trying it out. It scans everything at each search.

It keeps its points with pickle: open only folders that you trust.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models
from qdrant_client.local.qdrant_local import QdrantLocal

from knnstore.types import StoreSpec
from knnstore_qdrant.client import DISTANCE, ClientEngine
from knnstore_qdrant.engine import Detail
from knnstore_qdrant.folder import Held
from knnstore_qdrant.options import Options

__all__ = ["LocalEngine", "SlowLocalModeWarning", "build_local", "empty_local", "load_local"]

T = TypeVar("T")

_NAME = "records"
_MANY = 10_000


class SlowLocalModeWarning(UserWarning):
    """More records than the local mode is good for."""


def build_local(path: Path, spec: StoreSpec) -> QdrantLocal:
    """An empty collection in an empty folder."""
    client = load_local(path)
    client.create_collection(_NAME, models.VectorParams(size=spec.dim, distance=DISTANCE[spec.metric]))
    return client


def load_local(path: Path) -> QdrantLocal:
    """The collection in a folder. Threads take turns (see LocalEngine), so SQLite need not insist on one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Local mode is not recommended")  # ours says the same, earlier
        return QdrantLocal(str(path), force_disable_check_same_thread=True)


def empty_local(path: Path) -> bool:
    """Whether the collection in a folder holds no record."""
    client = load_local(path)
    try:
        return client.count(_NAME).count == 0
    finally:
        client.close()


class LocalEngine(ClientEngine):
    """The local mode, as one store sees it.

    Args:
        held: the open folder.
        options: of the URL.
    """

    server = False
    recall_floor = 1.0
    repeatable = False
    wire = 1

    def __init__(self, held: Held, options: Options) -> None:
        super().__init__(_NAME)
        self._held = held
        self._warn(self.count(None))

    def _call(self, send: Callable[[Any], T]) -> T:
        with self._held.used() as client, self._held.mutex:
            return send(client)

    def check_same(self) -> None:
        self._held.check_there()

    def upsert(
        self, ids: list[str], vectors: NDArray[np.float32], payloads: list[dict[str, Any]], *, insert_only: bool
    ) -> None:
        super().upsert(ids, vectors, payloads, insert_only=insert_only)
        self._warn(self.count(None))

    def _write(self, *operations: models.UpdateOperation) -> None:
        self._held.check_process()  # a child has a copy of the points, but the connection is its parent's
        with self._held.written():
            super()._write(*operations)

    def _warn(self, count: int) -> None:
        if count > _MANY:
            warnings.warn(
                f"qdrant+local holds {count} records; it scans all of them in Python at each search. "
                "Use qdrant+edge:// (the real engine, no server) or a Qdrant server.",
                SlowLocalModeWarning,
                stacklevel=2,
            )

    def optimize(self) -> None:
        """Nothing to build."""

    def revision(self) -> str:
        return self._held.revision()

    def details(self) -> dict[str, Detail]:
        return {"note": "the client's local mode, only for trying the API"}

    def bytes_on_disk(self) -> int:
        return self._held.bytes_on_disk()

    def close(self) -> None:
        self._held.release()
