"""Filters as Qdrant's conditions. Values are data in a message: there is no text to quote.

Qdrant compares numbers with bounds in double precision. That is exact for an integer field (and a float field is kept
as one, see :mod:`knnstore_qdrant.floats`) as long as the bound itself is: the engine turns it back into an integer for
its index. A bound that no double can hold is replaced by the next double and a list of the integers in between, of
which there are at most 1024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from knnstore.errors import UnsupportedFilterError
from knnstore.filters import And, Compare, FieldType, Filter, IsIn, Not, Or, Scalar
from knnstore_qdrant.floats import code, key

__all__ = ["Compiler", "Dialect"]

_DEPTH = 40
"""Filters nest no deeper: the decoders of Qdrant's messages stop at 100 levels, and each of ours takes two."""
_INT_END = 2.0**63


class Dialect(Protocol):
    """The classes of an engine's filters; they differ in name and spelling only."""

    def group(self, must: Sequence[Any] = (), should: Sequence[Any] = (), must_not: Sequence[Any] = ()) -> Any:
        """A filter of conditions."""

    def equal(self, field: str, value: str | int | bool) -> Any:
        """The field is this value."""

    def among(self, field: str, values: Sequence[str] | Sequence[int]) -> Any:
        """The field is one of these, of which there is at least one."""

    def between(self, field: str, bounds: Mapping[str, float]) -> Any:
        """The field is a number within bounds named gt, gte, lt, lte."""

    def among_ids(self, ids: Sequence[str]) -> Any:
        """The record is one of these points; of an empty list there is none."""


_BOUND = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}


@dataclass(frozen=True, slots=True)
class Compiler:
    """Compiles filters for one store.

    Args:
        dialect: the engine's classes.
        fields: the declared fields and their types.
    """

    dialect: Dialect
    fields: Mapping[str, FieldType]

    def compile(self, where: Filter | None) -> Any:
        """The engine's filter, or None.

        Raises:
            UnsupportedFilterError: an ordering of text, or nesting beyond what Qdrant's messages can hold.
        """
        return None if where is None else self._group(where, 0)

    def _group(self, where: Filter, depth: int) -> Any:
        if depth > _DEPTH:
            raise UnsupportedFilterError(
                "filter", expected=f"at most {_DEPTH} levels of nesting", got="more", hint="Simplify the expression."
            )
        match where:
            case And(operands):
                return self._all(operands, depth)
            case Or(operands):
                return self.dialect.group(should=[self._condition(operand, depth + 1) for operand in operands])
            case Not(Not(operand)):
                return self._group(operand, depth)
            case Not(operand):
                return self.dialect.group(must_not=[self._condition(operand, depth + 1)])
        return self.dialect.group(must=[self._condition(where, depth)])

    def _all(self, operands: Sequence[Filter], depth: int) -> Any:
        """A conjunction; what is negated in it goes into ``must_not``, a level less."""
        must = [self._condition(operand, depth + 1) for operand in operands if not isinstance(operand, Not)]
        must_not = [self._condition(operand.operand, depth + 1) for operand in operands if isinstance(operand, Not)]
        return self.dialect.group(must=must, must_not=must_not)

    def _condition(self, where: Filter, depth: int) -> Any:
        match where:
            case Compare(_, "==", value):
                return self.dialect.equal(*self._stored(where.field, value))
            case Compare(_, "!=", value):
                return self.dialect.group(must_not=[self.dialect.equal(*self._stored(where.field, value))])
            case Compare():
                return self._ordered(where)
            case IsIn(field, values):
                return self._among(field, values)
        return self._group(where, depth)

    def _stored(self, field: str, value: Scalar) -> tuple[str, str | int | bool]:
        """The key and the value as the payload has them."""
        return (key(field, float), code(value)) if isinstance(value, float) else (field, value)

    def _among(self, field: str, values: Sequence[Scalar]) -> Any:
        if not values:
            return self.dialect.among_ids([])
        kind = self.fields[field]
        listed = list(dict.fromkeys(self._stored(field, value)[1] for value in values))
        if kind is bool:
            return self.dialect.group(should=[self.dialect.equal(field, value) for value in listed])
        return self.dialect.among(key(field, kind), listed)  # type: ignore[arg-type]  # checked: of one type

    def _ordered(self, where: Compare) -> Any:
        if isinstance(where.value, str):
            raise UnsupportedFilterError(
                f"filter {where!r}", expected="==, != or isin on text", got=where.op, hint="Qdrant does not order text."
            )
        field, value = self._stored(where.field, where.value)
        assert isinstance(value, int)  # text has been refused, and booleans have no order
        return self._ordered_integer(field, where.op, value)

    def _ordered_integer(self, field: str, op: str, bound: int) -> Any:
        nearest = float(bound)
        if int(nearest) == bound:
            return self.dialect.between(field, {_BOUND[op]: nearest})
        upwards = op in (">", ">=")
        beyond = nearest
        while (int(beyond) < bound) if upwards else (int(beyond) > bound):
            beyond = math.nextafter(beyond, math.inf if upwards else -math.inf)
        if upwards:
            single = range(bound + (op == ">"), int(beyond))
        else:
            single = range(int(beyond) + 1, bound + (op == "<="))
        either = [self.dialect.among(field, list(single))] if single else []
        if abs(beyond) < _INT_END or not upwards:
            either.append(self.dialect.between(field, {"gte" if upwards else "lte": beyond}))
        return self.dialect.group(should=either) if either else self.dialect.among_ids([])
