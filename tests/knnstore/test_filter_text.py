"""Filters as text: read as Python would read them, and nothing else."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knnstore import F, Filter, parse_filter
from knnstore.errors import InvalidFilterError, UnknownFieldError

FIELDS = {"label": str, "area": int, "score": float, "thing": bool}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("area >= 100", F("area") >= 100),
        ("100 <= area", F("area") >= 100),
        ("100 > area", F("area") < 100),
        ("5 == area", F("area") == 5),
        ('label != "a"', F("label") != "a"),
        ("thing", F("thing") == True),  # noqa: E712
        ("not thing", ~(F("thing") == True)),  # noqa: E712
        ("thing == False", F("thing") == False),  # noqa: E712
        ("score < -0.5", F("score") < -0.5),
        ("score < +1e3", F("score") < 1000.0),
        ("10 <= area < 100", (F("area") >= 10) & (F("area") < 100)),
        ("1 < area < 9 < score", (F("area") > 1) & (F("area") < 9) & (F("score") > 9)),
        ('label in ("a", "b")', F("label").isin(["a", "b"])),
        ("area in [1, -2]", F("area").isin([1, -2])),
        ("area in {3}", F("area").isin([3])),
        ("area not in (1,)", ~F("area").isin([1])),
        ("label in ()", F("label").isin([])),
        ('F("class") == "x"', F("class") == "x"),
        ('F("class") in ("x", "y")', F("class").isin(["x", "y"])),
        ("  area > 1 ", F("area") > 1),
        ("(area > 1\n and thing)", (F("area") > 1) & (F("thing") == True)),  # noqa: E712
        ("thing and (area > 1 or area < -1)", (F("thing") == True) & ((F("area") > 1) | (F("area") < -1))),  # noqa: E712
        (
            'label in ("kettle", "zebra") and area >= 100 and not thing',
            F("label").isin(["kettle", "zebra"]) & (F("area") >= 100) & ~(F("thing") == True),  # noqa: E712
        ),
        (r'label == "it\'s \"100%\" \\ \n 猫 🫖"', F("label") == 'it\'s "100%" \\ \n 猫 🫖'),
        ('label == "\' or 1 == 1 --"', F("label") == "' or 1 == 1 --"),
    ],
)
def test_what_a_text_means(text: str, meant: Filter) -> None:
    assert parse_filter(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "filter, column 1"),
        ("   ", "filter, column"),
        ("area >=", "filter, column"),
        ("area = 5", "Equality is written =="),
        ("  area >= 1 and label is 'a'", "column 17"),
        ("area > other", "column 8: expected a value"),
        ("area > other", "two fields cannot be compared"),
        ("label == kettle", "Text is written in quotes"),
        ('label in ("kettle")', 'one value alone is ("a",)'),
        ('"a" in label', "column 1: expected the name of a field"),
        ("'猫猫' == label and 3", "column 19: expected a comparison"),
        ("(thing\n and 3)", "line 2, column 6"),
        ("(area > 1) & thing", "Join with and, or, not"),
        ("area > 1 & thing", "Join with and, or, not"),
        ("1 < 2", "the name of a field"),
        ("True", "expected a comparison"),
        ("area == None", "expected a value"),
        ("area == b'x'", "expected a value"),
        ("area == 1j", "expected a value"),
        ("area == -True", "expected a value"),
        ("area == ~1", "expected a value"),
        ("area == 1 + 1", "expected a value"),
        ("area + 1 == 2", "the name of a field"),
        ("label == f'{area}'", "expected a value"),
        ("label.upper() == 'A'", "the name of a field"),
        ("area in range(5)", "a list of values"),
        ("area in [x for x in (1, 2)]", "a list of values"),
        ("area in (1, *(2, 3))", "expected a value"),
        ("__import__('os').system('true')", "the name of a field"),
        ("F('a', 'b') == 1", "the name of a field"),
        ("F(name='a') == 1", "the name of a field"),
        ("G('a') == 1", "the name of a field"),
        ("(x := 5)", "expected a comparison"),
        ("lambda: 1", "expected a comparison"),
        ("thing if thing else thing", "expected a comparison"),
        ("area > 1; area < 2", "filter, column"),
        ("class == 'x'", "filter, column"),
        (r"label == '\d'", "invalid escape sequence"),
        ("label == '\0'", "null bytes"),
        ("label == '\ud800'", "filter"),
        ("(" * 500 + "thing" + ")" * 500, "filter"),
        ("not " * 50_000 + "thing", "fewer nested"),
    ],
)  # fmt: skip
def test_other_texts_are_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        parse_filter(text)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


def test_no_text_at_all() -> None:
    with pytest.raises(InvalidFilterError, match="expected text"):
        parse_filter(7)  # type: ignore[arg-type]


def test_fields_and_types_are_checked_where_the_filter_is_used() -> None:
    with pytest.raises(UnknownFieldError):
        parse_filter("nothing > 1").check(FIELDS)
    for text in ("label > 1", "label", "area == 'x'", "score < 1e999", "area == 99999999999999999999"):
        with pytest.raises(InvalidFilterError):
            parse_filter(text).check(FIELDS)


# -- the same as Python ------------------------------------------------------------------------------------------------

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "label": st.text(st.characters(codec="utf-8"), max_size=3) | st.sampled_from(["a", "'", '"', "\\", "%", "\n"]),
    "area": st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1),
    "score": st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 5e-324, 1.0]),
    "thing": st.booleans(),
}


@st.composite
def comparisons(draw: Any) -> str:
    name = draw(st.sampled_from(sorted(FIELDS)))
    value = VALUES[name].map(repr)
    if name == "thing":
        return draw(st.sampled_from(["thing", "thing == True", "thing != True", "False == thing", "thing in (True,)"]))
    form = draw(
        st.sampled_from(["{n} {o} {a}", "{a} {o} {n}", "{a} {o} {n} {p} {b}", "{n} in ({a}, {b})", "{n} not in [{a}]"])
    )
    signs = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return str(form.format(n=name, o=draw(signs), p=draw(signs), a=draw(value), b=draw(value)))


TEXTS = st.recursive(
    comparisons(),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(" and ".join),
        st.tuples(inner, inner).map(" or ".join),
        inner.map(lambda text: f"not {text}"),
        inner.map(lambda text: f"({text})"),
    ),
    max_leaves=6,
)  # fmt: skip
RECORDS = st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=6)


@given(TEXTS, RECORDS)
def test_means_what_python_means(text: str, records: list[dict[str, Any]]) -> None:
    expected = [bool(eval(text, {"__builtins__": {}}, dict(record))) for record in records]
    dtypes: dict[str, Any] = {"label": object, "area": np.int64, "score": np.float64, "thing": np.bool_}
    columns = {name: np.array([record[name] for record in records], dtype) for name, dtype in dtypes.items()}
    assert parse_filter(text).check(FIELDS).mask(columns).tolist() == expected


@given(st.text(max_size=40) | TEXTS.map(lambda text: text[: len(text) // 2]))
def test_any_text_is_a_filter_or_an_error_of_ours(text: str) -> None:
    try:
        assert isinstance(parse_filter(text), Filter)
    except InvalidFilterError:
        return
    ast.parse(text.lstrip(), mode="eval")  # what is a filter is Python, too
