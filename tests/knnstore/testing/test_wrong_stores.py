"""The kit is only worth what it catches."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test

import knnstore
from knnstore.errors import KnnStoreError
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
    "getinstoredorder", "scanoverlaps", "unsearchableonceoptimized",
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


def test_the_right_store_passes_the_same_checks() -> None:
    checks = sorted({name for wrong in WRONG.values() for name in wrong.caught_by})
    report = check_store("memory:///right", tests=checks)
    assert report.ok, report.summary()
    assert len(report.results) == len(checks)


def test_a_gap_must_name_a_check() -> None:
    with pytest.raises(TypeError, match="test_no_such"):
        type("TestMine", (StoreTests,), {"expected_failures": {"test_no_such[x]": "a reason"}})
