"""The page of a report: one HTML file with everything in it. Jinja escapes whatever comes from names and paths.

Its pictures show single classes: an image that shows well what happened to one, as photograph, truth, base and final.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from knnseg.data.annotations import LabelledImage
from knnseg.data.arrays import IGNORE, ImageArray
from knnseg.drawing import colours, data_uri, outlined, overlay
from knnseg.errors import skipping
from knnseg.evaluation.counts import Counts, without_unknown
from knnseg.evaluation.report import MEANS, Report, Standing, standings
from knnseg.evaluation.run import base_painting
from knnseg.segmenter import Segmenter

__all__ = ["Kind", "Panel", "Picture", "choose", "draw", "write_page"]

Kind: TypeAlias = Literal["improved", "worsened", "worst"]
"""What a picture is to show."""

SIDE = 420
"""Pixels of the longer side of a panel, at most."""
LEGEND = 12
"""Classes in a legend, at most."""
SHARE = 0.01
"""A class that takes less of every map is not in the legend."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One of the four: its title, and a JPEG as a data URI."""

    title: str
    source: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of one class.

    Args:
        image: where the image comes from.
        panels: photograph, truth, base, and with the database.
        legend: class names with CSS colours; the class in question first.
        width: of a panel, pixels.
        height: of a panel, pixels.
    """

    image: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...]
    width: int
    height: int


def choose(report: Report, name: str, kind: Kind) -> int:
    """The place of the image, of those that have the class, where most pixels tell the story.

    For ``"improved"`` that is where retrieval has mended most wrong pixels of the class, missed or invented; for
    ``"worsened"`` where it has added most; for ``"worst"`` where most are wrong in the end.
    """
    c = report.vocabulary.names.index(name)

    def told(i: int) -> tuple[bool, int]:
        counts = report.counts[i]
        base, final = _wrong(counts.base, c), _wrong(counts.final, c)
        pixels = {"improved": base - final, "worsened": final - base, "worst": final}[kind]
        return bool((counts.final.pixels[:, 0] == c).any()), pixels

    return report.counts[max(range(len(report.counts)), key=told)].place


def _wrong(counts: Counts, c: int) -> int:
    truth, predicted, pixels = counts.pixels.T
    return int(pixels[(truth == c) != (predicted == c)].sum())


def draw(segmenter: Segmenter, example: LabelledImage, report: Report, name: str) -> Picture:
    """Segment the image again and draw the four panels, in colours of their own that are far apart."""
    vocabulary = report.vocabulary
    result = segmenter.predict(example.image, vocabulary)
    predicted = (base_painting(result, segmenter).semantic, result.semantic)
    maps = [example.semantic(vocabulary.names), *(without_unknown(one, vocabulary) for one in predicted)]
    shown, shares = _by_area(maps, vocabulary.names.index(name), len(vocabulary))
    photograph, small = _shrunk(example.image, maps)
    place = np.full(len(vocabulary) + 1, IGNORE, np.int32)  # the last is for IGNORE
    place[shown] = np.arange(len(shown))
    names = [vocabulary.names[c] for c in shown]
    painted = [overlay(photograph, place[one], names, legend=False) for one in small]
    titles = ("photograph", "truth", "base", "with retrieval")
    marked = Image.fromarray(outlined(photograph, small[0] == shown[0]))
    panels = [Panel(t, data_uri(p)) for t, p in zip(titles, [marked, *painted], strict=True)]
    table = colours(len(shown)).tolist()
    main = [i for i in range(len(shown)) if i == 0 or shares[i] >= SHARE][:LEGEND]
    legend = tuple((names[i], "#{:02x}{:02x}{:02x}".format(*table[i])) for i in main)
    return Picture(example.uri or example.image_id, tuple(panels), legend, photograph.shape[1], photograph.shape[0])


def _by_area(maps: Sequence[NDArray[np.int32]], first: int, count: int) -> tuple[list[int], list[float]]:
    """The classes of the maps, the one in question first, then by area; and the largest share of each in one map."""
    shares = np.max([np.bincount(one[one != IGNORE], minlength=count) / one.size for one in maps], axis=0)
    order = sorted(np.flatnonzero(shares).tolist(), key=lambda c: (c != first, -shares[c]))
    return order, shares[order].tolist()


def _shrunk(image: ImageArray, maps: Sequence[NDArray[np.int32]]) -> tuple[ImageArray, list[NDArray[np.int32]]]:
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), np.uint8)
    small = [Image.fromarray(one).resize(size, Image.Resampling.NEAREST) for one in maps]
    return picture, [np.asarray(one, np.int32) for one in small]


_COLUMNS = {
    "iou": "IoU", "accuracy": "accuracy", "boundary_iou": "boundary IoU", "pq": "PQ", "sq": "SQ", "rq": "RQ", "ap": "AP"
}  # fmt: skip


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
