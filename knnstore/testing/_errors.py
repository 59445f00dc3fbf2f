"""Checks of refusals: bad input is named and changes nothing; what an engine raises never reaches the caller raw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.errors import (
    DimensionMismatchError,
    DuplicateIdError,
    InvalidFieldError,
    InvalidFilterError,
    InvalidIdError,
    InvalidInputError,
    InvalidLimitError,
    InvalidVectorError,
    KnnStoreError,
    UnknownFieldError,
)
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener
from knnstore.testing._data import make_sample, make_spec
from knnstore.testing._oracle import assert_content

__all__ = ["ErrorChecks"]

ROW = np.ones((1, 8), np.float32)
GOOD: dict[str, Any] = {"label": ["x"], "area": [1], "weight": [1.0], "thing": [True]}


def _with(number: float) -> Any:
    row = ROW.copy()
    row[0, 3] = number
    return row


def _masked(values: Any) -> Any:
    """A masked array in which nothing but its mask says that the last entry is none."""
    array = np.ma.array(values)
    array[..., -1] = np.ma.masked
    return array


BAD_UPSERTS: dict[str, tuple[type[KnnStoreError], tuple[Any, ...]]] = {
    "id-empty": (InvalidIdError, ([""], ROW, GOOD)),
    "id-number": (InvalidIdError, ([1], ROW, GOOD)),
    "id-none": (InvalidIdError, ([None], ROW, GOOD)),
    "id-bytes": (InvalidIdError, ([b"x"], ROW, GOOD)),
    "id-too-long": (InvalidIdError, (["x" * 513], ROW, GOOD)),
    "id-surrogate": (InvalidIdError, (["\ud800"], ROW, GOOD)),
    "ids-str": (InvalidIdError, ("r", ROW, GOOD)),
    "ids-none": (InvalidIdError, (None, ROW, GOOD)),
    "ids-twice": (DuplicateIdError, (["x", "x"], ROW.repeat(2, 0), {k: v * 2 for k, v in GOOD.items()})),
    "dim-short": (DimensionMismatchError, (["x"], ROW[:, :7], GOOD)),
    "dim-long": (DimensionMismatchError, (["x"], np.ones((1, 9), np.float32), GOOD)),
    "dim-none": (DimensionMismatchError, (["x"], np.ones((1, 0), np.float32), GOOD)),
    "dim-flat": (DimensionMismatchError, (["x"], ROW[0], GOOD)),
    "rows-fewer": (DimensionMismatchError, (["x", "y"], ROW, {k: v * 2 for k, v in GOOD.items()})),
    "vector-nan": (InvalidVectorError, (["x"], _with(np.nan), GOOD)),
    "vector-inf": (InvalidVectorError, (["x"], _with(np.inf), GOOD)),
    "vector-both-inf": (InvalidVectorError, (["x"], np.array([[np.inf, -np.inf] * 4], np.float32), GOOD)),
    "vector-zero": (InvalidVectorError, (["x"], ROW * 0, GOOD)),
    "vector-float64": (InvalidVectorError, (["x"], ROW.astype(np.float64), GOOD)),
    "vector-int": (InvalidVectorError, (["x"], ROW.astype(np.int64), GOOD)),
    "vector-text": (InvalidVectorError, (["x"], [["a"] * 8], GOOD)),
    "vector-ragged": (InvalidVectorError, (["x", "y"], [[1.0], [1.0, 2.0]], GOOD)),
    "vector-masked": (InvalidVectorError, (["x"], _masked(ROW), GOOD)),
    "vector-masked-rows": (InvalidVectorError, (["x"], [_masked(ROW[0])], GOOD)),
    "field-masked": (InvalidFieldError, (["x"], ROW, {**GOOD, "area": _masked([1])})),
    "label-masked": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": _masked(["x"])})),
    "field-unknown": (UnknownFieldError, (["x"], ROW, {**GOOD, "no_such": [1]})),
    "field-missing": (InvalidFieldError, (["x"], ROW, {"label": ["x"]})),
    "fields-none": (InvalidFieldError, (["x"], ROW)),
    "fields-list": (InvalidFieldError, (["x"], ROW, [GOOD])),
    "field-short": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": []})),
    "field-long": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": ["x", "y"]})),
    "field-str": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": "x"})),
    "label-none": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": [None]})),
    "label-number": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": [1]})),
    "label-surrogate": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": ["\udfff"]})),
    "label-too-long": (InvalidFieldError, (["x"], ROW, {**GOOD, "label": ["x" * 65_536]})),
    "int-float": (InvalidFieldError, (["x"], ROW, {**GOOD, "area": [1.0]})),
    "int-bool": (InvalidFieldError, (["x"], ROW, {**GOOD, "area": [True]})),
    "int-too-large": (InvalidFieldError, (["x"], ROW, {**GOOD, "area": [2**63]})),
    "float-nan": (InvalidFieldError, (["x"], ROW, {**GOOD, "weight": [np.nan]})),
    "float-inf": (InvalidFieldError, (["x"], ROW, {**GOOD, "weight": [-np.inf]})),
    "float-text": (InvalidFieldError, (["x"], ROW, {**GOOD, "weight": ["1"]})),
    "float-huge": (InvalidFieldError, (["x"], ROW, {**GOOD, "weight": [10**400]})),
    "bool-int": (InvalidFieldError, (["x"], ROW, {**GOOD, "thing": [1]})),
}

BAD_FILTERS: dict[str, tuple[type[KnnStoreError], Callable[[], Any]]] = {
    "str-int": (InvalidFilterError, lambda: F("label") == 1),
    "int-str": (InvalidFilterError, lambda: F("area") == "1"),
    "int-float": (InvalidFilterError, lambda: F("area") > 1.5),
    "int-bool": (InvalidFilterError, lambda: F("area") == True),  # noqa: E712  # builds an expression
    "int-huge": (InvalidFilterError, lambda: F("area") < 2**63),
    "float-nan": (InvalidFilterError, lambda: F("weight") == float("nan")),
    "float-huge": (InvalidFilterError, lambda: F("weight") < 10**400),
    "bool-int": (InvalidFilterError, lambda: F("thing") == 1),
    "bool-order": (InvalidFilterError, lambda: F("thing") < True),
    "isin-mixed": (InvalidFilterError, lambda: F("label").isin(["a", 1])),
    "isin-str": (InvalidFilterError, lambda: F("label").isin("abc")),
    "surrogate": (InvalidFilterError, lambda: F("label") == "\ud800"),
    "none": (InvalidFilterError, lambda: F("label") == None),  # noqa: E711  # builds an expression
    "and": (InvalidFilterError, lambda: (F("area") > 1) and (F("area") < 5)),
    "not": (InvalidFilterError, lambda: not (F("area") > 1)),
    "chained": (InvalidFilterError, lambda: 1 < F("area") < 5),
    "field-alone": (InvalidFilterError, lambda: F("thing")),
    "text": (InvalidFilterError, lambda: "area > 1"),
    "no-parentheses": (InvalidFilterError, lambda: (F("area") > 1) & True),  # type: ignore[operator]  # on purpose
    "unknown": (UnknownFieldError, lambda: (F("area") > 1) & ~(F("no_such") == 1)),
}


class _EngineError(Exception):
    """Stands for an exception that no one has heard of."""


class ErrorChecks(KitBase):
    """Rules 2 and 10."""

    rule = "2 and 10, input is checked before a backend sees it, and errors are ours"

    def test_bad_upserts_change_nothing(self, store: EmbeddingStore) -> None:
        sample = make_sample(3).write(store)
        for case, (error, arguments) in BAD_UPSERTS.items():
            with pytest.raises(error) as caught:
                store.upsert(*arguments)
            assert str(caught.value), case
        with pytest.raises(InvalidInputError, match="on_conflict"):
            store.upsert(["x"], ROW, GOOD, on_conflict="whatever")  # type: ignore[arg-type]  # on purpose
        assert_content(store, sample)

    def test_a_batch_with_one_bad_record_writes_nothing(self, store: EmbeddingStore) -> None:
        sample, more = make_sample(3).write(store), make_sample(4, prefix="more")
        spoiled = more.vectors.copy()
        spoiled[-1, -1] = np.nan
        with pytest.raises(InvalidVectorError, match="row 3"):
            store.upsert(more.ids, spoiled, more.fields)
        with pytest.raises(InvalidFieldError, match="area"):
            store.upsert(more.ids, more.vectors, {**more.fields, "area": [1, 2, 3, "4"]})
        assert_content(store, sample)

    @pytest.mark.parametrize("case", BAD_FILTERS)
    def test_bad_filters_change_nothing(self, store: EmbeddingStore, case: str) -> None:
        sample = make_sample(3).write(store)
        error, build = BAD_FILTERS[case]
        with pytest.raises(error):
            store.search(ROW, 1, where=build())
        with pytest.raises(error):
            store.count(build())
        with pytest.raises(error):
            store.delete(where=build())
        assert_content(store, sample)

    def test_bad_reads(self, store: EmbeddingStore) -> None:
        sample = make_sample(3).write(store)
        bad: list[tuple[type[KnnStoreError], Callable[[], object]]] = [
            (InvalidVectorError, lambda: store.search(_with(np.nan), 1)),
            (InvalidVectorError, lambda: store.search(ROW * 0, 1)),
            (InvalidVectorError, lambda: store.search(_masked(ROW), 1)),
            (InvalidVectorError, lambda: store.search(ROW.astype(np.float64), 1)),
            (InvalidLimitError, lambda: store.scan(batch_size=0)),
            (InvalidLimitError, lambda: store.scan(batch_size=2.0)),  # type: ignore[call-overload]  # on purpose
            (InvalidIdError, lambda: store.get("r0")),  # type: ignore[call-overload]  # on purpose
            (InvalidIdError, lambda: store.upsert("abc", np.tile(ROW, (3, 1)))),  # type: ignore[arg-type]  # on purpose
            (InvalidIdError, lambda: store.get([""])),
            (InvalidIdError, lambda: store.delete("r0")),  # type: ignore[arg-type]  # on purpose
            (InvalidFieldError, lambda: store.get(["r0"], fields="label")),  # type: ignore[call-overload]  # on purpose
        ]
        for error, call in bad:
            with pytest.raises(error):
                call()
        assert_content(store, sample)

    def test_a_zero_vector_is_fine_where_it_means_something(self, opener: Opener) -> None:
        store = opener(make_spec("l2", fields={}))
        store.upsert(["zero"], ROW * 0)
        assert store.search(ROW * 0, 1).scores.tolist() == [[0]]

    def test_an_unknown_exception_becomes_ours(self, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        make_sample(3).write(store)

        def fail(*_: object) -> NoReturn:
            raise _EngineError("the engine said no")

        calls: dict[str, Callable[[], object]] = {
            "_upsert": lambda: store.upsert(["x"], ROW, GOOD),
            "_delete_ids": lambda: store.delete(["x"]),
            "_delete_where": lambda: store.delete(where=F("area") > 0),
            "_update_ids": lambda: store.update({"label": "x"}, ids=["x"]),
            "_update_where": lambda: store.update({"label": "x"}, where=F("area") > 0),
            "_search": lambda: store.search(ROW, 1),
            "_get": lambda: store.get(["x"]),
            "_count": store.count,
            "_scan": lambda: list(store.scan()),
            "_stats": store.stats,
            "_flush": store.flush,
            "_optimize": store.optimize,
        }
        for method, call in calls.items():
            with monkeypatch.context() as patched:
                patched.setattr(type(store), method, fail)
                with pytest.raises(KnnStoreError) as caught:
                    call()
            assert isinstance(caught.value.__cause__, _EngineError), f"{method}: the cause is lost"
            for secret in store.url.secrets():
                assert secret not in str(caught.value)
        assert store.count() == 3, "unusable after an error"
