"""Any sequence of operations, against a dictionary: a Hypothesis state machine."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from knnstore.abc import EmbeddingStore
from knnstore.errors import ConflictError
from knnstore.filters import F, Filter
from knnstore.testing._base import KitBase, Opener, refused
from knnstore.testing._data import Sample, make_spec
from knnstore.testing._oracle import assert_content, assert_hits
from knnstore.testing._search import METRICS
from knnstore.types import Conflict, Metric

__all__ = ["StateMachineChecks", "StoreMachine", "machine_settings"]

IDS = ["a", "A", "b", "\u00e9", "it's", "0", "long" * 20]
LABELS = ["kettle", "zebra", "it's", ""]
MANY = [f"many{i}" for i in range(20)]
"""Written and deleted together: enough to cross the size at which an engine begins to use an index."""
POOL = np.random.default_rng(7).integers(-3, 4, size=(12, 4)).astype(np.float32)
POOL[:, 0] += (~POOL.any(axis=1)).astype(np.float32)  # no zero vector: the machine runs under cosine too
FIELDS = {"label": str, "area": int}

_ids = st.lists(st.sampled_from(IDS), min_size=1, max_size=4, unique=True)
_record = st.tuples(st.integers(0, len(POOL) - 1), st.sampled_from(LABELS), st.integers(-2, 2))
_batch = st.dictionaries(st.sampled_from(IDS), _record, min_size=1, max_size=4)
_start = st.dictionaries(st.sampled_from(IDS), _record, min_size=3)
_leaf = st.one_of(
    st.sampled_from(LABELS).map(lambda v: F("label") == v),
    st.lists(st.sampled_from(LABELS), max_size=2).map(lambda v: F("label").isin(v)),
    st.integers(-2, 2).map(lambda v: F("area") >= v),
)
_filter = st.recursive(
    _leaf, lambda f: st.one_of(f.map(lambda x: ~x), st.tuples(f, f).map(lambda p: p[0] & p[1])), max_leaves=3
)


class StoreMachine(RuleBasedStateMachine):
    """Compares a store with a dictionary, one operation after another.

    A subclass sets ``opener`` and ``metric``. Every run starts by emptying the store, so one location is enough.
    """

    opener: ClassVar[Opener]
    metric: ClassVar[Metric]

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, tuple[int, str, int]] = {}
        self.store: EmbeddingStore

    @initialize(batch=_start)
    def start(self, batch: dict[str, tuple[int, str, int]]) -> None:
        """Open the store, remove whatever the run before has left, and write something to work on."""
        self.store = self.opener.reopen(make_spec(self.metric, dim=4, fields=FIELDS))
        self.store.delete([value for records in self.store.scan(fields=[]) for value in records.ids])
        assert self.store.count() == 0, "records of an earlier sequence cannot be deleted"
        self.upsert(batch, "replace")

    @rule(batch=_batch, on_conflict=st.sampled_from(["replace", "skip", "error"]))
    def upsert(self, batch: dict[str, tuple[int, str, int]], on_conflict: Conflict) -> None:
        """Write a few records."""
        sample, stored = _sample(batch), batch.keys() & self.model.keys()
        if on_conflict == "error" and stored:
            with refused(ConflictError, f'upsert with on_conflict="error" of {sorted(stored)}, which are stored'):
                self.store.upsert(sample.ids, sample.vectors, sample.fields, on_conflict=on_conflict)
            return
        written = self.store.upsert(sample.ids, sample.vectors, sample.fields, on_conflict=on_conflict)
        assert written == len(batch) - (len(stored) if on_conflict == "skip" else 0)
        self.model = {**batch, **self.model} if on_conflict == "skip" else {**self.model, **batch}

    @rule(record=_record, gone=st.sampled_from([6, len(MANY)]), tidy=st.booleans())
    def crowd(self, record: tuple[int, str, int], gone: int, tidy: bool) -> None:
        """Write many records, search, so that an engine builds what it uses for many, and delete some or all again."""
        self.upsert({value: ((record[0] + i) % len(POOL), *record[1:]) for i, value in enumerate(MANY)}, "replace")
        self.search(record[0], 3, None)
        self.delete(MANY[:gone])
        if tidy:
            self.optimize(record[0])

    @precondition(lambda self: len(self.model) > 1)  # an empty store has nothing to get wrong
    @rule(ids=_ids)
    def delete(self, ids: list[str]) -> None:
        """Remove records by id."""
        assert self.store.delete(ids) == len(set(ids) & self.model.keys())
        self.model = {value: record for value, record in self.model.items() if value not in ids}

    @precondition(lambda self: len(self.model) > 1)
    @rule(where=_filter)
    def delete_where(self, where: Filter) -> None:
        """Remove records by filter."""
        gone = set(self._matching(where))
        assert self.store.delete(where=where) == len(gone)
        self.model = {value: record for value, record in self.model.items() if value not in gone}

    @precondition(lambda self: len(self.model) > 1)
    @rule(ids=_ids, area=st.integers(-2, 2))
    def update(self, ids: list[str], area: int) -> None:
        """Change a field of a few records, stored or not; each gets a value of its own."""
        areas = {value: area + i for i, value in enumerate(ids)}
        there = areas.keys() & self.model.keys()
        assert self.store.update({"area": list(areas.values())}, ids=ids) == len(there)
        self.model |= {value: (*self.model[value][:2], areas[value]) for value in there}

    @precondition(lambda self: len(self.model) > 1)
    @rule(where=_filter, label=st.sampled_from(LABELS))
    def update_where(self, where: Filter, label: str) -> None:
        """Change the fields of what matches."""
        there = self._matching(where)
        assert self.store.update({"label": label, "area": 2}, where=where) == len(there)
        self.model |= {value: (self.model[value][0], label, 2) for value in there}

    @rule(query=st.integers(0, len(POOL) - 1), k=st.integers(1, 9), where=st.none() | _filter)
    def search(self, query: int, k: int, where: Filter | None) -> None:
        """Search, with or without a filter."""
        queries, sample = POOL[query : query + 1], _sample(self.model)
        row_of = {value: row for row, value in enumerate(sample.ids)}
        rows = [row_of[value] for value in self._matching(where)]
        hits = self.store.search(queries, k, where=where)
        recall = self.store.capabilities.recall_floor
        assert_hits(hits, queries, sample, self.metric, k, rows=rows, recall=recall)

    @rule(query=st.integers(0, len(POOL) - 1), k=st.integers(1, 4), where=_filter)
    def search_some(self, query: int, k: int, where: Filter) -> None:
        """Search behind a filter, for fewer than are stored: what does not match must not take a place."""
        self.search(query, k, where)

    @rule(ids=_ids)
    def get(self, ids: list[str]) -> None:
        """Read by id."""
        assert self.store.get(ids).ids.tolist() == [value for value in ids if value in self.model]

    @rule(where=_filter, batch_size=st.integers(1, 5))
    def count_and_scan(self, where: Filter, batch_size: int) -> None:
        """Count and scan what matches."""
        wanted = self._matching(where)
        assert self.store.count(where) == len(wanted)
        found = [value for records in self.store.scan(where, batch_size=batch_size) for value in records.ids]
        assert sorted(found) == sorted(wanted)

    @rule()
    def reopen(self) -> None:
        """Close the store and open what is stored."""
        self.store = self.opener.reopen()

    @rule(query=st.integers(0, len(POOL) - 1))
    def optimize(self, query: int) -> None:
        """Let the engine tidy up what a search has made it build; every record is still found."""
        self.search(query, 1, None)
        self.store.optimize()
        self.search(query, max(len(self.model), 1), None)

    @invariant()
    def holds_the_model(self) -> None:
        """Count, get and scan agree with the model after every step."""
        if hasattr(self, "store"):
            assert_content(self.store, _sample(self.model))

    def _matching(self, where: Filter | None) -> list[str]:
        return [value for value, record in self.model.items() if where is None or _holds(where, record)]


def _sample(records: dict[str, tuple[int, str, int]]) -> Sample:
    rows = list(records.values())
    fields: dict[str, list[Any]] = {"label": [label for _, label, _ in rows], "area": [area for _, _, area in rows]}
    return Sample(list(records), POOL[[i for i, _, _ in rows]], fields)


def _holds(where: Filter, record: tuple[int, str, int]) -> bool:
    columns = {"label": np.array([record[1]], object), "area": np.array([record[2]], np.int64)}
    return bool(where.mask(columns)[0])


def machine_settings(examples: int) -> settings:
    """The same sequences at every run, whatever the time a step takes."""
    return settings(
        max_examples=examples, stateful_step_count=20, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


class StateMachineChecks(KitBase):
    """Every rule at once, in orders that nobody thought of."""

    rule = "1 to 8, in any order of calls"

    machine_examples: ClassVar[int] = 40
    """How many sequences are tried; more finds more, and takes longer. The sequences are the same at every run."""

    @pytest.mark.parametrize("metric", METRICS)
    def test_any_sequence(self, opener: Opener, metric: Metric) -> None:
        machine = type("Machine", (StoreMachine,), {"opener": opener, "metric": metric})
        run_state_machine_as_test(machine, settings=machine_settings(self.machine_examples))
