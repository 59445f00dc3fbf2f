"""Who is called what: the changes of names, kinds, removals and single examples, one after the other.

An example keeps a *key*: the name that its concept had when the first of its examples was added. What a key is called
now follows from the changes that were made since, each one small record, numbered in order. So a rename, a merge or a
removal is one write, however many examples there are; nothing can be half done, and nothing is read and put back. A
database whose names were never changed has no changes, and its keys are its labels.

A single example that is corrected gets another key. That is a change first, and a write to its row in each space
afterwards, which whoever comes next makes where it was left undone.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from knnseg.data.vocabulary import tidy
from knnseg.errors import VocabularyError

__all__ = [
    "REMEMBERED",
    "Change",
    "Names",
    "Step",
    "fitted",
    "is_deleted",
    "kind",
    "move",
    "named_anew",
    "naming",
    "noted",
    "purged",
    "removal",
    "settled",
    "taken_as",
    "tidied_up",
    "undoing",
]

_DELETED = re.compile(r"#deleted\d*")
REMEMBERED = 50
"""Corrections that can be undone: this many, the last of all writers."""

Change: TypeAlias = Mapping[str, Any]
Diff: TypeAlias = Mapping[str, tuple[Any, Any]]
"""What was before and after, None for nothing."""
V = TypeVar("V")
CORRECTIONS = ("name", "kind", "remove", "move", "undo")
_PARTS = ("called", "kinds", "aliases")


def is_deleted(key: str) -> bool:
    """Whether this is a key of single examples that are deleted: it has no name, so nobody sees them."""
    return _DELETED.fullmatch(key) is not None


def taken_as(before: str, now: str) -> str:
    """For messages: a name from before was given, and the one of now is meant."""
    return f"{before!r} is called {now!r} now, and taken as that"


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


def move(ids: Mapping[str, str], to: str, because: int = 0) -> Change:
    """These examples have another key from now on; :attr:`Names.deleted` deletes them.

    Args:
        ids: the key that each of them had.
        to: the key.
        because: the number of the change that this one is a part of; 0 where it stands for itself.
    """
    before: dict[str, list[str]] = {}
    for identity, key in ids.items():
        before.setdefault(key, []).append(identity)
    return {"op": "move", "from": before, "to": to} | ({"because": because} if because else {})


def settled(number: int) -> Change:
    """The rows of examples in every space are as the changes up to this one say."""
    return {"op": "settled", "number": number}


def purged(number: int) -> Change:
    """What was deleted up to this change has gone for good."""
    return {"op": "purged", "number": number}


def fitted(space: str, settings: Mapping[str, Any]) -> Change:
    """Numbers that go with an embedding space from now on; see :mod:`knnseg.database.settings`."""
    return {"op": "fitted", "space": space, "settings": settings}


def undoing(number: int, because: int = 0) -> Change:
    """What this change has changed is as it was before; see :func:`move`."""
    return {"op": "undo", "number": number} | ({"because": because} if because else {})


@dataclass(frozen=True, slots=True)
class Step:
    """A correction that can be looked at, and undone.

    Args:
        number: of the change.
        time: when it was made, as seconds since the epoch.
        change: the change.
        called: names of keys that it has changed.
        kinds: kinds of keys that it has changed.
        aliases: other names that it has changed.
        moved: keys of examples that it has changed.
        undone: the number of the change that has undone it, or 0.
    """

    number: int
    time: float
    change: Change
    called: Diff
    kinds: Diff
    aliases: Diff
    moved: Diff
    undone: int = 0

    @property
    def belongs_to(self) -> int:
        """The number of the change that this one is a part of, its own where it stands for itself."""
        return int(self.change.get("because", self.number))


@dataclass(frozen=True, slots=True)
class Names:
    """What follows from the changes up to one of them.

    Args:
        number: of the last change, 0 for none.
        token: of that change, "" for none.
        called: the name of a key, where it is not the key itself.
        kinds: whether a key is a thing, where that has been said.
        removed: keys that are forgotten.
        untidied: names of concepts that were made of several and may hold an example twice, with the number of the
            change that made them.
        aliases: names that a concept had before, with a key of it.
        moved: the key of each example that was given another one.
        unsettled: those of them whose rows may have another key still, with the number of the change.
        purged: examples that were deleted up to this change have gone for good.
        history: the last corrections, oldest first.
        fitted: what was found for each embedding space, oldest first.
    """

    number: int = 0
    token: str = ""
    called: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, bool] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    untidied: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    moved: Mapping[str, str] = field(default_factory=dict)
    unsettled: Mapping[str, int] = field(default_factory=dict)
    purged: int = 0
    history: tuple[Step, ...] = ()
    fitted: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    def name(self, key: str) -> str:
        """What a key is called; "" where it is removed."""
        return "" if key in self.removed or is_deleted(key) else self.called.get(key) or tidy(key)

    @property
    def deleted(self) -> str:
        """The key that an example gets to be deleted; another one after a purge, so that nothing newer goes with it."""
        return f"#deleted{self.purged or ''}"

    def keys(self, name: str, present: Iterable[str] = ()) -> list[str]:
        """The keys that are called ``name``, among those present, those with a change, and the name itself."""
        return sorted(key for key in {*present, *self.called, name} if self.name(key) == name)

    def corrected(self, ids: Iterable[str], keys: Iterable[str]) -> list[str]:
        """The keys of some examples by their rows, or by what was decided where a row may not say so yet."""
        if not self.unsettled:
            return list(keys)
        pairs = zip(ids, keys, strict=True)
        return [self.moved[identity] if identity in self.unsettled else key for identity, key in pairs]

    def current(self, name: str) -> str:
        """The name of the concept that was called ``name`` before; ``name`` where it means no other."""
        key = self.aliases.get(name)
        return name if key is None else self.name(key) or name

    def other_names(self) -> dict[str, list[str]]:
        """The names that each concept had before, which nothing else has now."""
        found: dict[str, list[str]] = {}
        for alias in sorted(self.aliases):
            if (name := self.current(alias)) != alias:
                found.setdefault(name, []).append(alias)
        return found

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

    def after(self, change: Change, number: int, token: str, time: float = 0.0) -> Names:
        """The names once a change was made."""
        done = replace(self._changed(change, number), number=number, token=token)
        if change["op"] not in CORRECTIONS or (change["op"] == "name" and self._new(change["keys"], change["name"])):
            return done
        called, kinds, aliases = (_diff(getattr(self, part), getattr(done, part)) for part in _PARTS)
        moved = {identity: (key, change["to"]) for key, ids in change.get("from", {}).items() for identity in ids}
        if change["op"] == "undo" and (step := self.step(change["number"])):
            moved = {identity: (after, before) for identity, (before, after) in step.moved.items()}
        step = Step(number, time, change, called, kinds, aliases, moved)
        return replace(done, history=(*done.history, step)[-REMEMBERED:])

    def _changed(self, change: Change, number: int) -> Names:
        match change["op"]:
            case "name":
                return self._named(change["keys"], str(change["name"]), number)
            case "kind":
                return replace(self, kinds={**self.kinds, **{key: bool(change["thing"]) for key in change["keys"]}})
            case "remove":
                return replace(self, removed=self.removed | set(change["keys"]))
            case "tidied":
                return replace(self, untidied={k: n for k, n in self.untidied.items() if k != change["name"]})
            case "move":
                return self._moved({i: change["to"] for ids in change["from"].values() for i in ids}, number)
            case "settled":
                left = {identity: n for identity, n in self.unsettled.items() if n > change["number"]}
                return replace(self, unsettled=left)
            case "purged":
                return replace(self, purged=int(change["number"]))
            case "undo":
                return self._undone(int(change["number"]), number)
            case "fitted":
                space = change["space"]
                return replace(self, fitted={**self.fitted, space: (*self.fitted.get(space, ()), change["settings"])})
        what, hint = f"change {number} of the concepts", "A newer version has made it: update knnseg."
        raise VocabularyError(what, expected="a kind known to this version", got=repr(change["op"]), hint=hint)

    def _named(self, keys: list[str], name: str, number: int) -> Names:
        before = {self.name(key): key for key in reversed(keys) if not self._new([key], name)}
        aliases = {alias: key for alias, key in {**self.aliases, **before}.items() if alias not in ("", name)}
        done = replace(self, called={**self.called, **dict.fromkeys(keys, name)}, aliases=aliases)
        several = len(done.keys(name)) > 1
        return replace(done, untidied={**self.untidied, name: number}) if several else done

    def _new(self, keys: list[str], name: str) -> bool:
        """Whether these are keys that :meth:`key` has made up for this name, and that no example has had."""
        return all(key not in self.called and re.fullmatch(rf"{re.escape(name)}#\d+", key) for key in keys)

    def _moved(self, keys: Mapping[str, str], number: int) -> Names:
        unsettled = {**self.unsettled, **dict.fromkeys(keys, number)}
        return replace(self, moved={**self.moved, **keys}, unsettled=unsettled)

    def step(self, number: int) -> Step | None:
        """A correction that is remembered."""
        return next((step for step in self.history if step.number == number), None)

    def _undone(self, undone: int, number: int) -> Names:
        step = self.step(undone)
        assert step is not None  # it was there for who made the change, and everybody remembers as much
        done = replace(
            self,
            called=_back(self.called, step.called),
            kinds=_back(self.kinds, step.kinds),
            aliases=_back(self.aliases, step.aliases),
            history=tuple(replace(s, undone=number) if s.number == undone else s for s in self.history),
        )
        return done._moved({identity: before for identity, (before, _) in step.moved.items()}, number)

    def overtaken(self, step: Step) -> bool:
        """Whether something that a correction has changed is not as it has left it, or not there any more."""
        pairs = ((self.called, step.called), (self.kinds, step.kinds), (self.moved, step.moved))
        changed = any(now.get(key) != after for now, diff in pairs for key, (_, after) in diff.items())
        keys = {*step.called, *step.kinds, *(key for key, _ in step.moved.values())}
        return changed or not keys.isdisjoint(self.removed)

    def purged_since(self, step: Step) -> bool:
        """Whether what a correction has deleted has gone for good."""
        return any(is_deleted(after) and after != self.deleted for _, after in step.moved.values())


def _diff(before: Mapping[str, V], after: Mapping[str, V]) -> Diff:
    if before is after:
        return {}
    keys = before.keys() | after.keys()
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _back(now: Mapping[str, V], diff: Diff) -> dict[str, V]:
    restored = {**now, **{key: before for key, (before, _) in diff.items()}}
    return {key: value for key, value in restored.items() if value is not None}


def named_anew(name: str, present: Container[str], names: Names) -> Change | None:
    """Give a name that nobody has, and nobody had before, to a new key."""
    now = names.current(name)
    return None if names.keys(now) else naming([names.key(now, present)], now)


def noted(name: str, names: Names) -> Change | None:
    """Say that a concept is tidied up, where it was not."""
    return tidied_up(name) if name in names.untidied else None
