"""Which moment a read must have reached: Milvus numbers moments, and a read waits until its node has come to one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pymilvus.grpc_gen import common_pb2, milvus_pb2

from knnstore.types import Consistency
from knnstore_milvus.connection import Connection

__all__ = ["Session"]

_ANY = 1
_LATEST = 0


class Session:
    """The moment that reads of one store name.

    ``strong``: now. ``session``: the later of its opening and its last write, so that it sees what had been
    acknowledged before it was opened, and its own writes ever since. ``eventual``: its last write.

    The moment of a write is asked for by the first read after it. The one in the acknowledgement is of no use: Milvus
    2.3 tells none for a deletion, and for an upsert one that is too early, so that a read that names it may miss it.

    Args:
        connection: to the server.
        consistency: the level.
    """

    def __init__(self, connection: Connection, consistency: Consistency) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self._strong = consistency == "strong"
        self._moment = _now(connection) if consistency == "session" else _ANY
        self.writes = self._seen = 0
        self._held = threading.local()

    def wrote(self) -> None:
        """A write of this store has been acknowledged, or may have been."""
        with self._lock:
            self.writes += 1

    @contextmanager
    def held(self, *, strong: bool = False) -> Iterator[None]:
        """What this thread reads inside names one moment, the present one if ``strong``: only its first read waits."""
        self._held.moment = _now(self._connection) if self._strong or strong else self._latest()
        try:
            yield
        finally:
            self._held.moment = None

    def guarantee(self) -> dict[str, int]:
        """What goes into a request that reads."""
        level, held = common_pb2.ConsistencyLevel, getattr(self._held, "moment", None)
        moment = self._latest() if held is None else held
        if (self._strong and held is None) or moment == _LATEST:
            return {"consistency_level": level.Strong, "guarantee_timestamp": _LATEST}
        return {"consistency_level": level.Session, "guarantee_timestamp": moment}

    def _latest(self) -> int:
        writes = self.writes
        if writes != self._seen and not self._strong:
            moment = _now(self._connection)
            with self._lock:
                self._moment = max(self._moment, moment) if moment else _LATEST
                self._seen = max(self._seen, writes)
        return self._moment


def _now(connection: Connection) -> int:
    """The present moment; 0, which makes every read a strong one, on milvus-lite, which has none."""
    if connection.lite:
        return _LATEST
    return int(connection.call("AllocTimestamp", milvus_pb2.AllocTimestampRequest()).timestamp)
