from __future__ import annotations

import array
import enum
from typing import Any

import numpy as np
import pytest

from knnstore._validation import check_batch, check_changes, check_fields, check_ids, check_limit, check_vectors
from knnstore.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    InvalidFieldError,
    InvalidIdError,
    InvalidLimitError,
    InvalidVectorError,
    UnknownFieldError,
)
from knnstore.types import StoreSpec

SPEC = StoreSpec(2, "l2", {"label": str, "area": int, "weight": float, "thing": bool})
ROW = np.ones((1, 2), np.float32)


class Word(str, enum.Enum):  # noqa: UP042  # str() of a StrEnum is its value; of this one it is not
    A = "a"


def column(name: str, values: Any) -> Any:
    fields: dict[str, Any] = {"label": ["x"], "area": [1], "weight": [1.0], "thing": [True], name: values}
    return check_batch(SPEC, ["r"], ROW, fields).fields[name]


# -- limits and ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 5, np.int8(3), np.uint64(5)])
def test_limits(value: Any) -> None:
    assert check_limit("k", value, 5) == int(value)
    assert type(check_limit("k", value)) is int


@pytest.mark.parametrize("value", [0, -1, 6, True, np.True_, 1.0, "1", None, np.float32(2), [1], float("nan")])
def test_bad_limits(value: Any) -> None:
    with pytest.raises(InvalidLimitError, match="k"):
        check_limit("k", value, 5)


def test_ids_become_plain_strings() -> None:
    ids = check_ids(iter([np.str_("a"), Word.A, "b"]), distinct=False)
    assert ids == ["a", "a", "b"]
    assert {type(value) for value in ids} == {str}
    assert check_ids(np.array(["x", "yy"]), distinct=True) == ["x", "yy"]
    assert check_ids(["\u00e9" * 256], distinct=True)


@pytest.mark.parametrize(
    "ids", ["abc", b"abc", None, 5, [""], [1], [None], [b"a"], ["\ud800"], ["\u00e9" * 257], ["x" * 513]]
)
def test_bad_ids(ids: Any) -> None:
    with pytest.raises(InvalidIdError):
        check_ids(ids, distinct=True)


def test_duplicates_are_named() -> None:
    with pytest.raises(DuplicateIdError, match="'b' more than once"):
        check_ids(["a", "b", "c", "b"], distinct=True)
    assert check_ids(["a", "a"], distinct=False) == ["a", "a"]


# -- vectors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[], np.empty((0, 2)), np.empty((0, 9), np.float32), np.empty(0), np.empty((0, 0))])
def test_no_vectors(given: Any) -> None:
    rows = check_vectors(given, 2, "cosine")
    assert rows.shape == (0, 2)
    assert rows.dtype == np.float32


@pytest.mark.parametrize("given", [ROW.astype(">f4"), ROW.astype(np.float16), np.asfortranarray(ROW), ROW[:, ::-1]])
def test_layouts(given: Any) -> None:
    rows = check_vectors(given, 2, "dot")
    assert rows.dtype == np.float32
    assert rows.dtype.isnative
    assert rows.flags.c_contiguous
    assert rows.flags.owndata
    assert rows.tolist() == [[1, 1]]
    assert not np.shares_memory(rows, given)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (np.ones((1, 3), np.float32), DimensionMismatchError),
        (np.ones((1, 0), np.float32), DimensionMismatchError),
        (np.ones(2, np.float32), DimensionMismatchError),
        (np.ones((1, 1, 2), np.float32), DimensionMismatchError),
        (np.float32(1), DimensionMismatchError),
        (None, DimensionMismatchError),
        (np.ones((1, 2)), InvalidVectorError),
        (np.ones((1, 2), int), InvalidVectorError),
        (np.ones((1, 2), bool), InvalidVectorError),
        (np.ones((1, 2), complex), InvalidVectorError),
        (np.array([["a", "b"]]), InvalidVectorError),
        ([[1.0, 2.0]], InvalidVectorError),
        ([[1.0], [1.0, 2.0]], InvalidVectorError),
        (np.array([[np.nan, 1]], np.float32), InvalidVectorError),
        (np.array([[np.inf, -np.inf]], np.float32), InvalidVectorError),
        (np.array([[np.inf, 1]], np.float16), InvalidVectorError),
    ],
)
def test_bad_vectors(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_vectors(given, 2, "dot")


def test_the_row_is_named() -> None:
    rows = np.ones((4, 2), np.float32)
    rows[2] = np.nan
    with pytest.raises(InvalidVectorError, match="row 2"):
        check_vectors(rows, 2, "l2")
    rows[2] = 0
    with pytest.raises(InvalidVectorError, match="row 2"):
        check_vectors(rows, 2, "cosine")
    assert check_vectors(rows, 2, "dot").tolist() == rows.tolist()


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30, 2.5e38])
@pytest.mark.parametrize("dim", [1, 2, 7, 768])
def test_normalised_once(dim: int, scale: float) -> None:
    rows = np.random.default_rng(dim).uniform(-1, 1, size=(50, dim)) * scale
    rows[:, 0] += scale / 4
    given = rows.astype(np.float32)
    given = given[given.any(axis=1)]
    once = check_vectors(given, dim, "cosine")
    exact = given.astype(np.float64) / np.linalg.norm(given.astype(np.float64), axis=1, keepdims=True)
    assert np.abs(once - exact).max() <= 2.0**-24
    assert check_vectors(once, dim, "cosine").tobytes() == once.tobytes()


@pytest.mark.parametrize("dim", [1, 2, 33, 768, 5000])
@pytest.mark.parametrize("scale", [1e-30, 1, 1e30])
def test_halves_are_rounded_once(dim: int, scale: float) -> None:
    """Normalised as float32, then rounded; and such rows are left alone, also where most numbers are tiny."""
    rows = np.random.default_rng(dim).standard_normal((200, dim)) * 10.0 ** np.random.default_rng(1).uniform(-4, 0, dim)
    rows = (rows * scale).astype(np.float32)
    once = check_vectors(rows, dim, "cosine", dtype="float16")
    assert np.array_equal(once, check_vectors(rows, dim, "cosine").astype(np.float16))
    assert np.array_equal(check_vectors(once, dim, "cosine", dtype="float16"), once)
    assert np.array_equal(check_vectors(once.astype(np.float16), dim, "cosine", dtype="float16"), once)
    assert np.abs(np.linalg.norm(once.astype(np.float64), axis=1) - 1).max() <= 2.0**-11 + dim**0.5 * 2.0**-25


def test_a_row_that_is_nearly_of_unit_length_is_normalised_before_it_is_rounded() -> None:
    """Only one of float16 numbers may have been normalised before; where float32 is kept, not even that."""
    near = np.array([[0.6, 0.8]], np.float32) * np.float32(1 + 2.0**-11.5)
    exact = np.array([[0.6, 0.8]], np.float32).astype(np.float16)
    assert np.array_equal(check_vectors(near, 2, "cosine", dtype="float16"), exact)
    assert np.array_equal(check_vectors(exact, 2, "cosine", dtype="float16"), exact)
    assert not np.array_equal(check_vectors(exact, 2, "cosine"), exact)


def test_a_number_that_no_half_holds() -> None:
    assert check_vectors(np.float32([[65_519]]), 1, "dot", dtype="float16").tolist() == [[65_504]]
    with pytest.raises(InvalidVectorError, match="row 1"):
        check_vectors(np.float32([[1], [65_520]]), 1, "dot", dtype="float16")
    assert check_vectors(np.float32([[65_520]]), 1, "cosine", dtype="float16").tolist() == [[1]]


def test_unit_rows_are_kept_others_are_rounded_once() -> None:
    rows = np.random.default_rng(0).normal(size=(2000, 64))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    assert check_vectors(np.asfortranarray(unit), 64, "cosine").tobytes() == unit.tobytes()
    rough = rows.astype(np.float32)
    rough /= np.linalg.norm(rough, axis=1, keepdims=True)  # float32 throughout: up to several roundings away
    once = check_vectors(rough, 64, "cosine")
    assert np.abs(once - rough).max() < 2.0**-20
    assert check_vectors(once, 64, "cosine").tobytes() == once.tobytes()


# -- fields ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "stored"),
    [
        ("label", ["a\0"], ["a\0"]),
        ("label", np.array(["x"]), ["x"]),
        ("label", np.array(["x"], object), ["x"]),
        ("label", (Word.A,), ["a"]),
        ("label", ["x" * 65_535], ["x" * 65_535]),
        ("area", np.array([3], np.uint8), [3]),
        ("area", [np.int16(-3)], [-3]),
        ("area", array.array("q", [7]), [7]),
        ("area", [2**63 - 1], [2**63 - 1]),
        ("area", range(1), [0]),
        ("weight", [1], [1.0]),
        ("weight", [2**70], [2.0**70]),
        ("weight", np.array([0.5], np.float32), [0.5]),
        ("thing", [np.False_], [False]),
        ("thing", np.array([True]), [True]),
    ],
)
def test_columns(name: str, values: Any, stored: list[Any]) -> None:
    got = column(name, values)
    assert got.tolist() == stored
    assert got.dtype == {"label": object, "area": np.int64, "weight": np.float64, "thing": np.bool_}[name]
    assert type(got.tolist()[0]) is type(stored[0])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("label", "x"), ("label", b"x"), ("label", {"x"}), ("label", None), ("label", 5), ("label", iter("x")),
        ("label", [None]), ("label", [b"x"]), ("label", [["x"]]), ("label", ["\ud800"]), ("label", ["\u00e9" * 40_000]),
        ("label", np.array("x")), ("label", np.array([["x"]])), ("label", []), ("label", ["x", "y"]),
        ("area", b"x"), ("area", [1.0]), ("area", [True]), ("area", ["1"]), ("area", [2**63]), ("area", [-(2**63) - 1]),
        ("area", np.array([2**63], np.uint64)), ("area", np.array(["2020"], "datetime64[D]")),
        ("weight", [np.nan]), ("weight", [np.inf]), ("weight", [10**400]), ("weight", [True]), ("weight", [1j]),
        ("thing", [0]), ("thing", ["true"]),
    ],
)  # fmt: skip
def test_bad_columns(name: str, values: Any) -> None:
    with pytest.raises(InvalidFieldError, match=name):
        column(name, values)


@pytest.mark.parametrize("fields", [["label"], "label", 5])
def test_fields_are_a_mapping(fields: Any) -> None:
    with pytest.raises(InvalidFieldError, match="mapping"):
        check_batch(SPEC, ["r"], ROW, fields)


def test_names_of_fields() -> None:
    assert check_fields(None, SPEC, default_all=True) == ["label", "area", "weight", "thing"]
    assert check_fields(None, SPEC, default_all=False) == []
    assert check_fields(["area", "area"], SPEC, default_all=True) == ["area"]
    for names in (["no"], [1], [["area"]]):
        with pytest.raises(UnknownFieldError):
            check_fields(names, SPEC, default_all=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidFieldError):
        check_fields("area", SPEC, default_all=True)


def test_real_tensors() -> None:
    torch = pytest.importorskip("torch")
    spec = StoreSpec(4, "l2")
    wants = torch.ones((2, 4), requires_grad=True)
    for given in (wants, [wants[0], wants[1]], wants * 1, wants.half()):
        assert check_batch(spec, ["a", "b"], given, None).vectors.tolist() == [[1.0] * 4] * 2
    for given, said in ((wants.bfloat16(), "BFloat16"), (wants.to("meta"), "meta"), (wants.double(), "float64")):
        with pytest.raises(InvalidVectorError, match=said):
            check_batch(spec, ["a", "b"], given, None)


# -- updates -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"label": "x"}, {"label": ["x", "x"]}),
        ({"label": np.str_("x"), "area": np.int8(3)}, {"label": ["x", "x"], "area": [3, 3]}),
        ({"weight": 2, "thing": np.True_}, {"weight": [2.0, 2.0], "thing": [True, True]}),
        ({"label": ["x", "y"], "area": np.array([1, 2])}, {"label": ["x", "y"], "area": [1, 2]}),
        ({"weight": (1, 2.5)}, {"weight": [1.0, 2.5]}),
        ({"label": Word.A}, {"label": ["a", "a"]}),
    ],
)
def test_changes_are_columns_or_one_value(fields: dict[str, Any], expected: dict[str, list[Any]]) -> None:
    columns = check_changes(SPEC, fields, 2)
    assert {name: column.tolist() for name, column in columns.items()} == expected
    kinds = {"label": object, "area": np.int64, "weight": np.float64, "thing": np.bool_}
    assert {name: column.dtype for name, column in columns.items()} == {name: kinds[name] for name in columns}
    assert all(type(value) is str for value in columns["label"]) if "label" in columns else True


def test_a_filter_takes_one_value_a_field() -> None:
    assert check_changes(SPEC, {"area": np.int64(5)}, None)["area"].tolist() == [5]
    with pytest.raises(InvalidFieldError, match="field 'area': expected a int, got list"):
        check_changes(SPEC, {"area": [5]}, None)
    with pytest.raises(InvalidFieldError, match="at least one field to change, got none"):
        check_changes(SPEC, {}, None)
    with pytest.raises(InvalidFieldError, match="expected 2 values, one for each id, got 1"):
        check_changes(SPEC, {"area": [5]}, 2)
    with pytest.raises(UnknownFieldError, match="no_such"):
        check_changes(SPEC, {"no_such": 1}, 2)
