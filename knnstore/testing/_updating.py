"""Checks of update: what is named changes, nothing else does, nothing is created, and what is gone stays gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.errors import (
    DuplicateIdError,
    InvalidFieldError,
    InvalidIdError,
    InvalidInputError,
    KnnStoreError,
    UnknownFieldError,
)
from knnstore.filters import F, Filter
from knnstore.testing._base import KitBase, Opener, refused
from knnstore.testing._data import Sample, make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_content, assert_hits
from knnstore.testing._search import METRICS
from knnstore.types import Metric

__all__ = ["UpdateChecks"]

_WHERE: tuple[Filter, ...] = (
    F("label") == "kettle",
    F("label").isin(["zebra", "sky", "no such"]),
    F("thing") == True,  # noqa: E712  # builds an expression
    (F("label") == "wall") & ~(F("thing") == False) | (F("label") == "sky"),  # noqa: E712  # as above
    ~F("label").isin([]),
    F("label") == "no such",
)

_VALUES: Mapping[str, list[Any]] = {
    "label": ["", "it's", 'say "hi"\\', "a\x00b\x00", "\N{ZEBRA FACE}"],
    "area": [2**63 - 1, -(2**63), 2**53 + 1, 0, -1],
    "weight": [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -1e-310, 3.0],
    "thing": [True, False, True, False, True],
}

_BAD: Mapping[str, tuple[type[KnnStoreError], Any, Mapping[str, Any]]] = {
    "ids-twice": (DuplicateIdError, {"label": "x"}, {"ids": ["r0", "r0"]}),
    "ids-str": (InvalidIdError, {"label": "x"}, {"ids": "r0"}),
    "id-number": (InvalidIdError, {"label": "x"}, {"ids": [1]}),
    "neither": (InvalidInputError, {"label": "x"}, {}),
    "both": (InvalidInputError, {"label": "x"}, {"ids": ["r0"], "where": F("area") == 1}),
    "no-fields": (InvalidFieldError, {}, {"ids": ["r0"]}),
    "no-fields-where": (InvalidFieldError, {}, {"where": F("label") == "kettle"}),
    "fields-none": (InvalidFieldError, None, {"ids": ["r0"]}),
    "fields-list": (InvalidFieldError, ["label"], {"ids": ["r0"]}),
    "unknown": (UnknownFieldError, {"label": "x", "no_such": 1}, {"ids": ["r0"]}),
    "unknown-where": (UnknownFieldError, {"no_such": 1}, {"where": F("label") == "kettle"}),
    "unknown-in-where": (UnknownFieldError, {"label": "x"}, {"where": F("no_such") == 1}),
    "short": (InvalidFieldError, {"label": ["x"]}, {"ids": ["r0", "r1"]}),
    "long": (InvalidFieldError, {"area": [1, 2]}, {"ids": ["r0"]}),
    "column-where": (InvalidFieldError, {"label": ["x"]}, {"where": F("label") == "kettle"}),
    "str-number": (InvalidFieldError, {"label": 1}, {"ids": ["r0"]}),
    "int-float": (InvalidFieldError, {"area": 1.0}, {"ids": ["r0"]}),
    "int-bool": (InvalidFieldError, {"area": True}, {"where": F("label") == "kettle"}),
    "int-large": (InvalidFieldError, {"area": [2**63]}, {"ids": ["r0"]}),
    "float-nan": (InvalidFieldError, {"weight": float("nan")}, {"where": F("label") == "kettle"}),
    "bool-int": (InvalidFieldError, {"thing": 1}, {"ids": ["r0"]}),
    "one-bad": (InvalidFieldError, {"label": "x", "area": [1, "2"]}, {"ids": ["r0", "r1"]}),
    "none": (InvalidFieldError, {"label": None}, {"ids": ["r0"]}),
}


def _changed(sample: Sample, rows: list[int], fields: Mapping[str, Any]) -> Sample:
    """What the sample must be after an update of these rows: one value, or a list with one for each row."""
    columns = {name: list(column) for name, column in sample.fields.items()}
    for name, value in fields.items():
        for place, row in enumerate(rows):
            columns[name][row] = value[place] if isinstance(value, list) else value
    return Sample(sample.ids, sample.vectors, columns)


def _matching(where: Filter, sample: Sample) -> list[int]:
    columns = {name: np.array(column, object) for name, column in sample.fields.items()}
    return np.flatnonzero(where.mask(columns)).tolist()


class UpdateChecks(KitBase):
    """Rule 15."""

    rule = "15, an update changes the fields that it names, and never creates a record or brings one back"

    @pytest.mark.parametrize("metric", METRICS)
    def test_update_by_id(self, opener: Opener, metric: Metric) -> None:
        """A column or one value for all; ids that are not stored are ignored; every vector stays bit for bit."""
        store = opener(make_spec(metric))
        sample, query = make_sample(12).write(store), make_queries(2)
        recall = store.capabilities.recall_floor
        assert_hits(store.search(query, 12), query, sample, metric, 12, recall=recall)
        labels = ["first", "never", "second", "third"]
        changed = store.update({"label": labels, "area": -7}, ids=["r5", "absent", "r0", "r11"])
        assert changed == 3, f"update of three stored ids and one that is not stored returned {changed!r}"
        now = _changed(sample, [5, 0, 11], {"label": ["first", "second", "third"], "area": -7})
        assert_content(store, now)
        assert_hits(store.search(query, 12), query, now, metric, 12, recall=recall)
        store = opener.reopen()
        assert_content(store, now)
        assert_hits(store.search(query, 12), query, now, metric, 12, recall=recall)

    def test_update_by_filter(self, store: EmbeddingStore) -> None:
        """What matches before the change gets the values, also where that decides what matches afterwards."""
        fields: dict[str, Any] = {"label": "changed", "weight": 0.1 + 0.2, "thing": False}
        for where in _WHERE:
            sample = make_sample(40).write(store)
            for _ in range(2):
                rows = _matching(where, sample)
                changed = store.update(fields, where=where)
                assert changed == len(rows), f"update where {where!r} returned {changed!r}, expected {len(rows)}"
                sample = _changed(sample, rows, fields)
                assert_content(store, sample)
                assert store.count(F("label") == "changed") == sample.fields["label"].count("changed")

    def test_filters_see_updated_fields(self, store: EmbeddingStore) -> None:
        """Whatever an engine keeps about a filter or a field, before and after: search, count, count_by and scan."""
        sample, query = make_sample(30).write(store), make_queries(1)
        for value, rows in (("kettle", range(10)), ("zebra", range(5, 20)), ("kettle", range(30))):
            ids = [sample.ids[row] for row in rows]
            store.update({"label": value}, ids=ids)
            sample = _changed(sample, list(rows), {"label": value})
            for label in ("kettle", "zebra"):
                where = F("label") == label
                there = _matching(where, sample)
                hits = store.search(query, 30, where=where, fields=["label"])
                assert_hits(hits, query, sample, "cosine", 30, rows=there, recall=store.capabilities.recall_floor)
                assert set(hits.fields["label"][hits.ids != ""].tolist()) <= {label}, "hits with the fields of before"
                assert store.count(where) == len(there)
                assert store.count_by("label").get(label, 0) == len(there)
                found = [value for records in store.scan(where, fields=[]) for value in records.ids]
                assert sorted(found) == sorted(sample.ids[row] for row in there)

    def test_update_to_any_value(self, store: EmbeddingStore) -> None:
        """Every value is stored as it is and found by it, and no longer by the one before."""
        sample = make_sample(8).write(store)
        for name, values in _VALUES.items():
            before = sample.fields[name][0]
            assert store.update({name: np.array(values) if name == "area" else values}, ids=sample.ids[:5]) == 5
            sample = _changed(sample, list(range(5)), {name: values})
            assert_content(store, sample)
            for value in {*values, before}:
                wanted = sample.fields[name].count(value)
                assert store.count(F(name) == value) == wanted, f"count of {name} == {value!r}"
                assert store.count(F(name).isin([value])) == wanted, f"count of {name} in [{value!r}]"
            where = F(name) == values[0]
            rows = _matching(where, sample)
            assert store.update({name: values[1]}, where=where) == len(rows)
            sample = _changed(sample, rows, {name: values[1]})
            assert_content(store, sample)

    def test_update_of_what_is_not_there(self, store: EmbeddingStore) -> None:
        assert store.update({"label": "x"}, ids=["absent"]) == 0, "an update of what is not stored counts it"
        assert store.update({"label": "x"}, where=F("label") == "kettle") == 0
        assert store.update({"label": "x"}, ids=[]) == 0
        assert_content(store, make_sample(0))
        sample = make_sample(4).write(store)
        store.delete(["r1"])
        changed = store.update({"label": "x"}, ids=["r1", "absent"])
        assert changed == 0, f"update of a deleted record and of one that was never there returned {changed!r}"
        assert_content(store, sample.take([0, 2, 3]))
        assert (store.search(make_queries(1), 4).ids[0] != "").sum() == 3

    def test_update_with_an_index(self, store: EmbeddingStore) -> None:
        """Fields change beside an index that has been built, and go on to change after it is built again."""
        sample, query = make_sample(300).write(store), make_queries(3)
        recall = store.capabilities.recall_floor
        store.optimize()
        for label, rows in (("even", range(0, 300, 2)), ("odd", range(1, 300, 2))):
            store.update({"label": label}, ids=[sample.ids[row] for row in rows])
            sample, where = _changed(sample, list(rows), {"label": label}), F("label") == label
            hits = store.search(query, 10, where=where)
            assert_hits(hits, query, sample, "cosine", 10, rows=list(rows), recall=recall)
            store.optimize()
        assert_content(store, sample)

    def test_update_of_many(self, store: EmbeddingStore) -> None:
        """More than goes into one request, with many different values, between ids that are not stored."""
        sample, rows = make_sample(1100).write(store), list(range(1100))
        areas = [10_000 + row if row < 200 else row % 7 for row in rows]
        ids = [value for row in rows for value in ((sample.ids[row],) if row % 10 else (sample.ids[row], f"no{row}"))]
        column = [area for row, area in enumerate(areas) for area in ((area,) if row % 10 else (area, 5))]
        assert store.update({"area": column}, ids=ids) == 1100
        assert_content(store, _changed(sample, rows, {"area": areas}))

    def test_bad_updates_change_nothing(self, store: EmbeddingStore) -> None:
        sample = make_sample(3).write(store)
        for case, (error, fields, which) in _BAD.items():
            with refused(error, f"{case}: update({fields!r}, {which!r})"):
                store.update(fields, **which)
        assert_content(store, sample)

    def test_other_openers_see_an_update(self, opener: Opener) -> None:
        """Also those who have asked the same before; where it is declared that they see what others write."""
        can = opener(make_spec()).capabilities
        if "strong" not in can.consistency:
            return
        writer, reader = opener(consistency="strong"), opener(consistency="strong", read_only=True)
        sample, query = make_sample(20).write(writer), make_queries(1)
        for label, rows in (("kettle", range(10)), ("zebra", range(15)), ("kettle", range(5, 20))):
            before = reader.revision()
            reader.search(query, 20, where=F("label") == label)
            reader.count(F("label") == label)
            writer.update({"label": label}, ids=[sample.ids[row] for row in rows])
            sample = _changed(sample, list(rows), {"label": label})
            assert_content(reader, sample)
            there = _matching(F("label") == label, sample)
            hits = reader.search(query, 20, where=F("label") == label)
            assert_hits(hits, query, sample, "cosine", 20, rows=there, recall=can.recall_floor)
            assert reader.count(F("label") == label) == len(there)
            assert not can.revision or reader.revision() != before, "an update by another does not change revision()"

    def test_an_update_brings_nothing_back(self, opener: Opener) -> None:
        """What is deleted or replaced while others update it stays so; where that is declared."""
        store = opener(make_spec())
        if not store.capabilities.update_in_place:
            return
        sample, others, done = make_sample(80).write(store), [opener(), opener()], threading.Event()
        begun = threading.Semaphore(0)
        moved = Sample(sample.ids[60:], -sample.vectors[60:], {name: c[60:] for name, c in sample.fields.items()})

        def change(fields: dict[str, Any], which: Mapping[str, Any], other: EmbeddingStore) -> None:
            while not done.is_set():
                try:
                    other.update(fields, **which)
                finally:
                    begun.release()
                time.sleep(0.001)  # SQLite lets the one who asks again at once go first

        by_id: dict[str, Any] = {"thing": True, "area": list(range(80))}
        with ThreadPoolExecutor(2) as pool:
            running = [
                pool.submit(change, by_id, {"ids": sample.ids}, others[0]),
                pool.submit(change, {"thing": True}, {"where": ~F("label").isin([])}, others[1]),
            ]
            try:
                for _ in running:
                    begun.acquire(timeout=60)
                for start in range(0, 60, 5):
                    assert store.delete(sample.ids[start : start + 5]) == 5
                    part = moved.take(range(start // 3, start // 3 + 1))
                    store.upsert(part.ids, part.vectors, part.fields)
            finally:
                done.set()
            for future in running:
                future.result()
        left = sorted(value for records in store.scan(fields=[]) for value in records.ids)
        assert left == sorted(sample.ids[60:]), "records that had been deleted are there again after an update"
        replaced = [i for i in range(20) if i in {start // 3 for start in range(0, 60, 5)}]
        got = store.get([moved.ids[i] for i in replaced]).vectors
        assert (got == moved.take(replaced).stored("cosine")).all(), "an update has put an older vector back"
