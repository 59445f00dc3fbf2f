"""Who is called what: the changes of names, kinds and removals, one after the other.

An example keeps a *key* for ever: the name that its concept had when the first of its examples was added. What a key is
called now follows from the changes that were made since, each one small record, numbered in order. So a rename, a merge
or a removal is one write, however many examples there are; nothing can be half done, and nothing is read and put back.
A database whose names were never changed has no changes, and its keys are its labels.

A number is taken by whoever writes it first. Who comes second sees it, looks at the names as they are now, and decides
again; that is what orders the changes of several writers.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from knnseg.data.vocabulary import tidy
from knnseg.errors import VocabularyError
from knnstore import EmbeddingStore, StoreSpec, StoreURL, open_store
from knnstore.errors import StoreNotFoundError

__all__ = ["CHANGES", "Change", "Changes", "Names", "kind", "named_anew", "naming", "noted", "removal", "tidied_up"]

CHANGES = "concept-changes"
"""The collection of the changes, beside those of the embedding spaces, which share them."""
SPEC = StoreSpec(dim=2, metric="dot", fields={"change": str, "token": str, "time": float})
_VECTOR = np.array([[1, 0]], np.float32)
_LONGEST = 60_000
"""Bytes of one change: the smallest limit that an engine puts on a text is 65,535."""
_AT_ONCE = 64
_SETTLING = 1.0
"""Seconds after which nobody can be between looking for a number and writing it, on an engine that cannot do both at
once (Milvus)."""

Change = Mapping[str, Any]


def naming(keys: Iterable[str], name: str) -> Change:
    """These keys are called ``name`` from now on."""
    return {"op": "name", "keys": sorted(keys), "name": name}


def kind(keys: Iterable[str], *, thing: bool) -> Change:
    """These keys are countable objects, or stuff, whatever their examples say."""
    return {"op": "kind", "keys": sorted(keys), "thing": thing}


def removal(keys: Iterable[str]) -> Change:
    """These keys are forgotten, with all examples that have them or will have them."""
    return {"op": "remove", "keys": sorted(keys)}


def tidied_up(name: str) -> Change:
    """No example is in this concept twice any more."""
    return {"op": "tidied", "name": name}


@dataclass(frozen=True, slots=True)
class Names:
    """What follows from the changes up to one of them.

    Args:
        number: of the last change, 0 for none.
        token: of that change, "" for none.
        called: the name of a key, where it is not the key itself.
        kinds: whether a key is a thing, where that has been said.
        removed: keys that are forgotten.
        untidied: names of concepts that were made of several and may hold an example twice.
    """

    number: int = 0
    token: str = ""
    called: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, bool] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    untidied: frozenset[str] = frozenset()

    def name(self, key: str) -> str:
        """What a key is called; "" where it is removed."""
        return "" if key in self.removed else self.called.get(key) or tidy(key)

    def keys(self, name: str, present: Iterable[str] = ()) -> list[str]:
        """The keys that are called ``name``, among those present, those with a change, and the name itself."""
        return sorted(key for key in {*present, *self.called, name} if self.name(key) == name)

    def key(self, name: str, present: Container[str] = ()) -> str:
        """The key that a new example of this name gets; an unused one, which has to be named first, where none has it.

        Args:
            name: tidied.
            present: keys that examples have.
        """
        known = self.keys(name)
        if known:
            return name if name in known else known[0]
        number = 2
        while (fresh := f"{name}#{number}") in self.called or fresh in self.removed or fresh in present:
            number += 1
        return fresh

    def after(self, change: Change, number: int, token: str) -> Names:
        """The names once a change was made."""
        done = replace(self, number=number, token=token)
        match change["op"]:
            case "name":
                called = {key: str(change["name"]) for key in change["keys"]}
                done = replace(done, called={**self.called, **called})
                several = len(done.keys(change["name"])) > 1
                return replace(done, untidied=self.untidied | {change["name"]}) if several else done
            case "kind":
                return replace(done, kinds={**self.kinds, **{key: bool(change["thing"]) for key in change["keys"]}})
            case "remove":
                return replace(done, removed=self.removed | set(change["keys"]))
            case "tidied":
                return replace(done, untidied=self.untidied - {change["name"]})
        raise VocabularyError(
            f"change {number} of the concepts",
            expected="name, kind, remove or tidied",
            got=repr(change["op"]),
            hint="A newer version has made it: update knnseg.",
        )


def named_anew(name: str, present: Container[str], names: Names) -> Change | None:
    """Give a name that nobody has to a new key."""
    return None if names.keys(name) else naming([names.key(name, present)], name)


def noted(name: str, names: Names) -> Change | None:
    """Say that a concept is tidied up, where it was not."""
    return tidied_up(name) if name in names.untidied else None


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
            texts = zip(found.fields["change"].tolist(), found.fields["token"].tolist(), strict=True)
            changes = dict(zip(found.ids.tolist(), texts, strict=True))
            if last and changes.pop(_id(last), ("", ""))[1] != self._names.token:
                self._names = Names()  # two writers met where the engine cannot tell them apart; the later one has it
                continue
            while (number := self._names.number + 1) and (made := changes.get(_id(number))):
                self._names = self._names.after(json.loads(made[0]), number, made[1])
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
            token = uuid.uuid4().hex
            if self._taken(names.number + 1, change, token):
                self._names = names.after(change, names.number + 1, token)
                return self._names

    def _taken(self, number: int, change: Change, token: str) -> bool:
        """Whether the change has this number now; another writer may have been faster."""
        text = json.dumps(change, ensure_ascii=False)
        if len(text.encode()) > _LONGEST:
            hint = "Merge in several steps."
            raise VocabularyError("merge", expected=f"at most {_LONGEST} bytes of names at once", hint=hint)
        self._see_everything()  # deciding may have taken its time
        store = self._opened(create=True)
        assert store is not None  # it has just been made
        fields: dict[str, list[Any]] = {"change": [text], "token": [token], "time": [time.time()]}
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
