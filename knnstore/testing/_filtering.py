"""Checks of filters: every operator, nesting, awkward text as data, filtering before the k best are chosen."""

# ruff: noqa: E712  # F("thing") == True builds an expression

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knnstore.abc import EmbeddingStore
from knnstore.errors import UnsupportedFilterError
from knnstore.filters import And, Compare, F, Filter, IsIn, Not, Or
from knnstore.testing._base import KitBase, refused
from knnstore.testing._data import TEXTS, Sample, make_queries, make_sample
from knnstore.testing._oracle import assert_hits, scan_all

__all__ = ["FilterChecks", "operator_of"]

Row: TypeAlias = Mapping[str, Any]

_FRAGMENTS = [
    '"', "'", "\\", "`", "%", "_", "\n", "\r\n", "\x00", " or 1==1", " OR '1'='1", " in [", "]", ")", "--", "/*", ";",
    "{x}", "$1", ":p", "?", "\\u0041", "\\x41", "\\0", "é", "e\u0301", "\u2028", "🦓", "\U0010ffff",
]  # fmt: skip
_HOSTILE = st.lists(
    st.sampled_from(_FRAGMENTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=6
).map("".join)

CASES: dict[str, tuple[Filter, Callable[[Row], bool]]] = {
    "str-eq": (F("label") == "zebra", lambda r: r["label"] == "zebra"),
    "str-ne": (F("label") != "zebra", lambda r: r["label"] != "zebra"),
    "str-lt": (F("label") < "sky", lambda r: r["label"] < "sky"),
    "str-ge": (F("label") >= "sky", lambda r: r["label"] >= "sky"),
    "str-isin": (F("label").isin(["zebra", "wall", "absent"]), lambda r: r["label"] in ("zebra", "wall")),
    "str-isin-empty": (F("label").isin([]), lambda _: False),
    "str-not-isin": (~F("label").isin(["zebra"]), lambda r: r["label"] != "zebra"),
    "str-nothing": (F("label") == "absent", lambda _: False),
    "int-eq": (F("area") == 100, lambda r: r["area"] == 100),
    "int-ne": (F("area") != 100, lambda r: r["area"] != 100),
    "int-lt": (F("area") < 100, lambda r: r["area"] < 100),
    "int-le": (F("area") <= 100, lambda r: r["area"] <= 100),
    "int-gt": (F("area") > 100, lambda r: r["area"] > 100),
    "int-ge": (F("area") >= 100, lambda r: r["area"] >= 100),
    "int-negative": (F("area") < 0, lambda r: r["area"] < 0),
    "int-isin": (F("area").isin([100, 101, -3]), lambda r: r["area"] in (100, 101, -3)),
    "int-numpy": (F("area") == np.int32(100), lambda r: r["area"] == 100),
    "float-eq": (F("weight") == 0.125, lambda r: r["weight"] == 0.125),
    "float-ne": (F("weight") != 0.125, lambda r: r["weight"] != 0.125),
    "float-lt": (F("weight") < 0.125, lambda r: r["weight"] < 0.125),
    "float-le": (F("weight") <= 0.125, lambda r: r["weight"] <= 0.125),
    "float-gt": (F("weight") > 0.125, lambda r: r["weight"] > 0.125),
    "float-ge": (F("weight") >= 0.125, lambda r: r["weight"] >= 0.125),
    "float-int": (F("weight") > 0, lambda r: r["weight"] > 0),
    "float-isin": (F("weight").isin([0.125, 2, 0.5]), lambda r: r["weight"] in (0.125, 2, 0.5)),
    "bool-eq": (F("thing") == True, lambda r: r["thing"]),
    "bool-false": (F("thing") == False, lambda r: not r["thing"]),
    "bool-ne": (F("thing") != True, lambda r: not r["thing"]),
    "bool-isin": (F("thing").isin([True, False]), lambda _: True),
    "and": ((F("label") == "zebra") & (F("area") > 100), lambda r: r["label"] == "zebra" and r["area"] > 100),
    "or": ((F("label") == "zebra") | (F("area") > 500), lambda r: r["label"] == "zebra" or r["area"] > 500),
    "not": (~(F("label") == "zebra"), lambda r: r["label"] != "zebra"),
    "not-and": (~((F("label") == "sky") & (F("thing") == True)), lambda r: not (r["label"] == "sky" and r["thing"])),
    "not-or": (~((F("label") == "sky") | (F("area") > 500)), lambda r: not (r["label"] == "sky" or r["area"] > 500)),
    "not-not": (~~(F("area") > 100), lambda r: r["area"] > 100),
    "precedence": (
        (F("label") == "sky") & ((F("area") < 300) | (F("thing") == True)),
        lambda r: r["label"] == "sky" and (r["area"] < 300 or r["thing"]),
    ),
    "nested": (
        ((F("label").isin(["sky", "wall"]) & ~(F("area") < 200)) | (F("weight") > 1)) & ~(F("thing") == False),
        lambda r: ((r["label"] in ("sky", "wall") and not r["area"] < 200) or r["weight"] > 1) and r["thing"],
    ),
    "contradiction": ((F("area") > 100) & (F("area") < 100), lambda _: False),
}


def _operators(where: Filter) -> Iterator[str]:
    """The operators that join the comparisons of a filter."""
    match where:
        case And(operands) | Or(operands):
            yield "&" if isinstance(where, And) else "|"
            for operand in operands:
                yield from _operators(operand)
        case Not(operand):
            yield "~"
            yield from _operators(operand)


def operator_of(leaf: Compare | IsIn) -> str:
    """The operator of a comparison, as :attr:`Capabilities.filters` names it."""
    return leaf.op if isinstance(leaf, Compare) else "isin"


def _supported(store: EmbeddingStore, where: Filter) -> bool:
    """Whether the backend declares every operator; if not, it must say so at every use."""
    can, kinds = store.capabilities, store.spec.fields
    compared = all(operator_of(leaf) in can.filters_on(kinds[leaf.field]) for leaf in where.leaves())
    if compared and set(_operators(where)) <= can.filters:
        return True
    doing = f"a filter that capabilities do not declare, {where!r}"
    with refused(UnsupportedFilterError, f"counting with {doing}"):
        store.count(where)
    with refused(UnsupportedFilterError, f"searching with {doing}"):
        store.search(make_queries(1), 1, where=where)
    return False


def _sample() -> Sample:
    """Sixty records, some of them exactly at the values that the cases compare with."""
    sample = make_sample(60)
    for i, (area, weight) in enumerate([(100, 0.125), (101, 0.5), (99, 2.0), (-3, 0.0), (100, -1.0)]):
        sample.fields["area"][i], sample.fields["weight"][i] = area, weight
    return sample


class FilterChecks(KitBase):
    """Rule 7."""

    rule = "7, a filter holds exactly for what matches, before the k best are chosen"

    @pytest.mark.parametrize("case", CASES)
    def test_filter(self, store: EmbeddingStore, case: str) -> None:
        where, holds = CASES[case]
        sample, queries = _sample().write(store), make_queries(3)
        if not _supported(store, where):
            return
        rows = [i for i in range(len(sample)) if holds(sample.row(i))]
        wanted = {sample.ids[i] for i in rows}
        assert store.count(where) == len(rows)
        assert {value for records in store.scan(where) for value in records.ids} == wanted
        for k in (4, 70):
            hits = store.search(queries, k, where=where)
            assert_hits(hits, queries, sample, "cosine", k, rows=rows, recall=store.capabilities.recall_floor)

    @pytest.mark.parametrize("case", ["str-eq", "int-le", "str-isin", "str-isin-empty", "nested"])
    def test_delete_by_filter(self, store: EmbeddingStore, case: str) -> None:
        where, holds = CASES[case]
        sample = _sample().write(store)
        if not _supported(store, where):
            return
        gone = store.delete(where=where)
        kept = {sample.ids[i] for i in range(len(sample)) if not holds(sample.row(i))}
        removed = len(sample) - len(kept)
        assert gone == removed, f"delete where {where!r} returned {gone!r}, and {removed} records matched"
        assert store.count() == len(kept)
        assert set(scan_all(store).ids) == kept
        assert store.count(where) == 0

    def test_the_filter_comes_before_the_k_best(self, store: EmbeddingStore) -> None:
        """All of the nearest records are of the wrong label."""
        vectors = np.concatenate([np.eye(1, 8) + np.eye(8)[i % 8] * 0.01 for i in range(50)] + [-np.eye(1, 8)] * 3)
        labels = ["common"] * 50 + ["rare"] * 3
        fields: dict[str, list[Any]] = {"label": labels, "area": [0] * 53, "weight": [0.0] * 53, "thing": [False] * 53}
        sample = Sample([f"r{i}" for i in range(53)], vectors.astype(np.float32), fields)
        sample.write(store)
        queries = np.eye(1, 8, dtype=np.float32)
        hits = store.search(queries, 2, where=F("label") == "rare")
        assert_hits(hits, queries, sample, "cosine", 2, rows=[50, 51, 52], recall=store.capabilities.recall_floor)

    @pytest.mark.parametrize("kind", TEXTS)
    def test_any_label_is_data(self, store: EmbeddingStore, kind: str) -> None:
        self._labels(store, [*TEXTS[kind], "", "plain"])

    def test_a_long_label_is_data(self, store: EmbeddingStore) -> None:
        self._labels(store, ["x" * 10_000, "x" * 9_999, "\N{ZEBRA FACE}" * 2_500, "'" * 10_000])

    def test_labels_that_nobody_thought_of(self, store: EmbeddingStore) -> None:
        """Hypothesis puts texts together from what breaks expression languages; a filter finds exactly its label."""

        @settings(
            max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(st.lists(_HOSTILE, min_size=2, max_size=5, unique=True))
        def check(labels: list[str]) -> None:
            store.delete(where=~F("label").isin([]))
            assert store.count() == 0
            self._labels(store, labels)

        check()

    def _labels(self, store: EmbeddingStore, texts: list[str]) -> None:
        """Each text as the label of one record: read back, and told apart from all the others."""
        labels = list(dict.fromkeys(texts))
        sample = make_sample(len(labels))
        sample.fields["label"] = labels
        sample.write(store)
        assert store.get(sample.ids).fields["label"].tolist() == labels
        for i, label in enumerate(labels):
            for where in (F("label") == label, F("label").isin([label])):
                found = [value for records in store.scan(where) for value in records.ids]
                assert found == [sample.ids[i]], f"{where!r} matched {found}"
            assert store.count(F("label") != label) == len(labels) - 1
        assert store.count(F("label").isin(labels)) == len(labels)

    def test_a_long_list(self, store: EmbeddingStore) -> None:
        """More values than some engines take as bound parameters."""
        sample = make_sample(10).write(store)
        wanted = [sample.fields["area"][0], *range(10_000, 50_000)]
        assert store.count(F("area").isin(wanted)) == sample.fields["area"].count(wanted[0])
        labels = [sample.fields["label"][0], *(f"absent {i}" for i in range(5_000))]
        hits = store.search(make_queries(1), 10, where=F("label").isin(labels))
        assert set(hits.ids[0]) - {""} == {
            v for v, x in zip(sample.ids, sample.fields["label"], strict=True) if x == labels[0]
        }

    def test_a_long_chain(self, store: EmbeddingStore) -> None:
        sample = make_sample(10).write(store)
        where = F("area") == sample.fields["area"][0]
        for i in range(200):
            where = where | (F("area") == 10_000 + i)
        assert store.count(where) == sample.fields["area"].count(sample.fields["area"][0])

    def test_filters_built_in_a_loop(self, store: EmbeddingStore) -> None:
        """However they were put together, they are no deeper and no longer than an engine can take."""
        sample = make_sample(40).write(store)
        areas = sample.fields["area"]
        pairs, twice, holds = F("area") == areas[0], F("area") > 300, np.array(areas) == areas[0]
        for i in range(60):
            pairs = (pairs & (F("weight") < 1 - i / 100)) | (F("area") == areas[i % 40])
            holds = (holds & (np.array(sample.fields["weight"]) < 1 - i / 100)) | (np.array(areas) == areas[i % 40])
            twice = ~twice
        either, other = F("area") == areas[0], F("area") != areas[0]
        for i in range(3_000):
            either, other = either | (F("area") == 2_000 + i), other & (F("area") != 2_000 + i)
        same = areas.count(areas[0])
        for where, count in ((pairs, int(holds.sum())), (twice, sum(area > 300 for area in areas)), (either, same),
                             (other, 40 - same), (~either, 40 - same)):  # fmt: skip
            if _supported(store, where):
                assert store.count(where) == count
                found = store.search(make_queries(1), 40, where=where).ids[0]
                assert (found != "").sum() == count

    def test_large_integers_are_exact(self, store: EmbeddingStore) -> None:
        """Neighbours beyond 2**53, which a double cannot tell apart, and both ends of the range."""
        sample = make_sample(5)
        sample.fields["area"] = [2**53, 2**53 + 1, 2**63 - 1, -(2**63), 0]
        sample.write(store)
        assert store.get(sample.ids).fields["area"].tolist() == sample.fields["area"]
        for i, area in enumerate(sample.fields["area"]):
            found = [value for records in store.scan(F("area") == area) for value in records.ids]
            assert found == [sample.ids[i]], f"area == {area} matched {found}"
        assert store.count(F("area") > 2**53) == 2

    @pytest.mark.parametrize("field", ["area", "weight"])
    def test_bounds_are_exact(self, store: EmbeddingStore, field: str) -> None:
        """Numbers of every size: an engine that reads one in twenty a bit wrong is found out."""
        sample = make_sample(60)
        numbers = [round(1.37**n) * (-1) ** n for n in range(20)] + [(2**61 + 7**n) * (-1) ** n for n in range(20)]
        floats = [1.37**n * (-1) ** n / 3 for n in range(20)] + [(10.0 ** (n - 10)) * (-1) ** n / 7 for n in range(20)]
        values = sorted({*numbers, *range(-10, 10)})[:60] if field == "area" else sorted(map(float, floats))
        values = values + [values[-1]] * (60 - len(values))
        sample.fields[field] = values
        sample.write(store)
        for value in dict.fromkeys(values):
            less, more = store.count(F(field) < value), store.count(F(field) > value)
            assert (less, more) == (
                sum(other < value for other in values), sum(other > value for other in values)
            ), f"{field} < {value!r} and {field} > {value!r}"  # fmt: skip

    def test_floats_are_exact(self, store: EmbeddingStore) -> None:
        sample = make_sample(6)
        sample.fields["weight"] = [0.1, 1e-300, 1.7976931348623157e308, 5e-324, 0.1 + 2**-55, -0.0]
        sample.write(store)
        assert store.get(sample.ids).fields["weight"].tolist() == sample.fields["weight"]
        assert store.count(F("weight") == 0.1) == sample.fields["weight"].count(0.1)
        assert store.count(F("weight") == 0) == 1
