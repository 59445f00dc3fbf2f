"""What a concept database holds at some moment: its concepts, their keys, and how many examples there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnseg.database.naming import Names
from knnstore import F, Filter

__all__ = ["Concept", "Inventory", "named"]


@dataclass(frozen=True, slots=True)
class Concept:
    """A class as the database knows it.

    Args:
        label: its name.
        count: examples.
        things: those of them that say it is a countable object; the others say it is stuff.
    """

    label: str
    count: int
    things: int

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
            f"taken as {'a thing' if self.thing else 'stuff'}. Say which it is: knnseg concepts kind, or "
            "ConceptDatabase.set_kind"
        )


@dataclass(frozen=True, slots=True)
class Inventory:
    """What is there at some moment.

    Args:
        revision: of the database.
        names: what its keys are called.
        counts: examples of each key.
        things: those of them that say that they are countable objects.
    """

    revision: str
    names: Names
    counts: Mapping[str, int]
    things: Mapping[str, int]

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """Every concept that has examples, by name."""
        found: dict[str, Concept] = {}
        for key, count in self.counts.items():
            if name := self.names.name(key):
                things = self.things.get(key, 0) if key not in self.names.kinds else count * self.names.kinds[key]
                before = found.get(name, Concept(name, 0, 0))
                found[name] = Concept(name, before.count + count, before.things + things)
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


def named(names: Names, keys: Iterable[str]) -> NDArray[np.object_]:
    """What the concepts of some keys are called: object (N,); "" for what is removed."""
    listed = list(keys)
    called = {key: names.name(key) for key in set(listed)}
    found = np.empty(len(listed), object)
    found[:] = [called[key] for key in listed]
    return found
