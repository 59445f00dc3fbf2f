"""Checks of values that engines see with eyes of their own: the two zeros, and values that no record has any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.filters import F, Filter
from knnstore.testing._base import KitBase
from knnstore.testing._data import Sample, make_queries, make_sample
from knnstore.testing._filtering import operator_of

__all__ = ["ValueChecks"]

_ZEROS: Mapping[str, Callable[[float], Filter]] = {
    "eq": lambda zero: F("weight") == zero,
    "ne": lambda zero: F("weight") != zero,
    "lt": lambda zero: F("weight") < zero,
    "le": lambda zero: F("weight") <= zero,
    "gt": lambda zero: F("weight") > zero,
    "ge": lambda zero: F("weight") >= zero,
    "isin": lambda zero: F("weight").isin([zero]),
    "isin-more": lambda zero: F("weight").isin([zero, 1.5]),
    "not-isin": lambda zero: ~F("weight").isin([zero]),
}

_LEAVING: Mapping[str, Callable[[EmbeddingStore, Sample, Sample], object]] = {
    "by id": lambda store, gone, _: store.delete(gone.ids),
    "by filter": lambda store, *_: store.delete(where=F("label") == "leaving"),
    "replaced": lambda store, gone, others: _relabel(gone, others).write(store),
}
"""How the last record with a value goes."""


def _relabel(gone: Sample, others: Sample) -> Sample:
    """The same ids with the values of records that stay."""
    return Sample(gone.ids, gone.vectors, {name: column[: len(gone)] for name, column in others.fields.items()})


class ValueChecks(KitBase):
    """Rules 6 and 7, at values where engines differ."""

    rule = "7 and 9, the two zeros are one number, and only what occurs is counted"

    @pytest.mark.parametrize("case", _ZEROS)
    def test_both_zeros_are_one_number(self, store: EmbeddingStore, case: str) -> None:
        """-0.0 equals 0.0, whichever of them is stored and whichever is asked for."""
        sample = make_sample(5)
        sample.fields["weight"] = [0.0, -0.0, 1.5, -1.5, 0.0]
        sample.write(store)
        for zero in (0.0, -0.0):
            where = _ZEROS[case](zero)
            if not {operator_of(leaf) for leaf in where.leaves()} <= store.capabilities.filters_on(float):
                return  # that an undeclared operator is refused is checked elsewhere
            wanted = {value for i, value in enumerate(sample.ids) if _holds(where, sample.row(i))}
            assert {value for records in store.scan(where) for value in records.ids} == wanted, f"{where!r}"
            assert store.count(where) == len(wanted), f"{where!r}"
            assert set(store.search(make_queries(1), 5, where=where).ids[0]) - {""} == wanted, f"{where!r}"
        assert store.count_by("weight") == {0.0: 3, 1.5: 1, -1.5: 1}

    @pytest.mark.parametrize("how", _LEAVING)
    def test_count_by_lists_what_occurs(self, store: EmbeddingStore, how: str) -> None:
        """A value that no record has any more is not listed, not even with 0; nor one that no match has."""
        sample = make_sample(30)
        gone, kept = sample.take(range(5)), sample.take(range(5, 30))
        gone.fields["label"], gone.fields["area"] = ["leaving"] * 5, list(range(2_000, 2_005))
        gone.fields["weight"] = [1e9 + i for i in range(5)]
        kept.fields["thing"] = [True] * 25
        gone.fields["thing"] = [False] * 5
        gone.write(store)
        kept.write(store)
        for name, column in kept.fields.items():
            _assert_counts(store, name, column, F("area") < 2_000)
        _LEAVING[how](store, gone, kept)
        there = _relabel(gone, kept) if how == "replaced" else gone.take([])
        for name, column in kept.fields.items():
            _assert_counts(store, name, column + there.fields[name], None)
            _assert_counts(store, name, column + there.fields[name], F("area") < 2_000)


def _holds(where: Filter, row: Mapping[str, Any]) -> bool:
    """Whether a filter on ``weight`` holds for a record, by the filter's own definition."""
    return bool(where.mask({"weight": np.array([row["weight"]])})[0])


def _assert_counts(store: EmbeddingStore, name: str, column: list[Any], where: Filter | None) -> None:
    # As plain dictionaries: to a Counter, a value with 0 and one that is not listed are the same.
    counted = dict(store.count_by(name, where))
    assert counted == dict(Counter(column)), f"count_by({name!r}, {where!r})"
