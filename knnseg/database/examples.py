"""Single examples, to be looked at: which there are, and what each of them is."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from knnseg.data.image import Image
from knnseg.database.inventory import Inventory, named
from knnseg.database.parts import WHOLE
from knnseg.errors import ConfigError, VocabularyError
from knnseg.later import batched
from knnstore import EmbeddingStore, F, Filter, Records

__all__ = ["SHORT", "Example", "Examples", "full_ids", "listed", "wanted"]

SHORT = 10
"""Digits of an id that are shown, which is enough to tell a million examples apart."""

_BOX = ("x0", "y0", "x1", "y1")
_FIELDS = ["label", "thing", "image", "image_hash", *_BOX, "area", "coverage", "writer", "added", "whole"]
_AT_ONCE = 1024
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled mask that the database knows.

    Args:
        id: the same in every embedding space.
        concept: what it shows, by the name that the concept has now.
        thing: a countable object, as was said when it was added.
        image: where its image was, a URI; "" where nobody said.
        image_hash: SHA-256 of the pixels of that image.
        box: x0, y0, x1, y1 of the mask, in pixels; the last two exclusive.
        area: of the mask, in pixels.
        coverage: of the mask, in cells of the features.
        writer: who added it; "" where nobody said.
        added: when, as seconds since the epoch.
    """

    id: str
    concept: str
    thing: bool
    image: str
    image_hash: str
    box: tuple[int, int, int, int]
    area: int
    coverage: float
    writer: str
    added: float


@dataclass(frozen=True, slots=True, eq=False)
class Examples(Sequence[Example]):
    """Examples as columns of N; a sequence of :class:`Example` too.

    Args:
        id: object (N,), str.
        concept: object (N,), str.
        thing: bool (N,).
        image: object (N,), str.
        image_hash: object (N,), str.
        box: int64 (N, 4).
        area: int64 (N,).
        coverage: float64 (N,).
        writer: object (N,), str.
        added: float64 (N,), seconds since the epoch.
    """

    id: NDArray[np.object_]
    concept: NDArray[np.object_]
    thing: NDArray[np.bool_]
    image: NDArray[np.object_]
    image_hash: NDArray[np.object_]
    box: NDArray[np.int64]
    area: NDArray[np.int64]
    coverage: NDArray[np.float64]
    writer: NDArray[np.object_]
    added: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.id)

    @overload
    def __getitem__(self, place: int) -> Example: ...

    @overload
    def __getitem__(self, place: slice) -> Examples: ...

    def __getitem__(self, place: int | slice) -> Example | Examples:
        if isinstance(place, slice):
            return Examples(*(column[place] for column in self._columns()))
        values = {field.name: column[place] for field, column in zip(fields(self), self._columns(), strict=True)}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        return Example(**{**plain, "box": tuple(values["box"].tolist())})

    def __repr__(self) -> str:
        return f"<Examples: {len(self)}>"

    def _columns(self) -> Iterator[NDArray[Any]]:
        return (getattr(self, field.name) for field in fields(self))


def wanted(
    seen: Inventory,
    concept: str | None = None,
    writer: str | None = None,
    image: str | PathLike[str] | Image | None = None,
    since: float | datetime | None = None,
) -> Filter:
    """A filter for the examples that are asked for; every argument that is None lets all through.

    Args:
        seen: what is there.
        concept: by the name that it has now.
        writer: who added them.
        image: the image they are of: the URI or path that was kept with it, the SHA-256 of its pixels, or the image.
        since: added then or later: seconds since the epoch, or a time.
    """
    where = F("label").isin(seen.keys_of(None if concept is None else [concept]))
    if writer is not None:
        where &= F("writer") == writer
    if image is not None:
        where &= _of_image(image)
    if since is not None:
        where &= F("added") >= (since.timestamp() if isinstance(since, datetime) else float(since))
    return where


def _of_image(image: str | PathLike[str] | Image) -> Filter:
    if isinstance(image, Image):
        return F("image_hash") == image.content_hash
    text = str(image)
    if _HASH.fullmatch(text):
        return F("image_hash") == text
    return F("image").isin([text] if "://" in text else [text, Path(text).absolute().as_uri()])


def listed(
    store: EmbeddingStore, seen: Inventory, where: Filter, ids: Iterable[str] | None = None, limit: int | None = None
) -> Examples:
    """The newest examples, newest first, and by id where they are of the same moment; parts only by their ids.

    All but their ids and times is only read of those that are returned, and never their vectors or masks.

    Args:
        store: of the database.
        seen: what is there.
        where: which are wanted.
        ids: only these among them.
        limit: how many at most; None for all.
    """
    if limit is not None and limit < 0:
        raise ConfigError("examples", expected="a limit of at least 0", got=limit)
    store.revision()  # what others have written up to now is seen below
    if ids is not None:
        return _read(store, seen, where, ids)[:limit]
    where &= WHOLE
    found = ((-added, identity) for identity, added in _times(store, where))
    order = sorted(found) if limit is None else heapq.nsmallest(limit, found)
    return _read(store, seen, where, (*(identity for _, identity in order), *seen.names.unsettled))[:limit]


def _times(store: EmbeddingStore, where: Filter) -> Iterator[tuple[str, float]]:
    for records in store.scan(where, fields=["added"]):
        yield from zip(records.ids.tolist(), records.fields["added"].tolist(), strict=True)


def _read(store: EmbeddingStore, seen: Inventory, where: Filter, ids: Iterable[str]) -> Examples:
    """Those of some examples that are still what was asked for, newest first."""
    chunks = list(batched(dict.fromkeys(ids), _AT_ONCE)) or [[]]
    records = Records.concatenate([store.get(chunk, fields=_FIELDS, with_vectors=False) for chunk in chunks])
    records.fields["label"][:] = seen.names.corrected(records.ids.tolist(), records.fields["label"].tolist())
    records = records.take(where.mask(records.fields))
    records = records.take(np.lexsort([records.ids.astype(str), -records.fields["added"]]))
    columns = records.fields
    return Examples(
        id=records.ids,
        concept=named(seen.names, columns["label"].tolist()),
        box=np.stack([columns[name] for name in _BOX], axis=1),
        **{name: columns[name] for name in ("thing", "image", "image_hash", "area", "coverage", "writer", "added")},
    )


def full_ids(store: EmbeddingStore, seen: Inventory, given: Iterable[str]) -> list[str]:
    """The ids that begin with each of some texts; a text that is a whole id stands for that one.

    Raises:
        VocabularyError: a text that no id begins with, or more than one.
    """
    texts = list(dict.fromkeys(given))
    there = set(store.get(list(filter(None, texts)), fields=[], with_vectors=False).ids.tolist())
    open_ = {text: list[str]() for text in texts if text not in there}
    if open_:
        for identity, _ in _times(store, wanted(seen)):
            for text, found in open_.items():
                if text and identity.startswith(text):
                    found.append(identity)
    for text, found in open_.items():
        if len(found) != 1:
            got = f"{len(found)}, such as {', '.join(found[:3])}" if found else "none"
            raise VocabularyError(f"example {text!r}", expected="an id, or the beginning of one", got=got)
    return [open_[text][0] if text in open_ else text for text in texts]
