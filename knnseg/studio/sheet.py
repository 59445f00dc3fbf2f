"""The evidence for every segment of an image as one HTML file with everything in it. Jinja escapes names and paths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from knnseg.database.originals import Originals
from knnseg.result import Segmentation
from knnseg.segmenter import Segmenter
from knnseg.studio.evidence import SegmentEvidence, Voter, evidence, when
from knnseg.studio.pictures import Crops, cut_out, data_uri, jpeg, shrunk

__all__ = ["write_sheet"]

_SIDE = 900
"""Pixels of the longer side of the picture."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment: its picture, why it has its class, and each voter with its picture, "" where that is not found."""

    picture: str
    thing: bool
    share: float
    why: SegmentEvidence
    voters: tuple[tuple[Voter, str], ...]


def write_sheet(
    segmenter: Segmenter, result: Segmentation, path: Path, *, images: Path | None = None, most: int = 60
) -> int:
    """Write it.

    Args:
        segmenter: what has segmented.
        result: what it returned.
        path: where to.
        images: a folder to look in for photographs of examples that are not where they were.
        most: segments that are explained, at most, the largest first.

    Returns:
        How many segments are explained.
    """
    segments = sorted(result.segments_info, key=lambda segment: -segment.area)[:most]
    crops = None if segmenter.database is None else Crops(segmenter.database.store, Originals(images))
    parts = [_part(segmenter, result, segment.id, crops) for segment in segments]
    environment = Environment(
        loader=PackageLoader("knnseg.studio", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["when"] = when
    page = environment.get_template("sheet.html.jinja").render(
        name=Path(result.source).name or "an image", parts=parts, left=len(result.segments_info) - len(parts),
        photograph=data_uri(jpeg(shrunk(result.image, _SIDE))), degraded=result.degraded,
        overlay=data_uri(jpeg(shrunk(np.asarray(result.overlay(legend=True).convert("RGB")), _SIDE))),
    )  # fmt: skip
    path.write_text(page, encoding="utf-8", errors="backslashreplace")
    return len(parts)


def _part(segmenter: Segmenter, result: Segmentation, number: int, crops: Crops | None) -> _Part:
    segment, why = result.segment(number), evidence(segmenter, result, number)
    picture = data_uri(jpeg(cut_out(result.image, result.panoptic == number, segment.box)))
    pictures = [crops.picture(voter.id) if crops else None for voter in why.voters]
    voters = tuple((v, data_uri(p) if p else "") for v, p in zip(why.voters, pictures, strict=True))
    return _Part(picture, segment.thing, segment.area / result.panoptic.size, why, voters)
