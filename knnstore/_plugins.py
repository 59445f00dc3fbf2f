"""Finding backends: by name, importing only the one that is asked for."""

from __future__ import annotations

import re
import threading
import time
import uuid
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from knnstore import hookspecs
from knnstore._engine import Backend, OpenRequest, mapped_errors
from knnstore.abc import EmbeddingStore
from knnstore.errors import (
    BackendUnavailableError,
    BrokenPluginError,
    InvalidInputError,
    StoreNotFoundError,
    UnknownBackendError,
    UnsupportedOperationError,
    did_you_mean,
)
from knnstore.options import dtype_option
from knnstore.types import Consistency, StoreSpec
from knnstore.url import StoreURL

__all__ = [
    "BackendInfo",
    "backends",
    "collections",
    "drop_store",
    "get_backend",
    "known_backends",
    "may_write",
    "open_store",
    "ping",
    "register",
    "remove_empty",
]

_GROUP = "knnstore"
_OURS = "knnstore"
_NAME = re.compile(r"[a-z][a-z0-9]*")
_LEVELS = ("eventual", "session", "strong")  # from weak to strong
_KNOWN = {"faiss": "knnstore-faiss", "milvus": "knnstore-milvus", "qdrant": "knnstore-qdrant"}


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """A backend as its distribution announces it; nothing of it has been imported.

    Args:
        name: the URL scheme.
        distribution: the distribution that provides it, and its version.
        module: the module that would be imported.
    """

    name: str
    distribution: str
    module: str


class _Registry:
    """Backends by name. A plugin is imported on first use; one that fails leaves no trace that could hurt another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backends: dict[str, Backend] = {}

    def register(self, plugin: object) -> None:
        """Take in all that a plugin brings; names that are taken are replaced, as the caller asked for it."""
        found = _backends_of(plugin)
        with self._lock:
            self._backends.update({backend.name: backend for backend in found})

    def get(self, name: str) -> Backend:
        backend = self._backends.get(name)
        if backend is None:
            loaded = _load(_entry_point(name))  # without the lock: an import may take long, or ask for a backend itself
            with self._lock:
                backend = self._backends.setdefault(name, loaded)
        return backend


_registry = _Registry()


def _backends_of(plugin: object) -> list[Backend]:
    found: list[object] = []
    hookspecs.call_hook(plugin, hookspecs, found.append)
    backends = [backend for backend in found if isinstance(backend, Backend) and _named(backend)]
    if not found or len(backends) < len(found):
        raise BrokenPluginError(
            f"plugin {getattr(plugin, '__name__', type(plugin).__name__)}",
            expected="its knnstore_register hook to register named Backends",
            got=[type(backend).__name__ for backend in found] or "nothing",
        )
    return backends


def _named(backend: Backend) -> bool:
    """Whether the backend's name can be the scheme of a URL."""
    return isinstance(getattr(backend, "name", None), str) and _NAME.fullmatch(backend.name) is not None


def _load(entry: EntryPoint) -> Backend:
    what = f"backend {entry.name!r} ({entry.value})"
    try:
        found = _backends_of(entry.load())
    except (Exception, SystemExit) as error:  # any exception at all: the module is not ours
        raise BrokenPluginError(
            f"{what} failed to load: {type(error).__name__}: {error}",
            hint=f"Reinstall or remove {_distribution(entry) or 'its distribution'}; other backends are not affected.",
        ) from error
    for backend in found:  # only the one that the entry point announces: a plugin cannot take another's name
        if backend.name == entry.name:
            return backend
    raise BrokenPluginError(
        what,
        expected=f"its knnstore_register hook to register {entry.name!r}",
        got=[backend.name for backend in found],
    )


def _entry_point(name: str) -> EntryPoint:
    entries = entry_points(group=_GROUP)
    found = [entry for entry in entries if entry.name == name]
    if not found:
        raise _unknown(name, sorted({entry.name for entry in entries}))
    official = [entry for entry in found if _distribution(entry).split(" ")[0] == _KNOWN.get(name, _OURS)]
    if len({entry.value for entry in found}) > 1 and not official:
        raise BrokenPluginError(
            f"backend {name!r}",
            expected="one distribution to provide it",
            got=sorted(_distribution(entry) or entry.value for entry in found),
            hint="Remove one of them.",
        )
    return (official or found)[0]


def _unknown(name: str, installed: list[str]) -> UnknownBackendError:
    install = f"Install it with: pip install {_KNOWN[name]}" if name in _KNOWN else ""
    hint = install or did_you_mean(name, [*installed, *_KNOWN])
    return UnknownBackendError(f"store backend {name!r}", expected=f"one of {installed}", hint=hint)


def backends() -> list[BackendInfo]:
    """The installed backends, by name; imports none of them."""
    return sorted((_info(entry) for entry in entry_points(group=_GROUP)), key=lambda info: info.name)


def _info(entry: EntryPoint) -> BackendInfo:
    return BackendInfo(entry.name, _distribution(entry), entry.value.partition(":")[0].strip())


def _distribution(entry: EntryPoint) -> str:
    """Name and version; "" where its metadata is damaged."""
    try:
        return "" if entry.dist is None else f"{entry.dist.metadata['Name']} {entry.dist.version}"
    except Exception:  # metadata written by anyone
        return ""


def known_backends() -> dict[str, str]:
    """The backends of this project and the distribution of each, installed or not."""
    return dict(_KNOWN)


def get_backend(name: str) -> Backend:
    """Import and return one backend.

    Raises:
        UnknownBackendError: no installed distribution provides it.
        BrokenPluginError: its plugin fails while it is loaded.
    """
    return _registry.get(name)


def register(plugin: object) -> None:
    """Register a plugin, a module or object with a ``knnstore_register`` hook, without an entry point.

    Raises:
        BrokenPluginError: a hook that does not exist or has other arguments, or one that registers no backend.
    """
    _registry.register(plugin)


def open_store(
    url: str | StoreURL,
    spec: StoreSpec | None = None,
    *,
    read_only: bool = False,
    consistency: Consistency = "session",
) -> EmbeddingStore:
    """Open a collection, creating it where it does not exist and a spec is given. Nothing is ever dropped.

    Args:
        url: ``memory:///name``, ``faiss:///folder``, ``milvus://…``, ``qdrant://…``; options after ``?``. Every store
            has ``dtype=float16`` or ``float32``, which counts in place of the spec's.
        spec: what the collection must hold. None opens whatever is there.
        read_only: refuse to write, and create nothing.
        consistency: ``"strong"``, ``"session"`` (read your own writes) or ``"eventual"``. An embedded store is always
            strong.

    Raises:
        InvalidURLError: the URL cannot be parsed, or has an option that the backend does not know.
        UnknownBackendError: no plugin provides the scheme; the message has the pip command for the known ones.
        StoreNotFoundError: nothing is there, and no spec was given or the store was opened read-only.
        SpecMismatchError: what is there differs from ``spec``; the message shows both sides.
        BackendUnavailableError: the backend's client library or device is not usable; with the pip command.
        UnsupportedOperationError: the backend has no consistency as strong as asked for.
    """
    parsed, dtype = dtype_option(StoreURL.parse(url))
    if spec is not None and not isinstance(spec, StoreSpec):
        raise InvalidInputError("spec", expected="a StoreSpec or None", got=type(spec).__name__)
    if spec is not None and dtype is not None:
        spec = replace(spec, dtype=dtype)
    if consistency not in _LEVELS:
        raise InvalidInputError("consistency", expected=f"one of {', '.join(_LEVELS)}", got=repr(consistency))
    backend = get_backend(parsed.backend)
    with _mapped(backend, parsed, "open"):
        store = backend.open(OpenRequest(parsed, spec, read_only, consistency))
    if not isinstance(store, EmbeddingStore):
        raise BrokenPluginError(
            f"backend {parsed.backend!r}: open", expected="an EmbeddingStore", got=type(store).__name__
        )
    if dtype is not None and store.spec.dtype != dtype:
        store.close()
        replace(store.spec, dtype=dtype).check_against(store.spec, str(parsed))
    offered = store.capabilities.consistency
    if max(map(_LEVELS.index, offered)) < _LEVELS.index(consistency):
        store.close()
        raise UnsupportedOperationError(f"{parsed}: consistency={consistency!r}", expected=f"one of {list(offered)}")
    return store


def collections(url: str | StoreURL) -> list[StoreURL]:
    """The collections at a URL and one level below it; their URLs do not say the ``dtype``, which is stored.

    Raises:
        InvalidURLError, UnknownBackendError, BackendUnavailableError: see :func:`open_store`.
    """
    parsed, _ = dtype_option(StoreURL.parse(url))
    backend = get_backend(parsed.backend)
    with _mapped(backend, parsed, "collections"):
        return backend.collections(parsed)


def drop_store(url: str | StoreURL) -> None:
    """Remove the collection at a URL with every record. There is no way back; collections below it stay.

    Raises:
        StoreNotFoundError: no collection is there.
        UnsupportedOperationError: the backend cannot drop one.
        StoreBusyError: it is open, on a backend for which that matters.
    """
    parsed, _ = dtype_option(StoreURL.parse(url))
    backend = get_backend(parsed.backend)
    with _mapped(backend, parsed, "drop"):
        if not backend.drop(parsed):
            raise StoreNotFoundError(f"no collection at {parsed} itself", hint="knnstore info shows what is at a URL.")


def ping(url: str | StoreURL) -> float:
    """Ask the engine at a URL, with the credentials of the URL, for next to nothing. Needs no collection.

    Returns:
        Seconds until it answered, with the time to connect.

    Raises:
        StoreConnectionError, StoreTimeoutError, StoreAuthenticationError: it did not answer, or did not let us in.
    """
    parsed, _ = dtype_option(StoreURL.parse(url))
    backend, start = get_backend(parsed.backend), time.perf_counter()
    with _mapped(backend, parsed, "ping"):
        backend.ping(parsed)
    return time.perf_counter() - start


def may_write(store: EmbeddingStore) -> None:
    """Ask for the right to write before work is done that would be lost without it, by deleting what is not there.

    Raises:
        StoreAuthenticationError: a key that may only read, or a folder that this user may not write to.
        KnnStoreError: as for any write.
    """
    store.delete([uuid.uuid4().hex])


def remove_empty(url: StoreURL) -> bool:
    """See :meth:`Backend.remove_empty`. Not public: the kit cleans up with it."""
    parsed, _ = dtype_option(url)
    backend = get_backend(parsed.backend)
    with _mapped(backend, parsed, "remove_empty"):
        return backend.remove_empty(parsed)


def _mapped(backend: Backend, url: StoreURL, operation: str) -> AbstractContextManager[None]:
    """What an engine raises before there is a store to map it."""
    return mapped_errors(lambda error: backend.map_error(error, url) or _missing(backend, error), operation, url)


def _missing(backend: Backend, error: Exception) -> BackendUnavailableError | None:
    if not isinstance(error, ImportError):
        return None
    package = _KNOWN.get(backend.name) or _distribution(_entry_point(backend.name)).split(" ")[0]
    return BackendUnavailableError(
        f"backend {backend.name!r} cannot import its client: {error}", hint=f"Install it with: pip install {package}"
    )
