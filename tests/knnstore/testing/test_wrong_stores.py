"""The kit is only worth what it catches."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

import knnstore
from knnstore import Hits, OpenRequest, Records, StoreSpec
from knnstore.errors import KnnStoreError
from knnstore.memory import MemoryBackend, MemoryStore
from knnstore.testing import StoreTests
from knnstore.testing._base import Opener
from knnstore.testing._machine import StateMachineChecks, StoreMachine, machine_settings
from knnstore.testing.live import check_store


def _load(name: str) -> Any:
    """The module beside this one; tests are not importable as a package."""
    spec = importlib.util.spec_from_file_location(f"knnstore_tests_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


WRONG = _load("wrong").WRONG
SEQUENCES = [
    "worstfirst", "paddingidleaks", "onetoofew", "filterignored", "filterafterwards", "staleindex", "duplicateskept",
    "skipreplaces", "errorwriteshalf", "deleteforgets", "deletebyfilterdoesnothing", "idscasefolded",
    "getinstoredorder", "scanoverlaps", "unsearchableonceoptimized", "updatecreates", "updateresetsotherfields",
    "updatelookstwice",
]  # fmt: skip


def _register(name: str) -> None:
    wrong = WRONG[name]
    backend = type("Backend", (wrong.backend,), {"name": name, "store_type": wrong.store})()

    class Plugin:
        @knnstore.hookimpl
        def knnstore_register(self, register: Any) -> None:
            register(backend)

    knnstore.register(Plugin())


@pytest.mark.parametrize("name", WRONG)
def test_it_is_caught(name: str) -> None:
    _register(name)
    report = check_store(f"{name}:///x", tests=WRONG[name].caught_by)
    outcomes = {result.name: result.outcome for result in report.results}
    assert outcomes == dict.fromkeys(WRONG[name].caught_by, "failed"), report.summary()


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_sequence_of_operations_catches_it(name: str, metric: str) -> None:
    """The state machine alone, without looking for the shortest sequence, which takes long."""
    _register(name)
    machine = type("Machine", (StoreMachine,), {"opener": Opener(f"{name}:///machine"), "metric": metric})
    chosen = settings(machine_settings(StateMachineChecks.machine_examples), phases=[Phase.generate])
    # Flaky is how Hypothesis reports what one sequence leaves behind and the next cannot remove.
    with pytest.raises((AssertionError, KnnStoreError, BaseExceptionGroup, Flaky)):
        run_state_machine_as_test(machine, settings=chosen)


class _NarrowText(MemoryStore):
    def _get(self, *arguments: Any) -> Records:
        records = super()._get(*arguments)
        narrow = {name: column.astype(str) if name == "label" else column for name, column in records.fields.items()}
        return Records(records.ids, records.vectors, narrow)


class _ByPlace(MemoryStore):
    """Breaks ties by the order of writing, as engines do."""

    def _search(self, *arguments: Any) -> Hits:
        hits, place = super()._search(*arguments), list(self._data.rows)
        for ids, scores in zip(hits.ids, hits.scores, strict=True):
            by_place = sorted(
                range(len(ids)), key=lambda i: (-scores[i], place.index(ids[i]) if ids[i] else len(place))
            )
            ids[:] = ids[by_place]
        return hits


class _WholeProduct(MemoryStore):
    """Scores that differ in the last bit with what else is asked."""

    def _search(self, queries: Any, *arguments: Any) -> Hits:
        hits = super()._search(queries, *arguments)
        if len(queries) > 1:
            hits.scores[...] = np.nextafter(hits.scores, np.float32(-np.inf))
        return hits


class _WrongPadding(MemoryStore):
    def _search(self, *arguments: Any) -> Hits:
        hits = super()._search(*arguments)
        for name, column in hits.fields.items():
            if name == "weight":
                column[hits.ids == ""] = 0
        return hits


class _Creating(MemoryBackend):
    """Makes what was only looked for."""

    def open(self, request: OpenRequest) -> MemoryStore:
        return super().open(replace(request, spec=request.spec or StoreSpec(8), read_only=False))


class _Writable(MemoryStore):
    """Forgets to hand read_only on."""

    def __init__(self, request: OpenRequest, *rest: Any) -> None:
        super().__init__(replace(request, read_only=False), *rest)


@pytest.mark.parametrize(
    ("wrong", "check", "said"),
    [
        (_NarrowText, "test_get_keeps_the_order_asked_for", "field 'label' of the records: an array of <U13, expected object"),
        (_ByPlace, "test_order_of_writing_changes_nothing[dot]", "Ties are broken by id, the smallest first"),
        (_WholeProduct, "test_a_batch_is_its_single_queries[dot]", "take the last score from knnstore.ranking.pair_scores"),
        (_WrongPadding, "test_fewer_records_than_k[dot]", "field 'weight' of the slots without a hit: got [0.0"),
        (_Creating, "test_nothing_there", "nothing is stored, without a spec and read_only=False: expected StoreNotFoundError"),
        (_Writable, "test_read_only", "hand on to EmbeddingStore.__init__: expected InvalidInputError"),
    ],
)  # fmt: skip
def test_an_author_can_read_what_went_wrong(wrong: type, check: str, said: str) -> None:
    """The rule, what was done, what came, and where to look."""
    name = wrong.__name__.strip("_").lower()
    kind = wrong if issubclass(wrong, MemoryBackend) else type("Backend", (MemoryBackend,), {"store_type": wrong})
    backend = type("Backend", (kind,), {"name": name})()

    class Plugin:
        @knnstore.hookimpl
        def knnstore_register(self, register: Any) -> None:
            register(backend)

    knnstore.register(Plugin())
    [result] = check_store(f"{name}:///x", tests=[check]).results
    assert result.outcome == "failed"
    assert said in result.message
    assert re.search(
        r"Rule: \d.* \(docs/store/contract.md\) Checked: .* Look at: docs/store/writing-a-backend.md", result.message
    )
    assert re.search(r"the check is in knnstore/testing/_\w+\.py, line \d+$", result.message)


def test_the_right_store_passes_the_same_checks() -> None:
    checks = sorted({name for wrong in WRONG.values() for name in wrong.caught_by})
    report = check_store("memory:///right", tests=checks)
    assert report.ok, report.summary()
    assert len(report.results) == len(checks)


def test_a_gap_must_name_a_check() -> None:
    with pytest.raises(TypeError, match="test_no_such"):
        type("TestMine", (StoreTests,), {"expected_failures": {"test_no_such[x]": "a reason"}})
