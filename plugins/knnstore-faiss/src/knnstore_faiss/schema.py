"""The SQLite file of a store: its tables, creating it, opening it.

    meta(key, value)                              format version, the spec as JSON, the store's own random id
    records(row, id, f0, f1, …)                   one row a record; a field is a column
    vectors(row, vector)                          apart, so that ids and fields stay in few compact pages
    deleted(row, generation)                      rows that are gone, for indexes that have to follow
    commits(generation, token, last_row, count)   one row a write; the token tells two histories apart

Row numbers are never used twice: to replace a record is to delete a row and to append another. An index that knows the
store at some generation therefore follows by reading the rows after its last one and the deletions since.
"""

from __future__ import annotations

import os
import sqlite3
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from knnstore.errors import StoreCorruptError, StoreNotFoundError
from knnstore.types import StoreSpec
from knnstore_faiss.sql import column_names

__all__ = ["FILE", "Meta", "connect", "is_store", "open_meta"]

FILE = "store.sqlite3"
_FORMAT = "1"
_PAGE = 16_384
"""Bytes. Five 768-wide vectors fit a page almost without waste, where 4096 would waste a quarter and write more slowly;
larger pages make small writes dearer, because a write-ahead log takes whole pages."""
_TYPES = {str: "TEXT", int: "INTEGER", float: "REAL", bool: "INTEGER"}


@dataclass(frozen=True, slots=True)
class Meta:
    """What identifies a store.

    Args:
        spec: what it holds.
        uuid: drawn when it was created.
    """

    spec: StoreSpec
    uuid: str


def is_store(folder: Path) -> bool:
    """Whether there is a store, or one that a killed process had begun to create."""
    return (folder / FILE).is_file()


def connect(folder: Path, *, timeout: float, sync: str = "normal", read_only: bool = False) -> sqlite3.Connection:
    """Open a connection with our settings; transactions are begun and ended by hand."""
    file = folder / FILE
    mode = "rwc"
    if read_only:
        # A WAL store is read through files beside it; where they cannot be made, only as a file that never changes.
        frozen = not os.access(folder, os.W_OK) and not file.with_name(FILE + "-wal").exists()
        mode = "ro&immutable=1" if frozen else "ro"
    connection = sqlite3.connect(
        f"file:{quote(str(file))}?mode={mode}",
        uri=True, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=256,
    )  # fmt: skip
    connection.execute(f"PRAGMA synchronous={sync}")
    connection.execute("PRAGMA temp_store=memory")
    connection.execute("PRAGMA cache_size=-16384")
    return connection


def open_meta(folder: Path, spec: StoreSpec | None, *, timeout: float, read_only: bool) -> Meta:
    """Read what identifies the store, creating it where there is none and a spec is given.

    Raises:
        StoreNotFoundError: nothing is there and nothing may be created.
        StoreCorruptError: an SQLite file that is no store of ours.
    """
    may_create = spec is not None and not read_only
    if not is_store(folder) and not may_create:
        raise _nothing(folder)
    if may_create:
        folder.mkdir(parents=True, exist_ok=True)
    connection = connect(folder, timeout=timeout, sync="full", read_only=read_only)
    try:
        if _table_count(connection) == 0:
            if spec is None or read_only:
                raise _nothing(folder)
            _create(connection, spec, timeout)
        return _read_meta(connection, folder)
    finally:
        connection.close()


def _nothing(folder: Path) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"nothing is stored in {folder}", hint="Give a spec, and do not open read-only, to create it."
    )


def _table_count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _create(connection: sqlite3.Connection, spec: StoreSpec, timeout: float) -> None:
    """All tables in one transaction: killed before its end, the next opening finds an empty file and starts again."""
    connection.execute(f"PRAGMA page_size={_PAGE}")
    _to_wal(connection, timeout)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _table_count(connection) == 0:  # else another process was faster
            for statement in _statements(spec):
                connection.execute(statement)
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("format", _FORMAT), ("spec", spec.to_json()), ("uuid", uuid.uuid4().hex)],
            )
            connection.execute("INSERT INTO commits VALUES (0, randomblob(16), 0, 0)")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _to_wal(connection: sqlite3.Connection, timeout: float) -> None:
    """Switch to write-ahead logging. SQLite does not wait for this lock by itself."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode=wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _statements(spec: StoreSpec) -> list[str]:
    columns = column_names(spec.fields)
    declared = "".join(f", {columns[name]} {_TYPES[kind]} NOT NULL" for name, kind in spec.fields.items())
    return [
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
        f"CREATE TABLE records (row INTEGER PRIMARY KEY, id TEXT NOT NULL{declared})",
        "CREATE UNIQUE INDEX records_id ON records (id)",
        "CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
        "CREATE TABLE deleted (row INTEGER PRIMARY KEY, generation INTEGER NOT NULL)",
        "CREATE INDEX deleted_generation ON deleted (generation)",
        "CREATE TABLE commits (generation INTEGER PRIMARY KEY, token BLOB NOT NULL, last_row INTEGER NOT NULL,"
        " count INTEGER NOT NULL)",
    ]


def _read_meta(connection: sqlite3.Connection, folder: Path) -> Meta:
    try:
        meta = dict(connection.execute("SELECT key, value FROM meta"))
        if meta["format"] != _FORMAT:
            raise StoreCorruptError(
                f"{folder}", expected=f"format {_FORMAT}", got=f"format {meta['format']}", hint="Update knnstore-faiss."
            )
        return Meta(StoreSpec.from_json(meta["spec"]), meta["uuid"])
    except (sqlite3.OperationalError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise StoreCorruptError(f"{folder / FILE}", expected="a store", got=f"another SQLite file ({error})") from error
