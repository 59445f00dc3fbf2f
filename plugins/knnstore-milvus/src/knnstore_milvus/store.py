"""The store: what its methods ask of the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pymilvus.grpc_gen import milvus_pb2

from knnstore._engine import mapped_error
from knnstore.abc import EmbeddingStore, OpenRequest
from knnstore.errors import ConflictError, KnnStoreError, SpecMismatchError
from knnstore.filters import Filter, Scalar
from knnstore.remote import upload
from knnstore.types import Batch, Capabilities, Column, Conflict, Hits, Records, StoreStats, empty_column
from knnstore_milvus import admin, maintenance, updating
from knnstore_milvus.columns import encode
from knnstore_milvus.connection import Connection
from knnstore_milvus.errors import map_error
from knnstore_milvus.expressions import ALL
from knnstore_milvus.options import Options
from knnstore_milvus.reading import WINDOW, Reader, id_slices
from knnstore_milvus.schema import Found
from knnstore_milvus.searching import MAX_K, Searcher
from knnstore_milvus.selective import SelectiveSearch
from knnstore_milvus.session import Session

__all__ = ["MilvusStore"]


class MilvusStore(EmbeddingStore):
    """A collection.

    Args:
        request: what was asked for.
        connection: to its server; closed with the store.
        name: of the collection.
        found: what was stored with it when it was opened.
        options: of the URL.
        version: of the server.
    """

    def __init__(
        self, request: OpenRequest, connection: Connection, name: str, found: Found, options: Options, version: str
    ) -> None:
        meta = found.meta
        super().__init__(request.url, meta.spec, read_only=request.read_only)
        self._connection, self._name, self._options, self._version = connection, name, options, version
        self._language, self._found = connection.language, found
        self._index = Options.as_created(meta.created).vector_index
        self._session = Session(connection, request.consistency)
        self._turns = updating.Turns()
        self._mark, self._marks = "", False
        self._reader = Reader(connection, self._session, name, meta.spec, options.batch_bytes)
        self._searcher = Searcher(self._reader, self._index, options)
        self._selective = SelectiveSearch(self._searcher)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            max_k=MAX_K,
            server=not self._url.variant,
            multi_process=not self._url.variant,
            approximate=not self._index.exact,
            recall_floor=self._index.recall_floor,
            atomic=False,
            revision=not self._url.variant,
            consistency=("strong", "session", "eventual"),
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._check_same()
        if on_conflict != "replace":
            stored = set(self._get(batch.ids, [], False).ids)
            if on_conflict == "error" and stored:
                first = next(value for value in batch.ids if value in stored)
                raise ConflictError(f"{self.url}: id {first!r} is stored already", hint="Nothing was written.")
            batch = _without(batch, stored) if stored else batch
        return upload(
            batch, self._send, self._as_ours, max_bytes=self._options.batch_bytes, max_count=self._options.batch_rows
        )

    def _check_same(self) -> None:
        """Refuse to write into another collection that was made in the place of ours: one small request a call."""
        if admin.find(self._connection, self._name, str(self.url)) != self._found:
            raise SpecMismatchError(
                f"{self.url}: the collection",
                expected="the one that was opened",
                got="another one of that name, made since",
                hint="Nothing was written. Open the store again, with the spec of what you write.",
            )

    def _send(self, part: Batch) -> int:
        request = milvus_pb2.UpsertRequest(
            collection_name=self._name, fields_data=encode(part, self.spec), num_rows=len(part)
        )
        self._write("Upsert", request)
        return len(part)

    def _write(self, method: str, request: object) -> None:
        if not self._marks:
            self._leave_mark()  # who may not, and so cannot tell others, finds out before anything is written
        with self._turns.taken():
            try:
                self._connection.call(method, request)
            finally:
                self._session.wrote()  # after an error too: it may have been written
        self._leave_mark()

    def _leave_mark(self) -> None:
        if not self._connection.lite:  # whose collections lose their schema file to two that change it at once
            admin.mark(self._connection, self._name)
        self._marks = True

    def _as_ours(self, error: Exception) -> KnnStoreError:
        return mapped_error(error, self._map_error, "upsert", self.url)

    def _delete_ids(self, ids: list[str]) -> int:
        self._check_same()
        there = len(self._get(ids, [], False))  # the server counts those that are not stored as well
        self._delete_listed(ids)
        return there

    def _delete_listed(self, ids: list[str]) -> None:
        for part in id_slices(ids):
            request = milvus_pb2.DeleteRequest(collection_name=self._name, expr=self._language.ids_in(ids[part]))
            self._write("Delete", request)

    def _delete_where(self, where: Filter) -> int:
        # By id: servers differ in which moment a deletion by filter looks at, and in how much it may match.
        self._check_same()
        gone = 0
        for records in self._reader.scan(self._language.expression(where), [], False, WINDOW):
            self._delete_listed(records.ids.tolist())
            gone += len(records)
        return gone

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        self._check_same()
        row = {value: i for i, value in enumerate(ids)}
        return self._change(
            ids, ALL, lambda there: {name: column[[row[value] for value in there]] for name, column in fields.items()}
        )

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        self._check_same()
        dtypes = {name: empty_column(self.spec.fields[name], 0).dtype for name in fields}
        expr = self._language.expression(where)
        return sum(
            self._change(
                found.ids.tolist(), expr,
                lambda there: {name: np.full(len(there), value, dtypes[name]) for name, value in fields.items()},
            )
            for found in self._reader.scan(expr, [], False, WINDOW)
        )  # fmt: skip

    def _change(self, ids: list[str], where: str, values: Callable[[Sequence[str]], dict[str, Column]]) -> int:
        return updating.change(self._reader, self._turns, ids, where, values, self._put_back)

    def _put_back(self, batch: Batch) -> int:
        return upload(
            batch, self._send, lambda error: mapped_error(error, self._map_error, "update", self.url),
            max_bytes=self._options.batch_bytes, max_count=self._options.batch_rows,
        )  # fmt: skip

    # -- reading ------------------------------------------------------------------------------------------------------

    def _search(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        expr = "" if where is None else self._language.expression(where)
        if where is None or self._index.exact:
            return self._searcher.approximately(queries, k, expr, fields)
        return self._selective.search(queries, k, expr, fields)

    def _get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        return self._reader.get(ids, fields, with_vectors)

    def _count(self, where: Filter | None) -> int:
        return self._reader.count(self._language.expression(where))

    def _revision(self) -> str:
        if self._connection.lite:
            return f"{self._count(None)}-{self._session.writes}"
        mark = admin.mark_of(self._connection, self._name)
        if mark != self._mark:
            self._session.wrote()  # somebody; what is read from now on has it, whatever the consistency
            self._mark = mark
        return mark

    def _scan(self, where: Filter | None, fields: list[str], with_vectors: bool, batch_size: int) -> Iterator[Records]:
        return self._reader.scan(self._language.expression(where), fields, with_vectors, batch_size)

    # -- keeping ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        maintenance.flush(self._connection, self._name, self._options.build_timeout)

    def _optimize(self) -> None:
        maintenance.optimize(self._connection, self._name, self._options.build_timeout)

    def _close(self) -> None:
        self._connection.close()

    def _stats(self) -> StoreStats:
        details = maintenance.details(self._connection, self._name)
        rows = details.get("indexed_rows")
        indexed = rows if isinstance(rows, int) and not self._index.exact else None
        return StoreStats("milvus", self._count(None), indexed=indexed, details={"server": self._version, **details})

    def _map_error(self, error: Exception) -> KnnStoreError | None:
        return map_error(error, str(self.url))


def _without(batch: Batch, stored: set[str]) -> Batch:
    kept = [i for i, value in enumerate(batch.ids) if value not in stored]
    columns = {name: column[kept] for name, column in batch.fields.items()}
    return Batch([batch.ids[i] for i in kept], batch.vectors[kept], columns)
