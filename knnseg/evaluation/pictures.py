"""Pictures of single classes: an image that shows well what happened to one, as photograph, truth, base and final."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation

from knnseg.data.annotations import LabelledImage
from knnseg.data.arrays import IGNORE, ImageArray
from knnseg.drawing import colours, overlay
from knnseg.evaluation.counts import Counts, without_unknown
from knnseg.evaluation.report import Report
from knnseg.evaluation.run import base_painting
from knnseg.segmenter import Segmenter

__all__ = ["Kind", "Panel", "Picture", "choose", "draw"]

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
    maps = [example.semantic(vocabulary.names), base_painting(result, segmenter).semantic]
    maps.append(without_unknown(result.semantic, vocabulary))
    shown, shares = _by_area(maps, vocabulary.names.index(name), len(vocabulary))
    photograph, small = _shrunk(example.image, maps)
    place = np.full(len(vocabulary) + 1, IGNORE, np.int32)  # the last is for IGNORE
    place[shown] = np.arange(len(shown))
    names = [vocabulary.names[c] for c in shown]
    painted = [overlay(photograph, place[one], names, legend=False) for one in small]
    titles = ("photograph", "truth", "base", "with retrieval")
    marked = Image.fromarray(_outlined(photograph, small[0] == shown[0]))
    panels = [Panel(t, _data_uri(p)) for t, p in zip(titles, [marked, *painted], strict=True)]
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


def _outlined(image: ImageArray, region: NDArray[np.bool_]) -> ImageArray:
    """The image with a white line around a region, and a black one around that, so that it shows on any ground."""
    outlined = image.copy()
    for radius, colour in ((2, 0), (1, 255)):
        outlined[binary_dilation(region, np.ones((3, 3), bool), radius) & ~region] = colour
    return outlined


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
