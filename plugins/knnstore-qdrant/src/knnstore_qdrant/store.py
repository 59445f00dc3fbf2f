"""The store: ids, payloads, filters and scores are the same whatever engine answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from knnstore._engine import mapped_error
from knnstore.abc import EmbeddingStore, OpenRequest
from knnstore.errors import ConflictError, KnnStoreError
from knnstore.filters import Filter, Scalar
from knnstore.remote import row_slices, upload
from knnstore.types import Batch, Capabilities, Column, Conflict, Hits, Records, StoreSpec, StoreStats
from knnstore_qdrant.engine import QdrantEngine
from knnstore_qdrant.errors import fewer, map_error, refused_by_limits
from knnstore_qdrant.filters import Compiler
from knnstore_qdrant.floats import floats, key
from knnstore_qdrant.options import EdgeOptions
from knnstore_qdrant.points import ID, Point, change_of, changes_of, ids_of, payloads_of, point_ids, records_of
from knnstore_qdrant.searching import HIT_BYTES, Searcher, payload_of

__all__ = ["QdrantStore"]

_ID_BYTES = 64
"""A UUID with its framing in any of the protocols."""
_FACETS = 10_000
_PAGE = 1000


class QdrantStore(EmbeddingStore):
    """See the module.

    Args:
        request: what was asked for.
        spec: what is stored.
        engine: open.
        options: of the URL.
    """

    def __init__(self, request: OpenRequest, spec: StoreSpec, engine: QdrantEngine, options: EdgeOptions) -> None:
        super().__init__(request.url, spec, read_only=request.read_only)
        self._engine, self._options = engine, options
        self._compiler = Compiler(engine.dialect, spec.fields)
        self._bytes = options.batch_bytes // engine.wire
        self._at_once = options.batch_rows
        self._searcher = Searcher(engine, self._compiler, spec, self._bytes)
        self._capabilities = Capabilities(
            server=engine.server,
            unordered=frozenset({"str"}),
            multi_process=engine.server,
            approximate=engine.recall_floor < 1,
            recall_floor=engine.recall_floor,
            atomic=False,
            conditional=True,
            update_in_place=True,
            revision=True,
            half_precision=True,
            consistency=("strong", "session", "eventual") if engine.server else ("strong",),
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    # -- writing ------------------------------------------------------------------------------------------------------

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._engine.check_same()
        if on_conflict == "error":
            self._refuse_stored(batch.ids)

        def send(part: Batch) -> int:
            return self._in_steps(len(part), lambda step: self._send(part.part(step), on_conflict))

        return upload(batch, send, self._as_ours, max_bytes=self._bytes, max_count=self._options.batch_rows)

    def _send(self, part: Batch, on_conflict: Conflict) -> int:
        ids = point_ids(part.ids)
        new = len(part)
        if on_conflict == "skip":
            new -= len(self._engine.retrieve(ids, [ID], vectors=False))
        if new:
            payloads = payloads_of(part, self._engine.truth)
            self._engine.upsert(ids, part.vectors, payloads, insert_only=on_conflict != "replace")
        return new

    def _in_steps(self, count: int, send: Callable[[slice], int]) -> int:
        """Send ``count`` records, in smaller steps from now on where the server says that it takes no more at once."""
        start = sent = 0
        while start < count:
            step = slice(start, min(start + self._at_once, count))
            try:
                sent += send(step)
            except Exception as error:
                self._at_once = fewer(error, step.stop - step.start)
            else:
                start = step.stop
        return sent

    def _as_ours(self, error: Exception) -> KnnStoreError:
        return mapped_error(error, self._map_error, "upsert", self.url)

    def _refuse_stored(self, ids: list[str]) -> None:
        stored = self._get(ids, [], with_vectors=False)
        if len(stored):
            raise ConflictError(f"{self.url}: id {stored.ids[0]!r} is stored already", hint="Nothing was written.")

    def _delete_ids(self, ids: list[str]) -> int:
        self._engine.check_same()
        there = len(self._get(ids, [], False))  # the engine does not tell
        for part in self._id_slices(len(ids), _ID_BYTES):
            self._engine.delete(point_ids(ids[part]))
        return there

    def _delete_where(self, where: Filter) -> int:
        self._engine.check_same()
        there = self._count(where)
        self._engine.delete_where(self._compiler.compile(where))
        return there

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        self._engine.check_same()
        stored = set(self._get(ids, [], False).ids)  # the engine does not tell
        rows = [i for i, value in enumerate(ids) if value in stored]
        columns = {name: column[rows] for name, column in fields.items()}
        batch = Batch([ids[i] for i in rows], np.empty((len(rows), 0), np.float32), columns)
        return upload(
            batch,
            lambda part: self._in_steps(len(part), lambda step: self._change(part.part(step))),
            lambda error: mapped_error(error, self._map_error, "update", self.url),
            max_bytes=self._bytes,
            max_count=self._options.batch_rows,
        )

    def _change(self, part: Batch) -> int:
        dialect = self._engine.dialect
        changes = changes_of(part, self._engine.truth)
        self._engine.change([(dialect.group(must=[dialect.among_ids(points)]), payload) for points, payload in changes])
        return len(part)

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        self._engine.check_same()
        there = self._count(where)
        self._engine.change([(self._compiler.compile(where), change_of(fields, self._engine.truth))])
        return there

    def _id_slices(self, count: int, each: int) -> Iterator[slice]:
        return row_slices(count, each, self._bytes, 10 * self._options.batch_rows)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _search(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        return self._searcher.search(queries, k, where, fields)

    def _get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        kinds = {name: self.spec.fields[name] for name in fields}
        points: dict[str, Point] = {}
        each = _ID_BYTES + HIT_BYTES + (4 * self.spec.dim if with_vectors else 0)
        for part in self._id_slices(len(ids), each):
            found = self._engine.retrieve(point_ids(ids[part]), payload_of(fields, self.spec), vectors=with_vectors)
            points.update(zip(ids_of(found), found, strict=True))
        ordered = [points[value] for value in ids if value in points]
        return records_of(ordered, kinds, self.spec.dim, vectors=with_vectors)

    def _count(self, where: Filter | None) -> int:
        try:
            return self._engine.count(self._compiler.compile(where))
        except Exception as error:
            if not refused_by_limits(error):
                raise
        return sum(len(records) for records in self._scan(where, [], False, _PAGE))

    def _count_by(self, field: str, where: Filter | None) -> dict[Scalar, int]:
        kind = self.spec.fields[field]
        found = self._facet(key(field, kind), where)
        if found is None:
            return super()._count_by(field, where)
        found = {value: count for value, count in found.items() if count}  # an index keeps those of others
        values = floats([int(value) for value in found]).tolist() if kind is float else map(kind, found)
        return dict(zip(values, found.values(), strict=True))

    def _facet(self, name: str, where: Filter | None) -> Mapping[Scalar, int] | None:
        """How many points there are for each value; None where the values are too many, or the server will not say."""
        try:
            found = self._engine.facet(name, self._compiler.compile(where), _FACETS)
        except Exception as error:
            if not refused_by_limits(error):
                raise
            return None
        return found if len(found) < _FACETS else None

    def _scan(self, where: Filter | None, fields: list[str], with_vectors: bool, batch_size: int) -> Iterator[Records]:
        compiled = self._compiler.compile(where)
        kinds = {name: self.spec.fields[name] for name in fields}
        each = HIT_BYTES + (4 * self.spec.dim if with_vectors else 0)
        limit = max(1, min(batch_size, self._bytes // each))
        offset = None
        while True:
            try:
                points, after = self._engine.scroll(
                    compiled, payload_of(fields, self.spec), limit, offset, vectors=with_vectors
                )
            except Exception as error:
                limit = fewer(error, limit)
                continue
            offset = after
            yield records_of(points, kinds, self.spec.dim, vectors=with_vectors)
            if offset is None:
                return

    # -- keeping ------------------------------------------------------------------------------------------------------

    def _revision(self) -> str:
        return self._engine.revision()

    def _flush(self) -> None:
        self._engine.flush()

    def _optimize(self) -> None:
        self._engine.optimize()

    def _stats(self) -> StoreStats:
        count, details = self._engine.count(None), self._engine.details()
        indexed = details.get("indexed_vectors") if self._capabilities.approximate else None
        return StoreStats(
            self.url.backend, count, self._engine.bytes_on_disk(),
            indexed=indexed if isinstance(indexed, int) else None, details=details,
        )  # fmt: skip

    def _close(self) -> None:
        self._engine.close()

    def _map_error(self, error: Exception) -> KnnStoreError | None:
        return map_error(error, str(self.url))
