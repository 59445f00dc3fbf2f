"""What a store needs of an engine: a server, or Qdrant's engine in process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore.filters import Scalar
from knnstore_qdrant.filters import Dialect
from knnstore_qdrant.points import Point, ScoredPoint

__all__ = ["Change", "Detail", "Offset", "QdrantEngine", "recall_floor"]

Offset: TypeAlias = Any
"""Where a scroll goes on: an id as the engine spells it, None at the end."""
Change: TypeAlias = tuple[Any, dict[str, Any]]
"""A filter, and the part of the payload that what matches is given."""
Detail: TypeAlias = str | int | float | bool | None

_FLOORS: dict[object, float] = {None: 0.8, "int8": 0.8, "product": 0.3, "binary": 0.1}
"""Binary codes of short vectors tell little: 0.34 was measured at 16 dimensions, with four times oversampling."""


def recall_floor(exact: bool, quantization: object) -> float:
    """What is declared for a search: measured recall is far above it where the data suits the quantisation."""
    return 1.0 if exact else _FLOORS[quantization]


class QdrantEngine(Protocol):
    """One collection. Every method may raise what the engine raises; filters are those of ``dialect``, or None."""

    dialect: Dialect
    server: bool
    """The data lives in another process."""
    recall_floor: float
    """The least share of true neighbours that a search finds; 1 where it is exact."""
    repeatable: bool
    """The engine gives a pair of vectors the same score whatever else is stored or asked."""
    truth: type[bool] | type[int]
    """How a bool is kept."""
    wire: int
    """Bytes that a byte of ours may take on the way: JSON spells numbers out."""

    def check_same(self) -> None:
        """Refuse to go on where the collection is no longer the one that was opened.

        Raises:
            StoreNotFoundError: it is gone.
            SpecMismatchError: another one has been made in its place.
        """

    def upsert(
        self, ids: list[str], vectors: NDArray[np.float32], payloads: list[dict[str, Any]], *, insert_only: bool
    ) -> None:
        """Write points, durably; where ``insert_only``, those that are stored already stay as they are."""

    def change(self, changes: Sequence[Change]) -> None:
        """Set fields of the points that match, one change after the other, durably; whatever does not match stays.

        By filter, ids too: an engine that is told ids fails at the first that is not there, and leaves the rest undone.
        """

    def retrieve(self, ids: list[str], payload: list[str], *, vectors: bool) -> Sequence[Point]:
        """The stored ones among some points, in any order."""

    def query(
        self, vectors: NDArray[np.float32], limit: int, where: Any, payload: list[str], *, exact: bool
    ) -> Sequence[Sequence[ScoredPoint]]:
        """The best points for each row of float32 (Q, D), best first; by comparing with every one, where exact."""

    def scroll(
        self, where: Any, payload: list[str], limit: int, offset: Offset, *, vectors: bool
    ) -> tuple[Sequence[Point], Offset]:
        """Some points in the order of their ids, and where to go on."""

    def count(self, where: Any, *, exact: bool = True) -> int:
        """How many points match; where not exact, about how many the engine expects."""

    def facet(self, field: str, where: Any, limit: int) -> Mapping[Scalar, int]:
        """How many points there are for each value of an indexed field, exactly; at most ``limit`` values."""

    def delete(self, ids: list[str]) -> None:
        """Remove points."""

    def delete_where(self, where: Any) -> None:
        """Remove what matches."""

    def flush(self) -> None:
        """Wait until what is written is where it will stay."""

    def optimize(self) -> None:
        """Build the index of everything stored."""

    def revision(self) -> str:
        """A text that changes with each acknowledged write."""

    def details(self) -> dict[str, Detail]:
        """For ``stats()``."""

    def bytes_on_disk(self) -> int | None:
        """What the collection takes on disk, where that can be told."""

    def close(self) -> None:
        """Release everything."""
