"""Queries: by expression, counted, and to the very end in the order of ids."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pymilvus.grpc_gen import milvus_pb2

from knnstore.remote import slices
from knnstore.types import Records, StoreSpec
from knnstore_milvus.columns import records_of, stored_dim
from knnstore_milvus.connection import Connection
from knnstore_milvus.errors import is_too_large
from knnstore_milvus.expressions import ALL
from knnstore_milvus.names import ID, VECTOR, field_name
from knnstore_milvus.schema import pairs
from knnstore_milvus.session import Session

__all__ = ["WINDOW", "Reader", "id_slices"]

WINDOW = 16_384
"""What Milvus answers at most in one query."""
_SMALL = 100
_EXPRESSION_BYTES = 1 << 20


class Reader:
    """Reads from one collection.

    Args:
        connection: to the server.
        session: which moment reads must have reached.
        name: of the collection.
        spec: what it holds.
        max_bytes: of one answer, about.
    """

    def __init__(self, connection: Connection, session: Session, name: str, spec: StoreSpec, max_bytes: int) -> None:
        self.connection, self.session, self.name, self.spec, self.max_bytes = connection, session, name, spec, max_bytes

    def query(self, expr: str, fields: list[str], with_vectors: bool, limit: int | None = None) -> Records:
        """What matches; where ``limit`` is given, those with the smallest ids, at most that many.

        ``reduce_stop_for_best`` is what the client's own iterator asks for: with it an answer put together from several
        segments leaves out nothing that is smaller than what it holds.
        """
        limits = {} if limit is None else {"limit": limit, "reduce_stop_for_best": "True"}
        request = milvus_pb2.QueryRequest(
            collection_name=self.name,
            expr=expr,
            output_fields=[ID, *([VECTOR] if with_vectors else []), *map(field_name, fields)],
            query_params=pairs(limits),
            **self.session.guarantee(),
        )
        return records_of(self.connection.call("Query", request).fields_data, self.spec, fields, with_vectors)

    def by_ids(
        self, ids: list[str], fields: list[str], with_vectors: bool, size: int, where: str = ALL
    ) -> Iterator[Records]:
        """Those of some ids that are stored and match, asked for ``size`` at a time, in any order within an answer."""
        start = 0
        while start < len(ids):
            part = self.connection.language.ids_in(ids[start : start + size], where)
            try:
                records = self.query(part, fields, with_vectors)
            except Exception as error:
                size = _half(size, error)
            else:
                start += size
                yield records

    def get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        """The stored ones among some ids, in the order asked for."""
        parts: list[Records] = []
        for part in id_slices(ids):
            parts += self.by_ids(ids[part], fields, with_vectors, part.stop - part.start)
        return _in_order(parts, ids, with_vectors)

    def count(self, expr: str) -> int:
        """How many match."""
        request = milvus_pb2.QueryRequest(
            collection_name=self.name, expr=expr, output_fields=["count(*)"], **self.session.guarantee()
        )
        return int(self.connection.call("Query", request).fields_data[0].scalars.long_data.data[0])

    def scan(self, expr: str, fields: list[str], with_vectors: bool, batch_size: int) -> Iterator[Records]:
        """Every match once, in batches of at most ``batch_size``."""
        size = self.page(batch_size, with_vectors)
        pages = self._by_known_ids if self.connection.lite else self._by_rising_ids
        for records in pages(expr, fields, with_vectors, size):
            for start in range(0, len(records), batch_size):
                yield _part(records, slice(start, start + batch_size))

    def matches(self, expr: str, count: int) -> Iterator[Records]:
        """Every match once, with its vector; by one query, if ``count`` is right and so many fit into an answer."""
        size = self.page(WINDOW, True)
        return iter([self.query(expr, [], True)]) if count <= size // 2 else self.scan(expr, [], True, size)

    def _by_rising_ids(self, expr: str, fields: list[str], with_vectors: bool, size: int) -> Iterator[Records]:
        """In the order of ids: each page begins after the last id of the one before.

        What others write meanwhile moves no record to another place in that order, so none comes twice or is missed.
        """
        page = expr
        while True:
            try:
                records = self.query(page, fields, with_vectors, size)
            except Exception as error:
                size = _half(size, error)
                continue
            if not len(records):
                return
            page = self.connection.language.after(max(records.ids), expr)
            yield records

    def _by_known_ids(self, expr: str, fields: list[str], with_vectors: bool, size: int) -> Iterator[Records]:
        """All ids first, for milvus-lite, whose limit does not keep the smallest ids."""
        yield from self.by_ids(self.query(expr, [], False).ids.tolist(), fields, with_vectors, size)

    def page(self, batch_size: int, with_vectors: bool) -> int:
        """How many records to ask for at once."""
        row = 4 * stored_dim(self.spec.dim) * with_vectors + 64 + 32 * len(self.spec.fields)
        return max(1, min(max(batch_size, _SMALL), self.max_bytes // row, WINDOW))


def _half(size: int, error: Exception) -> int:
    """How many records to ask for instead of ``size``, whose answer is too large: their texts are long.

    Raises:
        Exception: ``error``, where it is another one, or one record alone is too large.
    """
    if size == 1 or not is_too_large(error):
        raise error
    return size // 2


def id_slices(ids: list[str]) -> Iterator[slice]:
    """Runs of ids that fit into one expression; an escaped id may be six times as long."""
    sizes = np.fromiter((6 * len(value) + 3 for value in ids), np.int64, len(ids))
    return slices(sizes, _EXPRESSION_BYTES, WINDOW)


def _in_order(parts: list[Records], ids: list[str], with_vectors: bool) -> Records:
    """The records of several answers, in the order in which their ids were asked for."""
    found = np.concatenate([part.ids for part in parts])
    row = {value: i for i, value in enumerate(found)}
    order = np.array([row[value] for value in ids if value in row], np.int64)
    vectors = (
        np.concatenate([part.vectors for part in parts if part.vectors is not None])[order] if with_vectors else None
    )
    columns = {name: np.concatenate([part.fields[name] for part in parts])[order] for name in parts[0].fields}
    return Records(found[order], vectors, columns)


def _part(records: Records, rows: slice) -> Records:
    vectors = None if records.vectors is None else records.vectors[rows]
    return Records(records.ids[rows], vectors, {name: column[rows] for name, column in records.fields.items()})
