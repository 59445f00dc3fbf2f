"""Filters: a small expression tree over the declared fields.

    >>> from knnstore import F
    >>> (F("label").isin(["kettle", "zebra"]) & ~(F("area") < 100))
    F('label').isin(['kettle', 'zebra']) & ~(F('area') < 100)

A backend compiles the tree to its native language by matching on the five node types below; values are data and are
quoted or bound there, never pasted into text. Python's ``and``, ``or``, ``not`` and chained comparisons cannot be
overloaded; they raise instead of silently dropping half of the expression.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import InvalidFilterError, UnknownFieldError

__all__ = ["And", "Compare", "F", "FieldType", "Filter", "IsIn", "Not", "Or", "Scalar"]

Scalar: TypeAlias = str | int | float | bool
FieldType: TypeAlias = type[str] | type[int] | type[float] | type[bool]
Operator: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">="]

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Filter:
    """A boolean expression over the fields of one record. Combine with ``&``, ``|`` and ``~``."""

    __slots__ = ()

    def __and__(self, other: Filter) -> Filter:
        return And((self, _filter(other)))

    def __or__(self, other: Filter) -> Filter:
        return Or((self, _filter(other)))

    def __invert__(self) -> Filter:
        return Not(self)

    def __bool__(self) -> bool:
        raise InvalidFilterError(
            "a filter has no truth value",
            hint="Use &, | and ~ with parentheses, not and, or, not or chained comparisons.",
        )

    def leaves(self) -> Iterator[Compare | IsIn]:
        """The comparisons in the tree, from left to right."""
        raise NotImplementedError

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Evaluate on columns of N values: bool (N,)."""
        raise NotImplementedError

    def check(self, fields: Mapping[str, FieldType]) -> Filter:
        """Hold every comparison against the declared fields.

        Raises:
            UnknownFieldError: a field that is not declared.
            InvalidFilterError: a value of another type than its field, or an ordering of booleans.
        """
        for leaf in self.leaves():
            leaf.check_leaf(fields)
        return self


def _filter(value: object) -> Filter:
    if not isinstance(value, Filter):
        raise InvalidFilterError("cannot combine", expected="another filter", got=repr(value), hint="Add parentheses.")
    return value


def _check_value(name: str, value: object, fields: Mapping[str, FieldType]) -> None:
    if name not in fields:
        raise UnknownFieldError(f"filter on field {name!r}", expected=f"one of {sorted(fields)}")
    declared = fields[name]
    accepted: tuple[type, ...] = (float, int) if declared is float else (declared,)
    wrong_bool = isinstance(value, bool) and declared is not bool
    if wrong_bool or not isinstance(value, accepted):
        raise InvalidFilterError(f"filter on field {name!r}", expected=f"a {declared.__name__}", got=repr(value))
    if declared is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidFilterError(f"filter on field {name!r}", expected="a 64-bit integer", got=value)
    if isinstance(value, float) and not np.isfinite(value):
        raise InvalidFilterError(f"filter on field {name!r}", expected="a finite number", got=value)


@dataclass(frozen=True, slots=True)
class Compare(Filter):
    """``field op value``."""

    field: str
    op: Operator
    value: Scalar

    def leaves(self) -> Iterator[Compare | IsIn]:
        yield self

    def check_leaf(self, fields: Mapping[str, FieldType]) -> None:
        """See :meth:`Filter.check`."""
        _check_value(self.field, self.value, fields)
        if fields[self.field] is bool and self.op not in ("==", "!="):
            raise InvalidFilterError(f"filter on field {self.field!r}", expected="== or != on a bool", got=self.op)

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        column = columns[self.field]
        return np.asarray(_OPERATORS[self.op](column, self.value), bool).reshape(len(column))

    def __repr__(self) -> str:
        return f"(F({self.field!r}) {self.op} {self.value!r})"


@dataclass(frozen=True, slots=True)
class IsIn(Filter):
    """``field`` is one of ``values``; nothing is, where ``values`` is empty."""

    field: str
    values: tuple[Scalar, ...]

    def leaves(self) -> Iterator[Compare | IsIn]:
        yield self

    def check_leaf(self, fields: Mapping[str, FieldType]) -> None:
        """See :meth:`Filter.check`."""
        if self.field not in fields:
            raise UnknownFieldError(f"filter on field {self.field!r}", expected=f"one of {sorted(fields)}")
        for value in self.values:
            _check_value(self.field, value, fields)

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        column, wanted = columns[self.field], set(self.values)
        return np.fromiter((value in wanted for value in column.tolist()), bool, len(column))

    def __repr__(self) -> str:
        return f"F({self.field!r}).isin({list(self.values)!r})"


@dataclass(frozen=True, slots=True)
class And(Filter):
    """Every operand holds."""

    operands: tuple[Filter, ...]

    def leaves(self) -> Iterator[Compare | IsIn]:
        for operand in self.operands:
            yield from operand.leaves()

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        return np.logical_and.reduce([operand.mask(columns) for operand in self.operands])

    def __repr__(self) -> str:
        return " & ".join(_enclosed(operand) for operand in self.operands)


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """At least one operand holds."""

    operands: tuple[Filter, ...]

    def leaves(self) -> Iterator[Compare | IsIn]:
        for operand in self.operands:
            yield from operand.leaves()

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        return np.logical_or.reduce([operand.mask(columns) for operand in self.operands])

    def __repr__(self) -> str:
        return " | ".join(_enclosed(operand) for operand in self.operands)


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The operand does not hold."""

    operand: Filter

    def leaves(self) -> Iterator[Compare | IsIn]:
        yield from self.operand.leaves()

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        return ~self.operand.mask(columns)

    def __repr__(self) -> str:
        return f"~{_enclosed(self.operand)}"


def _enclosed(operand: Filter) -> str:
    return f"({operand!r})" if isinstance(operand, And | Or) else repr(operand)


class F:
    """A declared field, to be compared: ``F("area") >= 100``, ``F("label").isin(["kettle"])``."""

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]  # == builds a filter, so an F cannot be a dictionary key

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, value: object) -> Filter:  # type: ignore[override]  # builds an expression instead of comparing
        return Compare(self.name, "==", _scalar(value))

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]  # builds an expression instead of comparing
        return Compare(self.name, "!=", _scalar(value))

    def __lt__(self, value: Scalar) -> Filter:
        return Compare(self.name, "<", _scalar(value))

    def __le__(self, value: Scalar) -> Filter:
        return Compare(self.name, "<=", _scalar(value))

    def __gt__(self, value: Scalar) -> Filter:
        return Compare(self.name, ">", _scalar(value))

    def __ge__(self, value: Scalar) -> Filter:
        return Compare(self.name, ">=", _scalar(value))

    def isin(self, values: Iterable[Scalar]) -> Filter:
        """The field is one of ``values``; an empty collection matches nothing."""
        if isinstance(values, str):
            raise InvalidFilterError("isin", expected="a collection of values", got=repr(values))
        return IsIn(self.name, tuple(_scalar(value) for value in values))


def _scalar(value: object) -> Scalar:
    """A plain Python scalar; NumPy's are unwrapped so that a backend never sees them."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, str | int | float | bool):
        raise InvalidFilterError("cannot compare", expected="a str, int, float or bool", got=repr(value))
    return value
