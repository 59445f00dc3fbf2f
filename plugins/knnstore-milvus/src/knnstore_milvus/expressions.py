r"""Filters as expressions of Milvus. Values are written so that no text can end its literal.

A text becomes ASCII between double quotes: quotes and backslashes are escaped, and so is every control and every letter
beyond ASCII. Servers since 2.5 could take the values beside the expression instead; one form that works on all of them,
and that the tests try on a real one, is worth more than two.

    >>> from knnstore import F
    >>> SERVER.expression((F("label") == 'say "1==1"') & (F("area") > 5))
    '(f_label == "say \\"1==1\\"" and f_area > 5)'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from knnstore.errors import UnsupportedFilterError
from knnstore.filters import And, Compare, Filter, IsIn, Not, Operator, Or, Scalar, balanced
from knnstore_milvus.names import ID, field_name

__all__ = ["ALL", "LITE", "SERVER", "Language"]

ALL = f'{ID} != ""'
"""Holds for every record: ids are never empty."""
_NONE = f'{ID} == ""'
_DEEPEST = 100
"""Levels that have been tried; the server would have to read deeper ones with a bounded stack, and so would we."""
_SMALLEST = -(2**63)
_OPPOSITE: dict[Operator, Operator] = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}


@dataclass(frozen=True, slots=True)
class Language:
    """How texts are written.

    Args:
        unsafe: the letters that are escaped.
    """

    unsafe: re.Pattern[str]

    def literal(self, value: Scalar) -> str:
        """A value as the filter language writes it."""
        if isinstance(value, str):
            return f'"{self.unsafe.sub(_escaped, value)}"'
        if isinstance(value, bool):
            return "true" if value else "false"
        return repr(value)

    def ids_in(self, ids: Sequence[str], where: str = ALL) -> str:
        """Holds for the records with these ids that match."""
        listed = f"{ID} in {self._listed(ids)}"
        return listed if where == ALL else f"{listed} and ({where})"

    def after(self, last: str, where: str) -> str:
        """Holds for the records that match and whose id comes after ``last``."""
        later = f"{ID} > {self.literal(last)}"
        return later if where == ALL else f"{later} and ({where})"

    def expression(self, where: Filter | None) -> str:
        """A checked filter in the language of Milvus.

        Raises:
            UnsupportedFilterError: it is nested deeper than has been tried.
        """
        return ALL if where is None else self._visit(where, negated=False, depth=0)

    def _visit(self, node: Filter, *, negated: bool, depth: int) -> str:
        """Negation moves down to the comparisons: exact, as nothing is null, and the server is asked no ``not``."""
        if depth > _DEEPEST:
            raise UnsupportedFilterError("filter", expected=f"at most {_DEEPEST} levels of & and | within each other")
        match node:
            case Compare(name, op, value):
                return self._compare(field_name(name), _OPPOSITE[op] if negated else op, value)
            case IsIn(name, values):
                return self._member(field_name(name), values, negated=negated)
            case And(operands) | Or(operands):
                word = "and" if isinstance(node, And) != negated else "or"
                levels = (len(operands) - 1).bit_length()
                return balanced(word, [self._visit(part, negated=negated, depth=depth + levels) for part in operands])
            case Not(operand):
                return self._visit(operand, negated=not negated, depth=depth)
        raise UnsupportedFilterError(f"filter {type(node).__name__}", expected="a comparison, isin, &, | or ~")

    def _compare(self, field: str, op: Operator, value: Scalar) -> str:
        if not _is_smallest(value):
            return f"{field} {op} {self.literal(value)}"
        # The language reads -9223372036854775808 as minus a number that is too large for it.
        if op in ("<", ">="):
            return _NONE if op == "<" else ALL
        return f"{field} {'<' if op in ('==', '<=') else '>='} {_SMALLEST + 1}"

    def _member(self, field: str, values: Sequence[Scalar], *, negated: bool) -> str:
        alone = dict.fromkeys(value for value in values if _is_smallest(value) or _is_float_zero(value))
        listed = [value for value in values if value not in alone]
        parts = [f"{field} {'not in' if negated else 'in'} {self._listed(listed)}"] if listed else []
        parts += [self._compare(field, "!=" if negated else "==", value) for value in alone]
        if not parts:
            return ALL if negated else _NONE
        return balanced("and" if negated else "or", parts)

    def _listed(self, values: Sequence[Scalar]) -> str:
        return f"[{','.join(map(self.literal, values))}]"


SERVER = Language(re.compile(r"[^ !#-\[\]-~]"))
"""Servers read every escape of C."""
LITE = Language(re.compile(r'["\\\n\r]'))
"""milvus-lite knows few escapes, and takes any letter as it is."""


_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(found: re.Match[str]) -> str:
    letter = found[0]
    if letter in _SHORT:
        return _SHORT[letter]
    number = ord(letter)
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _is_float_zero(value: Scalar) -> bool:
    """0.0 and -0.0 are equal to a comparison everywhere; milvus-lite finds only one of them in a list."""
    return isinstance(value, float) and value == 0


def _is_smallest(value: Scalar) -> bool:
    return isinstance(value, int) and value == _SMALLEST
