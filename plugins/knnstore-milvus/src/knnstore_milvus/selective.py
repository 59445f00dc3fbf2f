"""Searching behind a filter: the effort follows what matches, and what an index does not deliver is searched exactly.

A filter that goes with the vectors, as an active vocabulary does, leaves an index little in the neighbourhood that it
looks at: with the effort of an unfiltered search it finds half of the neighbours, or none at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import milvus_pb2

from knnstore.types import Hits
from knnstore_milvus.errors import retriable
from knnstore_milvus.expressions import ALL
from knnstore_milvus.reading import Reader
from knnstore_milvus.searching import Searcher

__all__ = ["SelectiveSearch"]

_FEW, _FEW_PER_QUERY = 256, 2
"""So many matching records are read and scored here in the time that a search takes."""
_EFFORT, _GROWTH = 8.0, 0.75
"""Times what is looked at without a filter, where nearly all match, and the power of 1/share by which it grows: so much
leaves 0.97 of the neighbours in the cells that are searched, at every share, on vectors in clusters that overlap."""
_NO_INDEX = 5_000
"""Milvus compares with all of so many records that are not indexed yet. Over more it puts a temporary index, of which
it searches an eighth whatever is asked for."""
_READ_BYTES = 64 << 20
"""Vectors that are read because of that, two seconds' worth; where more match, the temporary index has to do."""
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Extent:
    """How large a collection was a moment ago.

    Args:
        total: its records.
        unindexed: about how many of them have no index of their own yet; less, where many were replaced since.
        writes: those of this store by then.
        until: the time at which it is too old.
    """

    total: int
    unindexed: int
    writes: int
    until: float


class SelectiveSearch:
    """Searches one collection behind filters.

    Args:
        searcher: of the collection.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher, self._reader = searcher, searcher.reader
        self._known: _Extent | None = None

    def search(self, queries: NDArray[np.float32], k: int, expr: str, fields: list[str]) -> Hits:
        """The best k of each query among those that match; never fewer than there are.

        Args:
            queries: float32 (Q, D).
            k: how many.
            expr: the filter.
            fields: to return.
        """
        with self._reader.session.held():
            matching = self._reader.count(expr)
            if self._is_read(matching, len(queries)):
                return self._searcher.exactly(queries, k, expr, fields, matching)
            return self._deeper_and_deeper(queries, k, expr, fields, matching)

    def _deeper_and_deeper(
        self, queries: NDArray[np.float32], k: int, expr: str, fields: list[str], matching: int
    ) -> Hits:
        searcher, effort = self._searcher, _EFFORT * max(1.0, self._extent().total / matching) ** _GROWTH
        hits = searcher.approximately(queries, k, expr, fields, effort)
        short = _short(hits, matching)
        if len(short):
            hits.put(short, searcher.thoroughly(queries[short], k, expr, fields, matching))
            short = _short(hits, matching)
        if len(short):
            hits.put(short, searcher.exactly(queries[short], k, expr, fields, matching))
        return hits

    def _is_read(self, matching: int, queries: int) -> bool:
        """Whether the matching records are read and scored here: few, or behind an index that finds too little."""
        if matching <= _FEW + _FEW_PER_QUERY * queries:
            return True
        if 4 * matching * self._reader.spec.dim > _READ_BYTES:
            return False
        extent = self._extent()
        return extent.unindexed > max(_NO_INDEX, extent.total // 10)

    def _extent(self) -> _Extent:
        known, writes = self._known, self._reader.session.writes
        if known is None or known.writes != writes or time.monotonic() > known.until:
            total = self._reader.count(ALL)
            known = _Extent(total, total - _indexed(self._reader, total), writes, time.monotonic() + _SECONDS)
            self._known = known
        return known


def _indexed(reader: Reader, total: int) -> int:
    """How many records the nodes search through an index; some of these may be replaced or deleted."""
    if reader.connection.lite:
        return total
    request = milvus_pb2.GetQuerySegmentInfoRequest(collectionName=reader.name)
    try:
        segments = reader.connection.call("GetQuerySegmentInfo", request).infos
    except (MilvusException, grpc.RpcError) as error:
        if retriable(error):
            raise
        return total  # not every managed service tells
    return sum(segment.num_rows for segment in segments if segment.indexID)


def _short(hits: Hits, matching: int) -> NDArray[np.intp]:
    """The queries that have fewer hits than there are."""
    return np.flatnonzero((hits.ids != "").sum(axis=1) < min(hits.ids.shape[1], matching))
