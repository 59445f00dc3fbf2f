"""What a concept database holds at some moment: its concepts, their keys, and how many examples there are."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnseg.database.changes import Changes
from knnseg.database.naming import Names
from knnstore import EmbeddingStore, F, Filter

__all__ = ["Concept", "Inventory", "Looking", "named"]

_Counts: TypeAlias = tuple[dict[str, int], dict[str, int], dict[str, int]]
"""Of each key: its rows, the examples among them that say they are things, and the parts among them."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A class as the database knows it.

    Args:
        label: its name.
        count: examples.
        things: those of them that say it is a countable object; the others say it is stuff.
        aliases: names that it had before, or that what was merged into it had.
        keys: of its examples and of their parts; see :mod:`knnseg.database.parts`.
    """

    label: str
    count: int
    things: int
    aliases: tuple[str, ...] = field(default=(), compare=False)
    keys: int = field(default=0, compare=False)

    @property
    def thing(self) -> bool:
        """A countable object, by more than half of its examples."""
        return 2 * self.things > self.count

    @property
    def mixed(self) -> bool:
        """The examples do not agree whether it is a thing."""
        return 0 < self.things < self.count

    @property
    def disagreement(self) -> str:
        """For messages: what a mixed concept is taken as, and what to do."""
        return (
            f"concept {self.label!r}: {self.things} of {self.count} examples say that it is a thing, the others stuff; "
            f"taken as {'a thing' if self.thing else 'stuff'}. Say which it is: "
            f"knnseg concepts kind {shlex.quote(self.label)} --thing (or --stuff), or ConceptDatabase.set_kind"
        )


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is there at some moment.

    Args:
        revision: of the database.
        names: what its keys are called.
        counts: rows of each key.
        things: those of them that say that they are countable objects and are no parts.
        parts: those of them that are parts of others.
    """

    revision: str
    names: Names
    counts: Mapping[str, int]
    things: Mapping[str, int]
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Every concept that has examples, by name."""
        found: dict[str, Concept] = {}
        aliases = self.names.other_names()
        for key, rows in self.counts.items():
            count = rows - self.parts.get(key, 0)
            if name := self.names.name(key):
                things = self.things.get(key, 0) if key not in self.names.kinds else count * self.names.kinds[key]
                before = found.get(name, Concept(name, 0, 0))
                also = tuple(aliases.get(name, ()))
                found[name] = Concept(name, before.count + count, before.things + things, also, before.keys + rows)
        return tuple(sorted(found.values(), key=lambda concept: concept.label))

    def keys_of(self, names: Iterable[str] | None) -> list[str]:
        """The keys of some concepts, with or without examples; of all that have any where None."""
        if names is None:
            return [key for key in self.counts if self.names.name(key)]
        wanted = set(names)
        known = {*self.counts, *self.names.called, *wanted}
        return sorted(key for key in known if self.names.name(key) in wanted)

    def names_of(self, keys: Iterable[str]) -> set[str]:
        """What some keys are called."""
        return {self.names.name(key) for key in keys}

    def restriction(self, keys: list[str]) -> Filter | None:
        """A filter that lets these keys through: no filter where there are no others, and the shorter of two lists."""
        others = sorted(self.counts.keys() - set(keys))
        if not others:
            return None
        return ~F("label").isin(others) if len(others) < len(keys) else F("label").isin(keys)

    def hidden_beside(self, keys: Iterable[str]) -> int:
        """How many examples there are beside those of these keys, where nobody sees any of them; 0 otherwise."""
        others = self.counts.keys() - set(keys)
        return 0 if any(map(self.names.name, others)) else sum(self.counts[key] for key in others)


class Looking:
    """Looks at what is there, and looks again where it may have changed.

    Args:
        store: of one embedding space.
        changes: of its database.
    """

    def __init__(self, store: EmbeddingStore, changes: Changes) -> None:
        self._store, self._changes = store, changes
        self._seen: Inventory | None = None
        self._counted: tuple[str, _Counts] | None = None

    def revision(self, names: Names) -> str:
        """A text that changes with the examples and with the names."""
        return f"{self._store.revision()}/{names.number}{names.token[:8]}"

    def now(self) -> Inventory:
        """What is there now, whoever has changed it."""
        names = self._changes.names()
        while True:
            revision = self.revision(names)
            if self._seen is not None and self._seen.revision == revision and self._store.capabilities.revision:
                return self._seen
            counts = self._count()
            if names.unsettled:
                counts = self._as_corrected(names, counts)
            before, names = names, self._changes.names()
            # Otherwise old names would be put beside new examples, or an example be counted twice.
            if names.token == before.token and not (names.unsettled and self.revision(names) != revision):
                self._seen = Inventory(revision, names, *counts)
                return self._seen

    def _as_corrected(self, names: Names, counts: _Counts) -> _Counts:
        """The counts with examples where corrections have put them, should their rows not say so yet."""
        rows, things, parts = map(Counter, counts)
        records = self._store.get(list(names.unsettled), fields=["label", "thing", "whole"], with_vectors=False)
        columns = (records.fields[name].tolist() for name in ("label", "thing", "whole"))
        for identity, key, thing, whole in zip(records.ids.tolist(), *columns, strict=True):
            for counted, one in ((rows, 1), (things, int(thing and not whole)), (parts, int(bool(whole)))):
                counted[key] -= one
                counted[names.moved[identity]] += one
        return dict(+rows), dict(+things), dict(+parts)

    def _count(self) -> _Counts:
        """Counted again where not only names have changed."""
        revision = self._store.revision()
        if self._counted is None or self._counted[0] != revision or not self._store.capabilities.revision:
            things, part = F("thing") == True, F("whole") != ""  # noqa: E712  # builds a filter
            rows, those, parts = (self._store.count_by("label", where=where) for where in (None, things & ~part, part))
            self._counted = revision, (_plain(rows), _plain(those), _plain(parts))
        return self._counted[1]


def _plain(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(key): count for key, count in counts.items() if count}


def named(names: Names, keys: Iterable[str]) -> NDArray[np.object_]:
    """What the concepts of some keys are called: object (N,); "" for what is removed."""
    listed = list(keys)
    called = {key: names.name(key) for key in set(listed)}
    found = np.empty(len(listed), object)
    found[:] = [called[key] for key in listed]
    return found
