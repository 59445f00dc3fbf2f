"""Equation 2: the nearest examples of each mask, among the concepts that are asked for."""

from __future__ import annotations

import numpy as np

from knnseg.data.features import Embeddings
from knnseg.data.scores import Neighbours
from knnseg.data.vocabulary import Vocabulary
from knnseg.database.inventory import Inventory, Looking, named
from knnseg.database.parts import WHOLE
from knnstore import EmbeddingStore, F, Filter

__all__ = ["nearest"]

_SPARE = 64
"""Deleted examples up to which a search asks for as many more, instead of leaving them out by a filter."""


def nearest(
    store: EmbeddingStore,
    looking: Looking,
    embeddings: Embeddings,
    k: int,
    vocabulary: Vocabulary | None = None,
    exclude_image: str = "",
    parts: bool = True,
) -> Neighbours:
    """See :meth:`knnseg.ConceptDatabase.neighbours`."""
    seen = looking.now()
    keys = seen.keys_of(None if vocabulary is None else vocabulary.names)
    where, spare = seen.restriction(keys), 0
    if where is not None and _fits(store, k + (hidden := seen.hidden_beside(keys))) and 0 < hidden <= _SPARE:
        where, spare = None, hidden  # a few deleted examples are no reason to search behind a filter
    others = [] if not exclude_image else [F("image_hash") != exclude_image]
    others += [WHOLE] if seen.parts and not parts else []
    found, short = _found(store, seen, embeddings, k, spare, where, others)
    if not short and np.isin(found.labels, ["", *seen.names_of(keys)]).all():
        return found
    # Since the look somebody has added another class, which a filter that only leaves out did not know of, or has
    # deleted more.
    return _found(store, looking.now(), embeddings, k, 0, F("label").isin(keys), others)[0]


def _fits(store: EmbeddingStore, k: int) -> bool:
    return store.capabilities.max_k is None or k <= store.capabilities.max_k


def _found(
    store: EmbeddingStore, seen: Inventory, embeddings: Embeddings, k: int, spare: int, where: Filter | None,
    others: list[Filter],
) -> tuple[Neighbours, bool]:  # fmt: skip
    """The k nearest among k and some to spare, and whether more of those than that turned out to be deleted."""
    for other in others:
        where = other if where is None else where & other
    asked = embeddings.vectors.any(axis=1)
    hits = store.search(embeddings.vectors[asked], k + spare, where=where, fields=["label", "coverage"])
    there = hits.ids != ""
    names = np.full(hits.ids.shape, "", object)
    names[there] = named(seen.names, seen.names.corrected(hits.ids[there], hits.fields["label"][there]))
    seen_at_all = names != ""
    order = np.argsort(~seen_at_all, axis=1, kind="stable")[:, :k]
    shape = (len(embeddings), k)
    ids, labels = np.full(shape, "", object), np.full(shape, "", object)
    scores = np.full(shape, -np.inf, np.float32)
    ids[asked] = np.take_along_axis(np.where(seen_at_all, hits.ids, ""), order, 1)
    scores[asked] = np.take_along_axis(np.where(seen_at_all, hits.scores, np.float32(-np.inf)), order, 1)
    labels[asked] = np.take_along_axis(names, order, 1)
    sizes, covers = np.ones(shape, np.float32), embeddings.coverage[asked, None]
    ratio = np.ones(hits.ids.shape)
    np.divide(hits.fields["coverage"], covers, out=ratio, where=seen_at_all & (covers > 0))
    sizes[asked] = np.take_along_axis(ratio, order, 1)
    short = there.all(axis=1) & (seen_at_all.sum(axis=1) < k)
    return Neighbours(ids, scores, labels, sizes), bool(short.any())
