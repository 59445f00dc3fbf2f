"""Creating, loading, building, describing: the requests about a collection as a whole."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from knnstore.errors import StoreTimeoutError
from knnstore_milvus.connection import Connection
from knnstore_milvus.expressions import ALL
from knnstore_milvus.names import VECTOR
from knnstore_milvus.options import Options
from knnstore_milvus.schema import MARK, METRICS, Found, Meta, collection_schema, description, pairs

__all__ = ["count", "create", "describe", "find", "index_of", "make_ready", "mark", "mark_of", "names", "wait_until"]

_DUPLICATE = "create duplicate collection"
_NO_INDEX = 700
_REVISION = "knnstore.revision"


def describe(connection: Connection, name: str) -> Any:
    """Its DescribeCollectionResponse; raises where there is none."""
    return connection.call("DescribeCollection", milvus_pb2.DescribeCollectionRequest(collection_name=name))


def find(connection: Connection, name: str, where: str) -> Found:
    """The collection as it is described; raises where there is none, or one that is not ours."""
    described = describe(connection, name)
    return Found(Meta.from_text(description(described), where), described.collectionID)


def mark(connection: Connection, name: str) -> None:
    """Leave a text in the properties of a collection that nobody has left there before; see :func:`mark_of`."""
    properties = pairs({_REVISION: uuid.uuid4().hex})
    connection.call("AlterCollection", milvus_pb2.AlterCollectionRequest(collection_name=name, properties=properties))


def mark_of(connection: Connection, name: str) -> str:
    """The last text of :func:`mark`; "unmarked" where there never was one."""
    properties = describe(connection, name).properties
    return next((str(pair.value) for pair in properties if pair.key == _REVISION), "unmarked")


def names(connection: Connection) -> list[str]:
    """Every collection of the database."""
    return list(connection.call("ShowCollections", milvus_pb2.ShowCollectionsRequest()).collection_names)


def count(connection: Connection, name: str) -> int:
    """How many records there are, with everything that anyone has been told is written."""
    request = milvus_pb2.QueryRequest(collection_name=name, expr=ALL, output_fields=["count(*)"])
    return int(connection.call("Query", request).fields_data[0].scalars.long_data.data[0])


def create(connection: Connection, name: str, meta: Meta) -> None:
    """Create the collection, unless another process just has; what is there then is for the caller to check."""
    created, tenant = meta.created, bool(meta.created["partition_key"])
    properties = {"mmap.enabled": "true"} if created["mmap"] else {}
    if connection.lite:
        properties[MARK] = meta.to_text()
    request = milvus_pb2.CreateCollectionRequest(
        collection_name=name,
        schema=collection_schema(name, meta).SerializeToString(),
        shards_num=int(created["shards"]),
        consistency_level=common_pb2.ConsistencyLevel.Session,
        num_partitions=int(created["num_partitions"]) or 64 if tenant else 0,
        properties=pairs(properties),
    )
    try:
        connection.call("CreateCollection", request)
    except MilvusException as error:
        if _DUPLICATE not in error.message and "already exist" not in error.message:
            raise


def make_ready(connection: Connection, name: str, meta: Meta, options: Options) -> None:
    """See that there is an index and that the collection is loaded.

    A process that dies between creating a collection and loading it leaves it half made; whoever opens it next goes on
    from there. Each of these requests does nothing where there is nothing to do.
    """
    if index_of(connection, name) is None:
        as_created = Options.as_created(meta.created)
        build = as_created.vector_index.build_parameters(as_created)
        parameters = {"index_type": as_created.index, "metric_type": METRICS[meta.spec.metric], "params": build}
        connection.call(
            "CreateIndex",
            milvus_pb2.CreateIndexRequest(
                collection_name=name, field_name=VECTOR, index_name=VECTOR, extra_params=pairs(parameters)
            ),
        )
    if _loaded(connection, name):
        return
    connection.call(
        "LoadCollection", milvus_pb2.LoadCollectionRequest(collection_name=name, replica_number=options.replicas)
    )
    wait_until(lambda: _loaded(connection, name), options.build_timeout, f"loading collection {name}")


def index_of(connection: Connection, name: str) -> Any:
    """The description of the vector index; None where there is none."""
    try:
        found = connection.call("DescribeIndex", milvus_pb2.DescribeIndexRequest(collection_name=name))
    except MilvusException as error:
        if error.code == _NO_INDEX or "index not found" in error.message or "index not exist" in error.message:
            return None
        raise
    return next((index for index in found.index_descriptions if index.field_name == VECTOR), None)


def _loaded(connection: Connection, name: str) -> bool:
    state = connection.call("GetLoadState", milvus_pb2.GetLoadStateRequest(collection_name=name)).state
    return bool(state == common_pb2.LoadState.LoadStateLoaded)


def wait_until(done: Callable[[], bool], timeout: float, what: str) -> None:
    """Ask again and again, less and less often.

    Raises:
        StoreTimeoutError: it takes longer than ``timeout`` seconds; the server goes on with it.
    """
    end, pause = time.monotonic() + timeout, 0.02
    while not done():
        if time.monotonic() >= end:
            raise StoreTimeoutError(
                f"{what} takes longer than {timeout:g} s",
                hint="The server goes on with it; raise ?build_timeout= to wait.",
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)
