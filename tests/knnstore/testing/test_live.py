"""The kit run against a store from outside."""

from __future__ import annotations

import numpy as np
import pytest

import knnstore
from knnstore.errors import InvalidInputError, UnknownBackendError
from knnstore.memory import MemoryBackend, MemoryStore
from knnstore.testing import StoreTests
from knnstore.testing.live import QUICK, CheckReport, CheckResult, check_store


def test_only_collections_of_its_own_are_touched() -> None:
    spec = knnstore.StoreSpec(2, fields={"label": str})
    with knnstore.open_store("memory:///live", spec) as store:
        store.upsert(["mine"], np.ones((1, 2), np.float32), {"label": ["x"]})
        seen: list[CheckResult] = []
        report = check_store("memory:///live", tests=["test_delete_by_id", "test_k_limits"], on_result=seen.append)
        assert report.ok, report.summary()
        assert [result.name for result in report.results] == ["test_delete_by_id", "test_k_limits"]
        assert seen == list(report.results)
        assert store.count() == 1
    assert report.left == []
    assert report.summary() == "memory:///live: 2 checks, 2 passed"
    assert [str(url) for url in knnstore.collections("memory:///live")] == ["memory:///live"]


def test_a_declared_gap_that_names_no_check_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match=r"declared gaps: expected names of checks of the kit, got \['test_moved'\]"
    ):
        check_store(
            "memory:///moved", tests=["test_stats"], expected_failures={"test_moved": "gone", "test_stats": "x"}
        )


def test_what_cannot_be_removed_is_emptied_and_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryBackend, "remove_empty", knnstore.Backend.remove_empty)
    report = check_store("memory:///stays", tests=["test_delete_by_id", "test_k_limits"])
    assert report.ok
    assert len(report.left) == 2
    assert all(knnstore.open_store(url).count() == 0 for url in report.left)
    assert "\n  left behind: memory:///stays/check_" in report.summary()


def test_gaps_are_strict() -> None:
    report = check_store("memory:///gaps", tests=["test_k_limits"], expected_failures={"test_k_limits": "not yet"})
    assert not report.ok
    assert report.results[0].outcome == "gap closed"


def test_the_gaps_of_the_backend_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it declares is no failure; what passes after all is none of its gaps any more."""
    monkeypatch.setattr(MemoryBackend, "gaps", lambda self, url: {"test_k_limits": f"not at {url}"})
    monkeypatch.setattr(MemoryStore, "_stats", lambda self: 1 / 0)
    report = check_store("memory:///declared", tests=["test_stats"], expected_failures={"test_stats": "no figures"})
    assert report.ok and report.results[0].outcome == "gap"
    report = check_store("memory:///declared", tests=["test_k_limits"])
    assert [result.outcome for result in report.results] == ["gap closed"]


def test_the_short_form_has_something_of_every_part_of_the_kit() -> None:
    report = check_store("memory:///short", quick=True)
    assert report.ok, report.summary()
    assert sorted(result.name for result in report.results) == sorted(QUICK)
    groups = [group for group in StoreTests.__mro__ if group.__name__.endswith("Checks")]
    names = {name.partition("[")[0] for name in QUICK}
    missing = {group.__name__ for group in groups if not names & set(vars(group))}
    assert missing <= {"StateMachineChecks"}  # minutes on a server


def test_a_test_that_does_not_exist() -> None:
    with pytest.raises(InvalidInputError, match="names of checks"):
        check_store("memory:///none", tests=["test_no_such"])


def test_a_backend_that_does_not_exist() -> None:
    with pytest.raises(UnknownBackendError):
        check_store("nosuch:///x")


def test_nothing_run_is_not_ok() -> None:
    assert not CheckReport("memory:///x", []).ok
    assert "nothing was run" in CheckReport("memory:///x", []).summary()


class _Chatty(MemoryStore):
    def _count(self, where: object) -> int:
        raise RuntimeError("cannot connect as me:hunter2@host")


class _ChattyBackend(MemoryBackend):
    name = "chatty"
    store_type = _Chatty

    def open(self, request: knnstore.OpenRequest) -> MemoryStore:
        plain = knnstore.OpenRequest(knnstore.StoreURL("chatty", path=request.url.path), request.spec)
        store = super().open(plain)
        store._url = request.url
        return store


class _ChattyPlugin:
    @knnstore.hookimpl
    def knnstore_register(self, register: object) -> None:
        register(_ChattyBackend())  # type: ignore[operator]


def test_no_secret_in_a_report() -> None:
    knnstore.register(_ChattyPlugin())
    url = "chatty://me:hunter2@host/x?token=hunter3"
    report = check_store(url, tests=["test_delete_by_id"], expected_failures={})
    assert [result.outcome for result in report.results] == ["failed"]
    assert "hunter" not in report.summary()
    assert "***" in report.results[0].message
    gap = check_store(url, tests=["test_delete_by_id"], expected_failures={"test_delete_by_id": "it talks"})
    assert gap.ok
    assert gap.results[0].outcome == "gap"
    assert "it talks" in gap.results[0].message
