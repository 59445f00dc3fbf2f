"""Flushing, compacting, indexing, and figures about a collection."""

from __future__ import annotations

from typing import Any

from pymilvus.grpc_gen import common_pb2, milvus_pb2

from knnstore_milvus import admin
from knnstore_milvus.connection import Connection

__all__ = ["details", "flush", "optimize"]

_SMALLEST_INDEXED = 1024
"""Milvus builds no index for a segment of fewer records (``indexCoord.segment.minSegmentNumRowsToEnableIndex``)."""


_ALL = 100
_FLUSHED = common_pb2.SegmentState.Flushed


def flush(connection: Connection, name: str, timeout: float) -> None:
    """Seal what is being written and wait until it is in the object storage."""
    done = connection.call("Flush", milvus_pb2.FlushRequest(collection_names=[name]))
    segments, moment = list(done.coll_segIDs[name].data), done.coll_flush_ts[name]
    request = milvus_pb2.GetFlushStateRequest(segmentIDs=segments, flush_ts=moment, collection_name=name)
    admin.wait_until(lambda: connection.call("GetFlushState", request).flushed, timeout, f"flushing {name}")


def optimize(connection: Connection, name: str, timeout: float) -> None:
    """Flush, compact, wait for the index and until it is searched; nothing, where there is too little for an index."""
    if connection.lite or admin.count(connection, name) < _SMALLEST_INDEXED:
        return
    flush(connection, name, timeout)
    found = admin.describe(connection, name)
    compaction = connection.call(
        "ManualCompaction", milvus_pb2.ManualCompactionRequest(collectionID=found.collectionID, collection_name=name)
    ).compactionID
    request = milvus_pb2.GetCompactionStateRequest(compactionID=compaction)
    completed = common_pb2.CompactionState.Completed
    admin.wait_until(
        lambda: connection.call("GetCompactionState", request).state == completed, timeout, f"compacting {name}"
    )
    admin.wait_until(lambda: _indexed(admin.index_of(connection, name)), timeout, f"indexing {name}")
    connection.call("LoadCollection", milvus_pb2.LoadCollectionRequest(collection_name=name, refresh=True))
    admin.wait_until(lambda: _progress(connection, name).refresh_progress == _ALL, timeout, f"loading {name}")
    admin.wait_until(lambda: _searched(connection, name), timeout, f"putting the index of {name} to use")


def _indexed(index: Any) -> bool:
    return bool(index.state == common_pb2.IndexState.Finished and not index.pending_index_rows)


def _searched(connection: Connection, name: str) -> bool:
    """Whether the nodes that search have taken over the index of all that is sealed and large enough for one.

    FLAT is not an index to them, and is right without.
    """
    if any(pair.value == "FLAT" for pair in admin.index_of(connection, name).params if pair.key == "index_type"):
        return True
    stored = connection.call(
        "GetPersistentSegmentInfo", milvus_pb2.GetPersistentSegmentInfoRequest(collectionName=name)
    ).infos
    loaded = connection.call("GetQuerySegmentInfo", milvus_pb2.GetQuerySegmentInfoRequest(collectionName=name)).infos
    sealed = sum(s.num_rows for s in stored if s.num_rows >= _SMALLEST_INDEXED and s.state == _FLUSHED)
    return bool(sum(s.num_rows for s in loaded if s.indexID) >= sealed)


def _progress(connection: Connection, name: str) -> Any:
    """Percent of the collection, and of its renewal, that are loaded."""
    return connection.call("GetLoadingProgress", milvus_pb2.GetLoadingProgressRequest(collection_name=name))


def details(connection: Connection, name: str) -> dict[str, str | int | float | bool | None]:
    """What the server says about a collection."""
    index = admin.index_of(connection, name)
    found = admin.describe(connection, name)
    return {
        "collection": name,
        "shards": found.shards_num,
        "loaded_percent": _progress(connection, name).progress,
        **{pair.key: pair.value for pair in index.params},
        "index_state": common_pb2.IndexState.Name(index.state),
        "indexed_rows": index.indexed_rows,
        "pending_index_rows": index.pending_index_rows,
    }
