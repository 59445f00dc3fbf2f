"""Filters as SQL. Values are bound, never pasted; columns are named by position, so no field name is SQL either."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from knnstore.errors import UnsupportedFilterError
from knnstore.filters import And, Compare, FieldType, Filter, IsIn, Not, Or, Scalar, balanced

__all__ = ["Where", "column_names", "compile_filter", "values_for"]

_BOUND = 500
"""More values than this go to a temporary table: SQLite limits the parameters of a statement."""
_MOST_BOUND = 20_000
_WIDTH = 16
"""Operands in one pair of parentheses. SQLite's parser takes some 30 pairs in one another, its expressions a depth of
1000, to which each operand of a pair adds one."""


def column_names(fields: Mapping[str, FieldType]) -> dict[str, str]:
    """The SQL column of each field: ``f0``, ``f1``, … in the order of the names.

    SQLite does not tell ``Area`` from ``area``; positions also keep keywords and quoting out of every statement.
    """
    return {name: f"f{position}" for position, name in enumerate(sorted(fields))}


@dataclass(frozen=True, slots=True)
class Where:
    """A compiled filter.

    Args:
        text: an SQL expression over table ``records``.
        values: what its ``?`` are bound to.
        sets: the values of each temporary table ``chosen<i>``.
    """

    text: str
    values: tuple[Scalar, ...]
    sets: tuple[tuple[Scalar, ...], ...]

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Fill the temporary tables of this connection; they live in memory and need no lock on the store."""
        for i, members in enumerate(self.sets):
            connection.execute(f"CREATE TEMP TABLE IF NOT EXISTS chosen{i} (value PRIMARY KEY) WITHOUT ROWID")
            connection.execute(f"DELETE FROM temp.chosen{i}")  # noqa: S608  # i is a number
            connection.executemany(
                f"INSERT OR IGNORE INTO temp.chosen{i} VALUES (?)",  # noqa: S608  # i is a number
                ((value,) for value in members),
            )


def compile_filter(where: Filter | None, fields: Mapping[str, FieldType]) -> Where:
    """Compile a checked filter; no filter holds for every record.

    Raises:
        UnsupportedFilterError: a node type that this module does not know.
    """
    compiler = _Compiler(fields)
    text = "1" if where is None else compiler.visit(where)
    return Where(text, tuple(compiler.values), tuple(compiler.sets))


class _Compiler:
    def __init__(self, fields: Mapping[str, FieldType]) -> None:
        self.fields, self.columns = fields, column_names(fields)
        self.values: list[Scalar] = []
        self.sets: list[tuple[Scalar, ...]] = []

    def visit(self, node: Filter) -> str:
        match node:
            case Compare(name, op, value):
                return f"{self.columns[name]} {op} {self._bind(values_for(self.fields[name], [value]))}"
            case IsIn(name, values):
                return self._member(self.columns[name], values_for(self.fields[name], values))
            case And(operands):
                return balanced("AND", [self.visit(operand) for operand in operands], _WIDTH)
            case Or(operands):
                return balanced("OR", [self.visit(operand) for operand in operands], _WIDTH)
            case Not(operand):
                return f"NOT ({self.visit(operand)})"
        raise UnsupportedFilterError(f"filter {type(node).__name__}", expected="a comparison, isin, &, | or ~")

    def _bind(self, values: Sequence[Scalar]) -> str:
        self.values.extend(values)
        return ", ".join("?" * len(values))

    def _member(self, column: str, values: Sequence[Scalar]) -> str:
        if len(values) <= _BOUND and len(self.values) < _MOST_BOUND:
            return f"{column} IN ({self._bind(values)})" if values else "0"
        self.sets.append(tuple(values))
        return f"{column} IN (SELECT value FROM temp.chosen{len(self.sets) - 1})"  # noqa: S608  # a number


def values_for(kind: FieldType, values: Sequence[Scalar]) -> list[Scalar]:
    """Values as their column holds them: bool as 0 or 1, numbers compared with a float as floats."""
    convert: dict[FieldType, Callable[[Scalar], Scalar]] = {bool: int, float: float}
    return [convert[kind](value) for value in values] if kind in convert else list(values)
