"""What SQLite, the file system and FAISS raise, as errors of knnstore."""

from __future__ import annotations

import errno
import sqlite3

from knnstore.errors import (
    KnnStoreError,
    StoreAuthenticationError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    UnsupportedFilterError,
)

__all__ = ["map_error"]

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
    sqlite3.SQLITE_IOERR_DATA,
}
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT}
_FILTER_LIMITS = ("parser stack overflow", "Expression tree is too large", "too many SQL variables")
_DENIED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH}
# SQLite says FULL only for ENOSPC; a quota or a file-size limit arrives as a failed write.
_WRITE_FAILED = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMMAP,
}


def map_error(error: Exception, where: str) -> KnnStoreError | None:
    """The error of knnstore that says what ``error`` means for a caller; None where nothing better is known.

    Args:
        error: what was raised.
        where: the store, for the message.
    """
    if isinstance(error, sqlite3.Error):
        return _sqlite_error(error, where)
    if isinstance(error, OSError):
        return _os_error(error, where)
    return None


def _os_error(error: OSError, where: str) -> KnnStoreError | None:
    if error.errno in _NO_SPACE:
        return StoreFullError(f"{where}: {error}", hint="Free some space; nothing of the call was written.")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return _denied(f"{error}", where)
    return None


def _sqlite_error(error: sqlite3.Error, where: str) -> KnnStoreError | None:
    code: int = getattr(error, "sqlite_errorcode", 0) or 0
    primary = code & 0xFF
    text = f"{where}: {error}"
    if primary in _BUSY:
        return StoreBusyError(text, hint="Another writer holds the store; raise ?timeout= (seconds) to wait longer.")
    if primary == sqlite3.SQLITE_FULL or code in _WRITE_FAILED:
        return StoreFullError(
            f"{text} (no space, quota or file-size limit)", hint="Free some space; nothing of the call was written."
        )
    if primary in _CORRUPT or code in _DAMAGED:
        return StoreCorruptError(text, hint="Restore the folder from a backup, or copy what can still be scanned.")
    if any(limit in text for limit in _FILTER_LIMITS):
        return UnsupportedFilterError(
            f"{where}: the filter is too large for SQLite: {error}", hint="Write many values of one field with isin."
        )
    if primary in _DENIED:
        return _denied(str(error), where)
    return None


def _denied(text: str, where: str) -> KnnStoreError:
    return StoreAuthenticationError(
        f"{where}: {text}",
        expected="a folder that this user may write to",
        hint="Check the permissions of the folder, or open it with read_only=True.",
    )
