"""Searching: a batch of queries in one request, or in a few of bounded size; columns in, columns out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymilvus.grpc_gen import common_pb2, milvus_pb2

from knnstore.remote import row_slices
from knnstore.types import Hits, empty_column
from knnstore_milvus.columns import decode, ids_of, padded
from knnstore_milvus.errors import is_too_large
from knnstore_milvus.names import ID, VECTOR, field_name
from knnstore_milvus.reading import Reader, in_order
from knnstore_milvus.schema import METRICS, pairs

__all__ = ["search"]

_MOST_QUERIES = 16_384
_HIT_BYTES = 64
_FLOAT_VECTOR = 101
_LARGEST = float(np.finfo(np.float32).max)


def search(
    reader: Reader, queries: NDArray[np.float32], k: int, expr: str, fields: list[str], parameters: Mapping[str, Any]
) -> Hits:
    """The best k of each query, in as few requests as the limits allow.

    Args:
        reader: of the collection.
        queries: float32 (Q, D).
        k: how many.
        expr: a filter, "" for none.
        fields: to return.
        parameters: of the index.
    """
    kinds = reader.spec.fields
    hits = Hits(
        empty_column(str, (len(queries), k)),
        np.full((len(queries), k), -np.inf, np.float32),
        {name: empty_column(kinds[name], (len(queries), k)) for name in fields},
    )
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
    """The hits of one query first, then their fields; a hit that is deleted in between is none."""
    bare = milvus_pb2.SearchRequest()
    bare.CopyFrom(request)
    bare.output_fields[:] = _named(reader, [])
    found = reader.connection.call("Search", bare).results
    ids = ids_of(found).tolist()
    records = in_order(list(reader.by_ids(ids, list(hits.fields), False, len(ids))), ids, False)
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
