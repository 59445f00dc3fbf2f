"""One collection of a Qdrant server, as one store sees it, through the client: the same calls for gRPC and HTTP."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from knnstore.abc import OpenRequest
from knnstore.errors import SpecMismatchError, StoreTimeoutError
from knnstore.filters import Scalar
from knnstore.transfer.copying import progress_bar
from knnstore.types import Consistency, Metric
from knnstore_qdrant.connection import Connection
from knnstore_qdrant.engine import Change, Detail, Offset, recall_floor
from knnstore_qdrant.errors import replicas_missing
from knnstore_qdrant.filters import Dialect
from knnstore_qdrant.mark import MARK, REVISION, mark_anew, unmarked
from knnstore_qdrant.points import Point, ScoredPoint

__all__ = ["DISTANCE", "METADATA", "RemoteEngine", "identity_of"]

T = TypeVar("T")

DISTANCE: dict[Metric, models.Distance] = {
    "cosine": models.Distance.DOT,  # the rows are unit rows already, and Qdrant's cosine would normalise them again
    "dot": models.Distance.DOT,
    "l2": models.Distance.EUCLID,
}
_JSON = 6
"""What JSON makes of a byte at most: four bytes of a number become up to 24 characters, a control character six."""

_LEVELS: dict[Consistency, tuple[models.ReadConsistencyType | None, models.WriteOrdering]] = {
    "strong": (models.ReadConsistencyType.MAJORITY, models.WriteOrdering.STRONG),
    "session": (None, models.WriteOrdering.MEDIUM),
    "eventual": (None, models.WriteOrdering.WEAK),
}


_ORDERINGS = [models.WriteOrdering.WEAK, models.WriteOrdering.MEDIUM, models.WriteOrdering.STRONG]
METADATA = "knnstore"
_DONE = (models.CollectionStatus.GREEN, models.CollectionStatus.GREY)
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 1.0
"""Seconds between two questions whether the optimisers are done."""


def identity_of(info: Any) -> str | None:
    """Our metadata of a collection, as they were written when it was made: a text that no other one has."""
    text = (getattr(info.config, "metadata", None) or {}).get(METADATA)
    return None if text is None else str(text)


_from_fewer: ContextVar[bool] = ContextVar("_from_fewer", default=False)


def _fewer(created: Mapping[str, object]) -> int | None:
    """How many replicas a strong read asks while some are away: they hold what enough others have acknowledged.

    A majority, or fewer where each write has reached so many that any of the rest has it; None where it takes them all.
    """
    replicas, written = (int(str(created[name] or 1)) for name in ("replication_factor", "write_consistency_factor"))
    asked = min(replicas // 2 + 1, replicas - min(written, replicas) + 1)
    return asked if asked < replicas else None


class ClientDialect:
    """Filters as the client's classes."""

    def group(self, must: Sequence[Any] = (), should: Sequence[Any] = (), must_not: Sequence[Any] = ()) -> Any:
        return models.Filter(must=list(must) or None, should=list(should) or None, must_not=list(must_not) or None)

    def equal(self, field: str, value: str | int | bool) -> Any:
        return models.FieldCondition(key=field, match=models.MatchValue(value=value))

    def among(self, field: str, values: Sequence[str] | Sequence[int]) -> Any:
        return models.FieldCondition(key=field, match=models.MatchAny(any=list[Any](values)))

    def between(self, field: str, bounds: Mapping[str, float]) -> Any:
        return models.FieldCondition(key=field, range=models.Range(**bounds))

    def among_ids(self, ids: Sequence[str]) -> Any:
        return models.HasIdCondition(has_id=list(ids))


class RemoteEngine:
    """A collection of a server, as one store sees it.

    Args:
        connection: to the server.
        name: of the collection.
        request: what was asked for.
        created: how the collection is made.
        identity: what its metadata say; see :func:`identity_of`.
    """

    server = True
    repeatable = False
    truth: type[bool] | type[int] = bool

    def __init__(
        self, connection: Connection, name: str, request: OpenRequest, created: Mapping[str, object], identity: str
    ) -> None:
        self.dialect: Dialect = ClientDialect()
        self._name, self._identity = name, identity
        options = connection.options
        self._connection = connection
        self.recall_floor = recall_floor(options.exact, created.get("quantization"))
        self.wire = _JSON if options.transport == "http" else 1
        self._read_level, ordering = _LEVELS[request.consistency]
        self._fewer = _fewer(created) if request.consistency == "strong" else None
        self._ordering = models.WriteOrdering(options.ordering) if options.ordering else ordering
        quantization = None
        if options.rescore is not None or options.oversampling is not None:
            quantization = models.QuantizationSearchParams(rescore=options.rescore, oversampling=options.oversampling)
        self._params = {
            exact: models.SearchParams(hnsw_ef=options.ef or None, exact=exact, quantization=quantization)
            for exact in (False, True)
        }

    @property
    def _reads(self) -> dict[str, Any]:
        level = self._fewer if _from_fewer.get() else self._read_level
        return {} if level is None else {"consistency": level}

    def _call(self, send: Callable[[Any], T]) -> T:
        def attempt(client: Any) -> T:
            try:
                return send(client)
            except Exception as error:
                if self._fewer is None or not replicas_missing(error):
                    raise
            token = _from_fewer.set(True)
            try:
                return send(client)
            finally:
                _from_fewer.reset(token)

        return self._connection.call(attempt)

    def check_same(self) -> None:
        if identity_of(self._info()) != self._identity:
            raise SpecMismatchError(
                f"{self._connection.url}: the collection",
                expected="the one that was opened",
                got="another one of that name, made since",
                hint="Nothing was written. Open the store again, with the spec of what you write.",
            )

    def optimize(self) -> None:
        """Wait until the server's optimisers, which work by themselves, have nothing left to do; with a progress bar.

        Raises:
            StoreTimeoutError: they are not done within ``build_timeout``; they go on all the same.
        """
        end = time.monotonic() + self._connection.options.build_timeout
        pause = _FIRST_PAUSE
        with progress_bar(None, "indexing", show=sys.stderr.isatty()) as bar:
            while (info := self._info()).status not in _DONE:
                if time.monotonic() > end:
                    raise StoreTimeoutError(
                        f"{self._connection.url}: the optimisers", expected="status green", got=str(info.status.value),
                        hint="They go on by themselves; raise ?build_timeout= to wait longer.",
                    )  # fmt: skip
                bar.total = max((info.points_count or 0) - 1, 0)  # without the mark
                bar.update((info.indexed_vectors_count or 0) - bar.n)
                time.sleep(pause)
                pause = min(1.5 * pause, _LAST_PAUSE)

    def _info(self) -> Any:
        return self._call(lambda client: client.get_collection(self._name))

    def upsert(
        self, ids: list[str], vectors: NDArray[np.float32], payloads: list[dict[str, Any]], *, insert_only: bool
    ) -> None:
        points = models.Batch(ids=ids, vectors=vectors.tolist(), payloads=payloads)  # type: ignore[arg-type]  # UUIDs
        # Stored points are updated only if they match, and nothing matches. Since 1.16; update_mode came with 1.17.
        update_filter = self.dialect.group(must=[self.dialect.among_ids([])]) if insert_only else None
        self._write(models.UpsertOperation(upsert=models.PointsBatch(batch=points, update_filter=update_filter)))

    def change(self, changes: Sequence[Change]) -> None:
        operations = [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, filter=unmarked(where)))
            for where, payload in changes
        ]
        self._write(*operations)

    def retrieve(self, ids: list[str], payload: list[str], *, vectors: bool) -> Sequence[Point]:
        return self._call(
            lambda client: client.retrieve(
                self._name, ids, with_payload=payload, with_vectors=vectors, **self._reads
            )
        )  # fmt: skip

    def query(
        self, vectors: NDArray[np.float32], limit: int, where: Any, payload: list[str], *, exact: bool
    ) -> Sequence[Sequence[ScoredPoint]]:
        requests = [
            models.QueryRequest(
                query=models.NearestQuery(nearest=row), filter=where, limit=limit, params=self._params.get(exact),
                with_payload=payload,
            )
            for row in vectors.tolist()
        ]  # fmt: skip
        answers = self._call(lambda client: client.query_batch_points(self._name, requests, **self._reads))
        return [answer.points for answer in answers]

    def scroll(
        self, where: Any, payload: list[str], limit: int, offset: Offset, *, vectors: bool
    ) -> tuple[Sequence[Point], Offset]:
        return self._call(
            lambda client: client.scroll(
                self._name, unmarked(where), limit=limit, offset=offset, with_payload=payload, with_vectors=vectors,
                **self._reads,
            )
        )  # fmt: skip

    def count(self, where: Any, *, exact: bool = True) -> int:
        answer = self._call(lambda client: client.count(self._name, unmarked(where), exact=exact, **self._reads))
        return int(answer.count)

    def facet(self, field: str, where: Any, limit: int) -> Mapping[Scalar, int]:
        answer = self._call(
            lambda client: client.facet(self._name, field, where, limit=limit, exact=True, **self._reads)
        )
        return {hit.value: hit.count for hit in answer.hits}

    def delete(self, ids: list[str]) -> None:
        self._write(models.DeleteOperation(delete=models.PointIdsList(points=ids)))  # type: ignore[arg-type]  # UUIDs

    def delete_where(self, where: Any) -> None:
        self._write(models.DeleteOperation(delete=models.FilterSelector(filter=unmarked(where))))

    def _write(self, *operations: models.UpdateOperation) -> None:
        """Everything that changes points goes through here: one request, whose operations are done in their order."""
        if self._ordering == models.WriteOrdering.WEAK:
            self._send(operations, self._ordering)
            operations = ()
        # Of two weakly ordered marks each replica may keep another one, so a mark goes through the leader.
        ordering = max(self._ordering, models.WriteOrdering.MEDIUM, key=_ORDERINGS.index)
        self._send([*operations, mark_anew()], ordering)

    def _send(self, operations: Sequence[models.UpdateOperation], ordering: models.WriteOrdering) -> None:
        self._call(
            lambda client: client.batch_update_points(self._name, list(operations), wait=True, ordering=ordering)
        )

    def flush(self) -> None:
        """Every write has been waited for."""

    def revision(self) -> str:
        marks = self.retrieve([MARK], [REVISION], vectors=False)
        return str(marks[0].payload[REVISION]) if marks else "unmarked"

    def details(self) -> dict[str, Detail]:
        info = self._info()
        return {
            "collection": self._name,
            "status": str(info.status),
            "optimizer": str(info.optimizer_status),
            "segments": info.segments_count,
            "indexed_vectors": info.indexed_vectors_count,
            "shards": info.config.params.shard_number,
            "replication_factor": info.config.params.replication_factor,
            "version": str(self._call(lambda client: client.info()).version),
        }

    def bytes_on_disk(self) -> None:
        """A server does not tell."""

    def close(self) -> None:
        self._connection.close()
