"""Finding backends: by name, importing only the one that is asked for."""

from __future__ import annotations

import difflib
import threading
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy

from knnstore import hookspecs
from knnstore.abc import Backend, EmbeddingStore, OpenRequest
from knnstore.errors import BrokenPluginError, UnknownBackendError
from knnstore.types import Consistency, StoreSpec
from knnstore.url import StoreURL

__all__ = ["BackendInfo", "backends", "collections", "get_backend", "open_store", "register"]

_GROUP = "knnstore"
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
        self._lock = threading.RLock()
        self._backends: dict[str, Backend] = {}

    def register(self, plugin: object) -> list[Backend]:
        """Run one plugin's hook in a manager of its own, so that its mistakes stay its own."""
        manager = pluggy.PluginManager(_GROUP)
        manager.add_hookspecs(hookspecs)
        manager.register(plugin)
        manager.check_pending()
        found: list[Backend] = []
        manager.hook.knnstore_register(register=found.append)
        with self._lock:
            self._backends.update({backend.name: backend for backend in found})
        return found

    def get(self, name: str) -> Backend:
        with self._lock:
            if name not in self._backends:
                self._load(_entry_point(name))
            return self._backends[name]

    def _load(self, entry: EntryPoint) -> None:
        try:
            found = self.register(entry.load())
        except Exception as error:  # any exception at all: the module is not ours
            raise BrokenPluginError(
                f"backend {entry.name!r} ({entry.value}) failed to load: {type(error).__name__}: {error}",
                hint="Reinstall or remove its distribution; other backends are not affected.",
            ) from error
        if entry.name not in [backend.name for backend in found]:
            raise BrokenPluginError(
                f"backend {entry.name!r} ({entry.value})",
                expected=f"its knnstore_register hook to register {entry.name!r}",
                got=[backend.name for backend in found] or "nothing",
            )


_registry = _Registry()


def _entry_point(name: str) -> EntryPoint:
    found = {entry.name: entry for entry in entry_points(group=_GROUP)}
    if name in found:
        return found[name]
    near = difflib.get_close_matches(name, [*found, *_KNOWN], 1)
    hint = (
        f"Install it with: pip install {_KNOWN[name]}"
        if name in _KNOWN
        else f"Did you mean {near[0]!r}?"
        if near
        else ""
    )
    raise UnknownBackendError(f"store backend {name!r}", expected=f"one of {sorted(found)}", hint=hint)


def backends() -> list[BackendInfo]:
    """The installed backends, by name; imports none of them."""
    return sorted((_info(entry) for entry in entry_points(group=_GROUP)), key=lambda info: info.name)


def _info(entry: EntryPoint) -> BackendInfo:
    distribution = entry.dist
    name = "" if distribution is None else f"{distribution.metadata['Name']} {distribution.version}"
    return BackendInfo(entry.name, name, entry.module)


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
        pluggy.PluginValidationError: a hook that does not exist, or one with other arguments.
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
        url: ``memory:///name``, ``faiss:///folder``, ``milvus://…``, ``qdrant://…``; options after ``?``.
        spec: what the collection must hold. None opens whatever is there.
        read_only: refuse to write, and create nothing.
        consistency: ``"strong"``, ``"session"`` (read your own writes) or ``"eventual"``. An embedded store is always
            strong.

    Raises:
        InvalidURLError: the URL cannot be parsed, or has an option that the backend does not know.
        UnknownBackendError: no plugin provides the scheme; the message has the pip command for the known ones.
        StoreNotFoundError: nothing is there, and no spec was given or the store was opened read-only.
        SpecMismatchError: what is there differs from ``spec``; the message shows both sides.
    """
    parsed = StoreURL.parse(url)
    return get_backend(parsed.backend).open(OpenRequest(parsed, spec, read_only, consistency))


def collections(url: str | StoreURL) -> list[StoreURL]:
    """The collections at a URL and one level below it."""
    parsed = StoreURL.parse(url)
    return get_backend(parsed.backend).collections(parsed)
