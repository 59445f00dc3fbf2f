"""The values that go in and out of a store. Columns, not lists of objects.

N   records in a batch        Q   queries in a batch        K   hits for a query        D   width of a vector
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import InvalidFieldError, InvalidInputError, SpecMismatchError, StoreCorruptError
from knnstore.filters import FieldType

__all__ = [
    "ASKED",
    "DTYPES",
    "MAX_ID_BYTES",
    "MAX_TEXT_BYTES",
    "STORED",
    "Batch",
    "Capabilities",
    "Column",
    "Conflict",
    "Consistency",
    "Dtype",
    "EmbeddingSpace",
    "Hits",
    "Ids",
    "Metric",
    "Records",
    "StoreSpec",
    "StoreStats",
    "VectorRecords",
    "empty_column",
]

Metric: TypeAlias = Literal["cosine", "dot", "l2"]
Dtype: TypeAlias = Literal["float32", "float16"]
Conflict: TypeAlias = Literal["replace", "skip", "error"]
Consistency: TypeAlias = Literal["strong", "session", "eventual"]
Column: TypeAlias = NDArray[Any]
"""object (str), int64, float64 or bool; one value for each record."""

MAX_ID_BYTES = 512
"""Longest id, in UTF-8 bytes."""
MAX_TEXT_BYTES = 65_535
"""Longest value of a ``str`` field, in UTF-8 bytes: what the narrowest of the supported engines (Milvus) can hold."""

DTYPES: tuple[Dtype, ...] = ("float32", "float16")
"""What the numbers of a vector may be kept as."""

ASKED, STORED = " (asked for)", " (stored)"
"""Which side of a mismatch is which."""

_ORDERING = frozenset({"<", "<=", ">", ">="})
_FIELD_TYPES: dict[str, FieldType] = {"str": str, "int": int, "float": float, "bool": bool}
_DTYPES: dict[FieldType, Any] = {str: object, int: np.int64, float: np.float64, bool: np.bool_}
_EMPTY: dict[FieldType, Any] = {str: "", int: 0, float: np.nan, bool: False}


def empty_column(kind: FieldType, shape: int | tuple[int, ...]) -> Column:
    """A column of "nothing here" values: "" for str, 0 for int, NaN for float, False for bool."""
    return np.full(shape, _EMPTY[kind], dtype=_DTYPES[kind])


@dataclass(frozen=True, slots=True)
class EmbeddingSpace:
    """Where vectors come from. Two stores hold comparable vectors exactly when their fingerprints are equal.

    Args:
        encoder: a name for people, such as ``"dinov2-b14-reg"``.
        fingerprint: ``"sha256:…"`` over everything that changes a vector: weights, preprocessing, layer, pooling.
        note: anything else worth reading later.
    """

    encoder: str
    fingerprint: str
    note: str = ""

    def __post_init__(self) -> None:
        if not self.encoder or not self.fingerprint:
            raise InvalidInputError("embedding space", expected="an encoder name and a fingerprint", got=repr(self))


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """What a collection holds. It is stored with the data and checked at every opening.

    Args:
        dim: width of the vectors.
        metric: ``"cosine"``, ``"dot"`` or ``"l2"``; scores are higher-is-better for each (cosine similarity, dot
            product, negative squared distance).
        fields: name and type (str, int, float, bool) of each field; every record has a value for every field.
        space: the embedding space, or None where the caller keeps track.
        dtype: what the numbers of a vector are kept as. ``"float16"`` takes half the space: vectors, and queries, are
            rounded to it once on their way in, and are float32 arrays of such numbers from there on.

    Raises:
        InvalidInputError: dim below 1, an unknown metric or dtype.
        InvalidFieldError: a field name that is not an ASCII identifier, starts with an underscore, or is ``id`` or
            ``vector``; or another type.
    """

    dim: int
    metric: Metric = "cosine"
    fields: Mapping[str, FieldType] = field(default_factory=dict)
    space: EmbeddingSpace | None = None
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if not isinstance(self.dim, int | np.integer) or isinstance(self.dim, bool) or self.dim < 1:
            raise InvalidInputError("spec.dim", expected="a whole number of at least 1", got=repr(self.dim))
        if self.metric not in ("cosine", "dot", "l2"):
            raise InvalidInputError("spec.metric", expected="cosine, dot or l2", got=repr(self.metric))
        if self.dtype not in DTYPES:
            raise InvalidInputError("spec.dtype", expected=" or ".join(DTYPES), got=repr(self.dtype))
        if not isinstance(self.fields, Mapping):
            raise InvalidFieldError("spec.fields", expected="a mapping from name to type", got=repr(self.fields)[:80])
        for name, kind in self.fields.items():
            _check_field(name, kind)
        if self.space is not None and not isinstance(self.space, EmbeddingSpace):
            raise InvalidInputError("spec.space", expected="an EmbeddingSpace or None", got=type(self.space).__name__)
        object.__setattr__(self, "dim", int(self.dim))
        object.__setattr__(self, "fields", dict(self.fields))

    def __hash__(self) -> int:
        return hash((self.dim, self.metric, frozenset(self.fields.items()), self.space, self.dtype))

    def to_json(self) -> str:
        """The text that a backend stores beside the data."""
        space = None if self.space is None else {
            "encoder": self.space.encoder, "fingerprint": self.space.fingerprint, "note": self.space.note,
        }  # fmt: skip
        fields = {name: kind.__name__ for name, kind in self.fields.items()}
        kept = {"dim": self.dim, "metric": self.metric, "fields": fields, "space": space, "dtype": self.dtype}
        return json.dumps(kept, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> StoreSpec:
        """The inverse of :meth:`to_json`; what was written before there was a choice of ``dtype`` is float32.

        Raises:
            StoreCorruptError: not what :meth:`to_json` writes.
        """
        try:
            raw = json.loads(text)
            fields = {name: _FIELD_TYPES[kind] for name, kind in raw["fields"].items()}
            space = None if raw["space"] is None else EmbeddingSpace(**raw["space"])
            return cls(raw["dim"], raw["metric"], fields, space, raw.get("dtype", "float32"))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise StoreCorruptError("the stored spec", expected="JSON of a StoreSpec", got=repr(text)[:80]) from error

    def check_against(self, stored: StoreSpec, where: str) -> None:
        """Refuse to open ``stored`` as if it were ``self``.

        A wanted spec without a space accepts any; the note of a space is not compared.

        Raises:
            SpecMismatchError: naming every difference, both sides.
        """
        pairs: dict[str, tuple[object, object]] = {
            "dim": (self.dim, stored.dim),
            "metric": (self.metric, stored.metric),
            "fields": (_typed(self.fields), _typed(stored.fields)),
            "dtype": (self.dtype, stored.dtype),
        }
        if self.space is not None:
            pairs["space"] = (_identity(self.space), _identity(stored.space))
        wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if wrong:
            raise SpecMismatchError(
                f"{where} holds another collection",
                expected="; ".join(f"{name} {wanted}" for name, (wanted, _) in wrong.items()) + ASKED,
                got="; ".join(f"{name} {there}" for name, (_, there) in wrong.items()) + STORED,
                hint="Nothing was changed. Open it with the stored spec, or choose another URL.",
            )


def _check_field(name: object, kind: object) -> None:
    plain = isinstance(name, str) and name.isidentifier() and name.isascii()
    if not plain or str(name).startswith("_") or name in ("id", "vector"):
        raise InvalidFieldError(
            f"spec.fields: name {name!r}",
            expected="an ASCII identifier that starts with a letter, other than id and vector",
        )
    if not isinstance(kind, type) or kind not in _DTYPES:
        raise InvalidFieldError(f"spec.fields[{name!r}]", expected="str, int, float or bool", got=repr(kind))


def _typed(fields: Mapping[str, FieldType]) -> dict[str, str]:
    return {name: fields[name].__name__ for name in sorted(fields)}


def _identity(space: EmbeddingSpace | None) -> str:
    return "none" if space is None else space.fingerprint


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A validated batch of records on its way into a backend, which may keep the arrays: no one else holds them.

    Args:
        ids: N distinct strings.
        vectors: float32 (N, D), C-contiguous; unit-norm rows under cosine; numbers that the spec's dtype has, so that
            ``vectors.astype(spec.dtype)`` loses nothing.
        fields: one column of N values for each declared field.
    """

    ids: list[str]
    vectors: NDArray[np.float32]
    fields: dict[str, Column]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, rows: slice) -> Batch:
        """Some of the records, without copying their vectors."""
        return Batch(self.ids[rows], self.vectors[rows], {name: column[rows] for name, column in self.fields.items()})


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """Stored records, as columns.

    Args:
        ids: object (N,), str.
        vectors: float32 (N, D), bit for bit as stored; None where not asked for.
        fields: one column of N values for each field asked for.
    """

    ids: NDArray[np.object_]
    vectors: NDArray[np.float32] | None
    fields: dict[str, Column]

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """The records that an index or boolean array picks."""
        vectors = None if self.vectors is None else self.vectors[rows]
        return replace(
            self, ids=self.ids[rows], vectors=vectors, fields={name: c[rows] for name, c in self.fields.items()}
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The records of at least one part of a scan after another; with vectors if all have them."""
        vectors = [part.vectors for part in parts if part.vectors is not None]
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate(vectors) if len(vectors) == len(parts) else None,
            {name: np.concatenate([part.fields[name] for part in parts]) for name in parts[0].fields},
        )


@dataclass(frozen=True, slots=True, eq=False)
class VectorRecords(Records):
    """Stored records with their vectors: what ``get``, and ``scan`` with ``with_vectors=True``, return.

    Args:
        ids: object (N,), str.
        vectors: float32 (N, D), bit for bit as stored.
        fields: one column of N values for each field asked for.
    """

    vectors: NDArray[np.float32]


class Ids(Protocol):
    """Several ids: a list, a tuple, an array. Not one text, which is a sequence of letters too, and a likely mistake.

    A text is told apart by its ``in``, which takes text only.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, value: object, /) -> bool: ...


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """The best K of each query, best first. Slots not found: id "", score -inf, an empty field value.

    Args:
        ids: object (Q, K), str.
        scores: float32 (Q, K), higher is better under every metric.
        fields: one (Q, K) column for each field asked for.
    """

    ids: NDArray[np.object_]
    scores: NDArray[np.float32]
    fields: dict[str, Column]

    @classmethod
    def empty(cls, queries: int, k: int, spec: StoreSpec, fields: Iterable[str]) -> Hits:
        """K slots for each query, where nothing was found yet."""
        shape = (queries, k)
        columns = {name: empty_column(spec.fields[name], shape) for name in fields}
        return cls(empty_column(str, shape), np.full(shape, -np.inf, np.float32), columns)

    def put(self, rows: NDArray[np.intp], found: Hits) -> None:
        """Take the hits of some queries from ``found``, which has those queries alone."""
        self.ids[rows], self.scores[rows] = found.ids, found.scores
        for name, column in self.fields.items():
            column[rows] = found.fields[name]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, as data.

    Args:
        max_k: largest k of one search, None where there is no limit.
        filters: the operators that filters may use.
        unordered: types of field, by name, that ``<  <=  >  >=`` do not take here; beside ``bool``, which has no order
            anywhere.
        persistent: what is written is there after the process ends.
        server: the data lives in another process.
        snapshot: a consistent copy can be taken while others write.
        multi_process: several processes may open it at once.
        approximate: a search may miss some of the true neighbours.
        recall_floor: the least share of true neighbours that the backend declares; 1 where the search is exact.
        atomic: an upsert of any size is written whole or not at all. Where it is not, a large one goes in several
            requests, in order, each whole or not at all; the error of an interrupted one says how far it came.
        conditional: ``on_conflict="skip"`` and ``"error"`` hold against other writers too: of two that write the same
            new id at the same moment, the second never replaces what the first has written.
        update_in_place: ``update()`` changes a record where it lies: what anyone deletes or replaces at the same moment
            does not come back. Where it does not, records are read and written again, which undoes what happens to
            them in between.
        revision: ``revision()`` changes with every write of anyone. Where it does not, nothing may be cached over it.
        half_precision: a collection of ``dtype="float16"`` takes half the space; where it does not, its vectors are the
            same and nothing is saved.
        consistency: the levels that the backend tells apart. A request is met by that level or by a stronger one
            (``eventual`` < ``session`` < ``strong``); where there is neither, opening is an UnsupportedOperationError.
    """

    max_k: int | None = None
    filters: frozenset[str] = frozenset({"==", "!=", "<", "<=", ">", ">=", "isin", "&", "|", "~"})
    unordered: frozenset[str] = frozenset()
    persistent: bool = True
    server: bool = False
    snapshot: bool = False
    multi_process: bool = False
    approximate: bool = False
    recall_floor: float = 1.0
    atomic: bool = True
    conditional: bool = False
    update_in_place: bool = False
    revision: bool = False
    half_precision: bool = False
    consistency: tuple[Consistency, ...] = ("strong",)

    def filters_on(self, kind: FieldType) -> frozenset[str]:
        """The comparisons that a field of this type takes."""
        ordered = kind is not bool and kind.__name__ not in self.unordered
        return (self.filters - {"&", "|", "~"}) - (frozenset() if ordered else _ORDERING)


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Figures about a store.

    Args:
        backend: its name.
        count: records stored.
        bytes_on_disk: what they take on disk, None where it cannot be told.
        bytes_in_memory: what this process holds for them, None where it cannot be told.
        recall: measured share of true neighbours among the first 10 found, without a filter or behind one, whichever is
            less; None before there is anything to measure.
        indexed: records that an approximate index covers; None where every search is exact, or the engine does not
            tell. The others are searched exactly.
        details: whatever else the backend reports, readable as JSON.
    """

    backend: str
    count: int
    bytes_on_disk: int | None = None
    bytes_in_memory: int | None = None
    recall: float | None = None
    indexed: int | None = None
    details: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)

    def __hash__(self) -> int:
        details = frozenset(self.details.items())
        return hash(
            (self.backend, self.count, self.bytes_on_disk, self.bytes_in_memory, self.recall, self.indexed, details)
        )
