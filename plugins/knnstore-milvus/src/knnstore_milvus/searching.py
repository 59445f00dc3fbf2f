"""Searching: a batch of queries in one request, or in a few of bounded size; columns in, columns out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from knnstore.ranking import best, nominated, pair_scores
from knnstore.remote import row_slices
from knnstore.types import Hits, Metric, Records
from knnstore_milvus.columns import decode, ids_of, padded
from knnstore_milvus.errors import is_too_large
from knnstore_milvus.indexes import Index
from knnstore_milvus.names import ID, VECTOR, field_name
from knnstore_milvus.reading import Reader
from knnstore_milvus.schema import METRICS, pairs

__all__ = ["MAX_K", "Searcher"]

MAX_K = 16_384
_MOST_QUERIES = 16_384
_MOST_HITS = 400_000
"""Hits that are asked for in order to have a server compare with all: about a second of its time."""
_HIT_BYTES = 64
_FLOAT_VECTOR = 101
_LARGEST = float(np.finfo(np.float32).max)


class Searcher:
    """Searches one collection: as its index does, or through every record that matches.

    Args:
        reader: of the collection.
        index: that it has.
        options: of the URL.
    """

    def __init__(self, reader: Reader, index: Index, options: Any) -> None:
        self.reader, self.index, self._options = reader, index, options

    def approximately(
        self, queries: NDArray[np.float32], k: int, expr: str, fields: list[str], effort: float = 1.0
    ) -> Hits:
        """The best k of each query that the index finds, in as few requests as the limits allow.

        Args:
            queries: float32 (Q, D).
            k: how many.
            expr: a filter, "" for none.
            fields: to return.
            effort: how many times as much as usual the index looks at.
        """
        return _search(self.reader, queries, k, expr, fields, self.index.search_parameters(self._options, k, effort))

    def thoroughly(self, queries: NDArray[np.float32], k: int, expr: str, fields: list[str], matching: int) -> Hits:
        """The best k of each query with all the effort that the index can make.

        All cells are searched. A graph has parts that cannot be reached through what matches; but Milvus compares with
        one record after the other where more than half of those that match are asked for.

        Args:
            queries: float32 (Q, D).
            k: how many.
            expr: a filter.
            fields: to return.
            matching: how many records match.
        """
        wanted = max(k, min(matching // 2 + 1, MAX_K)) if self.index.graph else k
        if wanted == k or wanted * len(queries) > _MOST_HITS:
            return self.approximately(queries, k, expr, fields, math.inf)
        hits = self.approximately(queries, wanted, expr, [], math.inf)
        hits = Hits(hits.ids[:, :k], hits.scores[:, :k], {})
        return _with_fields(self.reader, hits, fields) if fields else hits

    def exactly(self, queries: NDArray[np.float32], k: int, expr: str, fields: list[str], matching: int) -> Hits:
        """The best k of each query among all that match, which are read with their vectors and scored here.

        That is right whatever the server has indexed; it takes some 30 microseconds a record of 256 numbers.

        Args:
            queries: float32 (Q, D).
            k: how many.
            expr: a filter.
            fields: to return.
            matching: how many records match, about; so few that they fit into an answer are read at once.
        """
        hits = Hits.empty(len(queries), k, self.reader.spec, [])
        for records in self.reader.matches(expr, matching):
            _compete(hits, queries, records, self.reader.spec.metric)
        return _with_fields(self.reader, hits, fields) if fields else hits


def _compete(hits: Hits, queries: NDArray[np.float32], records: Records, metric: Metric) -> None:
    """Let records take the places of worse hits."""
    vectors = records.vectors
    assert vectors is not None
    k, norms = hits.ids.shape[1], np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    for q, candidates in enumerate(nominated(queries, vectors, norms, k, metric)):
        found = hits.ids[q] != ""
        ids = np.concatenate([hits.ids[q][found], records.ids[candidates]])
        scores = np.concatenate([hits.scores[q][found], pair_scores(queries[q], vectors[candidates], metric)])
        order = best(ids, scores, k)
        hits.ids[q, : len(order)], hits.scores[q, : len(order)] = ids[order], scores[order]


def _with_fields(reader: Reader, hits: Hits, fields: list[str]) -> Hits:
    """The same hits with their fields; one that is deleted in between is left out."""
    wanted = list(dict.fromkeys(value for value in hits.ids.ravel() if value))
    full = Hits.empty(len(hits.ids), hits.ids.shape[1], reader.spec, fields)
    if not wanted:
        return full
    records = reader.get(wanted, fields, False)
    row = {value: i for i, value in enumerate(records.ids)}
    for q, ids in enumerate(hits.ids):
        there = np.array([value in row for value in ids])
        rows, count = [row[value] for value in ids[there]], there.sum()
        full.ids[q, :count], full.scores[q, :count] = ids[there], hits.scores[q][there]
        for name, column in full.fields.items():
            column[q, :count] = records.fields[name][rows]
    return full


def _search(
    reader: Reader, queries: NDArray[np.float32], k: int, expr: str, fields: list[str], parameters: Mapping[str, Any]
) -> Hits:
    hits = Hits.empty(len(queries), k, reader.spec, fields)
    row_bytes = 4 * queries.shape[1] + k * _HIT_BYTES * (1 + len(fields))
    for part in row_slices(len(queries), row_bytes, reader.max_bytes, _MOST_QUERIES):
        _search_part(reader, queries, part, _request(reader, k, expr, fields, parameters), hits)
    return hits


def _search_part(reader: Reader, queries: NDArray[np.float32], rows: slice, request: Any, hits: Hits) -> None:
    """One request; where its answer would be too large, two of half the size, or the fields of one query afterwards."""
    group = common_pb2.PlaceholderValue(
        tag="$0", type=_FLOAT_VECTOR, values=[row.tobytes() for row in padded(queries[rows])]
    )
    request.placeholder_group = common_pb2.PlaceholderGroup(placeholders=[group]).SerializeToString()
    request.nq = rows.stop - rows.start
    try:
        found = reader.connection.call("Search", request).results
    except Exception as error:
        alone = request.nq == 1
        if not is_too_large(error) or (alone and not hits.fields):
            raise
        if alone:
            _search_one(reader, rows.start, request, hits)
            return
        middle = (rows.start + rows.stop) // 2
        for half in (slice(rows.start, middle), slice(middle, rows.stop)):
            _search_part(reader, queries, half, request, hits)
        return
    _fill(hits, rows, found, reader.spec.metric == "l2", reader.spec.fields)


def _named(reader: Reader, fields: list[str]) -> list[str]:
    """What a request asks for. Ids come anyway; but to milvus-lite, no name at all means every field."""
    return [field_name(name) for name in fields] or ([ID] if reader.connection.lite else [])


def _search_one(reader: Reader, row: int, request: Any, hits: Hits) -> None:
    """The hits of one query first, then their fields; a hit that is deleted in between is left out."""
    bare = milvus_pb2.SearchRequest()
    bare.CopyFrom(request)
    bare.output_fields[:] = _named(reader, [])
    found = reader.connection.call("Search", bare).results
    ids = ids_of(found).tolist()
    records = reader.get(ids, list(hits.fields), False)
    there = set(records.ids)
    kept = np.array([value in there for value in ids])
    count = len(records)
    hits.ids[row, :count] = records.ids
    hits.scores[row, :count] = _scores(found, reader.spec.metric == "l2")[kept]
    for name, column in hits.fields.items():
        column[row, :count] = records.fields[name]


def _request(reader: Reader, k: int, expr: str, fields: list[str], parameters: Mapping[str, Any]) -> Any:
    search_params = {
        "anns_field": VECTOR,
        "topk": k,
        "metric_type": METRICS[reader.spec.metric],
        "params": dict(parameters),
        "round_decimal": -1,
        "ignore_growing": False,
    }
    return milvus_pb2.SearchRequest(
        collection_name=reader.name,
        dsl=expr,
        dsl_type=common_pb2.DslType.BoolExprV1,
        output_fields=_named(reader, fields),
        search_params=pairs(search_params),
        **reader.session.guarantee(),
    )


def _fill(hits: Hits, rows: slice, found: Any, squared: bool, kinds: Mapping[str, Any]) -> None:
    """Put the flat columns of an answer into their rows, which may be of different lengths."""
    scores = _scores(found, squared)
    if not len(scores):
        return
    counts = np.array(found.topks, np.int64)
    taken = np.arange(hits.ids.shape[1]) < counts[:, None]
    hits.ids[rows][taken] = ids_of(found)
    hits.scores[rows][taken] = scores
    by_name = {message.field_name: message for message in found.fields_data}
    for name, column in hits.fields.items():
        column[rows][taken] = decode(by_name[field_name(name)], kinds[name])


def _scores(found: Any, squared: bool) -> NDArray[np.float32]:
    """The server's scores as the contract's: float32 (M,)."""
    scores = np.array(found.scores, np.float32)
    return np.clip(0 - scores if squared else scores, -_LARGEST, _LARGEST)
