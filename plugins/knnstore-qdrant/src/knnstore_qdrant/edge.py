"""Qdrant's own engine in this process, through ``qdrant-edge-py``: one shard in a folder, no server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as edge
from numpy.typing import NDArray

from knnstore.filters import Scalar
from knnstore.types import Metric, StoreSpec
from knnstore_qdrant.engine import Change, Detail, Offset, recall_floor
from knnstore_qdrant.floats import key
from knnstore_qdrant.folder import Held
from knnstore_qdrant.options import EdgeOptions
from knnstore_qdrant.points import Point, ScoredPoint

__all__ = ["EdgeDialect", "EdgeEngine", "build_shard", "empty_shard", "load_shard"]

_DISTANCE: dict[Metric, Any] = {"cosine": edge.Distance.Dot, "dot": edge.Distance.Dot, "l2": edge.Distance.Euclid}
_INDEX: dict[type, Any] = {
    str: edge.PayloadSchemaType.Keyword,
    int: edge.PayloadSchemaType.Integer,
    float: edge.PayloadSchemaType.Integer,  # see floats.py
    bool: edge.PayloadSchemaType.Integer,  # see EdgeDialect.equal
}
_M, _EF_CONSTRUCT, _FULL_SCAN = 16, 100, 10_000
"""What a server takes by default."""
_UNFLUSHED = 64 * 2**20
"""Bytes of vectors after which the write-ahead log is emptied into the segments; it would grow for ever otherwise."""
_LOGGED = 1024
"""About what one change of fields takes there."""

_RESERVE, _LEAST, _COPIES = 64 * 2**20, 8 * 2**20, 4
"""Bytes that must be free to write and to delete, and how often what is written may be on the disk before it is tidied
up. The engine writes to sparse files through memory maps: where no block is left, the system kills the process (SIGBUS;
measured to happen with less than 2 MB free)."""


def build_shard(path: Path, spec: StoreSpec, options: EdgeOptions) -> Any:
    """An empty shard in an empty folder, with an index for each declared field."""
    half = edge.VectorStorageDatatype.Float16 if spec.dtype == "float16" else None
    vectors = edge.EdgeVectorParams(spec.dim, _DISTANCE[spec.metric], datatype=half, memory=_memory(options.on_disk))
    hnsw = edge.HnswIndexConfig(
        options.m if options.m is not None else _M,
        options.ef_construct or _EF_CONSTRUCT,
        options.full_scan_threshold or _FULL_SCAN,
    )
    config = edge.EdgeConfig(
        vectors=vectors,
        hnsw_config=hnsw,
        quantization_config=_quantization(options),
        payload_memory=_memory(options.on_disk_payload),
    )
    shard = edge.EdgeShard.create(str(path), config)
    for name, kind in spec.fields.items():
        tenant = name == options.tenant
        index = edge.KeywordIndexParams(is_tenant=True) if tenant else _INDEX[kind]
        shard.update(edge.UpdateOperation.create_field_index(key(name, kind), index))
    return shard


def load_shard(path: Path) -> Any:
    """The shard in a folder; what a killed process had acknowledged is read back from the write-ahead log."""
    return edge.EdgeShard.load(str(path))


def empty_shard(path: Path) -> bool:
    """Whether the shard in a folder holds no record."""
    shard = load_shard(path)
    try:
        return int(shard.count(edge.CountRequest(exact=True))) == 0
    finally:
        shard.close()


def _memory(on_disk: bool | None) -> Any:
    return None if on_disk is None else edge.Memory.Cold if on_disk else edge.Memory.Cached


def _quantization(options: EdgeOptions) -> Any:
    memory = None if options.always_ram is None else edge.Memory.Pinned if options.always_ram else edge.Memory.Cached
    match options.quantization:
        case "int8":
            return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, memory=memory)
        case "product":
            ratio = getattr(edge.CompressionRatio, (options.compression or "x16").upper())
            return edge.ProductQuantizationConfig(ratio, memory=memory)
        case "binary":
            return edge.BinaryQuantizationConfig(memory=memory)
    return None


class EdgeDialect:
    """Filters as the engine's classes."""

    def group(self, must: Sequence[Any] = (), should: Sequence[Any] = (), must_not: Sequence[Any] = ()) -> Any:
        return edge.Filter(must=list(must) or None, should=list(should) or None, must_not=list(must_not) or None)

    def equal(self, field: str, value: str | int | bool) -> Any:
        # MatchValue takes True for the integer 1 (qdrant-edge-py 0.9.0) and then matches no bool at all, so bools are
        # kept as the integers 0 and 1, and looked for as such.
        return edge.FieldCondition(field, match=edge.MatchValue(int(value) if isinstance(value, bool) else value))

    def among(self, field: str, values: Sequence[str] | Sequence[int]) -> Any:
        return edge.FieldCondition(field, match=edge.MatchAny(list(values)))  # type: ignore[arg-type]  # of one type

    def between(self, field: str, bounds: Mapping[str, float]) -> Any:
        return edge.FieldCondition(field, range=edge.RangeFloat(**bounds))

    def among_ids(self, ids: Sequence[str]) -> Any:
        return edge.HasIdCondition(set[Any](ids))


def _text_bytes(payloads: Iterable[Mapping[str, Any]]) -> int:
    return sum(4 * len(value) for row in payloads for value in row.values() if isinstance(value, str))


class EdgeEngine:
    """A shard, as one store sees it.

    Args:
        held: the open folder.
        options: how to search.
    """

    server = False
    truth: type[bool] | type[int] = int
    wire = 1

    def __init__(self, held: Held, options: EdgeOptions) -> None:
        self.dialect = EdgeDialect()
        self.recall_floor = recall_floor(options.exact, held.created.get("quantization"))
        self.repeatable = options.exact
        self._held = held
        quantization = None
        if options.rescore is not None or options.oversampling is not None:
            quantization = edge.QuantizationSearchParams(rescore=options.rescore, oversampling=options.oversampling)
        self._params = {
            exact: edge.SearchParams(hnsw_ef=options.ef or None, exact=exact, quantization=quantization)
            for exact in (False, True)
        }

    def check_same(self) -> None:
        self._held.check_there()

    def upsert(
        self, ids: list[str], vectors: NDArray[np.float32], payloads: list[dict[str, Any]], *, insert_only: bool
    ) -> None:
        mode = edge.UpdateMode.InsertOnly if insert_only else None
        points = list(map(edge.Point, ids, vectors.tolist(), payloads))
        self._held.need_space(_RESERVE + _COPIES * (vectors.nbytes + _text_bytes(payloads)))
        self._update(edge.UpdateOperation.upsert_points(points, update_mode=mode))
        self._grown(vectors.nbytes)

    def change(self, changes: Sequence[Change]) -> None:
        self._held.need_space(_RESERVE + _COPIES * sum(_text_bytes([payload]) for _, payload in changes))
        for where, payload in changes:
            self._update(edge.UpdateOperation.set_payload_by_filter(where, payload))
        self._grown(_LOGGED * len(changes))

    def _grown(self, size: int) -> None:
        self._held.unflushed += size
        if self._held.unflushed > _UNFLUSHED:
            self.flush()

    @contextmanager
    def _shard(self) -> Iterator[Any]:
        """The engine, for one call in the process that opened it: its threads do not survive a fork."""
        self._held.check_process()
        with self._held.used() as shard:
            yield shard

    def _update(self, operation: Any) -> None:
        with self._shard() as shard, self._held.written():
            shard.update(operation)

    def retrieve(self, ids: list[str], payload: list[str], *, vectors: bool) -> Sequence[Point]:
        with self._shard() as shard:
            found: Sequence[Point] = shard.retrieve(ids, payload, vectors)
        return found

    def query(
        self, vectors: NDArray[np.float32], limit: int, where: Any, payload: list[str], *, exact: bool
    ) -> Sequence[Sequence[ScoredPoint]]:
        requests = [
            edge.QueryRequest(
                limit, query=edge.Query.Nearest(row), filter=where, params=self._params[exact], with_payload=payload
            )
            for row in vectors.tolist()
        ]
        with self._shard() as shard:
            answers: Sequence[Sequence[ScoredPoint]] = shard.query_batch(edge.QueryBatchRequest(requests))
        return answers

    def scroll(
        self, where: Any, payload: list[str], limit: int, offset: Offset, *, vectors: bool
    ) -> tuple[Sequence[Point], Offset]:
        request = edge.ScrollRequest(offset, limit, where, with_payload=payload, with_vector=vectors)
        with self._shard() as shard:
            page: tuple[Sequence[Point], Offset] = shard.scroll(request)
        return page

    def count(self, where: Any, *, exact: bool = True) -> int:
        with self._shard() as shard:
            return int(shard.count(edge.CountRequest(exact=exact, filter=where)))

    def facet(self, field: str, where: Any, limit: int) -> Mapping[Scalar, int]:
        with self._shard() as shard:
            found = shard.facet(edge.FacetRequest(field, limit=limit, exact=True, filter=where))
        return {hit.value: hit.count for hit in found.hits}

    def delete(self, ids: list[str]) -> None:
        self._held.need_space(_LEAST)
        self._update(edge.UpdateOperation.delete_points(list[Any](ids)))

    def delete_where(self, where: Any) -> None:
        self._held.need_space(_LEAST)
        self._update(edge.UpdateOperation.delete_points_by_filter(where))

    def flush(self) -> None:
        with self._shard() as shard:
            self._held.unflushed = 0
            shard.flush()

    def optimize(self) -> None:
        with self._shard() as shard:
            shard.optimize()

    def revision(self) -> str:
        return self._held.revision()

    def details(self) -> dict[str, Detail]:
        with self._shard() as shard:
            info = shard.info()
        return {"segments": info.segments_count, "indexed_vectors": info.indexed_vectors_count}

    def bytes_on_disk(self) -> int:
        return self._held.bytes_on_disk()

    def close(self) -> None:
        self._held.release()
