r"""Filters as expressions of Milvus. Values are written so that no text can end its literal.

A text becomes ASCII between double quotes: quotes and backslashes are escaped, and so is every control and every letter
beyond ASCII. Servers since 2.5 could take the values beside the expression instead; one form that works on all of them,
and that the tests try on a real one, is worth more than two.

    >>> from knnstore import F
    >>> expression((F("label") == 'say "1==1"') & (F("area") > 5))
    '(f_label == "say \\"1==1\\"" and f_area > 5)'
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from knnstore.errors import UnsupportedFilterError
from knnstore.filters import And, Compare, Filter, IsIn, Not, Operator, Or, Scalar
from knnstore_milvus.names import ID, field_name

__all__ = ["ALL", "after", "expression", "ids_in", "literal"]

ALL = f'{ID} != ""'
"""Holds for every record: ids are never empty."""
_NONE = f'{ID} == ""'
_DEEPEST = 100
"""Levels that have been tried; the server would have to read deeper ones with a bounded stack, and so would we."""
_SMALLEST = -(2**63)
_OPPOSITE: dict[Operator, Operator] = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_UNSAFE = re.compile(r"[^ !#-\[\]-~]")


def literal(value: Scalar) -> str:
    """A value as the filter language writes it."""
    if isinstance(value, str):
        return f'"{_UNSAFE.sub(_escaped, value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value)


def _escaped(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in '"\\':
        return "\\" + letter
    number = ord(letter)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def ids_in(ids: Sequence[str]) -> str:
    """Holds for the records with these ids."""
    return f"{ID} in [{','.join(map(literal, ids))}]"


def after(last: str, where: str) -> str:
    """Holds for the records that match and whose id comes after ``last``."""
    return f"{ID} > {literal(last)} and ({where})" if where != ALL else f"{ID} > {literal(last)}"


def expression(where: Filter | None) -> str:
    """A checked filter in the language of Milvus.

    Raises:
        UnsupportedFilterError: it is nested deeper than the server can read.
    """
    return ALL if where is None else _visit(where, negated=False, depth=0)


def _visit(node: Filter, *, negated: bool, depth: int) -> str:
    """Negation moves down to the comparisons, which is exact where nothing is null; the server is asked no ``not``."""
    if depth > _DEEPEST:
        raise UnsupportedFilterError("filter", expected=f"at most {_DEEPEST} levels of & and | in each other on Milvus")
    match node:
        case Compare(name, op, value):
            return _compare(field_name(name), _OPPOSITE[op] if negated else op, value)
        case IsIn(name, values):
            return _member(field_name(name), values, negated=negated)
        case And(operands) | Or(operands):
            kind = And if isinstance(node, And) else Or
            word = "and" if (kind is And) != negated else "or"
            flat = _flattened(kind, operands)
            levels = (len(flat) - 1).bit_length()
            return _balanced(word, [_visit(part, negated=negated, depth=depth + levels) for part in flat])
        case Not(operand):
            return _visit(operand, negated=not negated, depth=depth)
    raise UnsupportedFilterError(f"filter {type(node).__name__}", expected="a comparison, isin, &, | or ~")


def _compare(field: str, op: Operator, value: Scalar) -> str:
    if isinstance(value, bool) or value != _SMALLEST or not isinstance(value, int):
        return f"{field} {op} {literal(value)}"
    # The language reads -9223372036854775808 as minus a number that is too large for it.
    if op in ("<", ">="):
        return _NONE if op == "<" else ALL
    return f"{field} {'<' if op in ('==', '<=') else '>='} {_SMALLEST + 1}"


def _member(field: str, values: Sequence[Scalar], *, negated: bool) -> str:
    listed = [value for value in values if isinstance(value, bool) or value != _SMALLEST or not isinstance(value, int)]
    parts = [f"{field} {'not in' if negated else 'in'} [{','.join(map(literal, listed))}]"] if listed else []
    if len(listed) < len(values):
        parts.append(_compare(field, "!=" if negated else "==", _SMALLEST))
    if not parts:
        return ALL if negated else _NONE
    return _balanced("and" if negated else "or", parts)


def _flattened(kind: type[And] | type[Or], operands: Sequence[Filter]) -> list[Filter]:
    """``a & b & c`` arrives nested to the left; without recursion, for a chain may be long."""
    flat: list[Filter] = []
    stack = list(reversed(operands))
    while stack:
        node = stack.pop()
        if isinstance(node, And | Or) and isinstance(node, kind):
            stack.extend(reversed(node.operands))
        else:
            flat.append(node)
    return flat


def _balanced(word: str, parts: list[str]) -> str:
    """Joined in a balanced tree, so that a long chain is not a deep one."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=False)
        odd = parts[-1:] if len(parts) % 2 else []
        parts = [f"({left} {word} {right})" for left, right in pairs] + odd
    return parts[0]
