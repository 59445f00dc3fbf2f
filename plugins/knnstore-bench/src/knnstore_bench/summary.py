"""The figures of a report: a row for each backend."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from knnstore.url import StoreURL
from knnstore_bench.results import BackendRun, Detail, Quality, Report

__all__ = ["ENOUGH", "Ratio", "Row", "Spread", "enough", "fastest", "ratio", "rows", "significant", "size"]

ENOUGH = 0.95
"""Recall below which a backend is not called the fastest: it is quick because it does not look."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several timings, in seconds: the median (of those of the rounds), the 95th percentile, how many there were."""

    median: float
    p95: float
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """One backend. None is "not measured" or "not told".

    Args:
        label: its name.
        url: where, without secrets.
        engine: the scheme.
        recall: among all records.
        filtered_recall: among those that match the filter.
        single: one query.
        batch: one query of a batch.
        filtered: one query with the filter.
        load: seconds to write all records.
        first_answer: seconds from there to the first answer.
        optimize: seconds to optimise.
        load_rate: records a second.
        reopen: seconds from closing to the first answer of the reopened store.
        kept: whether it is there after the process ends; None before it has been opened.
        disk: bytes.
        memory: bytes that the records take in memory.
        library: bytes that opening an empty collection takes in this process.
        delete_rate: records a second, by id.
        single_rounds: the median of each round, one query.
        batch_rounds: the same, one query of a batch.
        server: the data lives in another process.
        details: what the backend reports.
        failure: why it went no further, "" if it did.
        left: why its collection is still there, "" if it is not.
        fresh_recall: before it was optimised, among all records or among those that match, whichever is less.
        indexed: share of the records that an approximate index covers; None where there is none.
    """

    label: str
    url: str
    engine: str
    recall: float | None
    filtered_recall: float | None
    single: Spread | None
    batch: Spread | None
    filtered: Spread | None
    load: float | None
    first_answer: float | None
    optimize: float | None
    load_rate: float | None
    reopen: float | None
    kept: bool | None
    disk: int | None
    memory: int | None
    library: int | None
    delete_rate: float | None
    single_rounds: tuple[float, ...]
    batch_rounds: tuple[float, ...]
    server: bool
    details: tuple[Detail, ...]
    failure: str
    left: str
    fresh_recall: float | None
    indexed: float | None

    @property
    def ready(self) -> float | None:
        """Seconds from the first record sent to searching at full speed."""
        if self.load is None or self.first_answer is None or self.optimize is None:
            return None
        return self.load + self.first_answer + self.optimize


def rows(report: Report) -> list[Row]:
    """A row for each backend, in order."""
    return [_row(run, report.work.queries) for run in report.backends]


def _row(run: BackendRun, queries: int) -> Row:
    parsed = StoreURL.parse(run.url)
    loaded, deleted, opened, quality = run.loaded, run.deleted, run.opened, run.quality
    return Row(
        label=run.label,
        url=run.url,
        engine=f"{parsed.backend}+{parsed.variant}" if parsed.variant else parsed.backend,
        recall=quality.recall if quality else None,
        filtered_recall=quality.filtered if quality else None,
        single=_spread([each.single for each in run.rounds]),
        batch=_spread([[seconds / queries for seconds in each.batch] for each in run.rounds]),
        filtered=_spread([each.filtered for each in run.rounds]),
        load=loaded.seconds if loaded else None,
        first_answer=run.first_answer,
        optimize=run.optimized,
        load_rate=loaded.records / loaded.seconds if loaded else None,
        reopen=statistics.median(run.reopened) if run.reopened else None,
        kept=opened.persistent if opened else None,
        disk=run.footprint.on_disk if run.footprint else None,
        memory=_memory(run),
        library=None if opened is None or opened.server else opened.process,
        delete_rate=deleted.by_id / deleted.by_id_seconds if deleted else None,
        single_rounds=tuple(statistics.median(each.single) for each in run.rounds),
        batch_rounds=tuple(statistics.median(each.batch) / queries for each in run.rounds),
        server=opened is not None and opened.server,
        details=run.footprint.details if run.footprint else (),
        failure=f"at {run.failure.step}: {run.failure.error}" if run.failure else "",
        left=run.left or "",
        fresh_recall=_least(run.fresh),
        indexed=_indexed(run),
    )


def _least(quality: Quality | None) -> float | None:
    return None if quality is None else min(quality.recall, 1.0 if quality.filtered is None else quality.filtered)


def _indexed(run: BackendRun) -> float | None:
    if run.quality is None or run.quality.indexed is None or run.loaded is None:
        return None
    return run.quality.indexed / run.loaded.records


def _memory(run: BackendRun) -> int | None:
    """What this process grew by, less the client library; of a server, what it tells."""
    if run.footprint is None or run.opened is None:
        return None
    return run.footprint.in_memory if run.opened.server else max(run.footprint.process - run.opened.process, 0)


def _spread(rounds: Sequence[Sequence[float]]) -> Spread | None:
    """The median is that of the medians of the rounds, from which the ratios are taken too: the two never disagree."""
    every = list(chain.from_iterable(rounds))
    if not every:
        return None
    middle = statistics.median(statistics.median(each) for each in rounds if each)
    return Spread(middle, float(np.percentile(every, 95)), len(every))


# -- ratios ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long as another: the ratio of the medians, and what the middle half of the rounds spans.

    Both were measured in every round, so a machine that is slower for a while hardly widens the span.
    """

    median: float
    low: float
    high: float


def fastest(shown: Sequence[Row], rounds: Callable[[Row], tuple[float, ...]]) -> Row | None:
    """The fastest of those that find enough; None where none does.

    By the median over the rounds, as it is shown; whoever reads the table can tell as much.

    Args:
        shown: all of them.
        rounds: the timing, by round.
    """
    good = [row for row in shown if enough(row) and rounds(row)]
    if not good:
        return None
    return min(good, key=lambda row: statistics.median(rounds(row)))


def enough(row: Row) -> bool:
    """Whether it finds enough of the true neighbours to be compared by its speed."""
    return row.recall is not None and row.recall >= ENOUGH


def ratio(row: Row, other: Row | None, rounds: Callable[[Row], tuple[float, ...]]) -> Ratio | None:
    """Of two rows; None where one of them was not measured."""
    if other is None or not rounds(row):
        return None
    each = [a / b for a, b in zip(rounds(row), rounds(other), strict=False)]
    low, high = np.percentile(each, [25, 75]).tolist()
    of_medians = statistics.median(rounds(row)) / statistics.median(rounds(other))
    return Ratio(of_medians, min(low, of_medians), max(high, of_medians))


# -- texts -------------------------------------------------------------------------------------------------------------


def significant(value: float) -> str:
    """Three digits that count, four decimals at most."""
    digits = max(0, 2 - int(np.floor(np.log10(value)))) if value > 0 else 0
    return f"{value:,.{min(digits, 4)}f}"


def size(count: int | None) -> str:
    """Bytes for people."""
    return "not told" if count is None else f"{significant(count / 1e6)} MB"
