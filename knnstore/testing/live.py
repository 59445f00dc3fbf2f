"""The kit against a store that exists already: a server, a folder. This is what ``knnstore check URL`` runs.

    >>> from knnstore.testing.live import check_store
    >>> report = check_store("memory:///demo", tests=["test_k_limits", "test_delete_by_id"])
    >>> report.ok, len(report.results)
    (True, 2)

Every check works in a new collection below the URL, under a name that no one else has; what is stored at the URL is not
touched. Afterwards those collections are emptied, and removed where the backend can do that
(:meth:`knnstore.Backend.remove_empty`). Empty ones may be left behind otherwise; the report lists them.
"""

from __future__ import annotations

import contextlib
import io
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import pytest

from knnstore._plugins import collections, get_backend, open_store, remove_empty
from knnstore.errors import InvalidInputError, KnnStoreError
from knnstore.testing import StoreTests
from knnstore.url import StoreURL

__all__ = ["QUICK", "CheckReport", "CheckResult", "Outcome", "check_store"]

Outcome: TypeAlias = Literal["passed", "failed", "gap", "gap closed", "skipped"]

QUICK = (
    "test_scores_and_order[cosine]", "test_scores_and_order[dot]", "test_scores_and_order[l2]",
    "test_fewer_records_than_k[cosine]", "test_every_bit_comes_back[dot]", "test_halves_come_back[cosine]",
    "test_the_filter_comes_before_the_k_best", "test_filter[nested]", "test_filter[str-lt]",
    "test_filter[float-lt]", "test_any_label_is_data[quotes]",
    "test_large_integers_are_exact", "test_both_zeros_are_one_number[eq]", "test_any_text_is_an_id[unicode]",
    "test_search_sees_every_write", "test_upsert_replaces", "test_error_writes_nothing",
    "test_skip_keeps_what_is_there", "test_delete_by_id", "test_delete_by_filter[nested]", "test_count_by",
    "test_update_by_id[cosine]", "test_update_by_filter", "test_update_to_any_value",
    "test_revision", "test_scan_to_the_end[50]", "test_a_scan_left_early_holds_nothing", "test_reopen[cosine]",
    "test_another_spec_is_refused[space]", "test_nothing_there", "test_read_only",
    "test_children_are_collections_of_their_own", "test_bad_upserts_change_nothing",
    "test_an_unknown_exception_becomes_ours", "test_closed", "test_closing_while_in_use[search]",
    "test_writing_from_threads",
    "test_searching_while_writing", "test_stats",
)  # fmt: skip
"""The checks of the short form: for each rule of the contract those that prove the most of it in one collection."""

_MOST = 1500
_SUITE = Path(__file__).with_name("_suite.py")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check.

    Args:
        name: such as ``test_filter[int-lt]``.
        outcome: ``"gap"`` is a declared failure, ``"gap closed"`` one that passes after all.
        message: why it failed or was skipped; no secret of the URL is in it.
    """

    name: str
    outcome: Outcome
    message: str = ""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """All of them.

    Args:
        url: what was checked, without secrets.
        results: one for each check, in order.
        left: collections that are still there; empty, unless cleaning up has failed.
    """

    url: str
    results: Sequence[CheckResult]
    left: Sequence[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there were checks, and none has failed or passed against its declaration."""
        return bool(self.results) and all(r.outcome in ("passed", "gap", "skipped") for r in self.results)

    def summary(self) -> str:
        """A line of figures, then one for each check that did not simply pass."""
        counts = Counter(result.outcome for result in self.results)
        figures = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        lines = [f"{self.url}: {len(self.results)} checks, {figures or 'nothing was run'}"]
        lines += [f"  {r.outcome}: {r.name}: {r.message}" for r in self.results if r.outcome != "passed"]
        lines += [f"  left behind: {url}" for url in self.left]
        return "\n".join(lines)


def check_store(
    url: str | StoreURL,
    *,
    tests: Sequence[str] = (),
    quick: bool = False,
    expected_failures: Mapping[str, str] | None = None,
    on_result: Callable[[CheckResult], None] | None = None,
    on_start: Callable[[str, int], None] | None = None,
) -> CheckReport:
    """Run the kit in throw-away collections below a URL.

    Args:
        url: where; its options are used for every collection.
        tests: names of checks, or of their cases; all by default.
        quick: run :data:`QUICK` only, some of each rule.
        expected_failures: declared gaps, as in :class:`knnstore.testing.StoreTests`, beside those that the backend
            declares itself (:meth:`knnstore.Backend.gaps`).
        on_result: called after each check.
        on_start: called before each check, with its name and the number of all checks.

    Raises:
        InvalidInputError: ``tests``, or a declared gap, names a check that does not exist.
        KnnStoreError: the URL cannot be opened at all.
    """
    parsed = StoreURL.parse(url)
    collections(parsed)  # one clear error now instead of the same one from every check
    gaps = {**get_backend(parsed.backend).gaps(parsed), **(expected_failures or {})}
    if unknown := [name for name in gaps if not hasattr(StoreTests, name.partition("[")[0])]:
        raise InvalidInputError("declared gaps", expected="names of checks of the kit", got=str(unknown))
    plugin = _Plugin(parsed, gaps, on_result, on_start)
    named = [*(QUICK if quick else ()), *tests]
    wanted = [f"{_SUITE}::TestStore::{name}" for name in named] or [str(_SUITE)]
    # Nothing of the surroundings: no configuration, no conftest, no plugin that would change how checks run.
    options = [
        "-c",
        os.devnull,
        f"--rootdir={_SUITE.parent}",
        "--noconftest",
        "--import-mode=importlib",
        "--capture=no",
    ]
    options += [f"-pno:{name}" for name in ("cacheprovider", "xdist", "timeout", "randomly", "cov", "logging")]
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = pytest.ExitCode(pytest.main([*options, *wanted], plugins=[plugin]))
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise InvalidInputError("tests", expected="names of checks", got=f"{list(tests)} ({code.name})")
    return CheckReport(str(parsed), plugin.results, plugin.left())


class _Plugin:
    """Hands out places, cleans up behind, and keeps the results."""

    def __init__(
        self,
        url: StoreURL,
        gaps: Mapping[str, str],
        on_result: Callable[[CheckResult], None] | None,
        on_start: Callable[[str, int], None] | None,
    ) -> None:
        self._url, self._gaps, self._on_result, self._on_start = url, gaps, on_result, on_start
        self._total = 0
        self._prefix = f"check_{uuid.uuid4().hex[:8]}"
        self._places: list[StoreURL] = []
        self.results: list[CheckResult] = []

    @pytest.fixture
    def live_location(self) -> Iterator[StoreURL]:
        """A place where nothing is, emptied afterwards."""
        place = self._url.child(f"{self._prefix}_{len(self._places)}")
        self._places.append(place)
        yield place
        for url in collections(place):
            with open_store(url) as store:
                ids = [value for records in store.scan(fields=[]) for value in records.ids]
                store.delete(ids)
            remove_empty(url)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Count the checks and apply the declared gaps."""
        self._total = len(items)
        for item in items:
            reason = self._gaps.get(item.name) or self._gaps.get(item.name.partition("[")[0])
            if reason:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Say which check comes now."""
        if self._on_start is not None:
            self._on_start(nodeid.rpartition("::")[2], self._total)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the result of a check; of its setup and its cleaning up only if they fail."""
        if report.when != "call" and report.passed:
            return
        name = report.nodeid.rpartition("::")[2] + (" (cleaning up)" if report.when == "teardown" else "")
        message = self._url.redact(_message(report))[:_MOST]  # in this order: half a secret is not seen
        result = CheckResult(name, _outcome(report), message)
        self.results.append(result)
        if self._on_result is not None:
            self._on_result(result)

    def left(self) -> list[str]:
        """Collections that are still there."""
        try:
            return [str(url) for place in self._places for url in collections(place)]
        except KnnStoreError as error:
            return [f"could not be listed: {error}"]


def _outcome(report: pytest.TestReport) -> Outcome:
    declared = hasattr(report, "wasxfail") or "XPASS(strict)" in str(report.longrepr)
    if report.passed:
        return "passed"
    if report.failed:
        return "gap closed" if declared else "failed"
    return "gap" if declared else "skipped"


def _message(report: pytest.TestReport) -> str:
    """The reason in a line: the exception, or what was declared."""
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail)
    crash = getattr(getattr(report, "longrepr", None), "reprcrash", None)
    if crash is not None:
        return str(crash.message).replace("\n", " ")
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2])
    return str(report.longrepr or "")[-_MOST:]
