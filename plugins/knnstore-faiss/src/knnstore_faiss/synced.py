"""The index in memory and the state of the database that it stands for."""

from __future__ import annotations

import sqlite3

import numpy as np
from numpy.typing import NDArray

from knnstore_faiss.database import Commit, Database, latest
from knnstore_faiss.flat import FlatIndex
from knnstore_faiss.nominate import Candidates
from knnstore_faiss.options import Options

__all__ = ["SyncedIndex"]


class SyncedIndex:
    """Follows the database. Every method but the properties is called with the database's gate held."""

    def __init__(self, database: Database, options: Options) -> None:
        self._database, self._options = database, options
        self._flat: FlatIndex | None = None
        self._at: Commit | None = None

    max_k: int | None = None
    recall_floor = 1.0

    @property
    def nbytes(self) -> int:
        return 0 if self._flat is None else self._flat.nbytes

    def follow(self, connection: sqlite3.Connection) -> Commit:
        commit = latest(connection)
        at = self._at
        if at == commit:
            return commit
        if self._flat is None or at is None or not self._database.is_ancestor(connection, at):
            spec = self._database.spec
            self._flat, at = FlatIndex(spec.dim, spec.metric, commit.count), Commit(0, b"", 0, 0)
        elif at.generation < commit.generation:
            self._flat.remove(self._database.deleted_since(connection, at.generation))
        self._at = None  # until it is done: an error half way must not leave a wrong belief
        for rows, vectors in self._database.vectors_after(connection, at.last_row):
            self._flat.add(rows, vectors)
        self._at = commit
        return commit

    def search(self, connection, queries: NDArray[np.float32], k: int, chosen: NDArray[np.int64] | None) -> Candidates:
        return self._flat.search(queries, k, None if chosen is None else self._flat.positions(chosen))

    def save(self) -> None: ...
    def optimize(self) -> None: ...
    def release(self) -> None:
        self._flat = None

    def measured_recall(self, connection):
        return 1.0 if self._at and self._at.count else None

    def details(self):
        return {}
