"""Where the parts of a concept database are: a collection for each embedding space, and the changes that they share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from knnseg.database.changes import CHANGES
from knnstore import EmbeddingSpace, EmbeddingStore, StoreURL, collections, open_store
from knnstore.errors import StoreNotFoundError
from knnstore.options import dtype_option

__all__ = ["changes_below", "each_space", "place_of_changes", "space_name", "spaces"]


def space_name(space: EmbeddingSpace) -> str:
    """The name of the collection that holds a space: readable, and distinct for distinct fingerprints."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in space.encoder.lower()).strip("-")
    return f"{plain[:32]}-{hashlib.sha256(space.fingerprint.encode()).hexdigest()[:12]}"


def spaces(url: str | StoreURL) -> dict[str, StoreURL]:
    """The collections of a concept database, one for each embedding space, by name."""
    there = {place.path.rsplit("/", 1)[-1]: place for place in collections(url)}
    return {name: place for name, place in there.items() if name != CHANGES}


def changes_below(url: str | StoreURL) -> StoreURL:
    """The changes of the database at a URL, whose ``dtype`` is for its embeddings."""
    return dtype_option(StoreURL.parse(url))[0].child(CHANGES)


def place_of_changes(store: EmbeddingStore) -> StoreURL:
    """Beside the space of a database, which others may share it with; below a store that belongs to no database."""
    database = _database_of(store)
    return changes_below(store.url if database is None else database)


def each_space(store: EmbeddingStore) -> Iterator[EmbeddingStore]:
    """The store itself, and then each other embedding space of its database, open for as long as it is looked at."""
    yield store
    database, name = _database_of(store), store.url.path.rpartition("/")[2]
    for other, place in spaces(database).items() if database is not None else ():
        opened = None if other == name else _opened(place)
        if opened is not None:
            with opened:
                if opened.spec.fields == store.spec.fields:
                    yield opened


def _opened(place: StoreURL) -> EmbeddingStore | None:
    try:
        return open_store(place)
    except StoreNotFoundError:  # it is being made in this moment, and has no rows yet
        return None


def _database_of(store: EmbeddingStore) -> StoreURL | None:
    above, _, name = store.url.path.rpartition("/")
    known = store.spec.space is not None and name == space_name(store.spec.space)
    return replace(store.url, path=above) if known and above else None
