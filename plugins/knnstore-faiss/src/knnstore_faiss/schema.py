"""The SQLite file of a store: its tables, creating it, opening it.

    meta(key, value)                              format version, the spec as JSON, the store's own random id
    records(row, id, f0, f1, …)                   one row a record; a field is a column
    vectors(row, vector)                          apart, so that ids and fields stay in few compact pages
    deleted(row, generation)                      rows that are gone, for indexes that have to follow
    commits(generation, token, last_row, count)   one row a write; the token tells two histories apart

Row numbers are never used twice: to replace a record is to delete a row and to append another. To change fields alone
is to change the row of ``records`` where it is, and to note a commit that adds no row. An index that knows the
store at some generation therefore follows by reading the rows after its last one and the deletions since.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote

from knnstore.errors import StoreBusyError, StoreCorruptError, StoreNotFoundError
from knnstore.types import Dtype, StoreSpec
from knnstore_faiss.sql import column_names

__all__ = [
    "FILE",
    "INDEX_FILE",
    "ChangedMeanwhileError",
    "Connection",
    "Meta",
    "connect",
    "is_store",
    "open_meta",
    "steady",
]

P = ParamSpec("P")
T = TypeVar("T")

FILE, INDEX_FILE = "store.sqlite3", "index.cache"
_FORMATS: dict[Dtype, str] = {"float32": "1", "float16": "2"}
"""By what vectors are kept as, so that a version from before there was a choice says that it must be updated."""
_PAGE = 16_384
"""Bytes. Five 768-wide vectors fit a page almost without waste, where 4096 would waste a quarter and write more slowly;
larger pages make small writes dearer, because a write-ahead log takes whole pages."""
_PAUSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
"""Seconds between attempts."""
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


class ChangedMeanwhileError(StoreBusyError):
    """A writer came or went while a reader who may not write to the folder was reading; reading again helps."""


class Connection(sqlite3.Connection):
    """A connection, and what it takes the database file for.

    A database with a write-ahead log is read through two files beside it. A reader who may not make them uses those of
    a writer; where there are none, nobody writes, and the database file alone is everything. It is then read as a file
    that does not change, without any lock, and looked at before and after: SQLite would notice nothing.
    """

    file: Path
    guest: bool = False
    """A reader who may make no files in the folder."""
    stamp: tuple[int, ...] | None = None
    """Of the database file, where it is read without locks."""

    @property
    def current(self) -> bool:
        """Whether the next read sees everything that has been acknowledged."""
        return self.stamp is None or (self.stamp == _stamp(self.file) and not _log_in_use(self.file))

    def check_unchanged(self) -> None:
        """Check the file against what it was when it was opened.

        Raises:
            ChangedMeanwhileError: what has been read since may be of two states.
        """
        if self.stamp is not None and self.stamp != _stamp(self.file):
            raise ChangedMeanwhileError(f"{self.file}: was written to while it was read", hint="Read it again.")

    @contextmanager
    def one_state(self) -> Iterator[None]:
        """What the body reads is of one state, or this raises, whatever the body made of it."""
        try:
            yield
        except Exception as error:
            self.check_unchanged()
            code: int = getattr(error, "sqlite_errorcode", 0)
            if self.guest and code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
                raise ChangedMeanwhileError(
                    f"{self.file}: its write-ahead log cannot be read just now: {error}",
                    hint="If it stays so, open the store once as a user who may write to its folder, and close it.",
                ) from error
            raise
        self.check_unchanged()


def steady(read: Callable[P, T]) -> Callable[P, T]:
    """Read again, a few times, where the file has changed meanwhile."""

    @functools.wraps(read)
    def patiently(*args: P.args, **kwargs: P.kwargs) -> T:
        for pause in _PAUSES:
            with suppress(ChangedMeanwhileError):
                return read(*args, **kwargs)
            time.sleep(pause)
        return read(*args, **kwargs)

    return patiently


def _stamp(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _log_in_use(file: Path) -> bool:
    log, shared = (file.with_name(f"{FILE}-{end}") for end in ("wal", "shm"))
    size = _size(log)
    return size is not None and (size > 0 or shared.exists())


def _size(file: Path) -> int | None:
    """In bytes; None where there is no such file, which in a folder in use may be so from one question to the next."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def connect(folder: Path, *, timeout: float, sync: str = "normal", read_only: bool = False) -> Connection:
    """Open a connection with our settings; transactions are begun and ended by hand."""
    file = folder / FILE
    guest = read_only and not (os.access(folder, os.W_OK) and os.access(file, os.W_OK))
    stamp = _stamp(file) if guest else None
    if _log_in_use(file):
        stamp = None
    mode = "rwc" if not read_only else "ro" if stamp is None else "ro&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(str(file))}?mode={mode}", factory=Connection,
        uri=True, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=256,
    )  # fmt: skip
    assert isinstance(connection, Connection)  # by the factory
    connection.file, connection.guest, connection.stamp = file, guest, stamp
    try:
        with connection.one_state():
            connection.execute(f"PRAGMA synchronous={sync}")
            connection.execute("PRAGMA temp_store=memory")
            connection.execute("PRAGMA cache_size=-16384")
    except Exception:
        connection.close()
        raise
    return connection


@steady
def open_meta(folder: Path, spec: StoreSpec | None, *, timeout: float, read_only: bool) -> Meta:
    """Read what identifies the store, creating it where there is none and a spec is given.

    Raises:
        StoreNotFoundError: nothing is there and nothing may be created.
        StoreCorruptError: an SQLite file that is not a store of ours, or one without the files that belong to it.
    """
    may_create = spec is not None and not read_only
    _check_complete(folder)
    if not is_store(folder) and not may_create:
        raise _nothing(folder)
    if may_create:
        folder.mkdir(parents=True, exist_ok=True)
    connection = connect(folder, timeout=timeout, sync="full", read_only=read_only)
    try:
        with connection.one_state():
            if _table_count(connection) == 0:
                if spec is None or read_only:
                    raise _nothing(folder)
                _create(connection, spec, timeout)
            return _read_meta(connection, folder)
    finally:
        connection.close()


def _check_complete(folder: Path) -> None:
    """Refuse what is left of a store: SQLite would begin a new one, or go back to an older state, without a word.

    A store makes its database first, then its log, then what is beside the log, and removes them in the other order; so
    a file that is there while an earlier one is not tells that somebody has taken that away. The order of the questions
    keeps another process that opens or closes meanwhile from looking like that.
    """
    file = folder / FILE
    log, shared = (file.with_name(f"{FILE}-{end}") for end in ("wal", "shm"))
    left = [path.name for path in (log, folder / INDEX_FILE) if _size(path)]
    if left and not file.exists():
        raise StoreCorruptError(
            f"{folder}", expected=f"a {FILE} beside {left[0]}", got="a store without its records",
            hint="Put it back, or restore the folder from a backup. Remove the folder if it is not wanted any more.",
        )  # fmt: skip
    if not log.exists() and shared.exists() and not log.exists() and shared.exists():
        raise StoreCorruptError(
            f"{folder}", expected=f"a {log.name} beside {shared.name}", got="a store without its last writes",
            hint=f"Put it back. To go on without what it held, remove {shared.name}.",
        )  # fmt: skip


def _nothing(folder: Path) -> StoreNotFoundError:
    return StoreNotFoundError(
        f"nothing is stored in {folder}", hint="Give a spec, and do not open read-only, to create it."
    )


def _table_count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _create(connection: Connection, spec: StoreSpec, timeout: float) -> None:
    """All tables in one transaction: killed before its end, the next opening finds an empty file and starts again."""
    connection.execute(f"PRAGMA page_size={_PAGE}")
    patiently(connection, "PRAGMA journal_mode=wal", timeout)
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _table_count(connection) == 0:  # else another process was faster
            for statement in _statements(spec):
                connection.execute(statement)
            connection.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("format", _FORMATS[spec.dtype]), ("spec", spec.to_json()), ("uuid", uuid.uuid4().hex)],
            )
            connection.execute("INSERT INTO commits VALUES (0, randomblob(16), 0, 0)")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def patiently(connection: Connection, statement: str, timeout: float) -> None:
    """Execute what SQLite gives up at once where another writes, although it is told to wait."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection.execute(statement)
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
        if meta["format"] not in _FORMATS.values():
            known = f"format {' or '.join(_FORMATS.values())}"
            raise StoreCorruptError(
                f"{folder}", expected=known, got=f"format {meta['format']}", hint="Update knnstore-faiss."
            )
        return Meta(StoreSpec.from_json(meta["spec"]), meta["uuid"])
    except (sqlite3.OperationalError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise StoreCorruptError(f"{folder / FILE}", expected="a store", got=f"another SQLite file ({error})") from error
