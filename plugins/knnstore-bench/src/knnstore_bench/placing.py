"""Labels beside the points of a plot, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

__all__ = ["place_labels"]

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
