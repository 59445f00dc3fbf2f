"""From a URL to an open store, and from a URL to the stores below it."""

from __future__ import annotations

from knnstore.abc import OpenRequest
from knnstore.errors import InvalidURLError, KnnStoreError
from knnstore.folders import collections_in, folder_of
from knnstore.types import StoreSpec
from knnstore.url import StoreURL
from knnstore_faiss import cache
from knnstore_faiss.database import Database, latest
from knnstore_faiss.errors import map_error
from knnstore_faiss.factory import make_index
from knnstore_faiss.gpu import device_number
from knnstore_faiss.library import load_faiss
from knnstore_faiss.options import Options
from knnstore_faiss.schema import FILE, connect, is_store, open_meta
from knnstore_faiss.store import FaissStore

__all__ = ["collections_at", "open_collection", "remove"]


def open_collection(request: OpenRequest) -> FaissStore:
    """Open or create the collection; see :meth:`knnstore.abc.Backend.open`.

    Raises:
        BackendUnavailableError: FAISS is not installed.
        StoreNotFoundError, SpecMismatchError, InvalidURLError, StoreCorruptError: see :func:`knnstore.open_store`.
    """
    path, options = folder_of(request.url), Options.parse(request.url)
    load_faiss()
    try:
        _check_index(options, request.spec)
        meta = open_meta(path, request.spec, timeout=options.timeout, read_only=request.read_only)
        if request.spec is not None:
            request.spec.check_against(meta.spec, str(request.url))
        if not request.read_only:
            cache.remove_leftovers(path)
        database = Database(path, meta, timeout=options.timeout, sync=options.sync, read_only=request.read_only)
        return FaissStore(request, database, options)
    except KnnStoreError:
        raise
    except Exception as error:
        mapped = map_error(error, str(request.url))
        if mapped is None:
            raise
        raise mapped from error


def _check_index(options: Options, spec: StoreSpec | None) -> None:
    """Refuse what cannot be used before anything is created on disk."""
    if device_number(options.device) is not None and not options.exact:
        raise InvalidURLError(f"device={options.device}", expected="index=Flat", got=f"index={options.index}")
    if spec is not None and not options.exact:
        make_index(options.index, spec.dim, spec.metric)


def collections_at(url: StoreURL) -> list[StoreURL]:
    """The folder itself and those directly below it that hold a store, sorted by name."""
    Options.parse(url)
    return collections_in(url, is_store)


def remove(url: StoreURL, *, full: bool) -> bool:
    """Remove the files of a store without records, or of a ``full`` one too, and its folder if nothing else is in it.

    Returns:
        Whether it was removed; see :class:`Backend`.
    """
    path, options = folder_of(url), Options.parse(url)
    if not is_store(path):
        return False
    open_meta(path, None, timeout=options.timeout, read_only=True)  # ours, and readable
    connection = connect(path, timeout=options.timeout)
    try:
        connection.execute(
            "PRAGMA wal_checkpoint(TRUNCATE)"
        ).fetchall()  # a log with something in it is not left behind
        connection.execute("BEGIN IMMEDIATE")
        if latest(connection).count and not full:
            return False
        cache.remove(path)
        for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
            (path / name).unlink(missing_ok=True)
    finally:
        connection.close()
    if not any(path.iterdir()):
        path.rmdir()
    return True
