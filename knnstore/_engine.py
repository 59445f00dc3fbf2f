"""What a backend implements: the underscored methods of a store, and the opening of one.

Everything that comes in has been checked, copied and, under cosine, normalised by :class:`knnstore.EmbeddingStore`,
whose public methods call these. See ``docs/store/writing-a-backend.md``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import BackendError, KnnStoreError, UnsupportedOperationError
from knnstore.filters import Filter, Scalar
from knnstore.types import Batch, Column, Conflict, Consistency, Hits, Records, StoreSpec, StoreStats
from knnstore.url import StoreURL

if TYPE_CHECKING:
    from knnstore.abc import EmbeddingStore

__all__ = ["Backend", "Engine", "LateBackend", "OpenRequest", "mapped_error", "mapped_errors"]


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What :func:`knnstore.open_store` asks of a backend.

    Args:
        url: where.
        spec: what the collection must hold; None opens whatever is there and creates nothing.
        read_only: refuse to write; a missing collection is then an error even with a spec.
        consistency: what other openers see of our writes, and we of theirs.
    """

    url: StoreURL
    spec: StoreSpec | None = None
    read_only: bool = False
    consistency: Consistency = "session"


class Backend(ABC):
    """One engine, as a plugin registers it."""

    name: str
    """Entry-point name, plugin name and URL scheme in one."""
    summary: str
    """One line for people who choose."""

    @abstractmethod
    def open(self, request: OpenRequest) -> EmbeddingStore:
        """Open or create one collection; never drop or recreate one.

        Raises:
            StoreNotFoundError: nothing there and nothing to create it from.
            SpecMismatchError: see :meth:`StoreSpec.check_against`.
            InvalidURLError: an option that this backend does not have.
        """

    @abstractmethod
    def collections(self, url: StoreURL) -> list[StoreURL]:
        """The collections at this URL and one level below it, sorted; empty where there is none. Creates nothing."""

    def remove_empty(self, url: StoreURL) -> bool:  # for those who override it
        """Remove the collection at this URL if it holds no record; how ``knnstore check`` cleans up behind itself.

        Returns:
            Whether it was removed. False, and nothing has changed, where there are records or the backend cannot.
        """
        return False

    def drop(self, url: StoreURL) -> bool:
        """Remove the collection at this URL with every record; what is below it stays.

        Returns:
            Whether there was one.

        Raises:
            UnsupportedOperationError: a backend that does not override it.
            StoreBusyError: it is open somewhere, on a backend for which that matters.
        """
        raise UnsupportedOperationError(f"{url}: the backend {self.name!r} cannot drop a collection")

    def ping(self, url: StoreURL) -> None:
        """Ask whatever answers at this URL for as little as possible, with its credentials; raise if it does not."""
        self.collections(url.child("ping"))

    def gaps(self, url: StoreURL) -> Mapping[str, str]:  # for those who override it
        """What an engine cannot do at this URL, for ``knnstore check`` and the backend's own tests.

        Returns:
            The name of each check of the kit, or of one of its cases, that fails there, and the reason.
        """
        return {}

    def map_error(self, error: Exception, url: StoreURL) -> KnnStoreError | None:  # for those who override it
        """Turn what the engine raises before there is a store, at ``url``, into one of ours.

        None makes it a :class:`BackendUnavailableError` if it is an ImportError, a :class:`BackendError` otherwise.
        """
        return None


class LateBackend(Backend):
    """A backend whose work is in another module, imported for the first URL, so that a listing loads no client.

    That module has ``open_collection(request)``, ``collections_at(url)`` and ``remove(url, *, full)``. The last says
    whether it has removed a collection; one with records it removes only if ``full``.
    """

    module: str
    """Its name."""

    def open(self, request: OpenRequest) -> EmbeddingStore:
        store: EmbeddingStore = import_module(self.module).open_collection(request)
        return store

    def collections(self, url: StoreURL) -> list[StoreURL]:
        found: list[StoreURL] = import_module(self.module).collections_at(url)
        return found

    def remove_empty(self, url: StoreURL) -> bool:
        return bool(import_module(self.module).remove(url, full=False))

    def drop(self, url: StoreURL) -> bool:
        return bool(import_module(self.module).remove(url, full=True))


class Engine(ABC):
    """The methods that a backend implements. Raise whatever the engine raises; ``_map_error`` translates it once."""

    @abstractmethod
    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        """Write a non-empty batch, whole or not at all if ``capabilities.atomic``; return how many were written."""

    @abstractmethod
    def _delete_ids(self, ids: list[str]) -> int:
        """Remove a non-empty list of distinct ids; return how many of them were stored."""

    @abstractmethod
    def _delete_where(self, where: Filter) -> int:
        """Remove what matches; return how many records that were."""

    @abstractmethod
    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        """Change some fields of the stored ones among distinct ids, at least one; return how many of them were stored.

        Never create a record: see ``capabilities.update_in_place``.
        """

    @abstractmethod
    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        """Give some fields of what matches one value each; return how many records that were."""

    @abstractmethod
    def _search(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        """Search a non-empty batch of queries."""

    @abstractmethod
    def _get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        """Return the stored ones among distinct ids, in their order."""

    @abstractmethod
    def _count(self, where: Filter | None) -> int:
        """Count."""

    @abstractmethod
    def _scan(self, where: Filter | None, fields: list[str], with_vectors: bool, batch_size: int) -> Iterator[Records]:
        """Yield every match once."""

    @abstractmethod
    def _stats(self) -> StoreStats:
        """Measure."""

    def _count_by(self, field: str, where: Filter | None) -> dict[Scalar, int]:
        """Count each value of a field; an engine that can group or facet does better than this scan."""
        counts: Counter[Scalar] = Counter()
        for records in self._scan(where, [field], False, 8192):
            counts.update(records.fields[field].tolist())
        return dict(counts)

    def _revision(self) -> str:
        """Identify the content; an engine that numbers its changes does better than this count."""
        return str(self._count(None))

    def _flush(self) -> None:  # noqa: B027  # optional: nothing to wait for where writes are synchronous
        """Wait for writes to settle."""

    def _optimize(self) -> None:  # noqa: B027  # optional: an engine may have nothing to rebuild
        """Rebuild, compact, train."""

    def _close(self) -> None:  # noqa: B027  # optional: an engine may hold nothing
        """Release what is held, once; calls of other threads may be under way, and then end in a StoreClosedError."""

    def _map_error(self, error: Exception) -> KnnStoreError | None:  # for those who override it
        """Turn an engine's exception into one of ours; None makes it a :class:`BackendError`."""
        return None


Mapper = Callable[[Exception], KnnStoreError | None]


@contextmanager
def mapped_errors(mapper: Mapper, operation: str, url: StoreURL) -> Iterator[None]:
    """Turn whatever an engine raises into one of ours; what leaves shows no secret of the URL, and nor do its causes.

    Args:
        mapper: the backend's own translation.
        operation: what is being done.
        url: where.
    """
    try:
        yield
    except KnnStoreError as error:
        _hide_secrets(error, url)
        raise
    except Exception as error:
        mapped = mapped_error(error, mapper, operation, url)
        try:
            raise mapped from error
        finally:  # raising it has set its context
            _hide_secrets(mapped, url)


def mapped_error(error: Exception, mapper: Mapper, operation: str, url: StoreURL) -> KnnStoreError:
    """What to raise instead of an engine's own exception; no secret of the URL is in its text."""
    try:
        mapped = mapper(error)
    except Exception:  # a translation that fails must not hide what it was given to translate
        mapped = None
    if mapped is None:
        mapped = BackendError(f"{operation} on {url}: {type(error).__name__}: {error}")
    _hide_secrets(mapped, url)
    return mapped


def _hide_secrets(error: KnnStoreError, url: StoreURL) -> None:
    """Take them out of all that an error says. What an engine has raised cannot be changed: it goes if it has one."""
    if not url.secrets():
        return
    error.args = tuple(url.redact(str(part)) for part in error.args)
    for name, value in vars(error).items():
        if name != "__notes__" and value is not None:
            setattr(error, name, url.redact(str(value)))
    error.__notes__ = [url.redact(note) for note in getattr(error, "__notes__", ())]
    if any(url.redact(text) != text for reason in _reasons(error) for text in _texts(reason)):
        error.__cause__ = error.__context__ = None


def _reasons(error: BaseException) -> Iterator[BaseException]:
    """All that led to an error, on either way and each once."""
    left, met = [error.__cause__, error.__context__], set[int]()
    while left:
        reason = left.pop()
        if reason is not None and id(reason) not in met:
            met.add(id(reason))
            yield reason
            left += [reason.__cause__, reason.__context__]


def _texts(error: BaseException) -> Iterator[str]:
    """Whatever could be printed of an error."""
    yield from (str(error), repr(error), repr(error.args), repr(vars(error)))
