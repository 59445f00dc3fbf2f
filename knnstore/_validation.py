"""The checks that every call passes before a backend sees any data, so that errors read the same everywhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    InvalidFieldError,
    InvalidIdError,
    InvalidLimitError,
    InvalidVectorError,
    UnknownFieldError,
)
from knnstore.filters import FieldType
from knnstore.types import MAX_ID_BYTES, MAX_TEXT_BYTES, Batch, Column, Dtype, Ids, Metric, StoreSpec

__all__ = ["check_batch", "check_changes", "check_fields", "check_ids", "check_limit", "check_vectors", "rounded"]

_LARGEST = sys.float_info.max
_DTYPES: dict[FieldType, type[np.generic]] = {int: np.int64, float: np.float64, bool: np.bool_}
_UNIT = 2.0**-22
"""A row whose length is this close to 1 counts as normalised and is left alone, so that normalising twice is
normalising once and a vector read back can be written again without a change. Rounding to float32 moves a length by at
most 2^-24."""
_HALF_UNIT = 2.0**-10
"""The same for a row of float16 numbers where those are stored: rounding to them moves a length by 2^-11, and by next
to nothing more through numbers below 2^-14."""


def check_limit(name: str, value: object, most: int | None = None) -> int:
    """A whole number from 1 to ``most``."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InvalidLimitError(name, expected="a whole number of at least 1", got=repr(value))
    if most is not None and value > most:
        raise InvalidLimitError(name, expected=f"at most {most} on this backend", got=int(value))
    return int(value)


def check_ids(ids: Iterable[str], *, distinct: bool) -> list[str]:
    """Non-empty strings of at most 512 UTF-8 bytes, each once where ``distinct``."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise InvalidIdError("ids", expected="a sequence of strings", got=repr(ids)[:80])
    checked = [_check_id(value) for value in ids]
    if distinct and len(set(checked)) != len(checked):
        seen: set[str] = set()
        twice = next(value for value in checked if value in seen or seen.add(value))  # type: ignore[func-returns-value]
        raise DuplicateIdError("ids", expected="each id once in a call", got=f"{twice!r} more than once")
    return checked


def _check_id(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidIdError("id", expected="a string", got=f"{type(value).__name__} {value!r}"[:80])
    if not value:
        raise InvalidIdError("id", expected="a non-empty string", got="''")
    size = _utf8_bytes(value, InvalidIdError("id", expected="Unicode text", got=f"a lone surrogate in {value!r}"[:80]))
    if size > MAX_ID_BYTES:
        raise InvalidIdError("id", expected=f"at most {MAX_ID_BYTES} bytes in UTF-8", got=f"{size} in {value[:20]!r}…")
    return str.__str__(value)  # a plain str: str() of an enum member would be its name


def _utf8_bytes(text: str, error: Exception) -> int:
    try:
        return len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise error from None


def check_vectors(
    vectors: object, dim: int, metric: Metric, name: str = "vectors", dtype: Dtype = "float32"
) -> NDArray[np.float32]:
    """Our own float32 (N, dim) copy, C-contiguous and finite, rows normalised under cosine, of numbers of ``dtype``."""
    array = _as_array(vectors, name)
    if array.ndim in (1, 2) and len(array) == 0:
        return np.empty((0, dim), np.float32)
    if array.ndim != 2:
        raise DimensionMismatchError(name, expected=f"a 2-dimensional array (N, {dim})", got=f"shape {array.shape}")
    if array.shape[1] != dim:
        raise DimensionMismatchError(
            name, expected=f"rows of {dim} numbers, as in the store", got=f"rows of {array.shape[1]}"
        )
    if array.dtype.newbyteorder("=") not in (np.float32, np.float16):
        raise InvalidVectorError(
            name, expected="float32", got=array.dtype, hint="Convert with .astype(numpy.float32) if that is meant."
        )
    # A float16 widened is exact. The copy is what keeps a later change of the caller's array out of the store.
    array = np.array(array, np.float32, order="C", copy=True)
    with np.errstate(invalid="ignore"):  # inf - inf is what this looks for
        finite = np.isfinite(array.sum(axis=1, dtype=np.float64))
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise InvalidVectorError(name, expected="finite numbers", got=f"NaN or infinity in row {row}")
    return rounded(_normalised(array, name, dtype) if metric == "cosine" else array, dtype, name)


def rounded(rows: NDArray[np.float32], dtype: Dtype, name: str = "vectors") -> NDArray[np.float32]:
    """float32 (N, D) of the numbers of ``dtype`` that are nearest; rounding twice is rounding once.

    Raises:
        InvalidVectorError: a number beyond the largest of them.
    """
    if dtype == "float32":
        return rows
    with np.errstate(over="ignore"):
        near = rows.astype(np.float16).astype(np.float32)
    if not np.isfinite(near).all():
        row = int(np.flatnonzero(~np.isfinite(near).all(axis=1))[0])
        raise InvalidVectorError(
            name, expected="numbers up to 65504, the largest float16", got=f"{np.abs(rows[row]).max():g} in row {row}",
            hint="Scale the vectors, or store them as float32.",
        )  # fmt: skip
    return near


def _as_array(vectors: object, name: str) -> NDArray[Any]:
    try:
        return np.asarray(_plain(vectors, name))
    except (ValueError, TypeError, RuntimeError) as error:  # ragged rows, a tensor of a kind that NumPy has not, …
        if isinstance(error, InvalidVectorError):
            raise
        raise InvalidVectorError(
            name, expected="an array of numbers", got=f"{type(vectors).__name__}: {error}"[:300]
        ) from None


def _plain(vectors: object, name: str) -> object:
    """What NumPy reads as the numbers that are meant: no mask that it would drop, no tensor that it would refuse."""
    if isinstance(vectors, list | tuple):
        return [_plain(row, name) for row in vectors] if any(map(_peculiar, vectors)) else vectors
    if isinstance(vectors, np.ma.MaskedArray):
        if np.ma.getmaskarray(vectors).any():
            raise InvalidVectorError(
                name, expected="a number everywhere", got="a masked array with masked entries",
                hint="Leave those rows out, or fill them with .filled(value).",
            )  # fmt: skip
        return vectors.data
    # A tensor, told by its methods, as no library of tensors is imported here: its values, wherever they are.
    return vectors.detach().cpu() if _is_tensor(vectors) else vectors


def _peculiar(row: object) -> bool:
    return isinstance(row, np.ma.MaskedArray) or _is_tensor(row)


def _is_tensor(value: object) -> TypeGuard[Any]:
    return callable(getattr(value, "detach", None)) and callable(getattr(value, "cpu", None))


def _normalised(rows: NDArray[np.float32], name: str, dtype: Dtype) -> NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if not lengths.all():
        row = int(np.flatnonzero(lengths == 0)[0])
        raise InvalidVectorError(name, expected="a direction under cosine", got=f"a zero vector in row {row}")
    wrong = np.abs(lengths - 1)
    stale = wrong > _UNIT
    if dtype == "float16":
        near = np.flatnonzero(stale & (wrong <= _HALF_UNIT))
        stale[near] = (rows[near] != rows[near].astype(dtype)).any(axis=1)
    if stale.any():
        rows[stale] = (rows[stale] / lengths[stale, None]).astype(np.float32)
    return rows


def check_fields(names: Ids | None, spec: StoreSpec, *, default_all: bool) -> list[str]:
    """The names of declared fields that a caller asks for."""
    if names is None:
        return list(spec.fields) if default_all else []
    if isinstance(names, str):
        raise InvalidFieldError("fields", expected="a list of field names", got=repr(names))
    for name in names:
        if not isinstance(name, str) or name not in spec.fields:
            raise UnknownFieldError(f"field {name!r}", expected=f"one of {sorted(spec.fields)}")
    return list(dict.fromkeys(names))


def check_batch(
    spec: StoreSpec, ids: Iterable[str], vectors: object, fields: Mapping[str, Sequence[Any] | NDArray[Any]] | None
) -> Batch:
    """Everything about one upsert."""
    checked = check_ids(ids, distinct=True)
    rows = check_vectors(vectors, spec.dim, spec.metric, dtype=spec.dtype)
    if len(rows) != len(checked):
        raise DimensionMismatchError("vectors", expected=f"one row for each of {len(checked)} ids", got=f"{len(rows)}")
    given = _declared(spec, {} if fields is None else fields)
    missing = sorted(set(spec.fields) - set(given))
    if missing and checked:
        raise InvalidFieldError(
            "fields", expected=f"a column for each of {sorted(spec.fields)}", got=f"none for {missing}"
        )
    columns = {name: _column(name, spec.fields[name], given.get(name, ()), len(checked)) for name in spec.fields}
    return Batch(checked, rows, columns)


def check_changes(spec: StoreSpec, fields: Mapping[str, Any], count: int | None) -> dict[str, Column]:
    """The fields of an update as columns: of ``count`` values, or of one for all that match where ``count`` is None."""
    given = _declared(spec, fields)
    if not given:
        raise InvalidFieldError("fields", expected="at least one field to change", got="none")
    return {name: _change(name, spec.fields[name], value, count) for name, value in given.items()}


def _change(name: str, kind: FieldType, value: Any, count: int | None) -> Column:
    if count is None:
        return _column(name, kind, [value], 1)
    if isinstance(value, str | bytes | int | float | np.generic):
        return np.repeat(_column(name, kind, [value], 1), count)
    return _column(name, kind, value, count)


def _declared(spec: StoreSpec, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(fields, Mapping):
        raise InvalidFieldError("fields", expected="a mapping from field name to column", got=type(fields).__name__)
    for name in fields:
        if name not in spec.fields:
            raise UnknownFieldError(f"field {name!r}", expected=f"one of {sorted(spec.fields)}")
    return fields


def _column(name: str, kind: FieldType, values: Sequence[Any] | NDArray[Any], count: int) -> Column:
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        raise InvalidFieldError(
            f"field {name!r}", expected="a value for each id", got="a masked array with masked entries",
            hint="Fill them with .filled(value); fields have no null.",
        )  # fmt: skip
    # Arrays of any library, and columns of data frames, have tolist.
    items = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(items, str | bytes) or not isinstance(items, Sequence):
        raise InvalidFieldError(f"field {name!r}", expected="a column of values", got=repr(values)[:80])
    if len(items) != count:
        raise InvalidFieldError(f"field {name!r}", expected=f"{count} values, one for each id", got=len(items))
    plain = [_value(name, kind, item) for item in items]
    if kind is str:
        column = np.empty(count, object)
        column[:] = plain
        return column
    return np.array(plain, _DTYPES[kind])


def _value(name: str, kind: FieldType, value: object) -> object:
    if isinstance(value, np.generic):
        value = value.item()
    accepted: tuple[type, ...] = (float, int) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        got = f"{type(value).__name__} {value!r}"[:80]
        raise InvalidFieldError(f"field {name!r}", expected=f"a {kind.__name__}", got=got)
    if isinstance(value, str):
        size = _utf8_bytes(value, InvalidFieldError(f"field {name!r}", expected="Unicode text", got="a lone surrogate"))
        if size > MAX_TEXT_BYTES:
            raise InvalidFieldError(f"field {name!r}", expected=f"at most {MAX_TEXT_BYTES} bytes in UTF-8", got=size)
        return str.__str__(value)
    assert isinstance(value, int | float)  # by the check above
    if kind is int and not -(2**63) <= value < 2**63:
        raise InvalidFieldError(f"field {name!r}", expected="a 64-bit integer", got=value)
    if kind is float and not -_LARGEST <= value <= _LARGEST:  # false for NaN too; an int of any size can be compared
        raise InvalidFieldError(f"field {name!r}", expected="a finite number", got=repr(value)[:40])
    return value
