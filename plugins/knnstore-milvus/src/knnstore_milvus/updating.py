"""Changing fields of stored records. Milvus cannot: records are read, changed here and written again.

What happens to a record between the reading and the writing is undone, so a deletion then comes back. Servers since 2.6
take a part of a record (``partial_update``), and do the same in their proxy: read, merge, write, without a look at what
was written meanwhile (milvus-io/milvus#49980). What can be done is to keep the gap small:

- some hundred records at a time are read, at the present moment whatever the consistency of the store, and written at
  once;
- the writes of one store take turns, so that none of its own threads writes into the gap.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np

from knnstore.types import Batch, Column
from knnstore_milvus.reading import Reader

__all__ = ["Turns", "change"]

_AT_ONCE = 500
"""Records read and put back together. A read at the present moment takes up to 0.2 s however few they are."""


class Turns:
    """A lock for each process that the store is used in: one that is held while somebody forks is free in the child."""

    def __init__(self) -> None:
        self._locks: dict[int, AbstractContextManager[object]] = {}

    def taken(self) -> AbstractContextManager[object]:
        """Held while a write is under way; a thread that holds it may take it again."""
        return self._locks.setdefault(os.getpid(), threading.RLock())


def change(
    reader: Reader,
    turns: Turns,
    ids: list[str],
    where: str,
    values: Callable[[Sequence[str]], dict[str, Column]],
    write: Callable[[Batch], object],
) -> int:
    """Change fields of those records with some ids for which ``where`` still holds; returns how many they were.

    Args:
        reader: of the collection.
        turns: of the store.
        ids: which.
        where: an expression.
        values: the new values for some of the ids.
        write: writes records in place of those of the same ids.
    """
    changed, fields = 0, list(reader.spec.fields)
    size = reader.page(_AT_ONCE, with_vectors=True)
    for start in range(0, len(ids), size):
        with turns.taken(), reader.session.held(strong=True):
            for found in reader.by_ids(ids[start : start + size], fields, True, size, where):
                assert found.vectors is not None  # asked for
                there = found.ids.tolist()
                if there:
                    write(Batch(there, np.ascontiguousarray(found.vectors), {**found.fields, **values(there)}))
                changed += len(there)
    return changed
