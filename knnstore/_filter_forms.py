"""The form in which an engine is given a filter: the same condition, no deeper and no longer than it has to be."""

from __future__ import annotations

from collections.abc import Collection

from knnstore.filters import And, Compare, Filter, IsIn, Not, Or, Scalar, depth_of, rebalanced

__all__ = ["for_engine"]

_DEEP = 16
"""Operators nested in one another that every engine's parser takes."""
_CORE = 8


def for_engine(where: Filter, operators: Collection[str]) -> Filter:
    """A checked filter as engines take it best.

    What a loop has put together of comparisons of one field with one value each becomes one list of values, which an
    engine looks up instead of comparing with each; what is deep is balanced.

    Args:
        where: checked.
        operators: what the engine knows.
    """
    if {"isin", "~"} <= set(operators):
        where = _listed(where)
    return rebalanced(where, core=_CORE) if depth_of(where) > _DEEP else where


def _listed(node: Filter) -> Filter:
    """``x == 1 | x == 2`` as ``x in (1, 2)``, and ``x != 1 & x != 2`` as its negation."""
    if isinstance(node, Not):
        return ~_listed(node.operand)
    if not isinstance(node, And | Or):
        return node
    negated = isinstance(node, And)
    operands = [_listed(operand) for operand in node.operands]
    values: dict[str, dict[Scalar, None]] = {}
    rest: list[Filter] = []
    for operand in operands:
        part = _values(operand, negated)
        if part is None:
            rest.append(operand)
        else:
            values.setdefault(part.field, {}).update(dict.fromkeys(part.values))
    if len(rest) + len(values) == len(operands):
        return type(node)(tuple(operands))  # nothing to join; as it was written
    lists: list[Filter] = [IsIn(name, tuple(members)) for name, members in values.items()]
    joined = tuple([~part for part in lists] if negated else lists) + tuple(rest)
    return joined[0] if len(joined) == 1 else type(node)(joined)


def _values(node: Filter, negated: bool) -> IsIn | None:
    """The list that a comparison, or its negation, is a case of."""
    if isinstance(node, Compare) and node.op == ("!=" if negated else "=="):
        return IsIn(node.field, (node.value,))
    if negated:
        return _values(node.operand, negated=False) if isinstance(node, Not) else None
    return node if isinstance(node, IsIn) else None
