"""The measurements, by name. Each takes a backend's lane and returns what is recorded for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnstore.url import StoreURL
from knnstore_bench.results import BackendRun, Deleted, Footprint, Loaded, Opened, Quality, Round
from knnstore_bench.session import Search, Session
from knnstore_bench.truth import Truth
from knnstore_bench.worker import StepFailedError, Worker
from knnstore_bench.workload import Workload

__all__ = ["CLOSING", "LOADING", "OPENING", "Lane", "Step", "measure_round"]

_SINGLE, _BATCHES, _FILTERED = 20, 2, 10  # searches of one round
_REOPENINGS = 3
_DELETED = 0.1


class Lane:
    """One backend on its way through the steps, with the process that has it open.

    Args:
        url: of its collection, secrets and all.
        run: what has been measured.
        workload: what is stored and asked.
        truths: the right answers without and with the filter.
        batch: records of one upsert and of one delete.
        watch: told how far a long step has come.
    """

    def __init__(
        self, url: StoreURL, run: BackendRun, workload: Workload, truths: tuple[Truth, Truth], batch: int,
        watch: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.url, self.run, self.workload, self.batch, self.watch = url, run, workload, batch, watch
        self.truth, self.filtered_truth = truths
        self.plain = Search(self.truth.k, workload.shown)
        self.filtered = Search(self.truth.k, workload.shown, workload.where)
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker:
        """The process; a new one makes up for what its predecessor has lost or was in the middle of."""
        fresh = self._worker is None
        worker = self.any_worker
        if fresh and self.run.loaded is not None and self.run.deleted is None:
            self._complete(worker)
        return worker

    @property
    def any_worker(self) -> Worker:
        """The process, in whatever state the collection is."""
        if self._worker is None:
            self._worker = Worker(self.url, self.workload.spec)
        return self._worker

    def _complete(self, worker: Worker) -> None:
        if worker.call(Session.count) != len(self.workload):
            for batch in self.workload.batches(self.batch):
                worker.call(Session.add_missing, batch)
            worker.call(Session.flush)
            if self.run.optimized is not None:
                worker.call(Session.optimize)

    def stop(self) -> None:
        """End the process; the next step starts another."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


@dataclass(frozen=True, slots=True)
class Step:
    """A measurement that is made once.

    Args:
        title: for people.
        name: the attribute of :class:`BackendRun` that it fills.
        measure: makes it.
    """

    title: str
    name: str
    measure: Callable[[Lane], object]


def _open(lane: Lane) -> Opened:
    return lane.worker.call(Session.open)


def _load(lane: Lane) -> Loaded:
    worker = lane.worker
    if worker.call(Session.count):  # half a load of a run that was killed
        worker.call(Session.empty)
    seconds, sent = 0.0, 0
    for batch in lane.workload.batches(lane.batch):
        seconds += worker.call(Session.upsert, batch)
        sent += len(batch)
        lane.watch(f"{sent:,} of {len(lane.workload):,} records")
    seconds += worker.call(Session.flush)
    there = worker.call(Session.count)
    if there != len(lane.workload):
        raise StepFailedError(f"after loading: expected {len(lane.workload)} records, got {there}")
    return Loaded(seconds, there)


def _first_answer(lane: Lane) -> float:
    return sum(lane.worker.call(Session.search, lane.workload.queries[:1], lane.plain, size=1))


def _optimize(lane: Lane) -> float:
    return lane.worker.call(Session.optimize)


def measure_round(lane: Lane, number: int) -> Round:
    """One turn of searches. The queries of a turn are others than those of the turn before.

    Args:
        lane: the backend.
        number: of the turn, from 0.
    """
    worker, queries = lane.worker, np.roll(lane.workload.queries, -number * _SINGLE, axis=0)
    worker.call(Session.search, queries[-1:], lane.plain, size=1)  # after the others' turns the caches hold theirs
    single = worker.call(Session.search, queries[:_SINGLE], lane.plain, size=1)
    many = np.concatenate([queries] * _BATCHES)
    batch = worker.call(Session.search, many, lane.plain, size=len(queries))
    if lane.workload.where is None:
        return Round(single, batch, ())
    worker.call(Session.search, queries[-1:], lane.filtered, size=1)
    return Round(single, batch, worker.call(Session.search, queries[:_FILTERED], lane.filtered, size=1))


def _quality(lane: Lane) -> Quality:
    recall = _recall(lane, lane.plain, lane.truth)
    filtered = None if lane.workload.where is None else _recall(lane, lane.filtered, lane.filtered_truth)
    return Quality(recall, filtered, lane.worker.call(Session.indexed))


def _recall(lane: Lane, asked: Search, truth: Truth) -> float:
    found = lane.worker.call(Session.answer, lane.workload.queries, asked)
    try:
        return truth.recall(lane.workload, found)
    except ValueError as error:
        how = "" if asked.where is None else " with the filter"
        raise StepFailedError(f"wrong answers{how}: {error}") from error


def _footprint(lane: Lane) -> Footprint:
    assert lane.run.opened is not None  # the first step
    if lane.run.opened.persistent:
        lane.stop()  # what loading has left in memory does not belong to what searching needs
    lane.worker.call(Session.answer, lane.workload.queries, lane.plain)
    return lane.worker.call(Session.footprint)


def _reopen(lane: Lane) -> tuple[float, ...]:
    assert lane.run.opened is not None  # the first step
    if not lane.run.opened.persistent:
        return ()
    query = lane.workload.queries[:1]
    return tuple(lane.worker.call(Session.reopen, query, lane.plain) for _ in range(_REOPENINGS))


def _delete(lane: Lane) -> Deleted:
    workload, worker = lane.workload, lane.worker
    rows = np.random.default_rng(0).permutation(len(workload))[: int(_DELETED * len(workload))]
    by_id = sum(worker.call(Session.delete_ids, batch.ids) for batch in workload.batches(lane.batch, rows))
    left = np.ones(len(workload), np.bool_)
    left[rows] = False
    matching = left & workload.matching if workload.where is not None else np.zeros_like(left)
    by_filter = 0.0 if workload.where is None else worker.call(Session.delete_where, workload.where)
    _check_gone(lane, left & ~matching)
    return Deleted(len(rows), by_id, int(matching.sum()), by_filter)


def _check_gone(lane: Lane, left: NDArray[np.bool_]) -> None:
    """Timing a delete that does not delete would be pointless."""
    there = lane.worker.call(Session.count)
    if there != left.sum():
        raise StepFailedError(f"after deleting: expected {left.sum()} records, got {there}")
    kept = {value for value, stays in zip(lane.workload.ids, left.tolist(), strict=True) if stays}
    found = set(lane.worker.call(Session.answer, lane.workload.queries, lane.plain).ravel().tolist()) - {""}
    if found - kept:
        raise StepFailedError(f"a search finds {sorted(found - kept)[0]!r}, which was deleted")


OPENING = (Step("opening", "opened", _open),)
"""Made by all backends before anything else, so that a URL that does not work is known at once."""
LOADING = (
    Step("loading", "loaded", _load), Step("first answer", "first_answer", _first_answer),
    Step("recall before optimizing", "fresh", _quality), Step("optimizing", "optimized", _optimize),
)  # fmt: skip
"""Made by one backend after another: an engine that goes on working in the background would gain from taking turns."""
CLOSING = (
    Step("recall", "quality", _quality), Step("footprint", "footprint", _footprint),
    Step("reopening", "reopened", _reopen), Step("deleting", "deleted", _delete),
)  # fmt: skip
"""Made after the searches."""
