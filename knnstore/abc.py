"""The abstract store. Public methods are final and check everything; a backend implements the underscored ones.

A backend sees only data that has been checked, copied and, under cosine, normalised. What it raises that is not a
:class:`KnnStoreError` goes through its ``_map_error`` once, here, so no engine's own exception ever reaches a caller.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal, Self, final, overload

import numpy as np
from numpy.typing import NDArray

from knnstore import _validation as checks
from knnstore._engine import Backend, Engine, LateBackend, OpenRequest, mapped_errors
from knnstore._filter_forms import for_engine
from knnstore.errors import BackendError, InvalidFilterError, InvalidInputError, StoreClosedError
from knnstore.filters import Filter, Scalar, how_to_compare
from knnstore.types import (
    Capabilities,
    Conflict,
    Hits,
    Ids,
    Records,
    StoreSpec,
    StoreStats,
    VectorRecords,
    empty_column,
)
from knnstore.url import StoreURL

__all__ = ["Backend", "EmbeddingStore", "LateBackend", "OpenRequest"]


class EmbeddingStore(Engine):
    """Vectors with ids and typed fields, searched by similarity. A context manager; safe to use from threads.

    Args:
        url: where it was opened.
        spec: what it holds.
        read_only: refuse every method that writes.
    """

    def __init__(self, url: StoreURL, spec: StoreSpec, *, read_only: bool = False) -> None:
        self._url, self._spec, self._read_only, self._unclosed = url, spec, read_only, [True]

    @property
    @final
    def url(self) -> StoreURL:
        """Where the store was opened."""
        return self._url

    @property
    @final
    def spec(self) -> StoreSpec:
        """What the store holds, as stored with the data."""
        return self._spec

    @property
    @final
    def read_only(self) -> bool:
        """Whether every method that writes is refused."""
        return self._read_only

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this backend can do."""

    # -- writing ------------------------------------------------------------------------------------------------------

    @final
    def upsert(
        self,
        ids: Ids,
        vectors: NDArray[np.float32] | NDArray[np.float16],
        fields: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
        *,
        on_conflict: Conflict = "replace",
    ) -> int:
        """Write records; durable on return, seen by the next search. Repeating a call that failed does no harm.

        All of the call is written or nothing of it, where ``capabilities.atomic``. A server takes a large call in
        several requests; should a later one fail, the error says how many records had been written.

        Args:
            ids: N distinct non-empty strings of at most 512 bytes in UTF-8.
            vectors: float32 (N, D), finite; normalised here under cosine, stored bit for bit as given otherwise, but
                for what ``spec.dtype`` rounds.
            fields: a column of N values for each declared field.
            on_conflict: what to do with ids that are stored already: ``"replace"`` them, ``"skip"`` them, or
                ``"error"``.

        Returns:
            How many records were written.

        Raises:
            InvalidInputError: one of its subclasses says what is wrong; nothing was changed.
            UnknownFieldError: a field that the spec does not declare.
            ConflictError: ``on_conflict="error"`` and an id is stored; nothing was changed.
        """
        self._writable("upsert")
        if on_conflict not in ("replace", "skip", "error"):
            raise InvalidInputError("on_conflict", expected="replace, skip or error", got=repr(on_conflict))
        batch = checks.check_batch(self._spec, ids, vectors, fields)
        if not len(batch):
            return 0
        with self._mapped("upsert"):
            return self._upsert(batch, on_conflict)

    @final
    def delete(self, ids: Ids | Iterator[str] | None = None, *, where: Filter | None = None) -> int:
        """Remove records by id or by filter. An id that is not stored is ignored.

        Returns:
            How many records were removed; on a server, how many were there a moment before.

        Raises:
            InvalidInputError: neither or both of ``ids`` and ``where`` are given.
        """
        self._writable("delete")
        _either("delete", ids, where)
        if ids is not None:
            listed = checks.check_ids(ids, distinct=False)
            with self._mapped("delete"):
                return self._delete_ids(list(dict.fromkeys(listed))) if listed else 0
        checked = self._checked(where)
        assert checked is not None  # by the two branches above
        with self._mapped("delete"):
            return self._delete_where(checked)

    @final
    def update(
        self,
        fields: Mapping[str, Scalar | Sequence[Any] | NDArray[Any]],
        *,
        ids: Ids | Iterator[str] | None = None,
        where: Filter | None = None,
    ) -> int:
        """Change fields of stored records; their vectors, and the fields that are not named, stay as they are.

        A record that is not stored is never created, and one that is deleted at the same moment does not come back
        where ``capabilities.update_in_place``. Repeating a call that failed does no harm.

        Args:
            fields: for each field to change, one value for all records, or with ``ids`` a column of N values.
            ids: N distinct ids; one that is not stored is ignored.
            where: every record for which this holds before the change.

        Returns:
            How many records were changed, whether or not a value is another one; on a server, how many were there a
            moment before.

        Raises:
            InvalidInputError: neither or both of ``ids`` and ``where``, or one of its subclasses; nothing was changed.
            UnknownFieldError: a field that the spec does not declare.
        """
        self._writable("update")
        _either("update", ids, where)
        if ids is not None:
            listed = checks.check_ids(ids, distinct=True)
            columns = checks.check_changes(self._spec, fields, len(listed))
            with self._mapped("update"):
                return self._update_ids(listed, columns) if listed else 0
        changes = checks.check_changes(self._spec, fields, None)
        checked = self._checked(where)
        assert checked is not None  # by the two branches above
        with self._mapped("update"):
            return self._update_where(checked, {name: column.tolist()[0] for name, column in changes.items()})

    # -- reading ------------------------------------------------------------------------------------------------------

    @final
    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        where: Filter | None = None,
        fields: Ids | None = None,
    ) -> Hits:
        """The k best records for each query, best first; the filter applies before the k are chosen.

        Args:
            queries: float32 (Q, D).
            k: at least 1, at most ``capabilities.max_k``.
            where: only records for which this holds.
            fields: which fields to return with the hits; none by default.

        Returns:
            (Q, k) columns; where fewer than k records match, the rest has id "" and score -inf. The score is the cosine
            similarity, the dot product or the negative squared L2 distance; higher is better.

        Raises:
            InvalidInputError: queries, k or the filter do not fit the spec.
            UnknownFieldError: a field that the spec does not declare.
            UnsupportedFilterError: the engine cannot express the filter.
        """
        self._usable("search")
        rows = checks.check_vectors(queries, self._spec.dim, self._spec.metric, "queries", self._spec.dtype)
        k = checks.check_limit("k", k, self.capabilities.max_k)
        names = checks.check_fields(fields, self._spec, default_all=False)
        checked = self._checked(where)
        if not len(rows):
            return Hits.empty(0, k, self._spec, names)
        with self._mapped("search"):
            return self._search(rows, k, checked, names)

    @overload
    def get(
        self, ids: Ids | Iterator[str], *, fields: Ids | None = None, with_vectors: Literal[True] = True
    ) -> VectorRecords: ...

    @overload
    def get(self, ids: Ids | Iterator[str], *, fields: Ids | None = None, with_vectors: bool) -> Records: ...

    @final
    def get(self, ids: Ids | Iterator[str], *, fields: Ids | None = None, with_vectors: bool = True) -> Records:
        """The stored ones among ``ids``, in the order asked for, each once; all fields unless some are named."""
        self._usable("get")
        listed = list(dict.fromkeys(checks.check_ids(ids, distinct=False)))
        names = checks.check_fields(fields, self._spec, default_all=True)
        if not listed:
            return self._no_records(names, with_vectors)
        with self._mapped("get"):
            return _with(self._get(listed, names, with_vectors), with_vectors)

    @final
    def count(self, where: Filter | None = None) -> int:
        """How many records there are, or match."""
        self._usable("count")
        checked = self._checked(where)
        with self._mapped("count"):
            return self._count(checked)

    @final
    def count_by(self, field: str, where: Filter | None = None) -> dict[Scalar, int]:
        """How many records there are, or match, for each value that occurs in a field.

        Raises:
            UnknownFieldError: a field that the spec does not declare.
        """
        self._usable("count_by")
        checks.check_fields([field], self._spec, default_all=False)
        checked = self._checked(where)
        with self._mapped("count_by"):
            return self._count_by(field, checked)

    @final
    def revision(self) -> str:
        """A short text that is another one whenever the content may have changed; cheap enough for every search.

        For whoever remembers something derived from the content, and for whoever has to know what others have written:
        what this store reads afterwards has all that led to this revision, whatever its consistency. A backend that
        cannot tell reports the number of records, which misses a replacement by another process.
        """
        self._usable("revision")
        with self._mapped("revision"):
            return self._revision()

    @overload
    def scan(
        self, where: Filter | None = None, *, fields: Ids | None = None, with_vectors: Literal[True],
        batch_size: int = 1024,
    ) -> Iterator[VectorRecords]: ...  # fmt: skip

    @overload
    def scan(
        self, where: Filter | None = None, *, fields: Ids | None = None, with_vectors: bool = False,
        batch_size: int = 1024,
    ) -> Iterator[Records]: ...  # fmt: skip

    @final
    def scan(
        self,
        where: Filter | None = None,
        *,
        fields: Ids | None = None,
        with_vectors: bool = False,
        batch_size: int = 1024,
    ) -> Iterator[Records]:
        """Every record, or every match, once, in batches of at most ``batch_size``; in no promised order.

        A record that is there from the first batch to the last comes exactly once; one that is written or deleted
        meanwhile may come or not, and never twice. The arguments are checked at once, before the first batch is asked
        for. Closing the store ends the scan with a StoreClosedError.
        """
        self._usable("scan")
        batch_size = checks.check_limit("batch_size", batch_size)
        names = checks.check_fields(fields, self._spec, default_all=True)
        return self._scanned(self._checked(where), names, with_vectors, batch_size)

    # -- keeping ------------------------------------------------------------------------------------------------------

    @final
    def flush(self) -> None:
        """Wait until everything written is where it will stay."""
        self._writable("flush")
        with self._mapped("flush"):
            self._flush()

    @final
    def optimize(self) -> None:
        """Let the engine rebuild, compact or train whatever makes searching faster; answers stay right meanwhile."""
        self._writable("optimize")
        with self._mapped("optimize"):
            self._optimize()

    @final
    def stats(self) -> StoreStats:
        """Figures about the store; may measure recall, which takes some searches."""
        self._usable("stats")
        with self._mapped("stats"):
            return self._stats()

    @final
    def close(self) -> None:
        """Release everything. Closing twice is fine; any other use afterwards is a :class:`StoreClosedError`."""
        try:
            self._unclosed.pop()  # one step, so of two threads one closes; a lock could be held while somebody forks
        except IndexError:
            return
        with self._mapped("close"):
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"<{type(self).__name__} {self._url} dim={self._spec.dim} metric={self._spec.metric}{state}>"

    # -- shared -------------------------------------------------------------------------------------------------------

    @property
    def _closed(self) -> bool:
        return not self._unclosed

    def _no_records(self, fields: Sequence[str], with_vectors: bool) -> Records:
        vectors = np.empty((0, self._spec.dim), np.float32) if with_vectors else None
        columns = {name: empty_column(self._spec.fields[name], 0) for name in fields}
        return _with(Records(np.empty(0, object), vectors, columns), with_vectors)

    def _usable(self, operation: str) -> None:
        if self._closed:
            raise StoreClosedError(f"{operation} on {self._url}", expected="an open store", got="a closed one")

    def _writable(self, operation: str) -> None:
        self._usable(operation)
        if self._read_only:
            raise InvalidInputError(
                f"{operation} on {self._url}", expected="a store opened for writing", got="read_only"
            )

    def _checked(self, where: Filter | None) -> Filter | None:
        if where is not None and not isinstance(where, Filter):
            hint = how_to_compare(where) or ("knnstore.parse_filter reads text." if isinstance(where, str) else "")
            raise InvalidFilterError(
                "where", expected="a filter such as F('label') == 'x'", got=repr(where)[:80], hint=hint
            )
        return None if where is None else for_engine(where.check(self._spec.fields), self.capabilities.filters)

    def _scanned(
        self, where: Filter | None, fields: list[str], with_vectors: bool, batch_size: int
    ) -> Iterator[Records]:
        self._usable("scan")
        with self._mapped("scan"):
            for records in self._scan(where, fields, with_vectors, batch_size):
                if len(records):
                    yield _with(records, with_vectors)
                self._usable("scan")

    def _mapped(self, operation: str) -> AbstractContextManager[None]:
        return mapped_errors(self._map_error, operation, self._url)


def _either(operation: str, ids: object, where: object) -> None:
    if (ids is None) == (where is None):
        raise InvalidInputError(operation, expected="either ids or where", got="neither" if ids is None else "both")


def _with(records: Records, vectors: bool) -> Records:
    """The records, as the type that says that there are vectors where they were asked for."""
    if not vectors:
        return records
    if records.vectors is None:
        raise BackendError("the backend has returned records without the vectors that were asked for")
    return VectorRecords(records.ids, records.vectors, records.fields)
