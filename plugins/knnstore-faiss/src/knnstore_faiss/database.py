"""Records in SQLite, the source of truth: transactions, reading, writing. Knows nothing of any index."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import StoreBusyError, StoreCorruptError, StoreNotFoundError
from knnstore.filters import Filter, Scalar
from knnstore.folders import sync
from knnstore.types import Column, Records, StoreSpec, empty_column
from knnstore_faiss.pool import ConnectionPool
from knnstore_faiss.schema import FILE, Connection, Meta, connect, patiently
from knnstore_faiss.sql import column_names, compile_filter

__all__ = ["Commit", "Database", "chunks"]

_LOOKUP = 500
"""Ids in one statement."""
_READ = 256
"""Vectors fetched at once."""
_MAPPED = 1 << 40


@dataclass(frozen=True, slots=True)
class Commit:
    """A state of the store.

    Args:
        generation: counts the writes.
        token: random; a store restored from a backup repeats generations but not tokens.
        last_row: no row after it.
        count: records.
    """

    generation: int
    token: bytes
    last_row: int
    count: int


def chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """``values`` in pieces of at most ``size``."""
    for start in range(0, len(values), size):
        yield values[start : start + size]


class Database:
    """One SQLite file.

    Args:
        folder: where it is.
        meta: what :func:`open_meta` read.
        timeout: seconds to wait for another writer.
        sync: ``"normal"`` or ``"full"``.
        read_only: open for reading.
    """

    def __init__(self, folder: Path, meta: Meta, *, timeout: float, sync: str, read_only: bool) -> None:
        self.folder, self.meta, self.timeout = folder, meta, timeout
        self.columns = column_names(meta.spec.fields)
        self.stored = np.dtype(meta.spec.dtype).newbyteorder("<")
        """Of the numbers of a stored vector."""
        self.gate = threading.RLock()
        """Guards the index of the store that uses this database; here because a fork has to wait for it."""
        self._write_lock = threading.RLock()
        self._file = _identity(folder)
        self._pool = ConnectionPool(
            lambda: connect(folder, timeout=timeout, sync=sync, read_only=read_only), [self._write_lock, self.gate]
        )

    @property
    def spec(self) -> StoreSpec:
        """What the store holds."""
        return self.meta.spec

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    # -- transactions -------------------------------------------------------------------------------------------------

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection outside of any transaction; what the body reads is there as it was read, or this raises."""
        with self._pool.connection() as connection, connection.one_state():
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[tuple[Connection, Commit]]:
        """A connection that sees one state of the store for as long as the body runs, and which."""
        with self.connection() as connection:
            connection.execute("BEGIN")
            yield connection, latest(connection)
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[tuple[Connection, Commit]]:
        """The only writer, in a transaction that is committed at the end or leaves nothing at all.

        Raises:
            StoreBusyError: another thread writes for longer than the timeout; another process: an error of SQLite.
            StoreNotFoundError: the store is not there any more.
        """
        with self._only_writer() as connection:
            connection.execute("BEGIN IMMEDIATE")
            if (
                _identity(self.folder) != self._file
            ):  # SQLite goes on in a file without a name, which is gone at the end
                connection.execute("ROLLBACK")
                raise StoreNotFoundError(
                    f"{self.folder}: the store that was opened has been removed, or another is in its place",
                    hint="Open it again. Nothing was written.",
                )
            yield connection, latest(connection)
            connection.execute("COMMIT")

    @contextmanager
    def _only_writer(self) -> Iterator[Connection]:
        if not self._write_lock.acquire(timeout=self.timeout):
            raise StoreBusyError(f"{self.folder}: another thread writes", hint="Raise ?timeout= (seconds).")
        try:
            with self._pool.connection() as connection:
                yield connection
        finally:
            self._write_lock.release()

    # -- reading ------------------------------------------------------------------------------------------------------

    def count(self, connection: Connection, where: Filter | None) -> int:
        """How many records match."""
        compiled = compile_filter(where, self.spec.fields)
        compiled.prepare(connection)
        return int(
            connection.execute(f"SELECT count(*) FROM records WHERE {compiled.text}", compiled.values).fetchone()[0]  # noqa: S608  # names f0, f1, …; values are bound
        )

    def count_by(self, connection: Connection, field: str, where: Filter | None) -> dict[Scalar, int]:
        """How many of the matching records have each value of a field."""
        compiled = compile_filter(where, self.spec.fields)
        compiled.prepare(connection)
        column, kind = self.columns[field], self.spec.fields[field]
        cursor = connection.execute(
            f"SELECT {column}, count(*) FROM records WHERE {compiled.text} GROUP BY 1",  # noqa: S608  # as below
            compiled.values,
        )
        return {kind(value): count for value, count in cursor}

    def matching(self, connection: Connection, where: Filter | None) -> NDArray[np.int64]:
        """The rows that match: int64 (M,), rising."""
        compiled = compile_filter(where, self.spec.fields)
        compiled.prepare(connection)
        cursor = connection.execute(f"SELECT row FROM records WHERE {compiled.text} ORDER BY row", compiled.values)  # noqa: S608  # names f0, f1, …; values are bound
        return np.fromiter((row for (row,) in cursor), np.int64)

    def rows_of(self, connection: Connection, ids: Sequence[str]) -> dict[str, int]:
        """The row of each id that is stored."""
        found: dict[str, int] = {}
        for part in chunks(ids, _LOOKUP):
            marks = ", ".join("?" * len(part))
            found.update(connection.execute(f"SELECT id, row FROM records WHERE id IN ({marks})", list(part)))  # noqa: S608  # names f0, f1, …; values are bound
        return found

    def columns_of(
        self, connection: Connection, rows: NDArray[np.int64], fields: Sequence[str]
    ) -> tuple[NDArray[np.object_], dict[str, Column]]:
        """Ids and fields of stored rows, in their order."""
        names = "".join(f", r.{self.columns[name]}" for name in fields)
        cursor = connection.execute(
            f"SELECT r.row, r.id{names} FROM json_each(?) AS j CROSS JOIN records AS r ON r.row = j.value",  # noqa: S608  # names f0, f1, …; values are bound
            (json.dumps(rows.tolist()),),
        )
        found, ids, *columns = _transposed(cursor.fetchall(), 2 + len(fields))
        if not np.array_equal(np.array(found, np.int64), rows):
            raise StoreCorruptError(f"{self.folder}", expected=f"{len(rows)} rows", got=f"{len(found)} of them")
        return _column(str, ids), self._typed(fields, columns)

    def vectors_of(self, connection: Connection, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of stored rows, in their order: float32 (M, D)."""
        cursor = connection.execute(
            "SELECT v.vector FROM json_each(?) AS j CROSS JOIN vectors AS v ON v.row = j.value",
            (json.dumps(rows.tolist()),),
        )
        vectors = self._stacked([blob for (blob,) in cursor])
        if len(vectors) != len(rows):
            raise StoreCorruptError(f"{self.folder}", expected=f"{len(rows)} vectors", got=f"{len(vectors)} of them")
        return vectors

    def vectors_after(
        self, connection: Connection, row: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Rows after ``row`` with their vectors, in pieces, rising."""
        connection.execute(f"PRAGMA mmap_size={_MAPPED}")  # halves the time of a long read
        cursor = connection.execute("SELECT row, vector FROM vectors WHERE row > ? ORDER BY row", (row,))
        try:
            while part := cursor.fetchmany(_READ):
                yield np.array([pair[0] for pair in part], np.int64), self._stacked([pair[1] for pair in part])
        finally:
            cursor.close()
            connection.execute("PRAGMA mmap_size=0")

    def deleted_since(self, connection: Connection, generation: int) -> NDArray[np.int64]:
        """Rows deleted after ``generation``: int64 (M,)."""
        cursor = connection.execute("SELECT row FROM deleted WHERE generation > ?", (generation,))
        return np.fromiter((row for (row,) in cursor), np.int64)

    def is_ancestor(self, connection: Connection, commit: Commit) -> bool:
        """Whether the store went through this very state."""
        found = connection.execute("SELECT token FROM commits WHERE generation = ?", (commit.generation,)).fetchone()
        return found is not None and found[0] == commit.token

    def scan(
        self, connection: Connection, where: Filter | None, fields: Sequence[str], *, vectors: bool, size: int
    ) -> Iterator[Records]:
        """Every match, in batches."""
        compiled = compile_filter(where, self.spec.fields)
        compiled.prepare(connection)
        names = "".join(f", r.{self.columns[name]}" for name in fields)
        join, blob = (" JOIN vectors AS v ON v.row = r.row", ", v.vector") if vectors else ("", "")
        cursor = connection.execute(
            f"SELECT r.id{names}{blob} FROM records AS r{join} WHERE {compiled.text} ORDER BY r.row",  # noqa: S608  # as above
            compiled.values,
        )
        while part := cursor.fetchmany(size):
            connection.check_unchanged()
            yield self._records(part, fields, vectors)

    def get(self, connection: Connection, ids: Sequence[str], fields: Sequence[str], *, vectors: bool) -> Records:
        """The stored ones among ``ids``, in their order."""
        there = self.rows_of(connection, ids)
        rows = np.array([there[value] for value in ids if value in there], np.int64)
        found, columns = self.columns_of(connection, rows, fields)
        return Records(found, self.vectors_of(connection, rows) if vectors else None, columns)

    def _records(self, rows: list[tuple[Any, ...]], fields: Sequence[str], vectors: bool) -> Records:
        ids, *columns = _transposed(rows, 1 + len(fields) + vectors)
        stacked = self._stacked(columns.pop()) if vectors else None
        return Records(_column(str, ids), stacked, self._typed(fields, columns))

    def _typed(self, fields: Sequence[str], columns: Sequence[Sequence[Any]]) -> dict[str, Column]:
        return {name: _column(self.spec.fields[name], values) for name, values in zip(fields, columns, strict=True)}

    def _stacked(self, blobs: Sequence[bytes]) -> NDArray[np.float32]:
        size = self.stored.itemsize * self.spec.dim
        if any(len(blob) != size for blob in blobs):
            raise StoreCorruptError(f"{self.folder}", expected=f"vectors of {size} bytes", got="another length")
        return (
            np.frombuffer(bytearray().join(blobs), self.stored)
            .astype(np.float32, copy=False)
            .reshape(len(blobs), self.spec.dim)
        )

    # -- keeping ------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Move what is written out of the write-ahead log and onto the medium."""
        with self.connection() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        # A reader may have kept part of it from moving: safe there once synced. The last to close removes it.
        with suppress(FileNotFoundError):
            sync(self.folder / f"{FILE}-wal")

    def compact(self) -> None:
        """Give back the space of deleted records, where they were many, and let SQLite look at its indexes.

        Raises:
            StoreBusyError: another thread writes for longer than the timeout; another process: an error of SQLite.
        """
        with self._only_writer() as connection:
            pages, free = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
            )
            if free * 4 > pages:
                patiently(connection, "VACUUM", self.timeout)
            connection.execute("BEGIN IMMEDIATE")  # what only reads at first and then writes would not wait
            connection.execute("PRAGMA optimize")
            connection.execute("COMMIT")

    def bytes_on_disk(self) -> int:
        """Everything in the folder."""
        total = 0
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another process may come or go meanwhile
                total += file.stat().st_size if file.is_file() else 0
        return total


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which file it is, whatever it is called."""
    try:
        found = (folder / FILE).stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def latest(connection: Connection) -> Commit:
    """The newest state that the connection sees."""
    row = connection.execute(
        "SELECT generation, token, last_row, count FROM commits ORDER BY generation DESC LIMIT 1"
    ).fetchone()
    if row is None:
        raise StoreCorruptError("table commits", expected="at least one row", got="none")
    return Commit(*row)


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[Sequence[Any]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _column(kind: type, values: Iterable[Any]) -> Column:
    listed = list(values)
    column = empty_column(kind, len(listed))
    column[:] = listed
    return column
