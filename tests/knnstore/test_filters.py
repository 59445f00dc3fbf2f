# ruff: noqa: E711, E712  # comparisons build expressions

from __future__ import annotations

import copy
import enum
import operator
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import knnstore
from knnstore._filter_forms import for_engine
from knnstore.errors import InvalidFilterError, UnknownFieldError, UnsupportedFilterError
from knnstore.filter_text import parse_filter
from knnstore.filters import And, Compare, F, FieldType, Filter, IsIn, Not, Or, depth_of
from knnstore.types import Capabilities

FIELDS = {"label": str, "area": int, "weight": float, "thing": bool}
COLUMNS = {
    "label": np.array(["a", "b", "", "a\0", "\0"], object),
    "area": np.array([1, 2, 3, 2**53 + 1, -1]),
    "weight": np.array([0.5, -0.0, 1e308, 2.0, 3.0]),
    "thing": np.array([True, False, True, False, True]),
}


class Word(str, enum.Enum):  # noqa: UP042  # str() of a StrEnum is its value; of this one it is not
    A = "a"


class Number(enum.IntEnum):
    TWO = 2


def matched(where: Filter) -> list[int]:
    mask = where.check(FIELDS).mask(COLUMNS)
    assert mask.dtype == np.bool_
    assert mask.shape == (5,)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (F("label") == "a", [0]),
        (F("label") == "a\0", [3]),
        (F("label") == "\0", [4]),
        (F("label") == "", [2]),
        (F("label") != "\0", [0, 1, 2, 3]),
        (F("label") >= "a\0", [1, 3]),
        (F("label").isin(["\0", "b"]), [1, 4]),
        (F("label") == Word.A, [0]),
        (F("area") == Number.TWO, [1]),
        (F("area") == 2**53, []),
        (F("area") > np.uint8(2), [2, 3]),
        (F("weight") == 0, [1]),
        (F("weight") == 2, [3]),
        (F("weight").isin([0, np.float32(0.5)]), [0, 1]),
        (F("thing") == np.True_, [0, 2, 4]),
        (F("thing") != True, [1, 3]),
        (F("thing").isin([]), []),
        (~F("thing").isin([]), [0, 1, 2, 3, 4]),
        ((F("area") > 1) & (F("thing") == True) | (F("label") == "b"), [1, 2]),
        (~((F("area") > 1) | (F("thing") == True)), []),
    ],
    ids=repr,
)
def test_mask(where: Filter, rows: list[int]) -> None:
    assert matched(where) == rows


def test_masks_of_nothing() -> None:
    empty = {name: column[:0] for name, column in COLUMNS.items()}
    for where in (F("label") == "a", F("area").isin([1]), ~(F("weight") < 1) & (F("thing") == True)):
        assert where.check(FIELDS).mask(empty).shape == (0,)


def test_check_gives_values_of_exactly_the_declared_type() -> None:
    checked = ((F("weight") > 2**53 + 1) & F("weight").isin([1, True * 1]) & (F("label") == Word.A)).check(FIELDS)
    values = [v for leaf in checked.leaves() for v in (leaf.values if isinstance(leaf, IsIn) else (leaf.value,))]
    assert [type(value) for value in values] == [float, float, float, str]
    assert values[-1] == "a"
    assert type((F("area") == Number.TWO).check(FIELDS).value) is int  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "build",
    [
        lambda: F("label") == None,
        lambda: F("label") == b"a",
        lambda: F("label") == ["a"],
        lambda: F("area") == F("weight"),
        lambda: F("label").isin("abc"),
        lambda: F("label").isin(b"abc"),
        lambda: F("label").isin(5),
        lambda: F("label").isin([None]),
        lambda: (F("area") > 1) and (F("area") < 5),
        lambda: (F("area") > 1) or (F("area") < 5),
        lambda: not (F("area") > 1),
        lambda: 1 < F("area") < 5,
        lambda: bool(F("thing")),
        lambda: not F("thing"),
        lambda: F("thing") & (F("area") > 1),
        lambda: (F("area") > 1) & F("thing"),
        lambda: (F("area") > 1) | F("thing"),
        lambda: ~F("thing"),
        lambda: (F("area") > 1) & True,
        lambda: F("area") in ["area"],
    ],
)
def test_misuse_is_an_error(build: Any) -> None:
    with pytest.raises(InvalidFilterError):
        build()


def test_misuse_that_compares_dataclasses_is_harmless() -> None:
    assert (F("area") == 1) == Compare("area", "==", 1)
    assert hash(F("area") == 1) == hash(Compare("area", "==", 1))


@pytest.mark.parametrize(
    "where",
    [
        F("label") == 1, F("label") == "\ud800", F("area") == "1", F("area") == 1.0, F("area") == True,
        F("area") == 2**63,
        F("area").isin([1, "1"]), F("weight") == "1", F("weight") == True, F("weight") == float("nan"),
        F("weight") < float("inf"), F("weight") < 10**400, F("thing") == 1, F("thing") < True, F("thing").isin([0]),
        ~(F("area") == 1.5) | (F("label") == "a"), F("label") == np.datetime64("2020", "D").astype(object).year,
    ],
    ids=repr,
)  # fmt: skip
def test_wrong_types(where: Filter) -> None:
    with pytest.raises(InvalidFilterError):
        where.check(FIELDS)


@pytest.mark.parametrize(
    "where", [F("x") == 1, F("x").isin([]), ~(F("x") > 1), (F("area") > 1) & (F("x") < 1)], ids=repr
)
def test_unknown_fields(where: Filter) -> None:
    with pytest.raises(UnknownFieldError, match="'x'"):
        where.check(FIELDS)


def test_chains_are_flat() -> None:
    where = F("area") == 0
    for i in range(5_000):
        where = where | (F("area") == i)
    assert isinstance(where, Or)
    assert len(where.operands) == 5_001
    assert matched(where) == [0, 1, 2]
    assert isinstance((F("area") > 1) & ((F("area") > 2) & (F("area") > 3)), And)


def test_repr_reads_back() -> None:
    where = (F("label").isin(["a", "it's"]) & ~((F("area") < 1) | (F("weight") >= 0.5))) | (F("thing") == True)
    assert eval(repr(where), {"F": F}) == where
    assert repr(F("a")) == "F('a')"


def test_copies() -> None:
    where = ~(F("label").isin(["a"]) & (F("area") < 1))
    assert copy.deepcopy(where) == pickle.loads(pickle.dumps(where)) == where


OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-3, 3)), max_size=6)
_leaves = st.builds(Compare, st.just("area"), st.sampled_from(list(OPERATORS)), st.integers(-3, 3)) | st.builds(
    IsIn, st.just("label"), st.lists(st.sampled_from("abcd"), max_size=3).map(tuple)
)
_trees = st.recursive(
    _leaves,
    lambda t: st.builds(Not, t) | st.builds(operator.and_, t, t) | st.builds(operator.or_, t, t),
    max_leaves=8,
)


def holds(where: Filter, row: tuple[str, int]) -> bool:
    match where:
        case Compare(_, op, value):
            return bool(OPERATORS[op](row[1], value))
        case IsIn(_, values):
            return row[0] in values
        case And(operands):
            return all(holds(each, row) for each in operands)
        case Or(operands):
            return any(holds(each, row) for each in operands)
        case Not(operand):
            return not holds(operand, row)
    raise AssertionError(where)


@settings(derandomize=True, deadline=None, database=None)
@given(where=_trees, rows=_rows)
def test_mask_is_the_expression(where: Filter, rows: list[tuple[str, int]]) -> None:
    columns = {
        "label": np.array([label for label, _ in rows] + [None], object)[:-1],
        "area": np.array([area for _, area in rows], np.int64),
    }
    mask = where.check({"label": str, "area": int}).mask(columns)
    assert mask.tolist() == [holds(where, row) for row in rows]
    assert eval(repr(where), {"F": F}).mask(columns).tolist() == mask.tolist()


# -- built in loops ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [45, 250])
@pytest.mark.parametrize("negated", [False, True])
def test_pairs_of_and_and_or_mean_the_same_however_many(pairs: int, negated: bool) -> None:
    """Balanced on the way: neither Python's stack nor an engine's overflows, and the meaning is that of the loop."""
    area, weight = np.arange(3 * pairs), np.linspace(0, 1, 3 * pairs)
    where, holds = F("area") < pairs, area < pairs
    for i in range(pairs):
        where = (where & (F("weight") < 1 - i / pairs / 2)) | (F("area") == 2 * i + pairs)
        holds = (holds & (weight < 1 - i / pairs / 2)) | (area == 2 * i + pairs)
        if negated and i % 7 == 0:
            where, holds = ~where, ~holds
    assert (where.mask({"area": area, "weight": weight}) == holds).all()
    fields: dict[str, FieldType] = {"area": int, "weight": float}
    for form in (for_engine(where.check(fields), Capabilities().filters), for_engine(where.check(fields), {"=="})):
        assert depth_of(form) <= 24
        assert (form.mask({"area": area, "weight": weight}) == holds).all()
    for again in (pickle.loads(pickle.dumps(where)), copy.deepcopy(where)):  # our own
        assert again == where
        assert hash(again) == hash(where)
        assert repr(again) == repr(where)
    assert {leaf.field for leaf in where.leaves()} == {"area", "weight"}


def test_two_nots_are_nothing() -> None:
    where: Filter = F("a") == 1
    for _ in range(501):
        where = ~where
    assert where == ~(F("a") == 1)
    assert ~where == (F("a") == 1)


def test_what_cannot_be_balanced_is_refused() -> None:
    deep: Filter = F("a") == 1
    with pytest.raises(UnsupportedFilterError, match="nested"):
        for _ in range(70):
            deep = And((deep,))
    twice: Filter = F("a") == 1
    with pytest.raises(UnsupportedFilterError, match="comparisons"):
        for i in range(70):  # every step is twice the one before
            twice = (twice & (F("b") == i)) | (twice & (F("c") == i))


def test_comparisons_of_one_field_become_a_list() -> None:
    every = Capabilities().filters
    a, b = F("a"), F("b")
    assert for_engine((a == 1) | (b == 2) | a.isin([3, 1]), every) == Or((a.isin([1, 3]), b.isin([2])))
    assert for_engine((a != 1) & (b > 2) & ~a.isin([3]) & ~(a == 4), every) == And((~a.isin([1, 3, 4]), b > 2))
    assert for_engine((a == 1) | (a == 2), every) == a.isin([1, 2])
    for left_alone in ((a == 1) | (b == 1), (a == 1) & (a == 2), (a != 1) | (a != 2), (a > 1) | (a > 2)):
        assert for_engine(left_alone, every) == left_alone
    chain = (a == 1) | (a == 2)
    assert for_engine(chain, every - {"isin"}) == chain


def test_filters_as_text_may_be_deep() -> None:
    text = "a == 0"
    for i in range(90):
        text = f"({text} and b < {i}) or a == {i}" if i % 2 else f"{text} or b == {i}"
    where = parse_filter(text)
    columns = {"a": np.arange(100), "b": np.arange(100) % 7}
    assert where.mask(columns).tolist() == [bool(eval(text, {}, {"a": a, "b": b})) for a, b in zip(*columns.values())]  # noqa: B905  # our own text


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: (F("price") < 20) & F("live"), "F('live') == True"),
        (lambda: (F("price") < 20) | F("live"), "F('live') == True"),
        (lambda: F("live") & (F("price") < 20), "F('live') == True"),
        (lambda: ~F("live"), "F('live') == True"),
        (lambda: memory().count(F("live")), "F('live') == True"),
        (lambda: F("price") < 20 & F("live"), "in parentheses"),
        (lambda: (F("price") < 20) & True, "in parentheses"),
        (lambda: F("price") == F("area"), "not with another field"),
        (lambda: F("price").isin([F("area")]), "not with another field"),
        (lambda: memory().count("price < 20"), "parse_filter"),
    ],
)
def test_what_is_missing_is_told(build, said: str) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        build()
    assert said in str(caught.value)
    assert ("parentheses" in str(caught.value)) == ("parentheses" in said)  # not where they stand already


def memory() -> knnstore.EmbeddingStore:
    return knnstore.open_store("memory:///filters", knnstore.StoreSpec(2, fields={"price": int, "live": bool}))
