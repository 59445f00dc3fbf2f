"""The answer in a terminal: a line for each figure and a column for each backend, as there are more figures."""

from __future__ import annotations

from itertools import groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from knnstore_bench.columns import columns, is_best
from knnstore_bench.results import Report
from knnstore_bench.summary import rows

__all__ = ["as_table"]


def as_table(report: Report) -> RenderableType:
    """The figures of every backend, the best of each in bold, and below them what failed."""
    shown = rows(report)
    table = Table(title=_title(report), title_justify="left")
    table.add_column("", no_wrap=True)
    for row in shown:
        table.add_column(Text(row.label), justify="right", overflow="fold")
    for _, group in groupby(columns(report, shown), key=lambda column: column.title):
        members = list(group)
        for column in members:
            cells = []
            for row in shown:
                value = column.value(row)
                text = column.missing(row) if value is None else column.text(value)
                cells.append(Text(text, "bold" if is_best(column, row, shown) else ""))
            table.add_row(f"{column.title}, {column.unit}", *cells, end_section=column is members[-1])
    notes = [Text(f"{row.label} failed {row.failure}") for row in shown if row.failure]
    notes += [Text(f"{row.label}: its collection is still there: {row.left}") for row in shown if row.left]
    return Group(table, *notes)


def _title(report: Report) -> str:
    work = report.work
    return f"{work.records:,} vectors of {work.dim} numbers, {work.metric}, k={work.k}"
