"""Filters as Qdrant's conditions. Values are data in a message: there is no text to quote.

Qdrant compares numbers with bounds in double precision. For a float field that is exact. For an integer field it is
exact as long as the bound itself is: the engine turns it back into an integer for its index. A bound that no double can
hold is replaced by the next double and a list of the integers in between, of which there are at most 1024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from knnstore.errors import UnsupportedFilterError
from knnstore.filters import And, Compare, FieldType, Filter, IsIn, Not, Or, Scalar

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

    def nothing(self) -> Any:
        """A condition that no record meets."""


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
            case Compare(field, "==", value):
                return self._equal(field, value)
            case Compare(field, "!=", value):
                return self.dialect.group(must_not=[self._equal(field, value)])
            case Compare():
                return self._ordered(where)
            case IsIn(field, values):
                return self._among(field, values)
        return self._group(where, depth)

    def _equal(self, field: str, value: Scalar) -> Any:
        if isinstance(value, float):
            return self.dialect.between(field, {"gte": value, "lte": value})
        return self.dialect.equal(field, value)

    def _among(self, field: str, values: Sequence[Scalar]) -> Any:
        if not values:
            return self.dialect.nothing()
        if self.fields[field] in (str, int):
            return self.dialect.among(field, list(dict.fromkeys(values)))  # type: ignore[arg-type]  # checked: of one type
        return self.dialect.group(should=[self._equal(field, value) for value in dict.fromkeys(values)])

    def _ordered(self, where: Compare) -> Any:
        if isinstance(where.value, str):
            raise UnsupportedFilterError(
                f"filter {where!r}", expected="==, != or isin on text", got=where.op, hint="Qdrant does not order text."
            )
        if isinstance(where.value, int):
            return self._ordered_integer(where.field, where.op, where.value)
        return self.dialect.between(where.field, {_BOUND[where.op]: where.value})

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
        return self.dialect.group(should=either) if either else self.dialect.nothing()
