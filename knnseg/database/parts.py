"""Examples in parts: a key for all of a mask, and one for what it covers of each tile of its image.

The key of a large mask is a mean over all that it shows. What is asked about is often only a piece of such a thing, a
stretch of road or the side of a house, and more like that piece of an example than like its mean. So an example that
covers several tiles is also stored in parts. A part is a row of its own, with a mask of its own. It carries the id of
its whole, goes where that goes when somebody corrects it, and is not counted as an example.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from knnseg.data.masks import Masks
from knnseg.database.schema import ImageExamples, boxes_of, identity
from knnseg.later import batched
from knnstore import EmbeddingStore, F

__all__ = ["WHOLE", "families", "with_parts"]

WHOLE = F("whole") == ""
"""What is no part."""
_LEAST = 0.25
"""Of a tile; what covers less of it gives no part there."""
_AT_ONCE = 500
"""Ids in one request."""


def with_parts(examples: ImageExamples, tiles: int) -> ImageExamples:
    """The examples of one image, and behind them the parts of those that cover a quarter of at least two tiles.

    Tiles are about square, and depend on the size of the image alone, so the same mask always has the same parts.

    Args:
        examples: of one image.
        tiles: along its longer side; 0 for no parts.
    """
    masks, (height, width) = examples.masks, examples.masks.size
    if not tiles or not len(masks):
        return examples
    down, across = (max(1, round(side * tiles / max(height, width))) for side in (height, width))
    rows, pixels = masks.matrix.tocoo().coords
    y, x = np.divmod(pixels, width)
    cell = (rows * down + y * down // height) * across + x * across // width
    areas = np.bincount(cell, minlength=len(masks) * down * across)
    kept = areas >= max(1, _LEAST * height * width / (down * across))
    kept &= np.repeat(kept.reshape(len(masks), -1).sum(axis=1) > 1, down * across)
    whole, number = np.flatnonzero(kept) // (down * across), np.cumsum(kept) - 1
    inside = kept[cell]
    parts = Masks.from_pixels(number[cell[inside]], pixels[inside], len(whole), masks.size)
    return _appended(examples, parts, whole.tolist())


def _appended(examples: ImageExamples, parts: Masks, whole: list[int]) -> ImageExamples:
    """The examples and some parts, each of the example at that place."""
    rles = parts.to_rle()
    ids, first = (
        [identity(own[i], rle, "part") for i, rle in zip(whole, rles, strict=True)]
        for own in (examples.ids, examples.first_ids)
    )
    boxes = zip(examples.boxes, boxes_of(rles, parts.size), strict=True)
    return replace(
        examples,
        masks=Masks.concatenate([examples.masks, parts]),
        labels=examples.labels + [examples.labels[i] for i in whole],
        things=examples.things + [examples.things[i] for i in whole],
        rles=examples.rles + rles,
        ids=examples.ids + ids,
        first_ids=examples.first_ids + first,
        boxes=tuple(own + more for own, more in boxes),
        wholes=examples.wholes + [examples.ids[i] for i in whole],
    )


def families(store: EmbeddingStore, ids: Iterable[str]) -> dict[str, list[str]]:
    """What belongs together: each example that is asked for, by itself or by one of its parts, with all its parts.

    Args:
        store: of a concept database.
        ids: of examples and of parts; one that is not there stays, alone.
    """
    store.revision()  # what others have written up to now is seen
    found: dict[str, list[str]] = {}
    for some in batched(ids, _AT_ONCE):
        records = store.get(some, fields=["whole"], with_vectors=False)
        of = dict(zip(records.ids.tolist(), records.fields["whole"].tolist(), strict=True))
        found |= {of.get(one) or one: [] for one in some if (of.get(one) or one) not in found}
    for some in batched(list(found), _AT_ONCE):
        for records in store.scan(F("whole").isin(some), fields=["whole"]):
            for own, whole in zip(records.ids.tolist(), records.fields["whole"].tolist(), strict=True):
                found[whole].append(own)
    return {whole: sorted(parts) for whole, parts in found.items()}
