"""Every step of every backend, recorded at once. A step that is recorded is not made again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from knnstore._plugins import get_backend
from knnstore.errors import InvalidInputError
from knnstore.url import StoreURL
from knnstore_bench import journal
from knnstore_bench.labels import labels
from knnstore_bench.machine import this_machine
from knnstore_bench.results import FORMAT, BackendRun, Failure, Report, Round, Work
from knnstore_bench.session import Session
from knnstore_bench.steps import CLOSING, LOADING, OPENING, Lane, Step, measure_round
from knnstore_bench.truth import find_truth
from knnstore_bench.worker import StepFailedError, Worker
from knnstore_bench.workload import Workload

__all__ = ["RESULTS", "Plan", "Progress", "run_bench"]

RESULTS = "bench.json"
"""Name of the file of results, in the folder of a run."""
_UNREMOVED = "not removed yet"


class Progress(Protocol):
    """Whoever watches."""

    def start(self, steps: int, done: int) -> None:
        """There are so many steps in all, and some have been made by an earlier run."""

    def at(self, label: str, step: str) -> None:
        """A step begins."""

    def part(self, text: str) -> None:
        """It has come so far."""

    def done(self) -> None:
        """It is recorded."""

    def say(self, text: str) -> None:
        """Something worth reading."""


class _Silent:
    def start(self, steps: int, done: int) -> None: ...
    def at(self, label: str, step: str) -> None: ...
    def part(self, text: str) -> None: ...
    def done(self) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is measured.

    Args:
        k: hits of each query.
        rounds: turns of each backend.
        batch: records of one upsert and of one delete.
        fresh: forget the results of an earlier run in the same folder.

    Raises:
        InvalidInputError: a number below 1.
    """

    k: int = 10
    rounds: int = 10
    batch: int = 1000
    fresh: bool = False

    def __post_init__(self) -> None:
        for name in ("k", "rounds", "batch"):
            if getattr(self, name) < 1:
                raise InvalidInputError(name, expected="a whole number of at least 1", got=getattr(self, name))


def run_bench(
    urls: Sequence[str | StoreURL], workload: Workload, folder: Path, plan: Plan | None = None,
    progress: Progress | None = None,
) -> Report:  # fmt: skip
    """Measure each backend, in a collection of its own below the URL, which is removed afterwards.

    The results are in ``bench.json`` in the folder after each step. Calling it again goes on from there; what failed is
    tried again.

    Args:
        urls: the backends; their options are part of what is compared.
        workload: what is stored and asked.
        folder: for the results; made where it is not there.
        plan: how.
        progress: told what happens.

    Raises:
        InvalidInputError: a URL that makes no sense; results of other work, or another run, in the folder.
        UnknownBackendError: a backend that is not installed.
    """
    places = [StoreURL.parse(url) for url in urls]
    for place in places:
        get_backend(place.backend)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "bench.lock", timeout=0):
            return _Runner(places, workload, folder / RESULTS, plan or Plan(), progress or _Silent()).run()
    except Timeout:
        raise InvalidInputError(
            f"{folder}", expected="no other run in it", got="one at work", hint="Take another folder with --out."
        ) from None


class _Runner:
    def __init__(self, urls: list[StoreURL], workload: Workload, path: Path, plan: Plan, progress: Progress) -> None:
        self._urls, self._workload, self._path, self._plan, self._progress = urls, workload, path, plan, progress
        self._steps = len((*OPENING, *LOADING, *CLOSING)) + plan.rounds
        self._report = self._begun()
        everything = workload.matching | True
        truths = find_truth(workload, plan.k, everything), find_truth(workload, plan.k, workload.matching)
        self._lanes = [
            Lane(url.child(run.collection), run, workload, truths, plan.batch, progress.part)
            for url, run in zip(urls, self._report.backends, strict=True)
        ]

    def _begun(self) -> Report:
        """The results of an earlier run of the same work, or none yet."""
        new, old = self._empty(), journal.load(self._path)
        if old is None:
            return new
        if self._plan.fresh:
            self._remove_old(old)
            return new
        journal.check_same(old, new, self._path)
        return replace(old, backends=tuple(replace(run, failure=None) for run in old.backends))

    def _empty(self) -> Report:
        workload, token = self._workload, secrets.token_hex(4)
        work = Work(
            source=workload.source, digest=workload.digest, records=len(workload), dim=workload.spec.dim,
            metric=workload.spec.metric, queries=len(workload.queries), k=self._plan.k,
            filter="" if workload.where is None else repr(workload.where),
            filter_share=round(float(workload.matching.mean()), 4), rounds=self._plan.rounds, batch=self._plan.batch,
            urls=tuple(str(url) for url in self._urls),
        )  # fmt: skip
        names = zip(self._urls, labels(self._urls), strict=True)
        runs = tuple(BackendRun(str(url), label, f"bench_{token}_{i}") for i, (url, label) in enumerate(names))
        started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return Report(FORMAT, started, work, this_machine(self._urls), runs)

    def _remove_old(self, old: Report) -> None:
        """Collections that an interrupted run has left: they can be removed only where its URL is given again."""
        given = {str(url): url for url in self._urls}
        for run in old.backends:
            if run.left is not None and run.url in given:
                worker = Worker(given[run.url].child(run.collection), self._workload.spec)
                run = _removed(run, worker)
                worker.stop()
            self._say_left(run)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self) -> Report:
        try:
            if any(_made(lane.run) < self._steps for lane in self._lanes):
                self._measure()
            self._remove()
        finally:
            for lane in self._lanes:
                lane.stop()
        return self._report

    def _measure(self) -> None:
        for lane in self._lanes:
            if _made(lane.run) < self._steps:
                lane.run = replace(lane.run, left=_UNREMOVED)
        self._save()  # before there is anything to remove, so that its name is known whatever happens
        self._progress.start(self._steps * len(self._lanes), sum(_made(lane.run) for lane in self._lanes))
        self._once(OPENING)
        self._once(LOADING)
        for number in range(self._plan.rounds):
            turn = number % len(self._lanes)  # no backend always comes after the same one
            for lane in self._lanes[turn:] + self._lanes[:turn]:
                if len(lane.run.rounds) == number:
                    title = f"round {number + 1} of {self._plan.rounds}"
                    self._make(lane, title, "rounds", _next_round)
        self._once(CLOSING)

    def _once(self, steps: tuple[Step, ...]) -> None:
        for lane in self._lanes:
            for step in steps:
                if getattr(lane.run, step.name) is None:
                    self._make(lane, step.title, step.name, step.measure)

    def _make(self, lane: Lane, title: str, field: str, measure: Callable[[Lane], Any]) -> None:
        """One step: measured and recorded, or the reason why not."""
        if lane.run.failure is not None:
            return
        self._progress.at(lane.run.label, title)
        try:
            lane.run = replace(lane.run, **{field: measure(lane)})
        except StepFailedError as error:
            lane.run = replace(lane.run, failure=Failure(title, str(error)))
            self._progress.say(f"{lane.run.label} failed at {title}: {error}")
            lane.stop()
        self._save()
        self._progress.done()

    def _remove(self) -> None:
        for lane in self._lanes:
            if lane.run.left is not None:
                self._progress.at(lane.run.label, "removing")
                lane.run = _removed(lane.run, lane.any_worker)
                self._save()
                self._say_left(lane.run)

    def _say_left(self, run: BackendRun) -> None:
        if run.left is not None:
            self._progress.say(f"left behind: {run.collection} below {run.url}: {run.left}")

    def _save(self) -> None:
        self._report = replace(self._report, backends=tuple(lane.run for lane in self._lanes))
        journal.save(self._report, self._path)


def _next_round(lane: Lane) -> tuple[Round, ...]:
    return (*lane.run.rounds, measure_round(lane, len(lane.run.rounds)))


def _made(run: BackendRun) -> int:
    """Steps that are recorded."""
    once = (step.name for step in (*OPENING, *LOADING, *CLOSING))
    return sum(getattr(run, name) is not None for name in once) + len(run.rounds)


def _removed(run: BackendRun, worker: Worker) -> BackendRun:
    """Remove the collection of a backend, and say so or why not."""
    try:
        gone = worker.call(Session.remove)
    except StepFailedError as error:
        return replace(run, left=None if run.opened is None else str(error))  # never opened: there is none
    return replace(run, left=None if gone else "empty now, but this backend cannot remove it")
