"""What the table and the page show of each backend, and the answer in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from knnstore_bench.results import Report
from knnstore_bench.summary import ENOUGH, Ratio, Row, enough, fastest, ratio, significant

__all__ = ["Column", "Verdict", "columns", "is_best", "verdicts"]

_Rounds: TypeAlias = Callable[[Row], tuple[float, ...]]

_CLOSE = 1.1
"""Ratios up to this are too small to decide by."""


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of each row.

    Args:
        title: above it.
        unit: below the title.
        value: of a row; None where there is none.
        text: of a value.
        lower_is_better: which is best; None where no one is.
        missing: of a row without a value.
        note: of a row, in small print.
        among: which rows the best is sought among.
        best: whether a row is among the best, where that is not a matter of the least or the greatest value.
    """

    title: str
    unit: str
    value: Callable[[Row], float | None]
    text: Callable[[float], str]
    lower_is_better: bool | None = True
    missing: Callable[[Row], str] = lambda _: "–"
    note: Callable[[Row], str] = lambda _: ""
    among: Callable[[Row], bool] = lambda _: True
    best: Callable[[Row], bool] | None = None


def columns(report: Report, shown: Sequence[Row]) -> list[Column]:
    """The columns of the table, the answer first."""
    k, queries = report.work.k, report.work.queries
    share = "{:.3f}".format
    found = [
        Column(f"recall@{k}", "share found", lambda row: row.recall, share, False),
        Column("1 query", "ms, median", _single, significant, None),
        Column("1 query", "ms, p95", _slow, significant, None),
        _relative("1 query", shown, lambda row: row.single_rounds),
        Column(f"{queries} queries", "ms each", _batch, significant, None),
        _relative(f"{queries} queries", shown, lambda row: row.batch_rounds),
        Column("filtered", "ms, median", _filtered, significant, among=_enough_filtered),
        Column("filtered", f"recall@{k}", lambda row: row.filtered_recall, share, False),
        Column("before optimize()", f"recall@{k}", lambda row: row.fresh_recall, share, False),
        Column("indexed", "share of records", lambda row: row.indexed, share, None),
        Column("load", "records/s", lambda row: row.load_rate, "{:,.0f}".format, False),
        Column("ready", "s, in all", lambda row: row.ready, significant),
        Column("reopen", "s", lambda row: row.reopen, significant, missing=_not_kept),
        Column("delete", "records/s", lambda row: row.delete_rate, "{:,.0f}".format, False),
        Column("disk", "MB", lambda row: _mega(row.disk), significant, missing=_not_told),
        Column("memory", "MB", lambda row: _mega(row.memory), significant, missing=_not_told),
    ]
    return [column for column in found if report.work.filter or column.title != "filtered"]


def is_best(column: Column, row: Row, shown: Sequence[Row]) -> bool:
    """Whether a row is the best of a column; no one is where all are equal."""
    if column.best is not None:
        return column.best(row)
    good = [each for each in shown if column.among(each)]
    values = [value for each in good if (value := column.value(each)) is not None]
    if column.lower_is_better is None or len(set(values)) < 2:
        return False
    return column.among(row) and column.value(row) == (min(values) if column.lower_is_better else max(values))


def _relative(title: str, shown: Sequence[Row], rounds: _Rounds) -> Column:
    """The ratio to the fastest, with its spread over the rounds below it."""
    best = fastest(shown, rounds)

    def of(row: Row) -> Ratio | None:
        return ratio(row, best, rounds)

    def value(row: Row) -> float | None:
        found = of(row)
        return None if found is None else found.median

    def note(row: Row) -> str:
        found = of(row)
        return "" if found is None or row is best else f"{_times(found.low)}–{_times(found.high)}"

    def close(row: Row) -> bool:
        found = of(row)
        return found is not None and enough(row) and found.low <= _CLOSE

    return Column(title, "× fastest", value, _times, note=note, best=close)


def _single(row: Row) -> float | None:
    return 1e3 * row.single.median if row.single else None


def _slow(row: Row) -> float | None:
    return 1e3 * row.single.p95 if row.single else None


def _batch(row: Row) -> float | None:
    return 1e3 * row.batch.median if row.batch else None


def _filtered(row: Row) -> float | None:
    return 1e3 * row.filtered.median if row.filtered else None


def _enough_filtered(row: Row) -> bool:
    return row.filtered_recall is not None and row.filtered_recall >= ENOUGH


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _mega(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _not_told(row: Row) -> str:
    return "–" if row.kept is None or row.failure else "not told"


def _not_kept(row: Row) -> str:
    return "not kept" if row.kept is False else "–"


# -- in short ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """A question and the answer that the figures give."""

    question: str
    answer: str


def verdicts(report: Report, shown: Sequence[Row]) -> list[Verdict]:
    """The answer in a few lines; who is not clearly behind the best is named with it."""
    queries = report.work.queries
    lossy = [row.label for row in shown if row.filtered_recall is not None and not _enough_filtered(row)]
    small = [row.label for row in shown if row.recall == 1 and row.indexed == 0]
    found = [
        Verdict("Misses many when filtering", ", ".join(lossy)) if lossy else None,
        Verdict("Exact here", ", ".join(row.label for row in shown if row.recall == 1 and row.indexed != 0) or "none"),
        Verdict("Exact only while so few are stored that nothing is indexed", ", ".join(small)) if small else None,
        _speed("Fastest, one query at a time", shown, lambda row: row.single_rounds),
        _speed(f"Fastest, {queries} queries at once", shown, lambda row: row.batch_rounds),
        _least("Ready soonest", shown, lambda row: row.ready, lambda value: f"{significant(value)} s"),
        _least("Least memory", shown, lambda row: _mega(row.memory), _as_megabytes),
        _least("Least disk", shown, lambda row: _mega(row.disk), _as_megabytes),
    ]
    return [verdict for verdict in found if verdict is not None]


def _as_megabytes(value: float) -> str:
    return f"{significant(value)} MB"


def _speed(question: str, shown: Sequence[Row], rounds: _Rounds) -> Verdict | None:
    best = fastest(shown, rounds)
    if best is None:
        return None
    ratios = [(row.label, ratio(row, best, rounds)) for row in shown if row is not best and enough(row)]
    close = [label for label, each in ratios if each is not None and each.low <= _CLOSE]
    return Verdict(question, best.label + _also(close))


def _least(
    question: str, shown: Sequence[Row], value: Callable[[Row], float | None], text: Callable[[float], str]
) -> Verdict | None:
    known = [(found, row.label) for row in shown if (found := value(row)) is not None]
    if len(known) < 2:
        return None
    least, label = min(known)
    close = [other for found, other in known if other != label and found <= _CLOSE * least]
    return Verdict(question, f"{label}, {text(least)}{_also(close)}")


def _also(labels: Sequence[str]) -> str:
    return f"; not clearly behind it: {', '.join(labels)}" if labels else ""
