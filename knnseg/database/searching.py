"""Equation 2: the nearest examples of each mask, among the concepts that are asked for."""

from __future__ import annotations

import numpy as np

from knnseg.data.features import Embeddings
from knnseg.data.scores import Neighbours
from knnseg.data.vocabulary import Vocabulary
from knnseg.database.inventory import Inventory, Looking, named
from knnstore import EmbeddingStore, F, Filter

__all__ = ["nearest"]


def nearest(
    store: EmbeddingStore,
    looking: Looking,
    embeddings: Embeddings,
    k: int,
    vocabulary: Vocabulary | None = None,
    exclude_image: str = "",
) -> Neighbours:
    """See :meth:`knnseg.ConceptDatabase.neighbours`."""
    seen = looking.now()
    keys = seen.keys_of(None if vocabulary is None else vocabulary.names)
    found = _found(store, seen, embeddings, k, seen.restriction(keys), exclude_image)
    if np.isin(found.labels, ["", *seen.names_of(keys)]).all():
        return found
    # Somebody has added another class since the look, which a filter that only leaves out did not know of.
    return _found(store, seen, embeddings, k, F("label").isin(keys), exclude_image)


def _found(
    store: EmbeddingStore, seen: Inventory, embeddings: Embeddings, k: int, where: Filter | None, exclude_image: str
) -> Neighbours:
    if exclude_image:
        other = F("image_hash") != exclude_image
        where = other if where is None else where & other
    asked = embeddings.vectors.any(axis=1)
    hits = store.search(embeddings.vectors[asked], k, where=where, fields=["label"])
    shape = (len(embeddings), k)
    ids, labels = np.full(shape, "", object), np.full(shape, "", object)
    scores = np.full(shape, -np.inf, np.float32)
    ids[asked], scores[asked] = hits.ids, hits.scores
    there = hits.ids != ""
    names = np.full(hits.ids.shape, "", object)
    names[there] = named(seen.names, hits.fields["label"][there])
    labels[asked] = names
    return Neighbours(ids, scores, labels)
