"""Where the parts of a concept database are: a collection for each embedding space, and the changes that they share."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from knnseg.database.naming import CHANGES
from knnstore import EmbeddingSpace, EmbeddingStore, StoreURL, collections

__all__ = ["place_of_changes", "space_name", "spaces"]


def space_name(space: EmbeddingSpace) -> str:
    """The name of the collection that holds a space: readable, and distinct for distinct fingerprints."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in space.encoder.lower()).strip("-")
    return f"{plain[:32]}-{hashlib.sha256(space.fingerprint.encode()).hexdigest()[:12]}"


def spaces(url: str | StoreURL) -> dict[str, StoreURL]:
    """The collections of a concept database, one for each embedding space, by name."""
    there = {place.path.rsplit("/", 1)[-1]: place for place in collections(url)}
    return {name: place for name, place in there.items() if name != CHANGES}


def place_of_changes(store: EmbeddingStore) -> StoreURL:
    """Beside the space of a database, which others may share it with; below a store that belongs to no database."""
    above, _, name = store.url.path.rpartition("/")
    if store.spec.space is not None and name == space_name(store.spec.space) and above:
        return replace(store.url, path=above).child(CHANGES)
    return store.url.child(CHANGES)
