"""The writes: append, change, remove, note the commit. Each inside a transaction of :meth:`Database.writing`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from knnstore.errors import ConflictError
from knnstore.filters import Filter, Scalar
from knnstore.types import Batch, Column, Conflict
from knnstore_faiss.database import Commit, Database
from knnstore_faiss.schema import Connection
from knnstore_faiss.sql import compile_filter

__all__ = ["remove", "update", "update_where", "upsert"]

_KEPT = 100_000
"""Generations that an index may lag behind before it is rebuilt instead of following."""
_DELETED = 10_000
"""The same in deleted rows, or twice the records where those are more."""
_EVERY = 64
"""Generations from one look at that to the next."""


def upsert(database: Database, batch: Batch, on_conflict: Conflict) -> int:
    """Write a batch; see :meth:`EmbeddingStore.upsert`. Returns how many records were written."""
    with database.writing() as (connection, commit):
        there = database.rows_of(connection, batch.ids) if commit.count else {}
        if on_conflict == "error" and there:
            first = next(value for value in batch.ids if value in there)
            raise ConflictError(f"{database.folder}: id {first!r} is stored already", hint="Nothing was written.")
        if on_conflict == "skip" and there:
            batch = _without(batch, there)
        gone = list(there.values()) if on_conflict == "replace" else []
        if len(batch):
            _delete(connection, gone, commit.generation + 1)
            _insert(database, connection, batch, commit.last_row + 1)
            _note(connection, commit, len(batch), len(gone))
        return len(batch)


def update(database: Database, ids: Sequence[str], fields: Mapping[str, Column]) -> int:
    """Change fields where the rows lie: no vector, and so no index, has to follow. Returns how many were there."""
    text = f"UPDATE records SET {_assigned(database, fields)} WHERE id = ?"  # noqa: S608  # names f0, f1, …; values are bound
    with database.writing() as (connection, commit):
        listed = [column.tolist() for column in fields.values()]
        changed = connection.executemany(text, zip(*listed, ids, strict=True)).rowcount
        return _changed(connection, commit, changed)


def update_where(database: Database, where: Filter, fields: Mapping[str, Scalar]) -> int:
    """The same for what matches."""
    compiled = compile_filter(where, database.spec.fields)
    text = f"UPDATE records SET {_assigned(database, fields)} WHERE {compiled.text}"  # noqa: S608  # as above
    with database.writing() as (connection, commit):
        compiled.prepare(connection)
        return _changed(connection, commit, connection.execute(text, (*fields.values(), *compiled.values)).rowcount)


def _assigned(database: Database, fields: Iterable[str]) -> str:
    return ", ".join(f"{database.columns[name]} = ?" for name in fields)


def _changed(connection: Connection, commit: Commit, count: int) -> int:
    if count:
        _note(connection, commit, 0, 0)
    return count


def remove(connection: Connection, commit: Commit, rows: Sequence[int]) -> int:
    """Delete stored rows, none is fine; return how many."""
    if rows:
        _delete(connection, rows, commit.generation + 1)
        _note(connection, commit, 0, len(rows))
    return len(rows)


def _without(batch: Batch, there: dict[str, int]) -> Batch:
    kept = [i for i, value in enumerate(batch.ids) if value not in there]
    columns = {name: column[kept] for name, column in batch.fields.items()}
    return Batch([batch.ids[i] for i in kept], batch.vectors[kept], columns)


def _insert(database: Database, connection: Connection, batch: Batch, first: int) -> None:
    rows = range(first, first + len(batch))
    names = list(batch.fields)
    listed = [batch.fields[name].tolist() for name in names]
    columns = "".join(f", {database.columns[name]}" for name in names)
    connection.executemany(
        f"INSERT INTO records (row, id{columns}) VALUES (?, ?{', ?' * len(names)})",  # noqa: S608  # names f0, f1, …; values are bound
        zip(rows, batch.ids, *listed, strict=True),
    )
    size = database.stored.itemsize * database.spec.dim
    data = np.ascontiguousarray(batch.vectors, database.stored).data.cast("B")
    connection.executemany(
        "INSERT INTO vectors VALUES (?, ?)", ((row, data[i * size : (i + 1) * size]) for i, row in enumerate(rows))
    )


def _delete(connection: Connection, rows: Sequence[int], generation: int) -> None:
    connection.executemany("DELETE FROM records WHERE row = ?", ((row,) for row in rows))
    connection.executemany("DELETE FROM vectors WHERE row = ?", ((row,) for row in rows))
    connection.executemany("INSERT INTO deleted VALUES (?, ?)", ((row, generation) for row in rows))


def _note(connection: Connection, before: Commit, added: int, gone: int) -> None:
    generation, count = before.generation + 1, before.count + added - gone
    connection.execute(
        "INSERT INTO commits VALUES (?, ?, ?, ?)", (generation, os.urandom(16), before.last_row + added, count)
    )
    if generation % _EVERY == 0:
        _forget(connection, generation, count)


def _forget(connection: Connection, generation: int, count: int) -> None:
    """Drop what only an index would read that lags so far behind that it is rebuilt with less effort."""
    oldest = connection.execute(
        "SELECT generation FROM deleted ORDER BY generation DESC LIMIT 1 OFFSET ?", (max(_DELETED, 2 * count),)
    ).fetchone()
    horizon = max(generation - _KEPT, oldest[0] if oldest else 0)
    connection.execute("DELETE FROM deleted WHERE generation <= ?", (horizon,))
    connection.execute("DELETE FROM commits WHERE generation < ?", (horizon,))  # an index of before is of no history
