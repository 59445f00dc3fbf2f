"""Which moment a read must have reached. Milvus numbers moments; a read waits until its node has come to the one it names."""

from __future__ import annotations

import threading
from typing import Any

import grpc
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

    Args:
        connection: to the server.
        consistency: the level.
    """

    def __init__(self, connection: Connection, consistency: Consistency) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self.last_write = self.writes = 0
        self._strong = consistency == "strong"
        self._opened = _now(connection) if consistency == "session" else _ANY

    def wrote(self, reply: Any) -> None:
        """A write has been acknowledged by this MutationResult. Milvus 2.3 tells no moment of a deletion."""
        moment = reply.timestamp or _now(self._connection)
        with self._lock:
            self.last_write = max(self.last_write, moment)
            self.writes += 1
            self._strong |= not moment

    def guarantee(self) -> dict[str, int]:
        """What goes into a request that reads."""
        level = common_pb2.ConsistencyLevel
        if self._strong or self._opened == _LATEST:
            return {"consistency_level": level.Strong, "guarantee_timestamp": _LATEST}
        return {"consistency_level": level.Session, "guarantee_timestamp": max(self._opened, self.last_write)}


def _now(connection: Connection) -> int:
    """The present moment; 0, which makes every read a strong one, where the server has no way to ask for it."""
    try:
        return int(connection.call("AllocTimestamp", milvus_pb2.AllocTimestampRequest()).timestamp)
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return _LATEST
        raise
