"""The plots of the page, as SVG that is part of it: no file, no script, no font from elsewhere.

Text and lines take the colour of the page, light or dark; the colours of the engines are legible on both. Labels stand
beside their points, and none covers another.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from knnstore_bench.summary import Row, Spread

__all__ = ["Plot", "make_plots", "place_labels"]

_TEXT, _LINE = "#010203", "#040506"
"""Stand-ins that become the colours of the page."""
_COLOURS = {
    "memory": "#7d8590", "faiss": "#2f81d0", "milvus": "#12917a", "qdrant": "#d6446c", "qdrant+edge": "#c2700a",
}  # fmt: skip
_OTHERS = ("#5f8f1e", "#b04fb0", "#a0713a", "#3a8fa8")
_STYLE: Any = {
    "text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "knnstore", "font.size": 10, "text.color": _TEXT,
    "axes.edgecolor": _LINE, "axes.labelcolor": _TEXT, "xtick.color": _TEXT, "ytick.color": _TEXT, "grid.color": _LINE,
    "grid.alpha": 0.35, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
}  # fmt: skip
_WIDTH = 7.0
_SPREAD_NOTE = "A dot is the median, its line ends at the 95th percentile: one search in twenty takes longer."
_LOAD_NOTE = "Shorter is better. Full colour: writing; paler: until the first answer; palest: optimising."
_RAW_NOTE = "Shorter is better. The dashed line is what the vectors alone take."


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot.

    Args:
        title: what it shows.
        note: how to read it.
        svg: an ``<svg>`` element.
    """

    title: str
    note: str
    svg: str


def make_plots(rows: Sequence[Row], k: int, queries: int, raw_bytes: int) -> list[Plot]:
    """The plots for which there is something to show.

    Args:
        rows: of the table.
        k: hits of each query.
        queries: of a batch.
        raw_bytes: of the vectors alone.
    """
    made = [
        _plot("Recall against latency, one query at a time", "Up and to the left is better.", rows,
              lambda row: row.single and row.recall is not None,
              lambda axes, some: _scatter(axes, some, k, lambda row: row.single), 4.2),
        _plot(f"Recall against latency, {queries} queries at once", "Up and to the left is better.", rows,
              lambda row: row.batch and row.recall is not None,
              lambda axes, some: _scatter(axes, some, k, lambda row: row.batch), 4.2),
        _plot("Latency of one query", _SPREAD_NOTE, rows, lambda row: row.single,
              lambda axes, some: _ranges(axes, some, lambda row: row.single)),
        _plot("Latency of one query with the filter", _SPREAD_NOTE, rows, lambda row: row.filtered,
              lambda axes, some: _ranges(axes, some, lambda row: row.filtered)),
        _plot("Load: from the first record to searching at full speed", _LOAD_NOTE, rows,
              lambda row: row.ready is not None, _load),
        _plot("Memory", f"{_RAW_NOTE} Full colour: the records; pale: the client library.", rows,
              lambda row: row.kept is not None, lambda axes, some: _memory(axes, some, raw_bytes)),
        _plot("Disk", _RAW_NOTE, rows,
              lambda row: row.kept, lambda axes, some: _disk(axes, some, raw_bytes)),
    ]  # fmt: skip
    return [plot for plot in made if plot is not None]


def _plot(
    title: str, note: str, rows: Sequence[Row], shown: Callable[[Row], object],
    draw: Callable[[Axes, list[Row]], None], height: float = 0,
) -> Plot | None:  # fmt: skip
    some = [row for row in rows if shown(row) and not (row.failure and row.recall is None)]
    if not some:
        return None
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height or 1.0 + 0.36 * len(some)), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure.add_subplot(), some)
        written = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", transparent=True, metadata=nothing)
    return Plot(title, note, _inline(written.getvalue(), title))


def _inline(svg: str, title: str) -> str:
    """An element that can stand in a page: its ids are its own, its colours those of the page."""
    element = svg[svg.index("<svg") :].strip()
    prefix = re.sub(r"\W+", "-", title.lower())
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", element)
    element = re.sub(r' (width|height)="[\d.]+pt"', "", element, count=2)
    element = re.sub(r' xmlns(:xlink)?="[^"]*"', "", element)  # a page knows them
    element = re.sub(r"font(-family)?: (\d+px )?'DejaVu Sans'[^;\"]*", _font, element)
    element = element.replace("<svg ", '<svg aria-hidden="true" ', 1)  # the table says the same
    return element.replace(_TEXT, "currentColor").replace(_LINE, "var(--line)")


def _font(found: re.Match[str]) -> str:
    size = found[2]
    return f"font-size: {size.strip()}; font-family: inherit" if size else "font-family: inherit"


def _colours(rows: Sequence[Row]) -> list[str]:
    """A colour for each engine."""
    unknown = sorted({row.engine for row in rows} - set(_COLOURS))
    known = _COLOURS | {engine: _OTHERS[i % len(_OTHERS)] for i, engine in enumerate(unknown)}
    return [known[row.engine] for row in rows]


# -- recall against latency --------------------------------------------------------------------------------------------


def _scatter(axes: Axes, rows: list[Row], k: int, timing: Callable[[Row], Spread | None]) -> None:
    points = [(1e3 * spread.median, row.recall) for row in rows if (spread := timing(row)) and row.recall is not None]
    times, recalls = [time for time, _ in points], [recall for _, recall in points]
    axes.scatter(times, recalls, s=48, color=_colours(rows), zorder=3)
    spread = (max(times) / min(times)) ** 0.4
    _logarithmic(axes, min(times) / (3.6 * spread), max(times) * 2 * spread)  # with room for labels on either side
    low = min(recalls)
    margin = max(0.12 * (1 - low), 0.005)
    axes.set_ylim(low - margin, 1 + 1.2 * margin)
    axes.set_xlabel("ms a query (median)")
    axes.set_ylabel(f"recall@{k}")
    axes.grid(visible=True)
    place_labels(axes, points, [row.label for row in rows], _LINE)


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    """A logarithmic x axis with plain numbers on it."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    near = high / low < 500
    for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        which(FuncFormatter(lambda value, _: f"{value:g}" if near and f"{value:g}".strip("0.")[0] in "125" else ""))
    if not near:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


# -- bars --------------------------------------------------------------------------------------------------------------


def _named(axes: Axes, rows: list[Row], unit: str) -> None:
    axes.set_yticks(range(len(rows)), [row.label for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(unit)


def _ranges(axes: Axes, rows: list[Row], timing: Callable[[Row], Spread | None]) -> None:
    spreads = [spread for row in rows if (spread := timing(row))]
    for at, (spread, colour) in enumerate(zip(spreads, _colours(rows), strict=True)):
        axes.plot([1e3 * spread.median, 1e3 * spread.p95], [at, at], color=colour, linewidth=2.5)
        axes.plot([1e3 * spread.median], [at], "o", color=colour, markersize=7)
        text = f"{1e3 * spread.median:.3g} – {1e3 * spread.p95:.3g}"
        axes.annotate(text, (1e3 * spread.p95, at), (8, 0), textcoords="offset points", va="center", color=_TEXT)
    low, high = min(each.median for each in spreads), max(each.p95 for each in spreads)
    _logarithmic(axes, 1e3 * low / 1.5, 1e3 * high * (high / low) ** 0.25 * 1.8)
    _named(axes, rows, "ms")


def _load(axes: Axes, rows: list[Row]) -> None:
    colours = _colours(rows)
    left = [0.0] * len(rows)
    for name, alpha in (("load", 1.0), ("first_answer", 0.6), ("optimize", 0.3)):
        widths = [getattr(row, name) for row in rows]
        axes.barh(range(len(rows)), widths, left=left, height=0.6, color=colours, alpha=alpha)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    _valued(axes, left, [f"{value:.3g} s" for value in left])
    _named(axes, rows, "seconds")


def _memory(axes: Axes, rows: list[Row], raw_bytes: int) -> None:
    colours = _colours(rows)
    records, library = [(row.memory or 0) / 1e6 for row in rows], [(row.library or 0) / 1e6 for row in rows]
    axes.barh(range(len(rows)), records, height=0.6, color=colours)
    axes.barh(range(len(rows)), library, left=records, height=0.6, color=colours, alpha=0.35)
    ends = [a + b for a, b in zip(records, library, strict=True)]
    texts = [_megabytes(row.memory, row.library) for row in rows]
    axes.axvline(raw_bytes / 1e6, color=_TEXT, linestyle="--", linewidth=1)
    _valued(axes, [*ends, raw_bytes / 1e6], texts)
    _named(axes, rows, "MB")


def _megabytes(records: int | None, library: int | None) -> str:
    if records is None:
        return "not told"
    return f"{records / 1e6:,.0f}" + ("" if library is None else f" + {library / 1e6:,.0f}")


def _disk(axes: Axes, rows: list[Row], raw_bytes: int) -> None:
    ends = [(row.disk or 0) / 1e6 for row in rows]
    axes.barh(range(len(rows)), ends, height=0.6, color=_colours(rows))
    axes.axvline(raw_bytes / 1e6, color=_TEXT, linestyle="--", linewidth=1)
    _valued(axes, [*ends, raw_bytes / 1e6], [_megabytes(row.disk, None) for row in rows])
    _named(axes, rows, "MB")


def _valued(axes: Axes, ends: Sequence[float], texts: Sequence[str]) -> None:
    """A figure at the end of each bar, and room for it."""
    for at, text in enumerate(texts):
        axes.annotate(text, (ends[at], at), (6, 0), textcoords="offset points", va="center", color=_TEXT)
    axes.set_xlim(0, 1.22 * max(ends))


_FONT = 8.5
_RADIUS = 6.0
_STEPS = (0, 13, -13, 26, -26, 39, -39, 52, -52, 65, -65, 78, -78, 91, -91)  # points up and down


def place_labels(axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str], line: str) -> None:
    """Write each label right or left of its point, as near as there is room, with a line where it is not near.

    Args:
        axes: with its limits and its own labels set.
        points: (x, y) of each, in data.
        labels: a text for each.
        line: colour of the lines.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None  # the axes are drawn on one
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]  # matplotlib leaves it untyped
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    dots: list[tuple[float, float]] = [tuple(axes.transData.transform(point)) for point in points]
    taken = [Bbox.from_extents(x - scale * 5, y - scale * 5, x + scale * 5, y + scale * 5) for x, y in dots]
    inside = axes.get_window_extent(renderer)
    # From the top: labels that have to give way go down, where there is more room.
    for i in sorted(range(len(points)), key=lambda i: (-points[i][1], points[i][0])):
        text = axes.annotate(labels[i], points[i], (0, 0), textcoords="offset points", va="center", fontsize=_FONT)
        width = text.get_window_extent(renderer).width
        offset = _free(dots[i], width, 12 * scale, scale, taken, inside)
        text.remove()
        arrow = {"arrowstyle": "-", "color": line, "linewidth": 0.8} if abs(offset[1]) > 13 else None
        axes.annotate(
            labels[i], points[i], (offset[0], offset[1]), textcoords="offset points", va="center", fontsize=_FONT,
            ha="left" if offset[0] > 0 else "right", arrowprops=arrow,
        )  # fmt: skip
        taken.append(_box(dots[i], width, 12 * scale, scale, offset))


def _free(
    dot: tuple[float, float], width: float, height: float, scale: float, taken: list[Bbox], inside: Bbox
) -> tuple[float, float]:
    """The first place, in points from the dot, where the label covers nothing; the nearest one if there is none."""
    places = [(side * (_RADIUS + abs(step) / 4), float(step)) for step in _STEPS for side in (1, -1)]
    for place in places:
        box = _box(dot, width, height, scale, place)
        fits = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
        if fits and not any(box.overlaps(other) for other in taken):
            return place
    return places[0]


def _box(dot: tuple[float, float], width: float, height: float, scale: float, place: tuple[float, float]) -> Bbox:
    x, y = dot[0] + scale * place[0], dot[1] + scale * place[1]
    left = x if place[0] > 0 else x - width
    return Bbox.from_extents(left, y - height / 2, left + width, y + height / 2)
