"""Finding, making, listing and removing collections of a server. What they hold is written in their metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from qdrant_client import models

from knnstore.abc import OpenRequest
from knnstore.errors import (
    BackendError,
    InvalidURLError,
    SpecMismatchError,
    StoreCorruptError,
    StoreNotFoundError,
    UnsupportedOperationError,
)
from knnstore.options import check_created
from knnstore.types import StoreSpec
from knnstore.url import StoreURL
from knnstore_qdrant.connection import Connection
from knnstore_qdrant.errors import map_error
from knnstore_qdrant.floats import key
from knnstore_qdrant.mark import unmarked
from knnstore_qdrant.names import CUT, SLASH, collection_name, collection_path
from knnstore_qdrant.options import ServerOptions, created_with
from knnstore_qdrant.remote import DISTANCE, METADATA, RemoteEngine, identity_of
from knnstore_qdrant.store import QdrantStore

__all__ = ["collections_on_server", "open_on_server", "remove_on_server"]

_VERSION = 1
_LEAST_VERSION = (1, 16)
"""Brought the metadata of collections, which hold our spec, and conditional upserts."""
_INDEX = {
    str: models.PayloadSchemaType.KEYWORD,
    int: models.PayloadSchemaType.INTEGER,
    float: models.PayloadSchemaType.INTEGER,  # see floats.py
    bool: models.PayloadSchemaType.BOOL,
}


def open_on_server(request: OpenRequest, options: ServerOptions) -> QdrantStore:
    """Open or create the collection."""
    path = _path_of_one(request.url)
    name = collection_name(path)
    with _connected(request.url, options, keep=True) as connection:
        info = _find(connection, name)
        if info is None:
            if request.spec is None or request.read_only:
                raise StoreNotFoundError(f"nothing is stored at {request.url}", hint="Give a spec to create it.")
            _create(connection, name, path, request.spec)
            info = _find(connection, name)
        spec = _spec_of(info, path, str(request.url))
        if request.spec is not None:
            request.spec.check_against(spec, str(request.url))
        created = _created(info)
        check_created(created_with(options), created, str(request.url))
        if not request.read_only:
            _index_fields(connection, name, spec, info)
        engine = RemoteEngine(connection, name, request, created, str(identity_of(info)))
        return QdrantStore(request, spec, engine, options)


def _path_of_one(url: StoreURL) -> str:
    path = collection_path(url)
    if not path:
        raise InvalidURLError(f"{url}", expected="a collection, such as qdrant://localhost/concepts", got="none")
    return path


@contextmanager
def _connected(url: StoreURL, options: ServerOptions, *, keep: bool = False) -> Iterator[Connection]:
    """A connection to a server that is recent enough, closed afterwards unless told to ``keep`` it."""
    connection = Connection(url, options)
    try:
        _check_version(connection)
        yield connection
    except BaseException:
        connection.close()
        raise
    if not keep:
        connection.close()


def _check_version(connection: Connection) -> None:
    text = str(connection.call(lambda client: client.info()).version)
    numbers = text.removeprefix("v").split("-")[0].split(".")
    if not all(part.isdigit() for part in numbers[:2]):
        return  # a build from source may call itself anything
    if tuple(map(int, numbers[:2])) < _LEAST_VERSION:
        raise UnsupportedOperationError(
            f"{connection.url}: server {text}",
            expected=f"Qdrant {'.'.join(map(str, _LEAST_VERSION))} or later, which keeps metadata with a collection",
            hint="Upgrade the server; Qdrant asks for one minor version after the other.",
        )


def _find(connection: Connection, name: str) -> Any:
    """What the server says about a collection, None where there is none."""
    if not connection.call(lambda client: client.collection_exists(name)):
        return None
    return connection.call(lambda client: client.get_collection(name))


def _create(connection: Connection, name: str, path: str, spec: StoreSpec) -> None:
    """Create the collection; that another process was first is not an error, and what it made is checked like any."""
    options = connection.options
    hnsw = models.HnswConfigDiff(
        m=options.m, ef_construct=options.ef_construct, full_scan_threshold=options.full_scan_threshold
    )
    half = models.Datatype.FLOAT16 if spec.dtype == "float16" else None
    vectors = models.VectorParams(
        size=spec.dim, distance=DISTANCE[spec.metric], datatype=half, on_disk=options.on_disk
    )  # fmt: skip
    ours = {"version": _VERSION, "spec": spec.to_json(), "path": path, "tenant": options.tenant, "id": uuid4().hex}
    try:
        connection.call(
            lambda client: client.create_collection(
                name,
                vectors,
                shard_number=options.shards,
                replication_factor=options.replication_factor,
                write_consistency_factor=options.write_consistency_factor,
                on_disk_payload=options.on_disk_payload,
                hnsw_config=hnsw,
                quantization_config=_quantization(options),
                metadata={METADATA: json.dumps(ours)},
            )
        )
    except Exception:
        if not connection.call(lambda client: client.collection_exists(name)):
            raise


def _quantization(options: ServerOptions) -> Any:
    ram = options.always_ram
    match options.quantization:
        case "int8":
            scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=ram)
            return models.ScalarQuantization(scalar=scalar)
        case "product":
            ratio = models.CompressionRatio(options.compression or "x16")
            product = models.ProductQuantizationConfig(compression=ratio, always_ram=ram)
            return models.ProductQuantization(product=product)
        case "binary":
            return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=ram))
    return None


def _ours(info: Any) -> dict[str, Any] | None:
    """Our part of a collection's metadata, None where it is not ours."""
    text = identity_of(info)
    if text is None:
        return None
    try:
        ours: dict[str, Any] = json.loads(text)
        if ours["version"] == _VERSION and isinstance(ours["spec"], str) and isinstance(ours["path"], str):
            return ours
    except (ValueError, LookupError, TypeError):
        pass
    raise StoreCorruptError("the metadata of a collection", expected=f"version {_VERSION} of ours", got=text[:80])


def _spec_of(info: Any, path: str, where: str) -> StoreSpec:
    ours = None if info is None else _ours(info)
    if ours is None or ours["path"] != path:
        raise SpecMismatchError(
            where,
            expected="a collection made by knnstore",
            got="one without its metadata" if ours is None else f"the one of the path {ours['path']!r}",
            hint="Nothing was changed. Choose another path.",
        )
    return StoreSpec.from_json(ours["spec"])


def _created(info: Any) -> dict[str, object]:
    """What the creation options would have to be for the collection as it is now."""
    config, ours = info.config, _ours(info) or {}
    there: dict[str, object] = {
        "shards": config.params.shard_number,
        "replication_factor": config.params.replication_factor,
        "write_consistency_factor": config.params.write_consistency_factor,
        "on_disk_payload": config.params.on_disk_payload,
        "on_disk": config.params.vectors.on_disk or False,
        "m": config.hnsw_config.m,
        "ef_construct": config.hnsw_config.ef_construct,
        "full_scan_threshold": config.hnsw_config.full_scan_threshold,
        "tenant": ours.get("tenant"),
    }
    for kind, name in (("scalar", "int8"), ("product", "product"), ("binary", "binary")):
        made = getattr(config.quantization_config, kind, None)
        if made is not None:
            ratio = getattr(made, "compression", None)  # an enum, which prints as CompressionRatio.X16
            compression = None if ratio is None else ratio.value
            there |= {"quantization": name, "always_ram": made.always_ram or False, "compression": compression}
    return there


def _index_fields(connection: Connection, name: str, spec: StoreSpec, info: Any) -> None:
    """An index for each declared field that has none yet; the one who was to make them may have been killed."""
    tenant = (_ours(info) or {}).get("tenant")
    for field, kind in spec.fields.items():
        if key(field, kind) not in (info.payload_schema or {}):
            schema: Any = _INDEX[kind]
            if field == tenant:
                schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
            _index(connection, name, key(field, kind), schema)


def _index(connection: Connection, name: str, field: str, schema: Any) -> None:
    connection.call(lambda client: client.create_payload_index(name, field, schema, wait=True))


def collections_on_server(url: StoreURL, options: ServerOptions) -> list[StoreURL]:
    """The collections of ours at the path of a URL, and one level below it."""
    path = collection_path(url)
    own = collection_name(path) if path else ""
    with _connected(url, options) as connection:
        listed = connection.call(lambda client: client.get_collections()).collections
        names = [c.name for c in listed if not path or c.name == own or c.name.startswith(own + SLASH) or CUT in c.name]
        paths = {found for name in names if (found := _path_of(connection, name)) is not None}
    prefix = f"{path}/" if path else ""
    below = sorted(p[len(prefix) :] for p in paths if p.startswith(prefix) and "/" not in p[len(prefix) :])
    return ([url] if path in paths else []) + [url.child(name) for name in below if name]


def _path_of(connection: Connection, name: str) -> str | None:
    """The path that a collection was made for; None if it is not ours, or gone meanwhile."""
    try:
        info = _find(connection, name)
        ours = None if info is None else _ours(info)
    except StoreCorruptError:
        return None
    except Exception as error:
        if isinstance(map_error(error, name), StoreNotFoundError):
            return None
        raise
    return None if ours is None else str(ours["path"])


def remove_on_server(url: StoreURL, options: ServerOptions, *, full: bool) -> bool:
    """Remove a collection of ours without records, or a ``full`` one too.

    Whoever writes to it at this very moment loses that.
    """
    path = _path_of_one(url)
    name = collection_name(path)
    with _connected(url, options) as connection:
        if _path_of(connection, name) != path:
            return False
        if not full and connection.call(lambda client: client.count(name, unmarked(None), exact=True)).count:
            return False
        if not connection.call(lambda client: client.delete_collection(name)):
            raise BackendError(f"{url}: the server did not remove the collection")
    return True
