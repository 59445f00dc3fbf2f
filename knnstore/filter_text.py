"""Filters as text, for the command line: ``label in ("kettle", "zebra") and area >= 100 and not thing``.

The text has the form and the meaning of a Python expression. Python's own parser reads it, and only a few forms are
taken from what it returns; nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import functools
import operator
import warnings
from collections.abc import Callable

from knnstore.errors import InvalidFilterError
from knnstore.filters import Compare, F, Filter, Operator, Scalar

__all__ = ["parse_filter"]

_OPERATORS: dict[type[ast.cmpop], Operator] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_SWAPPED: dict[Operator, Operator] = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_JOIN: dict[type[ast.boolop], Callable[[Filter, Filter], Filter]] = {ast.And: operator.and_, ast.Or: operator.or_}
_FORMS = 'a comparison such as area >= 100 or label in ("a", "b"), a bool field, or these joined by and, or, not'


def parse_filter(text: str) -> Filter:
    """Read a filter.

    ``==  !=  <  <=  >  >=`` between a field and a value, in either order and chained as in ``10 <= area < 100``;
    ``in`` and ``not in`` with a list of values; the name of a bool field alone; ``and``, ``or``, ``not``,
    parentheses. Values are written as in Python: ``"text"``, ``7``, ``-0.5``, ``True``. A field whose name is a word of
    Python is written ``F("class")``.

    Args:
        text: the expression.

    Returns:
        The filter. That its fields exist and its values have their types is checked by the store it is given to.

    Raises:
        InvalidFilterError: the text has another form; the message names the place and what is expected there.
    """
    if not isinstance(text, str):
        raise InvalidFilterError("filter", expected="text", got=type(text).__name__)
    lead = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an unknown escape such as "\d" would only be warned about
            tree = ast.parse(text[lead:], mode="eval")
        return _Reader(text[lead:], lead).filter(tree.body)
    except SyntaxError as error:
        column = lead + (error.offset or 1)
        hint = "Equality is written ==." if text[column - 1 : column] == "=" else ""
        raise InvalidFilterError(f"filter, column {column}: {error.msg}", expected=_FORMS, hint=hint) from None
    except (RecursionError, MemoryError):
        raise InvalidFilterError("filter", expected="fewer nested parentheses and nots") from None
    except ValueError as error:  # a NUL in the text, a lone surrogate, an integer of thousands of digits
        if isinstance(error, InvalidFilterError):
            raise
        raise InvalidFilterError("filter", expected=_FORMS, got=f"text that cannot be read: {error}") from None


class _Reader:
    """Turns the few allowed nodes of a syntax tree into filters.

    Args:
        text: what was parsed, for messages.
        lead: letters that were cut off before it.
    """

    def __init__(self, text: str, lead: int) -> None:
        self._lines, self._lead = text.split("\n"), lead

    def filter(self, node: ast.expr) -> Filter:
        match node:
            case ast.BoolOp(op, values):
                return functools.reduce(_JOIN[type(op)], [self.filter(value) for value in values])
            case ast.UnaryOp(ast.Not(), operand):
                return ~self.filter(operand)
            case ast.Compare(left, ops, comparators):
                sides = [left, *comparators]
                parts = [self._compare(node, *part) for part in zip(ops, sides, sides[1:], strict=False)]
                return functools.reduce(operator.and_, parts)
            case ast.Name() | ast.Call():
                return self._field(node) == True  # noqa: E712  # builds a comparison
        raise self._wrong(node, _FORMS)

    def _compare(self, whole: ast.expr, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Filter:
        if isinstance(op, ast.In | ast.NotIn):
            found = self._field(left).isin(self._values(right))
            return found if isinstance(op, ast.In) else ~found
        if type(op) not in _OPERATORS:
            raise self._wrong(whole, "==, !=, <, <=, >, >=, in or not in")
        sign = _OPERATORS[type(op)]
        if _is_field(left):
            return Compare(self._field(left).name, sign, self._value(right))
        return Compare(self._field(right).name, _SWAPPED[sign], self._value(left))

    def _field(self, node: ast.expr) -> F:
        match node:
            case ast.Name(name):
                return F(name)
            case ast.Call(ast.Name("F"), [ast.Constant(str(name))], []):
                return F(name)
        raise self._wrong(node, 'the name of a field, such as area, or F("class")')

    def _values(self, node: ast.expr) -> list[Scalar]:
        match node:
            case ast.Tuple(elts) | ast.List(elts) | ast.Set(elts):
                return [self._value(item) for item in elts]
        raise self._wrong(node, 'a list of values such as ("a", "b"); one value alone is ("a",) or ["a"]')

    def _value(self, node: ast.expr) -> Scalar:
        match node:
            case ast.Constant(str() | int() | float() as value):
                return value
            case ast.UnaryOp(ast.USub() | ast.UAdd() as sign, ast.Constant(int() | float() as value)):
                if not isinstance(value, bool):
                    return -value if isinstance(sign, ast.USub) else value
        hint = "Text is written in quotes; two fields cannot be compared." if _is_field(node) else ""
        raise self._wrong(node, 'a value such as "text", 7, -0.5 or True', hint)

    def _wrong(self, node: ast.expr, expected: str, hint: str = "") -> InvalidFilterError:
        if any(isinstance(part, ast.BitAnd | ast.BitOr | ast.Invert) for part in ast.walk(node)):
            hint = "Join with and, or, not instead of &, | and ~."
        line = self._lines[node.lineno - 1] if node.lineno <= len(self._lines) else ""
        column = len(line.encode()[: node.col_offset].decode(errors="replace")) + 1 + self._lead * (node.lineno == 1)
        place = f"column {column}" if node.lineno == 1 else f"line {node.lineno}, column {column}"
        return InvalidFilterError(f"filter, {place}", expected=expected, got=ast.unparse(node)[:60], hint=hint)


def _is_field(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Call)
