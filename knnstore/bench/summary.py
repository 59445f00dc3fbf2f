"""The figures of a report: a row for each backend, and the columns that the table and the page show."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from knnstore.bench.results import BackendRun, Detail, Report
from knnstore.url import StoreURL

__all__ = ["ENOUGH", "Column", "Row", "Spread", "best_of", "columns", "rows", "size"]

ENOUGH = 0.95
"""Recall below which a backend is not called the fastest: it is quick because it does not look."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Of several timings, in seconds: the median, the 95th percentile, and how many there were."""

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
        drift: slowest over fastest of the medians of the rounds.
        server: the data lives in another process.
        details: what the backend reports.
        failure: why it went no further, "" if it did.
        left: why its collection is still there, "" if it is not.
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
    drift: float | None
    server: bool
    details: tuple[Detail, ...]
    failure: str
    left: str

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
    medians = [statistics.median(each.single) for each in run.rounds if each.single]
    return Row(
        label=run.label,
        url=run.url,
        engine=f"{parsed.backend}+{parsed.variant}" if parsed.variant else parsed.backend,
        recall=quality.recall if quality else None,
        filtered_recall=quality.filtered if quality else None,
        single=_spread(list(chain.from_iterable(each.single for each in run.rounds))),
        batch=_spread([seconds / queries for each in run.rounds for seconds in each.batch]),
        filtered=_spread(list(chain.from_iterable(each.filtered for each in run.rounds))),
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
        drift=max(medians) / min(medians) if medians else None,
        server=opened is not None and opened.server,
        details=run.footprint.details if run.footprint else (),
        failure=f"at {run.failure.step}: {run.failure.error}" if run.failure else "",
        left=run.left or "",
    )


def _memory(run: BackendRun) -> int | None:
    """What this process grew by, less the client library; of a server, what it tells."""
    if run.footprint is None or run.opened is None:
        return None
    return run.footprint.in_memory if run.opened.server else max(run.footprint.process - run.opened.process, 0)


def _spread(seconds: Sequence[float]) -> Spread | None:
    if not seconds:
        return None
    return Spread(statistics.median(seconds), float(np.percentile(seconds, 95)), len(seconds))


# -- columns -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of each row.

    Args:
        title: above it.
        unit: below the title, or "".
        value: of a row; None where there is none.
        text: of a value.
        lower_is_better: which is best; None where no one is.
        missing: of a row without a value.
        only_good: the best is sought among those with enough recall.
    """

    title: str
    unit: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    lower_is_better: bool | None = True
    missing: Callable[[Row], str] = lambda _: "–"
    only_good: bool = False


def columns(report: Report, shown: Sequence[Row]) -> list[Column]:
    """The columns of the table, the answer first."""
    k, queries = report.work.k, report.work.queries
    single, batch = _fastest(shown, _single), _fastest(shown, _batch)
    found = [
        Column(f"recall@{k}", "share found", lambda row: row.recall, "{:.3f}".format, False),
        Column("1 query", "ms, median", _single, _significant, only_good=True),
        Column("1 query", "ms, p95", _slow, _significant, only_good=True),
        Column("1 query", "× fastest", lambda row: _over(_single(row), single), _ratio, None),
        Column(f"{queries} queries", "ms each", _batch, _significant, only_good=True),
        Column(f"{queries} queries", "× fastest", lambda row: _over(_batch(row), batch), _ratio, None),
        Column("filtered", "ms, median", _filtered, _significant, only_good=True),
        Column("filtered", f"recall@{k}", lambda row: row.filtered_recall, "{:.3f}".format, False),
        Column("load", "records/s", lambda row: row.load_rate, "{:,.0f}".format, False),
        Column("ready", "s, in all", lambda row: row.ready, _significant),
        Column("reopen", "s", lambda row: row.reopen, _significant, missing=_not_kept),
        Column("delete", "records/s", lambda row: row.delete_rate, "{:,.0f}".format, False),
        Column("disk", "MB", lambda row: _mega(row.disk), _significant, missing=_not_told),
        Column("memory", "MB", lambda row: _mega(row.memory), _significant, missing=_not_told),
    ]  # fmt: skip
    return [column for column in found if report.work.filter or column.title != "filtered"]


def _single(row: Row) -> float | None:
    return 1e3 * row.single.median if row.single else None


def _slow(row: Row) -> float | None:
    return 1e3 * row.single.p95 if row.single else None


def _batch(row: Row) -> float | None:
    return 1e3 * row.batch.median if row.batch else None


def _filtered(row: Row) -> float | None:
    return 1e3 * row.filtered.median if row.filtered else None


def _fastest(shown: Sequence[Row], value: Callable[[Row], float | None]) -> float | None:
    times = [time for row in shown if (row.recall or 0) >= ENOUGH and (time := value(row)) is not None]
    return min(times, default=None)


def best_of(column: Column, shown: Sequence[Row]) -> float | None:
    """The best value of a column; None where it says nothing, as where all are equal."""
    good = [row for row in shown if not column.only_good or (row.recall or 0) >= ENOUGH]
    values = [value for row in good if (value := column.value(row)) is not None]
    if column.lower_is_better is None or len(set(values)) < 2:
        return None
    return min(values) if column.lower_is_better else max(values)


# -- texts -------------------------------------------------------------------------------------------------------------


def size(count: int | None) -> str:
    """Bytes for people."""
    return "not told" if count is None else f"{_significant(count / 1e6)} MB"


def _significant(value: float) -> str:
    """Three digits that count."""
    digits = max(0, 2 - int(np.floor(np.log10(value)))) if value > 0 else 0
    return f"{value:,.{min(digits, 4)}f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _over(value: float | None, least: float | None) -> float | None:
    return None if value is None or least is None else value / least


def _mega(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _not_told(row: Row) -> str:
    if row.kept is None or row.failure:
        return "–"
    return "not told"


def _not_kept(row: Row) -> str:
    return "not kept" if row.kept is False else "–"
