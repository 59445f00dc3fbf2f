"""Filters: a small expression tree over the declared fields.

    >>> from knnstore import F
    >>> (F("label").isin(["kettle", "zebra"]) & ~(F("area") < 100))
    F('label').isin(['kettle', 'zebra']) & ~(F('area') < 100)

A backend compiles the tree to its native language by matching on the five node types below; values are data and are
quoted or bound there, never pasted into text. Python's ``and``, ``or``, ``not`` and chained comparisons cannot be
overloaded; they raise instead of silently dropping half of the expression.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import InvalidFilterError, UnknownFieldError, UnsupportedFilterError

__all__ = [
    "And", "Compare", "F", "FieldType", "Filter", "IsIn", "Not", "Or", "Scalar", "balanced", "depth_of",
    "how_to_compare", "rebalanced",
]  # fmt: skip

Scalar: TypeAlias = str | int | float | bool
FieldType: TypeAlias = type[str] | type[int] | type[float] | type[bool]
Operator: TypeAlias = Literal["==", "!=", "<", "<=", ">", ">="]

_DEEPEST = 64
"""Operators nested in one another. Every method is recursive and needs a few frames of Python for each."""
_MOST = 1_000_000

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Filter:
    """A boolean expression over the fields of one record. Combine with ``&``, ``|`` and ``~``."""

    __slots__ = ()

    # A chain is one flat node and what gets deep is balanced, however it was put together: no stack overflows, here or
    # in an engine.

    def __and__(self, other: Filter) -> Filter:
        return _chain(And, self, _filter(other))

    def __or__(self, other: Filter) -> Filter:
        return _chain(Or, self, _filter(other))

    def __invert__(self) -> Filter:
        if isinstance(self, Not):
            return self.operand
        return Not(self) if depth_of(self) < _DEEPEST else rebalanced(self, holds=False)

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
        """Check every comparison against the declared fields.

        Returns:
            The same filter with every value of exactly the declared type (an int becomes a float on a float field), so
            that no engine has to decide how to compare an integer with a double.

        Raises:
            UnknownFieldError: a field that is not declared.
            InvalidFilterError: a value of another type than its field, or an ordering of booleans.
        """
        raise NotImplementedError


def _filter(value: object) -> Filter:
    if not isinstance(value, Filter):
        hint = how_to_compare(value) or "Put each comparison in parentheses: (F('a') == 1) & (F('b') == 2)."
        raise InvalidFilterError("cannot combine", expected="another filter", got=repr(value)[:80], hint=hint)
    return value


def how_to_compare(value: object) -> str:
    """The hint for someone who has put a field where a filter belongs; "" for anything else."""
    if not isinstance(value, F):
        return ""
    return f"Compare the field, also one of type bool: F({value.name!r}) == True."


def _declared(name: str, fields: Mapping[str, FieldType]) -> FieldType:
    if name not in fields:
        raise UnknownFieldError(f"filter on field {name!r}", expected=f"one of {sorted(fields)}")
    return fields[name]


def _typed(name: str, value: Scalar, declared: FieldType) -> Scalar:
    """The value as exactly the declared type."""
    accepted: tuple[type, ...] = (float, int) if declared is float else (declared,)
    wrong_bool = isinstance(value, bool) and declared is not bool
    if wrong_bool or not isinstance(value, accepted):
        raise InvalidFilterError(f"filter on field {name!r}", expected=f"a {declared.__name__}", got=repr(value))
    if declared is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidFilterError(f"filter on field {name!r}", expected="a 64-bit integer", got=value)
    if isinstance(value, str):
        return _text(name, value)
    if declared is float:
        return _finite(name, value)
    return declared(value)


def _text(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidFilterError(f"filter on field {name!r}", expected="Unicode text", got="a lone surrogate") from None
    return str.__str__(value)  # a plain str: str() of an enum member would be its name


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidFilterError(f"filter on field {name!r}", expected="a finite number", got=repr(value)[:40])
    return number


@dataclass(frozen=True, slots=True)
class Compare(Filter):
    """``field op value``."""

    field: str
    op: Operator
    value: Scalar

    def leaves(self) -> Iterator[Compare | IsIn]:
        yield self

    def check(self, fields: Mapping[str, FieldType]) -> Filter:
        declared = _declared(self.field, fields)
        value = _typed(self.field, self.value, declared)
        if declared is bool and self.op not in ("==", "!="):
            raise InvalidFilterError(f"filter on field {self.field!r}", expected="== or != on a bool", got=self.op)
        return Compare(self.field, self.op, value)

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        column = columns[self.field]
        # Wrapped, because NumPy's own text type would drop a NUL at the end of a string.
        value = np.array(self.value, object) if column.dtype == object else self.value
        return np.asarray(_OPERATORS[self.op](column, value), np.bool_)

    def __repr__(self) -> str:
        return f"(F({self.field!r}) {self.op} {self.value!r})"


@dataclass(frozen=True, slots=True)
class IsIn(Filter):
    """``field`` is one of ``values``; nothing is, where ``values`` is empty."""

    field: str
    values: tuple[Scalar, ...]

    def leaves(self) -> Iterator[Compare | IsIn]:
        yield self

    def check(self, fields: Mapping[str, FieldType]) -> Filter:
        declared = _declared(self.field, fields)
        return IsIn(self.field, tuple(_typed(self.field, value, declared) for value in self.values))

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        column, wanted = columns[self.field], set(self.values)
        return np.fromiter(map(wanted.__contains__, column.tolist()), bool, len(column))

    def __repr__(self) -> str:
        return f"F({self.field!r}).isin({list(self.values)!r})"


@dataclass(frozen=True, slots=True)
class _Joined(Filter):
    operands: tuple[Filter, ...]
    _shape: tuple[int, int] = field(default=(0, 0), kw_only=True, repr=False, compare=False)
    _sign: ClassVar[str]
    _together: ClassVar[np.ufunc]

    def __post_init__(self) -> None:
        _measure(self, self.operands)

    def leaves(self) -> Iterator[Compare | IsIn]:
        for operand in self.operands:
            yield from operand.leaves()

    def check(self, fields: Mapping[str, FieldType]) -> Filter:
        return type(self)(tuple(operand.check(fields) for operand in self.operands))

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        masks = (operand.mask(columns) for operand in self.operands)
        return functools.reduce(self._together, masks)

    def __repr__(self) -> str:
        return f" {self._sign} ".join(_enclosed(operand) for operand in self.operands)


@dataclass(frozen=True, slots=True, repr=False)
class And(_Joined):
    """Every operand holds."""

    _sign: ClassVar[str] = "&"
    _together: ClassVar[np.ufunc] = np.logical_and


@dataclass(frozen=True, slots=True, repr=False)
class Or(_Joined):
    """At least one operand holds."""

    _sign: ClassVar[str] = "|"
    _together: ClassVar[np.ufunc] = np.logical_or


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The operand does not hold."""

    operand: Filter
    _shape: tuple[int, int] = field(default=(0, 0), kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        _measure(self, (self.operand,))

    def leaves(self) -> Iterator[Compare | IsIn]:
        yield from self.operand.leaves()

    def check(self, fields: Mapping[str, FieldType]) -> Filter:
        return Not(self.operand.check(fields))

    def mask(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        return ~self.operand.mask(columns)

    def __repr__(self) -> str:
        return f"~{_enclosed(self.operand)}"


def _operands(kind: type[And] | type[Or], node: Filter) -> tuple[Filter, ...]:
    return node.operands if isinstance(node, And | Or) and isinstance(node, kind) else (node,)


def depth_of(node: Filter) -> int:
    """How many nodes of &, | and ~ are above the deepest comparison."""
    return node._shape[0] if isinstance(node, And | Or | Not) else 0


def _size(node: Filter) -> int:
    return node._shape[1] if isinstance(node, And | Or | Not) else 1


def _measure(node: _Joined | Not, operands: Sequence[Filter]) -> None:
    """Note the depth and the number of comparisons, and refuse what no stack and no memory would take."""
    if node._shape == (0, 0):
        shape = (1 + max(map(depth_of, operands), default=0), sum(map(_size, operands)))
        object.__setattr__(node, "_shape", shape)
    depth, size = node._shape
    if depth > _DEEPEST or size > _MOST:
        raise UnsupportedFilterError(
            "filter", expected=f"at most {_DEEPEST} operators nested in one another and {_MOST} comparisons",
            got=f"{depth} and {size}", hint="Write many values of one field with isin.",
        )  # fmt: skip


def _chain(kind: type[And] | type[Or], left: Filter, right: Filter) -> Filter:
    """One node of both, in constant time but for the copy, as long chains are built step by step."""
    depth = 1 + max(depth_of(side) - isinstance(side, kind) for side in (left, right))
    if depth > _DEEPEST:
        return _joined(kind, rebalanced(left), rebalanced(right))
    operands = (*_operands(kind, left), *_operands(kind, right))
    return kind(operands, _shape=(depth, _size(left) + _size(right)))


def _joined(kind: type[And] | type[Or], *parts: Filter) -> Filter:
    operands = tuple(
        {id(operand): operand for part in parts for operand in _operands(kind, part)}.values()
    )  # once each
    return operands[0] if len(operands) == 1 else kind(operands)


def rebalanced(node: Filter, *, holds: bool = True, core: int = 24) -> Filter:
    """The same condition, or its negation, as a tree whose depth grows with the logarithm of that of ``node``.

    Args:
        node: any filter.
        holds: False for the negation.
        core: a part of no more depth is left as it is; balancing again and again what is balanced makes it long.

    Along the deepest path each step is ``x & a`` or ``x | a``, so any run of steps is ``(x & every) | some`` for two
    conditions, and two runs in a row make another such pair (a formula of n parts can be balanced: Spira, 1971).
    """
    steps: list[tuple[type[And] | type[Or], list[Filter]]] = []
    while isinstance(node, And | Or | Not) and depth_of(node) > core:
        if isinstance(node, Not):
            node, holds = node.operand, not holds
            continue
        deepest = max(range(len(node.operands)), key=[depth_of(operand) for operand in node.operands].__getitem__)
        others = [
            rebalanced(operand, holds=holds, core=core) for i, operand in enumerate(node.operands) if i != deepest
        ]
        if others:
            steps.append((And if isinstance(node, And) == holds else Or, others))
        node = node.operands[deepest]
    every, some = _composed(steps[::-1])
    whole = _joined(And, node if holds else ~node, *every)
    return _joined(Or, whole, *some)


def _composed(steps: list[tuple[type[And] | type[Or], list[Filter]]]) -> tuple[list[Filter], list[Filter]]:
    """``every`` and ``some`` of the steps, the innermost first; an empty list is true, and false."""
    if len(steps) <= 1:
        every = [_joined(And, *others) for kind, others in steps if kind is And]
        return every, [_joined(Or, *others) for kind, others in steps if kind is Or]
    inner, outer = _composed(steps[: len(steps) // 2]), _composed(steps[len(steps) // 2 :])
    some = [_joined(And, *inner[1], *outer[0])] if inner[1] else []
    some += outer[1]
    return [*inner[0], *outer[0]], [_joined(Or, *some)] if some else []


def balanced(word: str, parts: Sequence[str], width: int = 2) -> str:
    """Join the parts of an expression in a balanced tree, for engines that limit how deep one may be.

    >>> balanced("or", ["a", "b", "c"])
    '((a or b) or c)'
    """
    level = list(parts)
    while len(level) > 1:
        groups = [level[start : start + width] for start in range(0, len(level), width)]
        level = [f"({f' {word} '.join(group)})" if len(group) > 1 else group[0] for group in groups]
    return level[0]


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

    def __bool__(self) -> bool:
        raise InvalidFilterError(f"the field {self.name!r} has no truth value", hint=how_to_compare(self))

    def _not_a_filter(self, *other: object) -> Filter:
        hint = how_to_compare(self)
        if other and not isinstance(other[0], F | Filter):  # 20 & F("live"): what is left of F("area") < 20 & F("live")
            hint += " Put each comparison in parentheses: & and | bind more tightly than ==."
        raise InvalidFilterError(f"the field {self.name!r} alone is not a filter", hint=hint)

    __and__ = __rand__ = __or__ = __ror__ = __invert__ = _not_a_filter

    def __repr__(self) -> str:
        return f"F({self.name!r})"

    def isin(self, values: Iterable[Scalar]) -> Filter:
        """The field is one of ``values``; an empty collection matches nothing."""
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise InvalidFilterError("isin", expected="a collection of values", got=repr(values)[:80])
        return IsIn(self.name, tuple(_scalar(value) for value in values))


def _scalar(value: object) -> Scalar:
    """A plain Python scalar; NumPy's are unwrapped so that a backend never sees them."""
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, str | int | float | bool):
        hint = "Every record has a value for every field; there is no null." if value is None else ""
        if isinstance(value, F):
            hint = "A field is compared with a value, not with another field."
        raise InvalidFilterError(
            "cannot compare", expected="a str, int, float or bool", got=repr(value)[:80], hint=hint
        )
    return value
