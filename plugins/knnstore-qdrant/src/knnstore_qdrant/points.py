"""Records as Qdrant's points: ids as UUIDs, fields as a flat payload, and back into columns.

Qdrant's ids are UUIDs or integers. Ours become a UUID of version 5 (a SHA-1 hash) in a namespace of this plugin, and
the id itself is kept in the payload under ``_id``, a name that no declared field can have. Two ids with one UUID would
need a collision in 122 bits of SHA-1: with a billion records, about one chance in 10^19.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import StoreCorruptError
from knnstore.filters import FieldType, Scalar
from knnstore.types import Batch, Column, Hits, Records, StoreSpec, empty_column
from knnstore_qdrant.floats import codes, floats, key

__all__ = [
    "ID",
    "Point",
    "ScoredPoint",
    "change_of",
    "changes_of",
    "hits_of",
    "ids_of",
    "payloads_of",
    "point_ids",
    "records_of",
]

ID = "_id"
_NAMESPACE = hashlib.sha1(b"knnstore-qdrant", usedforsecurity=False)  # what RFC 9562 asks for in a UUID
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


class Point(Protocol):
    """What an engine returns for a record: Qdrant's own classes all have this shape."""

    @property
    def payload(self) -> Any:
        """The fields asked for."""

    @property
    def vector(self) -> Any:
        """The vector, where asked for."""


class ScoredPoint(Protocol):
    """What an engine returns for a hit."""

    @property
    def payload(self) -> Any:
        """The fields asked for."""

    @property
    def score(self) -> float:
        """The engine's score: a dot product, or a plain distance."""


def point_ids(ids: Sequence[str]) -> list[str]:
    """A UUID for each id, in hexadecimal; several times faster than :func:`uuid.uuid5`, which makes an object."""
    return [_point_id(value) for value in ids]


def _point_id(value: str) -> str:
    digest = _NAMESPACE.copy()
    digest.update(value.encode())
    text = digest.hexdigest()
    return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:32]}"


def payloads_of(batch: Batch, truth: type[bool] | type[int] = bool) -> list[dict[str, Any]]:
    """The payload of each record; ``truth`` is how the engine keeps a bool."""
    columns = {ID: batch.ids, **_kept(batch.fields, truth)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def changes_of(batch: Batch, truth: type[bool] | type[int] = bool) -> list[tuple[list[str], dict[str, Any]]]:
    """The points that get the same fields, and those fields, for each that differs."""
    columns, changes = _kept(batch.fields, truth), dict[tuple[Any, ...], list[str]]()
    for point, row in zip(point_ids(batch.ids), zip(*columns.values(), strict=True), strict=True):
        changes.setdefault(row, []).append(point)
    return [(points, dict(zip(columns, row, strict=True))) for row, points in changes.items()]


def change_of(fields: Mapping[str, Scalar], truth: type[bool] | type[int] = bool) -> dict[str, Any]:
    """The part of a payload that holds these fields."""
    columns = {name: np.full(1, value, object if isinstance(value, str) else None) for name, value in fields.items()}
    return {name: value for name, [value] in _kept(columns, truth).items()}


def _kept(fields: Mapping[str, Column], truth: type) -> dict[str, list[Any]]:
    """Every key of a payload that some fields are kept under, and its values: a float field has two, see floats.py."""
    exact = {key(name, float): codes(column) for name, column in fields.items() if column.dtype == np.float64}
    return {name: _plain(column, truth) for name, column in {**fields, **exact}.items()}


def _plain(column: Column, truth: type) -> list[Any]:
    values: list[Any] = (column.astype(truth) if column.dtype == bool else column).tolist()
    return values


def records_of(points: Sequence[Point], fields: Mapping[str, FieldType], dim: int, *, vectors: bool) -> Records:
    """Points as columns.

    Args:
        points: N points with ``_id`` and the fields in their payload.
        spec: of the collection.
        fields: those wanted.
        dim: D.
        vectors: whether the points carry their vectors.
    """
    ids = ids_of(points)
    rows = np.empty((len(points), dim), np.float32) if vectors else None
    if rows is not None:
        for i, point in enumerate(points):
            rows[i] = point.vector
    columns = {name: _field(points, name, kind) for name, kind in fields.items()}
    return Records(ids, rows, columns)


def ids_of(points: Sequence[Point | ScoredPoint]) -> Column:
    """The ids that points were written under.

    Raises:
        StoreCorruptError: one of them is not ours.
    """
    return _values(points, ID, str, lambda values: _column(values, str))


def _field(points: Sequence[Point | ScoredPoint], name: str, kind: FieldType) -> Column:
    convert = floats if kind is float else lambda values: _column(values, kind)
    return _values(points, key(name, kind), int if kind is float else kind, convert)


def _values(points: Sequence[Any], name: str, kind: type, convert: Callable[[list[Any]], Column]) -> Column:
    """A part of each payload as a column."""
    try:
        values = [point.payload[name] for point in points]
        if kind is str and not all(isinstance(value, str) for value in values):
            raise TypeError("a column of texts would take anything")
        return convert(values)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise _foreign(points, name, kind) from error


_REMOVE = (
    "Give other programs a collection of their own. To go on here, delete what is not ours with Qdrant's own API: "
    'POST /collections/NAME/points/delete {{"points": ["{}"]}}, or everything that has no id of ours: '
    '{{"filter": {{"must": [{{"is_empty": {{"key": "_id"}}}}]}}}}.'
)


def _foreign(points: Sequence[Any], name: str, kind: type) -> StoreCorruptError:
    """What to say of the first point whose payload is not one of ours."""
    point = next((p for p in points if not isinstance((p.payload or {}).get(name), kind)), points[0])
    return StoreCorruptError(
        f"point {point.id} was not written by knnstore, or was changed behind its back",
        expected=f"{name!r} in its payload, of type {kind.__name__}",
        got=repr((point.payload or {}).get(name))[:80],
        hint=_REMOVE.format(point.id),
    )


def _column(values: list[Any], kind: FieldType) -> Column:
    column = empty_column(kind, len(values))
    column[:] = values
    return column


def hits_of(
    answers: Sequence[Sequence[ScoredPoint]],
    k: int,
    spec: StoreSpec,
    fields: Sequence[str],
    score: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Hits:
    """Hits in the engine's order.

    Args:
        answers: at most k hits for each of Q queries.
        k: the width of the columns.
        spec: of the collection.
        fields: those wanted.
        score: the engine's scores as the contract's, float32 (M,) each.
    """
    points = [point for answer in answers for point in answer]
    scores = score(np.array([point.score for point in points], np.float32))
    ids = ids_of(points)
    columns = {name: _field(points, name, spec.fields[name]) for name in fields}
    shape = (len(answers), k)
    if len(points) == len(answers) * k:  # as nearly always: nothing to pad
        whole = {name: column.reshape(shape) for name, column in columns.items()}
        return Hits(ids.reshape(shape), scores.reshape(shape), whole)
    found = np.arange(k) < np.array([len(answer) for answer in answers])[:, None]
    hits = Hits.empty(*shape, spec, fields)
    hits.ids[found], hits.scores[found] = ids, scores
    for name, column in columns.items():
        hits.fields[name][found] = column
    return hits
