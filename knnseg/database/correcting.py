"""Correcting what a database knows: names, merges, removals, single examples, and taking a correction back.

A correction is a change first (see :mod:`knnseg.database.naming`), and then a write to the rows that it is about, in
every embedding space. Whoever is interrupted in between has left something to do, which the next correction or addition
of anybody does.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial

from knnseg.data.vocabulary import tidied, tidy
from knnseg.database.changes import LONGEST, Changes
from knnseg.database.inventory import Concept, Inventory, Looking
from knnseg.database.naming import (
    Change,
    Names,
    is_deleted,
    kind,
    move,
    named_anew,
    naming,
    noted,
    purged,
    removal,
    settled,
    taken_as,
)
from knnseg.database.parts import families
from knnseg.database.schema import CONTENT, Content, contents, stored_contents
from knnseg.database.spaces import each_space
from knnseg.database.undoing import Correction, check_undo, described, parts, undone
from knnseg.errors import KnnSegWarning, VocabularyError, told
from knnseg.later import batched
from knnstore import EmbeddingStore, F

__all__ = ["Correction", "Corrections"]

_ROOM = LONGEST - 20_000
"""Bytes of ids in one change; the rest is for the names of keys."""
_AT_ONCE = 1000
"""Rows in one write."""


class Corrections:
    """Makes the corrections of one database.

    Args:
        store: of one of its embedding spaces.
        changes: of the database.
        looking: looks at what is there.
    """

    def __init__(self, store: EmbeddingStore, changes: Changes, looking: Looking) -> None:
        self._store, self._changes, self._looking = store, changes, looking
        self._made: list[int] = []

    # -- whole concepts -----------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> int:
        """See :meth:`ConceptDatabase.rename`."""
        if not new.strip():
            raise VocabularyError("rename", expected="a non-empty new name", got=repr(new))
        name, concept = tidied(new), self.known(old)
        if concept.label == name:
            return concept.count
        return concept.count - self._change(lambda seen: naming(seen.keys_of([self.known(old).label]), name))

    def set_kind(self, label: str, *, thing: bool) -> int:
        """See :meth:`ConceptDatabase.set_kind`."""
        concept = self.known(label)
        self._change(lambda seen: kind(seen.keys_of([self.known(label).label]), thing=thing))
        return concept.count - concept.things if thing else concept.things

    def merge(self, labels: Iterable[str], into: str) -> int:
        """See :meth:`ConceptDatabase.merge`."""
        if not into.strip():
            raise VocabularyError("merge", expected="a non-empty name", got=repr(into))
        name, listed = tidied(into), list(dict.fromkeys(labels))
        merged = {concept.label: concept.count for concept in map(self.known, listed) if concept.label != name}
        if not merged:
            return 0
        return sum(merged.values()) - self._change(
            lambda seen: naming(seen.keys_of({self.known(label).label for label in listed} - {name}), name)
        )

    def remove(self, label: str) -> int:
        """See :meth:`ConceptDatabase.remove`."""
        count = self.known(label).count
        self._change(lambda seen: removal(seen.keys_of([self.known(label).label])))
        return count

    def known(self, label: str) -> Concept:
        """The concept of a name, or of a name that it had before.

        Raises:
            VocabularyError: there is none.
        """
        there = {concept.label: concept for concept in self._looking.now().concepts}
        name = tidy(label)
        if name not in there:
            name = self.current(name)
        if name not in there:
            raise VocabularyError("concept", expected=f"one of {sorted(there)[:20]}", got=repr(label))
        return there[name]

    def current(self, name: str) -> str:
        """What the concept that was called ``name`` is called now; said where that is something else."""
        now = self._changes.names().current(name)
        if now != name:
            warnings.warn(taken_as(name, now), KnnSegWarning, stacklevel=4)
        return now

    def keys_for(self, names: Iterable[str]) -> dict[str, str]:
        """The key that new examples of each name get; one that was never used is named first."""
        wanted = list(dict.fromkeys(names))
        known = self._changes.names()
        for name in wanted:
            self.current(name)
            if not known.keys(known.current(name)):  # it was removed, and is added again
                known = self._changes.make(partial(named_anew, name, self._looking.now().counts))
        return {name: known.key(known.current(name)) for name in wanted}

    # -- single examples ----------------------------------------------------------------------------------------------

    def relabel(self, ids: Iterable[str], concept: str) -> int:
        """See :meth:`ConceptDatabase.relabel`."""
        if not concept.strip():
            raise VocabularyError("relabel", expected="a non-empty name", got=repr(concept))
        name = tidied(concept)
        self.current(name)
        return self._move(_listed("relabel", ids), name)

    def delete(self, ids: Iterable[str]) -> int:
        """See :meth:`ConceptDatabase.delete_examples`."""
        return self._move(_listed("delete_examples", ids), "")

    def _move(self, ids: list[str], name: str) -> int:
        """Move examples to the concept of a name, or where it is "" away; returns how many are there now."""
        count = first = 0
        together = families(self._store, ids)
        for chunk in _chunks([one for whole, its in together.items() for one in (whole, *its)]):
            moved, made = self._move_some(chunk, name, first)
            count, first = count + len(moved & together.keys()), first or made
        if first:
            self._made.append(first)
        self._finish()
        return count

    def _move_some(self, ids: list[str], name: str, first: int) -> tuple[set[str], int]:
        """Make the changes that move some examples: which, and the number of the first change, 0 for none."""
        moved, doubles, planned = dict[str, str](), dict[str, str](), False

        def moving(names: Names) -> Change | None:
            nonlocal moved, doubles, planned
            anew = named_anew(name, self._looking.now().counts, names) if name else None
            planned = anew is None
            if anew is not None:
                return anew
            moved, doubles = self._planned(names, ids, names.current(name))
            key = names.key(names.current(name)) if name else names.deleted
            return move(moved, key, first) if moved else None

        def deleting(names: Names) -> Change | None:
            same = {identity: key for identity, key in doubles.items() if names.moved.get(identity, key) == key}
            return move(same, names.deleted, first) if same else None

        while not planned:
            names = self._changes.make(moving)
        first = first or (names.number if moved else 0)
        if doubles:
            number = self._changes.make(deleting).number
            first = first or number
        return set(moved), first

    def _planned(self, names: Names, ids: list[str], name: str) -> tuple[dict[str, str], dict[str, str]]:
        """The examples that go to a concept, and those that it has already, each with the key that it has now."""
        self._store.revision()  # what others have written up to now is seen
        records = self._store.get(ids, fields=CONTENT, with_vectors=False)
        keys = [names.moved.get(i, k) for i, k in zip(records.ids, records.fields["label"], strict=True)]
        here = [bool(now := names.name(key)) and now != name for key in keys]
        if not name:
            return {i: key for i, key, ok in zip(records.ids, keys, here, strict=True) if ok}, {}
        there = names.keys(name, self._looking.now().counts)
        of_images = F("image_hash").isin(sorted(set(records.fields["image_hash"])))
        met = stored_contents(self._store, of_images & F("label").isin(there), lambda _: name)
        moved, doubles = dict[str, str](), dict[str, str]()
        shown = contents(records.fields, lambda _: name)
        for identity, key, ok, content in zip(records.ids, keys, here, shown, strict=True):
            if ok:
                (doubles if _met(met, content) else moved)[identity] = key
        return moved, doubles

    def restore(self, keys: Mapping[str, str]) -> None:
        """Bring examples back that were deleted, each to a key, since somebody adds them again."""
        names = self._changes.names()
        deleted = [identity for identity in keys if is_deleted(names.moved.get(identity, ""))]
        for key in sorted({keys[identity] for identity in deleted}):
            together = families(self._store, [i for i in deleted if keys[i] == key])
            back = [one for whole, its in together.items() for one in (whole, *its)]
            self._changes.make(partial(_brought_back, back, key))
        self._settle()

    def agree(self, keys: Mapping[str, str]) -> None:
        """See :meth:`ConceptDatabase.agree`."""
        names = self._changes.names()
        stale = {i: names.moved[i] for i, key in keys.items() if names.moved.get(i, key) != key}
        if stale:
            self._write(self._store, stale)

    def purge(self) -> int:
        """See :meth:`ConceptDatabase.purge`."""
        key = self._changes.names().deleted
        self.tidy_up()
        names = self._changes.make(lambda names: purged(names.number) if names.deleted == key else None)
        self._settle()
        gone = 0
        for space in each_space(self._store):
            space.revision()
            old = [key for key in map(str, space.count_by("label")) if is_deleted(key) and key != names.deleted]
            gone = max(gone, space.delete(where=F("label").isin(old)) if old else 0)
        return gone

    # -- looking back -------------------------------------------------------------------------------------------------

    def history(self, limit: int | None = None) -> tuple[Correction, ...]:
        """See :meth:`ConceptDatabase.history`."""
        names = self._changes.names()
        heads = [step for step in reversed(names.history) if step.belongs_to == step.number][:limit]
        return tuple(described(names, step) for step in heads)

    @property
    def last(self) -> int:
        """See :attr:`ConceptDatabase.last_correction`."""
        return self._made[-1] if self._made else 0

    def undo(self, number: int | None = None) -> Correction:
        """See :meth:`ConceptDatabase.undo`."""
        names = self._changes.names()
        chosen = self._last(names) if number is None else number
        steps = parts(names, chosen)
        for step in steps:
            check_undo(names, step)
        first = 0
        for step in reversed(steps):
            made = self._changes.make(partial(undone, step.number, first))
            first = first or made.number
        self._made = [n for n in self._made if n != chosen]
        self._finish()
        return described(self._changes.names(), steps[0])

    def _last(self, names: Names) -> int:
        undone = {step.number for step in names.history if step.undone}
        left = [number for number in self._made if number not in undone]
        if not left:
            raise VocabularyError(
                "undo",
                expected="a correction that was made through this database since it was opened",
                got="none",
                hint="Give the number of one: history() lists those of everybody.",
            )
        return left[-1]

    # -- finishing ----------------------------------------------------------------------------------------------------

    def _change(self, change: Callable[[Inventory], Change]) -> int:
        """Make a change that holds for what is there at that moment, and finish what it leaves to do; see there."""
        names = self._changes.make(lambda names: change(replace(self._looking.now(), names=names)))
        self._made.append(names.number)
        return self._finish()

    def _finish(self) -> int:
        with told(lambda: "The change is made and stays. What is left to do, the next change or addition does."):
            return self.tidy_up()

    def tidy_up(self) -> int:
        """Do what changes have left to do, those of others too: write the keys of single examples that were given
        others, delete what removed concepts have left, and of what merged ones have twice keep one.

        Returns:
            How many examples were there twice.
        """  # fmt: skip
        self._settle()
        seen = self._looking.now()
        if left := sorted(seen.names.removed & seen.counts.keys()):
            for space in each_space(self._store):
                space.delete(where=F("label").isin(left))
        doubles = sum(self._drop_doubles(name) for name in sorted(seen.names.untidied))
        if doubles:
            self._settle()
        return doubles

    def _settle(self) -> None:
        """Bring the rows of every space to the keys that changes have given them.

        Another writer may do the same at the same time and be behind, so it is looked at again after writing.
        """
        written = dict[str, str]()
        while True:
            names = self._changes.names()
            stale = {identity for identity, key in written.items() if names.moved[identity] != key}
            todo = {identity: names.moved[identity] for identity in {*names.unsettled, *stale}}
            if not todo:
                return
            for space in each_space(self._store):
                self._write(space, todo)
            written |= todo
            self._changes.make(partial(_settled, names.number))

    def _write(self, space: EmbeddingStore, keys: Mapping[str, str]) -> None:
        space.revision()  # what others have written up to now is seen
        for ids in batched(sorted(keys), _AT_ONCE):
            space.update({"label": [keys[identity] for identity in ids]}, ids=ids)

    def _drop_doubles(self, name: str) -> int:
        """Keep one of each example that a concept has under several keys, that of its own name first."""
        dropped, known, doubles = 0, -1, dict[str, str]()

        def decide(names: Names) -> Change | None:
            nonlocal doubles
            if names.number != known:  # others have changed something since
                doubles = self._doubles(names, name)
            if name not in names.untidied or not doubles:
                return noted(name, names)
            some = {identity: doubles[identity] for identity in next(_chunks(list(doubles)))}
            return move(some, names.deleted, names.untidied[name])

        while name in (names := self._changes.make(decide)).untidied:
            known, before = names.number, len(doubles)
            doubles = {i: key for i, key in doubles.items() if names.moved.get(i) != names.deleted}
            dropped += before - len(doubles)
        return dropped

    def _doubles(self, names: Names, name: str) -> dict[str, str]:
        """The examples that a concept has twice, all but one of each, with their keys."""
        present = self._looking.now().counts
        keys = [key for key in names.keys(name, present) if key in present]
        met, found = set[Content](), dict[str, str]()
        for own in (True, False) if len(keys) > 1 else ():  # a name is a key too, mostly unused
            chosen = [key for key in keys if (key == name) is own]
            for records in self._store.scan(F("label").isin(chosen), fields=CONTENT) if chosen else ():
                labels = records.fields["label"].tolist()
                shown = contents(records.fields, lambda _: name)
                for identity, label, content in zip(records.ids.tolist(), labels, shown, strict=True):
                    key = names.moved.get(identity, label)
                    if names.name(key) == name and _met(met, content):
                        found[identity] = key
        return found


def _brought_back(ids: list[str], key: str, names: Names) -> Change | None:
    """Give those of some examples that are deleted a key."""
    back = {identity: own for identity in ids if is_deleted(own := names.moved.get(identity, ""))}
    return move(back, key) if back else None


def _met(met: set[Content], content: tuple[Content, Content]) -> bool:
    """Whether an example of the same content was met before; if not, it is now."""
    exact, coarse = content
    if not met.isdisjoint(content):
        return True
    met.add(exact if exact[2] else coarse)
    return False


def _settled(number: int, names: Names) -> Change | None:
    return settled(number) if any(since <= number for since in names.unsettled.values()) else None


def _listed(doing: str, ids: Iterable[str]) -> list[str]:
    if isinstance(ids, str):
        raise VocabularyError(doing, expected="a list of ids", got=f"the text {ids[:60]!r}")
    return list(dict.fromkeys(ids))


def _chunks(ids: list[str]) -> Iterator[list[str]]:
    """As many ids as one change has room for."""
    chunk, size = list[str](), 0
    for identity in ids:
        needed = len(json.dumps(identity)) + 2
        if chunk and size + needed > _ROOM:
            yield chunk
            chunk, size = [], 0
        chunk.append(identity)
        size += needed
    if chunk:
        yield chunk
