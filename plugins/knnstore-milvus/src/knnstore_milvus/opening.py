"""From a URL to an open store, and from a URL to the collections below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import milvus_pb2

from knnstore.abc import OpenRequest
from knnstore.errors import InvalidURLError, StoreCorruptError, StoreNotFoundError
from knnstore.options import check_created
from knnstore.url import StoreURL
from knnstore_milvus import admin, lite
from knnstore_milvus.columns import stored_dim
from knnstore_milvus.connection import Connection
from knnstore_milvus.errors import is_missing
from knnstore_milvus.indexes import Index
from knnstore_milvus.names import Place, collection_name, may_hold, place_of
from knnstore_milvus.options import CREATING, PORT, Options
from knnstore_milvus.schema import Found, Meta, description
from knnstore_milvus.store import MilvusStore
from knnstore_milvus.versions import check_options, check_server

__all__ = ["collections_at", "open_collection", "remove"]

T = TypeVar("T")


def open_collection(request: OpenRequest) -> MilvusStore:
    """Open or create the collection; see :meth:`knnstore.abc.Backend.open`.

    Raises:
        StoreNotFoundError, SpecMismatchError, InvalidURLError, StoreCorruptError: see :func:`knnstore.open_store`.
        StoreConnectionError, StoreTimeoutError: the server cannot be reached.
        UnsupportedOperationError: the server is too old for what the URL asks for.
    """
    url = request.url
    place, options = _collection_place(url), Options.parse(url)
    connection = _connect(url, place, options)
    try:
        return _opened(request, place, options, connection)
    except BaseException:
        connection.close()
        raise


def _opened(request: OpenRequest, place: Place, options: Options, connection: Connection) -> MilvusStore:
    name, where = collection_name(place.path), str(request.url)
    version = connection.call("GetVersion", milvus_pb2.GetVersionRequest()).version
    check_server(version, where)
    found = _described(connection, name, where)
    if found is None:
        if request.spec is None or request.read_only:
            raise StoreNotFoundError(f"nothing is stored at {where}", hint="Give a spec to create it.")
        _check_index(options.vector_index, options, where)
        _refuse(options.vector_index.impossible(options, stored_dim(request.spec.dim)), where)
        check_options(options, version, where)
        admin.create(connection, name, Meta(place.path, request.spec, options.created()))
        found = _described(connection, name, where)
        if found is None:
            raise StoreNotFoundError(f"{where} was dropped while it was being created")
    _check(found.meta, request, place)
    admin.make_ready(connection, name, found.meta, options)
    return MilvusStore(request, connection, name, found, options, version)


def _check(meta: Meta, request: OpenRequest, place: Place) -> None:
    """Whether the collection that is there is the one that is asked for."""
    if meta.path != place.path:
        raise StoreCorruptError(str(request.url), expected=f"the collection {place.path!r}", got=repr(meta.path))
    if request.spec is not None:
        request.spec.check_against(meta.spec, str(request.url))
    created = Options.parse(request.url).created()
    check_created(
        {name: created[name] for name in CREATING if name in request.url.options}, meta.created, str(request.url)
    )
    _check_index(Options.as_created(meta.created).vector_index, Options.parse(request.url), str(request.url))


def _check_index(index: Index, options: Options, where: str) -> None:
    """Refuse what this index would not look at."""
    _refuse(index.contradiction(options), where)


def _refuse(expected: str, where: str) -> None:
    if expected:
        raise InvalidURLError(where, expected=expected)


def _described(connection: Connection, name: str, where: str) -> Found | None:
    """What is known of a collection; None where there is none."""
    return _unless_missing(lambda: admin.find(connection, name, where))


def _unless_missing(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except MilvusException as error:
        if is_missing(error):
            return None
        raise


def collections_at(url: StoreURL) -> list[StoreURL]:
    """The collection itself and those one name further down, sorted by name."""
    place, options = place_of(url), Options.parse(url)
    if place.file and not lite.exists(place.file):
        return []
    with _connected(url, place, options) as connection:
        names = [name for name in admin.names(connection) if may_hold(name, place.path)]
        found = (_unless_missing(lambda name=name: admin.describe(connection, name)) for name in names)  # type: ignore[misc]
        paths = {path for described in found if described is not None for path in _path_of(description(described))}
    prefix = f"{place.path}/" if place.path else ""
    below = sorted(path[len(prefix) :] for path in paths if path.startswith(prefix) and path != place.path)
    return ([url] if place.path in paths else []) + [url.child(name) for name in below if "/" not in name]


def _path_of(text: str) -> list[str]:
    try:
        return [Meta.from_text(text, "").path]
    except StoreCorruptError:
        return []  # something else's


def remove(url: StoreURL, *, full: bool) -> bool:
    """Drop a collection of ours without records, or a ``full`` one too; see :class:`knnstore.Backend`."""
    place, options = _collection_place(url), Options.parse(url)
    name = collection_name(place.path)
    with _connected(url, place, options) as connection:
        found = _described(connection, name, str(url))
        if found is None or found.meta.path != place.path:
            return False
        if not full:
            admin.make_ready(connection, name, found.meta, options)
            if admin.count(connection, name):
                return False
        connection.call("DropCollection", milvus_pb2.DropCollectionRequest(collection_name=name))
    return True


def _collection_place(url: StoreURL) -> Place:
    place = place_of(url)
    if not place.path:
        raise InvalidURLError(
            f"{url}",
            expected="a collection after the " + ("file" if place.file else "database"),
            hint=f"Such as {_example(url, place)}.",
        )
    return place


def _example(url: StoreURL, place: Place) -> StoreURL:
    """What was probably meant: a single name on a server is more often that of a collection than of a database."""
    if place.file or place.database == "default":
        return url.child("concepts")
    return replace(url, path=f"/default/{place.database}")


def _connect(url: StoreURL, place: Place, options: Options) -> Connection:
    if place.file:
        return lite.connect(place.file, options.patience)
    host = f"[{url.host}]" if ":" in url.host else url.host
    address = f"{host}:{url.port or PORT}"
    return Connection(address, options.credentials(url), place.database, options.patience)


@contextmanager
def _connected(url: StoreURL, place: Place, options: Options) -> Iterator[Connection]:
    connection = _connect(url, place, options)
    try:
        yield connection
    finally:
        connection.close()
