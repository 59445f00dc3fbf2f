"""The changes of one database as they are kept in its store, one small record each, numbered in order.

A number is taken by whoever writes it first. Who comes second sees it, looks at the names as they are now, and decides
again; that is what orders the changes of several writers.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np

from knnseg.database.naming import Change, Names
from knnseg.errors import VocabularyError
from knnstore import EmbeddingStore, StoreSpec, StoreURL, open_store
from knnstore.errors import StoreNotFoundError

__all__ = ["CHANGES", "SPEC", "Changes"]

CHANGES = "concept-changes"
"""The collection of the changes, beside those of the embedding spaces, which share them."""
SPEC = StoreSpec(dim=2, metric="dot", fields={"change": str, "token": str, "time": float})
_VECTOR = np.array([[1, 0]], np.float32)
LONGEST = 60_000
"""Bytes of one change: the smallest limit that an engine puts on a text is 65,535."""
_AT_ONCE = 64
_SETTLING = 1.0
"""Seconds after which nobody can be between looking for a number and writing it, on an engine that cannot do both at
once (Milvus)."""


class Changes:
    """The changes of one database, as they are in its store.

    Args:
        place: of their collection; it is made at the first change.
        read_only: make no new one.
    """

    def __init__(self, place: StoreURL, *, read_only: bool) -> None:
        self._place, self._read_only = place, read_only
        self._store: EmbeddingStore | None = None
        self._names, self._revision = Names(), ""

    def names(self) -> Names:
        """The names as they are now, whoever has changed them; one small request where nobody has."""
        store = self._opened()
        if store is None:
            return self._names
        # Asked first: from then on a store sees what had been written by others, which some see a moment late (Milvus).
        revision = store.revision()
        if revision != self._revision or not store.capabilities.revision:
            self._read(store)
            self._revision = revision
        return self._names

    def _read(self, store: EmbeddingStore) -> None:
        """Add the changes that came since those that are known."""
        while True:
            last = self._names.number
            found = store.get([_id(number) for number in range(max(last, 1), last + _AT_ONCE)], with_vectors=False)
            columns = (found.fields[name].tolist() for name in ("change", "token", "time"))
            changes = {identity: made for identity, *made in zip(found.ids.tolist(), *columns, strict=True)}
            if last and changes.pop(_id(last), ["", ""])[1] != self._names.token:
                self._names = Names()  # two writers met where the engine cannot tell them apart; the later one has it
                continue
            while (number := self._names.number + 1) and (made := changes.get(_id(number))):
                self._names = self._names.after(json.loads(made[0]), number, *made[1:])
            if self._names.number < last + _AT_ONCE - 1:
                return

    def make(self, decide: Callable[[Names], Change | None]) -> Names:
        """Make a change that is right for the names as they are at that moment.

        Args:
            decide: the change for given names, None for no change; it raises where the change cannot be made. It is
                asked again where another writer was faster.

        Returns:
            The names after it.
        """
        while True:
            self._see_everything()
            names = self.names()
            change = decide(names)
            if change is None:
                return names
            token, now = uuid.uuid4().hex, time.time()
            if self._taken(names.number + 1, change, token, now):
                self._names = names.after(change, names.number + 1, token, now)
                return self._names

    def _taken(self, number: int, change: Change, token: str, now: float) -> bool:
        """Whether the change has this number now; another writer may have been faster."""
        text = json.dumps(change, ensure_ascii=False)
        if len(text.encode()) > LONGEST:
            raise VocabularyError("merge", expected=f"at most {LONGEST} bytes of names", hint="Merge in several steps.")
        self._see_everything()  # deciding may have taken its time
        store = self._opened(create=True)
        assert store is not None  # it has just been made
        fields: dict[str, list[Any]] = {"change": [text], "token": [token], "time": [now]}
        store.upsert([_id(number)], _VECTOR, fields, on_conflict="skip")
        if not store.capabilities.conditional:
            time.sleep(_SETTLING)
            self._see_everything()
            store = self._opened(create=True)
            assert store is not None  # as above
        return store.get([_id(number)], with_vectors=False).fields["token"].tolist() == [token]

    def _opened(self, *, create: bool = False) -> EmbeddingStore | None:
        """The collection; None where there were no changes yet."""
        if self._store is None:
            try:
                self._store = open_store(self._place, SPEC if create else None, read_only=self._read_only)
            except StoreNotFoundError:
                return None
        return self._store

    def _see_everything(self) -> None:
        """Open again where that is what makes a store see all that others have been told is written (Milvus)."""
        if self._store is not None and not self._store.capabilities.conditional:
            self.close()
            self._store = None

    def close(self) -> None:
        """Close the store."""
        if self._store is not None:
            self._store.close()


def _id(number: int) -> str:
    return f"{number:012d}"
