"""Searching behind a filter: the effort follows what matches, and what an index does not deliver is searched exactly.

A filter that goes with the vectors, as an active vocabulary does, leaves an index little in the neighbourhood that it
looks at: with the effort of an unfiltered search it finds half of the neighbours, or none at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymilvus.grpc_gen import milvus_pb2

from knnstore.types import Hits
from knnstore_milvus.expressions import ALL
from knnstore_milvus.reading import Reader
from knnstore_milvus.searching import Searcher

__all__ = ["search_behind"]

_FEW, _FEW_PER_QUERY = 256, 2
"""So many matching records are read and scored here in the time that a search takes."""
_EFFORT = 8.0
"""Times what is looked at without a filter, at a filter that nearly all match; twice that where half do."""
_NO_INDEX = 5_000
"""Milvus compares with all of so many records that are not indexed yet. Over more it puts a temporary index, of which
it searches an eighth whatever is asked for."""
_READ_BYTES = 64 << 20
"""Vectors that are read because of that, two seconds' worth; where more match, the temporary index has to do."""


def search_behind(searcher: Searcher, queries: NDArray[np.float32], k: int, expr: str, fields: list[str]) -> Hits:
    """The best k of each query among those that match; never fewer than there are.

    Args:
        searcher: of the collection.
        queries: float32 (Q, D).
        k: how many.
        expr: the filter.
        fields: to return.
    """
    reader = searcher.reader
    matching = reader.count(expr)
    if matching <= _FEW + _FEW_PER_QUERY * len(queries):
        return searcher.exactly(queries, k, expr, fields)
    total = reader.count(ALL)
    if 4 * matching * reader.spec.dim <= _READ_BYTES and _unindexed(reader, total) > max(_NO_INDEX, total // 10):
        return searcher.exactly(queries, k, expr, fields)
    hits = searcher.approximately(queries, k, expr, fields, _EFFORT * total / matching)
    for exactly in (False, True):
        short = np.flatnonzero((hits.ids != "").sum(axis=1) < min(k, matching))
        if len(short) and exactly:
            _replace(hits, short, searcher.exactly(queries[short], k, expr, fields))
        elif len(short):
            _replace(hits, short, searcher.thoroughly(queries[short], k, expr, fields, matching))
    return hits


def _unindexed(reader: Reader, total: int) -> int:
    """About how many records have no index of their own yet; less, where many have been replaced since."""
    if reader.connection.lite:
        return 0
    request = milvus_pb2.GetQuerySegmentInfoRequest(collectionName=reader.name)
    segments = reader.connection.call("GetQuerySegmentInfo", request).infos
    return total - sum(segment.num_rows for segment in segments if segment.indexID)


def _replace(hits: Hits, rows: NDArray[np.intp], better: Hits) -> None:
    hits.ids[rows], hits.scores[rows] = better.ids, better.scores
    for name, column in hits.fields.items():
        column[rows] = better.fields[name]
