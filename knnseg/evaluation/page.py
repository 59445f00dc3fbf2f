"""The page of a report: one HTML file with everything in it. Jinja escapes whatever comes from names and paths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from knnseg.data.annotations import LabelledImage
from knnseg.errors import skipping
from knnseg.evaluation.pictures import Kind, Picture, choose, draw
from knnseg.evaluation.report import MEANS, Report
from knnseg.evaluation.standings import Standing, standings
from knnseg.segmenter import Segmenter

__all__ = ["write_page"]

_COLUMNS = {"iou": "IoU", "accuracy": "accuracy", "pq": "PQ", "sq": "SQ", "rq": "RQ", "ap": "AP"}


@dataclass(frozen=True, slots=True)
class _Story:
    standing: Standing
    picture: Picture


def write_page(
    report: Report,
    segmenter: Segmenter,
    examples: Sequence[LabelledImage],
    settings: Mapping[str, Any],
    path: Path,
    *,
    pictures: int = 6,
) -> None:
    """Write it.

    Args:
        report: what was measured.
        segmenter: what was measured with; the images that are shown are segmented again.
        examples: what was measured on, all of it.
        settings: of :func:`knnseg.evaluation.settings_of`, shown at the end.
        path: where to.
        pictures: how many classes of each kind are shown as pictures.
    """
    result = report.to_dict()
    chosen = standings(result, pictures)
    kinds: dict[Kind, tuple[Standing, ...]] = {
        "improved": chosen.improved,
        "worst": chosen.worst,
        "worsened": chosen.worsened,
    }
    stories: dict[Kind, list[_Story]] = {kind: [] for kind in kinds}
    for kind, listed in kinds.items():
        for s in listed:
            with skipping([]):  # an image that has gone since costs its picture, not the page
                example = examples[choose(report, s.name, kind)]
                stories[kind].append(_Story(s, draw(segmenter, example, report, s.name)))
    environment = Environment(
        loader=PackageLoader("knnseg.evaluation", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": _percent, "gain": _gain, "pretty": _pretty}
    page = environment.get_template("report.html.jinja").render(
        result=result, means=MEANS, columns=_COLUMNS, stories=stories, settings=settings,
        rows=_rows(result), compared=settings["store"] is not None,
    )  # fmt: skip
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The classes that occur, those that gain most first; without a gain in the order of the vocabulary."""
    rows = [
        {"name": name, "label": label, **{kind: result[kind]["per_class"][name] for kind in ("base", "final")}}
        for name, label in result["labels"].items()
        if label["pixels"]
    ]  # fmt: skip
    return sorted(rows, key=lambda row: row["base"]["iou"] - row["final"]["iou"])


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _gain(base: float | None, final: float | None) -> str:
    return "" if base is None or final is None else f"{100 * (final - base):+.1f}"


def _pretty(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
