"""What ``continual.py`` has measured, as tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure

__all__ = ["Row", "page", "picture"]

Row: TypeAlias = dict[str, Any]
"""One way after one step with one seed; and one for the check by the whole pipeline."""
COLUMNS = {
    "old": "old", "new": "new", "all": "all", "backward": "backward transfer", "forgetting": "forgetting",
    "changed": "changed, %", "moved": "moved, %",
}  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """The tables of all sets in Markdown."""
    return "\n".join(line for name, result in results.items() for line in _set(name, result))


def _set(name: str, result: dict[str, Any]) -> list[str]:
    facts, chosen, rows = result["facts"], result["chosen"], [row for row in result["rows"] if row["way"] != "check"]
    last, ways = max(row["step"] for row in rows), list(dict.fromkeys(row["way"] for row in rows))
    lines = [f"### {name}", ""]
    lines += [
        f"{sum(facts['groups'])} classes in steps of {', '.join(map(str, facts['groups']))}, {facts['seeds']} seeds; "
        f"{facts['reference']} images to learn from, {facts['query']} to answer; keys of {facts['dim']} numbers; "
        f"{facts['epochs']} epochs a step; rates of SGD {chosen['head']:g} for the head and {chosen['block']:g} for "
        f"the block, weight of LwF {chosen['distil']:g}, with the block "
        f"{chosen['distil with the block']:g}. Regions, features and base took {facts['looking']:.1f} "
        "seconds an image.", "",
        _checked([row for row in result["rows"] if row["way"] == "check"]), "",
        "After the last step; what changed and moved is the mean over the steps:", "",
        "| | " + " | ".join(COLUMNS.values()) + " | kept, KB | seconds a concept |",
        "|---|" + "---|" * (len(COLUMNS) + 2),
    ]  # fmt: skip
    for way in ways:
        own = [row for row in rows if row["way"] == way]
        final = [row for row in own if row["step"] == max(r["step"] for r in own)]
        cells = [_told(own if column in ("changed", "moved") else final, column) for column in COLUMNS]
        cells[1] = "" if way.startswith("joint") else cells[1]  # all classes are new to it
        cells += [f"{np.mean([row['bytes'] for row in final]) / 1000:.0f}"]
        cells += [f"{np.mean([row['seconds'] for row in own]):.2f}"]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    lines += ["", "Mean IoU of all classes seen, after each step:", ""]
    lines += ["| | " + " | ".join(f"step {n + 1}" for n in range(last + 1)) + " |", "|---|" + "---|" * (last + 1)]
    for way in (way for way in ways if not way.startswith("joint")):
        by_step = ([row for row in rows if row["way"] == way and row["step"] == n] for n in range(last + 1))
        lines.append(f"| {way} | " + " | ".join(_told(own, "all") for own in by_step) + " |")
    return [*lines, "", f"![{name}: mean IoU after each step, and what changed](assets/continual-{name}.png)", ""]


def _checked(checks: list[Row]) -> str:
    exact = "stayed the same to the bit" if all(row["exact"] for row in checks) else "did NOT stay the same"
    return (
        f"By the whole pipeline, {sum(row['compared'] for row in checks)} times an image before and after a step: the "
        f"probabilities of old classes {exact}; its maps agree with those measured here on "
        f"{np.mean([row['agree'] for row in checks]):.1f} % of the pixels."
    )


def _told(rows: list[Row], column: str) -> str:
    """The mean over the seeds and its spread."""
    seeds = {row["seed"] for row in rows if column in row}
    values = [np.mean([row[column] for row in rows if row["seed"] == seed and column in row]) for seed in seeds]
    return f"{np.mean(values):.1f} ± {np.std(values):.1f}" if values else ""


def picture(rows: list[Row], name: str, path: Path) -> None:
    """Mean IoU of the old and of all classes, and what changed, over the steps."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    shown = {
        "old": "mean IoU of old classes",
        "all": "mean IoU of all classes seen",
        "changed": "old pixels changed, %",
    }
    ways = list(dict.fromkeys(row["way"] for row in rows if row["way"] != "check"))
    for axis, (column, title) in zip(figure.subplots(1, 3), shown.items(), strict=True):
        for way in ways:
            own = [row for row in rows if row["way"] == way and column in row]
            numbers = sorted({row["step"] for row in own})
            values = [np.mean([row[column] for row in own if row["step"] == step]) for step in numbers]
            look = {"label": way, "color": _colour(way), "linestyle": "--" if "block" in way else "-"}
            if way.startswith("joint") and column == "all":
                axis.axhline(values[0], lw=1, **look)
            elif not way.startswith("joint"):
                wide = 2.6 if way.startswith("ours") else 1.2
                axis.plot([step + 1 for step in numbers], values, marker="o", ms=3, lw=wide, **look)
        axis.set_title(f"{name}: {title}", fontsize=9)
        axis.set_xlabel("after step", fontsize=8)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=7)
    figure.legend(*figure.axes[1].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    figure.savefig(path, dpi=110)


def _colour(way: str) -> str:
    """One for each way; the head alone and the head with the block have the same, in another kind of line."""
    colours = {
        "joint": "0.6", "ours with": "C2", "ours": "C3", "head from": "C4", "base": "k", "class means": "C1",
        "replay": "C5", "LwF": "C9", "head": "C0",
    }  # fmt: skip
    return next(colour for part, colour in colours.items() if way.startswith(part) or way.endswith(part))
