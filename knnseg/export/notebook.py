"""A result as a notebook shows it."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING

import numpy as np

from knnseg.drawing import class_colours

if TYPE_CHECKING:
    from knnseg.result import Segmentation

__all__ = ["as_html", "as_png"]

_SIDE = 1024
"""A notebook keeps what it shows, and a page is no wider than this."""


def as_png(result: Segmentation, *, legend: bool = True) -> bytes:
    """The overlay, made smaller where it is large."""
    picture, data = result.overlay(legend=legend), io.BytesIO()
    picture.thumbnail((_SIDE, _SIDE))
    picture.save(data, "PNG")
    return data.getvalue()


def as_html(result: Segmentation) -> str:
    """The overlay, and under it a legend of the classes that occur, by their share of the pixels."""
    names, counts = result.vocabulary.names, np.bincount(result.semantic.reshape(-1) + 1)[1:]
    colours, entries = class_colours(names), []
    for c in sorted(np.flatnonzero(counts).tolist(), key=lambda c: -counts[c]):
        swatch = f"display:inline-block;width:.8em;height:.8em;background:rgb{tuple(colours[c].tolist())}"
        share = f"{counts[c] / result.semantic.size:.0%}"
        entries.append(f'<span><i style="{swatch}"></i> {html.escape(names[c])} {share}</span>')
    data = base64.b64encode(as_png(result, legend=False)).decode("ascii")
    alt = html.escape(", ".join(dict.fromkeys(s.label for s in result.segments_info)))
    said = f"<p>The store was not used: {html.escape(result.degraded)}</p>" if result.degraded else ""
    return (
        f'<figure style="margin:0"><img src="data:image/png;base64,{data}" alt="{alt}" style="max-width:100%">'
        f'<figcaption style="display:flex;flex-wrap:wrap;gap:.2em 1em">{"".join(entries)}</figcaption>{said}</figure>'
    )
