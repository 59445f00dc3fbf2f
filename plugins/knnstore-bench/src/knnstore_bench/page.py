"""The page: one HTML file with everything in it. Jinja escapes whatever comes from URLs, backends and errors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from knnstore_bench.columns import Column, columns, is_best, verdicts
from knnstore_bench.plots import make_plots
from knnstore_bench.results import Report
from knnstore_bench.summary import ENOUGH, Row, rows, size

__all__ = ["as_page", "write_page"]


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    best: bool
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Heading:
    """Neighbouring columns of one title."""

    title: str
    width: int


def write_page(report: Report, path: Path) -> None:
    """Write the page of a report."""
    path.write_text(as_page(report), encoding="utf-8")


def as_page(report: Report) -> str:
    """The page of a report, as HTML."""
    shown = rows(report)
    found = columns(report, shown)
    raw_bytes = 4 * report.work.records * report.work.dim
    environment = Environment(
        loader=PackageLoader("knnstore_bench", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["size"] = size
    plots = make_plots(shown, report.work.k, report.work.queries, raw_bytes)
    return environment.get_template("page.html.jinja").render(
        report=report,
        work=report.work,
        machine=report.machine,
        rows=shown,
        columns=found,
        headings=[_Heading(title, len(list(group))) for title, group in groupby(found, key=lambda c: c.title)],
        table=[(row, [_cell(column, row, shown) for column in found]) for row in shown],
        plots=[(plot, Markup(plot.svg)) for plot in plots],  # noqa: S704  # matplotlib has escaped the text in it
        enough=f"{ENOUGH:.0%}".replace("%", " %"),
        raw=size(raw_bytes),
        verdicts=verdicts(report, shown),
        served=any(row.server for row in shown),
    )


def _cell(column: Column, row: Row, shown: list[Row]) -> _Cell:
    value = column.value(row)
    if value is None:
        return _Cell(column.missing(row), best=False)
    return _Cell(column.text(value), best=is_best(column, row, shown), note=column.note(row))
