"""Connections to one SQLite file, lent out one user at a time, and what a fork does to them.

SQLite cannot share a connection across a fork, not even to close it, and it keeps the locks of a process by file: with
every connection closed before the fork, parent and child each start clean. So idle connections are closed just before
a fork, searches and writes are waited for, and a connection that was lent out (to a scan, say) is never touched by the
child again.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from knnstore_faiss.schema import Connection

__all__ = ["ConnectionPool"]


class ConnectionPool:
    """Lends connections.

    Args:
        connect: opens one.
        locks: held while a fork takes place, in the order in which the store takes them.
    """

    def __init__(self, connect: Callable[[], Connection], locks: list[threading.RLock]) -> None:
        self._connect, self._locks = connect, locks
        self._idle: list[Connection] = []
        self._lent: set[Connection] = set()
        self._closed = False
        _pools.add(self)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection for the body alone; any transaction left open is rolled back."""
        pid = os.getpid()
        connection = self._ready()
        self._lent.add(connection)
        try:
            yield connection
        finally:
            if pid == os.getpid():  # else the child of a fork runs the rest of its parent's body: hands off
                self._take_back(connection)

    def _ready(self) -> Connection:
        """An idle connection that sees everything, or a new one."""
        while self._idle:
            with suppress(IndexError):  # another thread took the last one
                connection = self._idle.pop()
                if connection.current:
                    return connection
                connection.close()
        return self._connect()

    def _take_back(self, connection: Connection) -> None:
        self._lent.discard(connection)
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle now and what is lent as soon as it comes back."""
        self._closed = True
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def before_fork(self) -> None:
        """Wait for running calls and leave no idle connection open."""
        for lock in self._locks:
            lock.acquire()
        self._close_idle()

    def after_fork(self, *, child: bool) -> None:
        """Go on; in the child, give up what is lent out in the parent without closing it."""
        if child:
            for connection in self._lent:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # never collected, so never closed
            self._lent = set()
        for lock in reversed(self._locks):
            lock.release()


_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()
_forking: list[ConnectionPool] = []


def _before_fork() -> None:
    _forking[:] = list(_pools)
    for pool in _forking:
        pool.before_fork()


def _after_fork(*, child: bool) -> None:
    for pool in reversed(_forking):
        pool.after_fork(child=child)
    _forking.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=lambda: _after_fork(child=False),
        after_in_child=lambda: _after_fork(child=True),
    )
