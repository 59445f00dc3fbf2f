"""What the engines behind Qdrant's Python client share: the same calls for gRPC, HTTP and the local mode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from qdrant_client import models

from knnstore.filters import Scalar
from knnstore.types import Metric
from knnstore_qdrant.engine import Change, Offset
from knnstore_qdrant.filters import Dialect
from knnstore_qdrant.points import Point, ScoredPoint

__all__ = ["DISTANCE", "ClientDialect", "ClientEngine"]

T = TypeVar("T")

DISTANCE: dict[Metric, models.Distance] = {
    "cosine": models.Distance.DOT,  # the rows are unit rows already, and Qdrant's cosine would normalise them again
    "dot": models.Distance.DOT,
    "l2": models.Distance.EUCLID,
}


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


class ClientEngine(ABC):
    """One collection through the client. A subclass says which client, and how a call is made.

    Args:
        name: of the collection.
    """

    truth: type[bool] | type[int] = bool

    def __init__(self, name: str) -> None:
        self.dialect: Dialect = ClientDialect()
        self._name = name
        self._writes: dict[str, Any] = {}
        self._params: Mapping[bool, models.SearchParams] = {}

    @property
    def _reads(self) -> dict[str, Any]:
        """What every reading call says, asked for at each try."""
        return {}

    @abstractmethod
    def _call(self, send: Callable[[Any], T]) -> T:
        """Give the client to ``send`` and return what it returns."""

    def upsert(
        self, ids: list[str], vectors: NDArray[np.float32], payloads: list[dict[str, Any]], *, insert_only: bool
    ) -> None:
        points = models.Batch(ids=ids, vectors=vectors.tolist(), payloads=payloads)  # type: ignore[arg-type]  # UUIDs
        # Stored points are updated only if they match, and nothing matches. Since 1.16; update_mode came with 1.17.
        update_filter = self.dialect.group(must=[self.dialect.among_ids([])]) if insert_only else None
        self._write(models.UpsertOperation(upsert=models.PointsBatch(batch=points, update_filter=update_filter)))

    def change(self, changes: Sequence[Change]) -> None:
        operations = [
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, filter=where))
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
                self._name, where, limit=limit, offset=offset, with_payload=payload, with_vectors=vectors,
                **self._reads,
            )
        )  # fmt: skip

    def count(self, where: Any, *, exact: bool = True) -> int:
        answer = self._call(lambda client: client.count(self._name, where, exact=exact, **self._reads))
        return int(answer.count)

    def facet(self, field: str, where: Any, limit: int) -> Mapping[Scalar, int]:
        answer = self._call(
            lambda client: client.facet(self._name, field, where, limit=limit, exact=True, **self._reads)
        )
        return {hit.value: hit.count for hit in answer.hits}

    def delete(self, ids: list[str]) -> None:
        self._write(models.DeleteOperation(delete=models.PointIdsList(points=ids)))  # type: ignore[arg-type]  # UUIDs

    def delete_where(self, where: Any) -> None:
        self._write(models.DeleteOperation(delete=models.FilterSelector(filter=where)))

    def _write(self, *operations: models.UpdateOperation) -> None:
        """Everything that changes points goes through here: one request, whose operations are done in their order."""
        self._call(
            lambda client: client.batch_update_points(self._name, list(operations), wait=True, **self._writes)
        )  # fmt: skip

    def flush(self) -> None:  # noqa: B027  # nothing to do, for each of the clients
        """Every write has been waited for."""
