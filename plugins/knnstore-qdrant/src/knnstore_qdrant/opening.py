"""From a URL to an open store, and from a URL to the collections below it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from knnstore.abc import OpenRequest
from knnstore.errors import BackendUnavailableError, InvalidInputError, InvalidURLError
from knnstore.folders import collections_in, folder_of
from knnstore.types import StoreSpec
from knnstore.url import StoreURL
from knnstore_qdrant.folder import Held, Layout, acquire, is_collection
from knnstore_qdrant.folder import remove as remove_folder
from knnstore_qdrant.options import EdgeOptions, ServerOptions, created_with, read
from knnstore_qdrant.store import QdrantStore

__all__ = ["collections_at", "open_collection", "remove"]

_MOST_DIM = 65_536


def open_collection(request: OpenRequest) -> QdrantStore:
    """Open or create the collection; see :meth:`knnstore.abc.Backend.open`."""
    options = read(request.url)
    if request.spec is not None:
        _check_spec(request.spec, options)
    if isinstance(options, ServerOptions):
        from knnstore_qdrant.server import open_on_server

        return open_on_server(request, options)
    held = _acquire(request, options)
    try:
        return QdrantStore(request, held.spec, _edge().EdgeEngine(held, options), options)
    except BaseException:
        held.release()
        raise


def _check_spec(spec: StoreSpec, options: EdgeOptions) -> None:
    """Refuse what Qdrant cannot hold before anything is created."""
    if spec.dim > _MOST_DIM:
        raise InvalidInputError("spec.dim", expected=f"at most {_MOST_DIM}, for Qdrant", got=spec.dim)
    tenant = options.tenant
    if tenant is not None and spec.fields.get(tenant) is not str:
        raise InvalidURLError(f"tenant={tenant}", expected="a declared field of type str", got=sorted(spec.fields))


def _acquire(request: OpenRequest, options: EdgeOptions) -> Held:
    spec, edge = request.spec, _edge()  # missing? then before anything is made

    def build(path: Path) -> Any:
        assert spec is not None  # without one, nothing is built
        return edge.build_shard(path, spec, options)

    return acquire(request, timeout=options.timeout, created=created_with(options), build=build, load=edge.load_shard)


def _edge() -> Any:
    try:
        from knnstore_qdrant import edge
    except ImportError as error:
        raise BackendUnavailableError(
            f"qdrant+edge needs Qdrant's engine: {error}", hint="Install it with: pip install 'knnstore-qdrant[edge]'"
        ) from error
    return edge


def collections_at(url: StoreURL) -> list[StoreURL]:
    """The collections at a URL and one level below it, sorted."""
    options = read(url)
    if isinstance(options, ServerOptions):
        from knnstore_qdrant.server import collections_on_server

        return collections_on_server(url, options)
    return collections_in(url, lambda path: is_collection(Layout(path)))


def remove(url: StoreURL, *, full: bool) -> bool:
    """Remove a collection without records, or a ``full`` one too; see :class:`knnstore.abc.Backend`."""
    options = read(url)
    if isinstance(options, ServerOptions):
        from knnstore_qdrant.server import remove_on_server

        return remove_on_server(url, options, full=full)
    layout = Layout(folder_of(url))
    if not is_collection(layout):
        return False
    return remove_folder(layout, options.timeout, (lambda _: True) if full else _edge().empty_shard)
