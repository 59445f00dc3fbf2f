"""What is changed from the page, each change a step that can be undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.database.concepts import ConceptDatabase
from knnseg.database.examples import Examples
from knnseg.errors import MaskError, VocabularyError
from knnseg.studio.evidence import file_name

__all__ = ["Curation"]

_SHOWN = 4
"""Examples of a concept that are shown in a list of concepts."""
_SAME, _INSIDE = 0.9, 0.5
"""From which intersection over union on two masks are the same, and from which share on one is mostly in another."""
_STEPS = 50
"""That can be undone."""


@dataclass(slots=True)
class _Step:
    """What one click has done.

    Args:
        text: for people.
        corrections: the numbers of the corrections of the database, in their order.
        added: the ids of new examples.
    """

    text: str
    corrections: list[int] = field(default_factory=list)
    added: list[str] = field(default_factory=list)


class Curation:
    """Adds, corrects and takes back.

    Args:
        database: that is changed.
        lock: held while something is changed.
        writer: who does it.
    """

    def __init__(self, database: ConceptDatabase, lock: RLock, writer: str) -> None:
        self._database, self._lock, self._writer = database, lock, writer
        self._steps: list[_Step] = []

    @property
    def undoable(self) -> str:
        """What undoing would take back; "" for nothing."""
        return self._steps[-1].text if self._steps else ""

    # -- looking ------------------------------------------------------------------------------------------------------

    def concepts(self) -> list[dict[str, Any]]:
        """Every concept with its newest examples."""
        with self._lock:
            return [
                {
                    "name": c.label, "count": c.count, "thing": c.thing, "things": c.things,
                    "examples": _described(self._database.examples(concept=c.label, limit=_SHOWN)),
                }
                for c in self._database.concepts()
            ]  # fmt: skip

    def examples(self, concept: str, limit: int) -> list[dict[str, Any]]:
        """The newest examples of a concept."""
        with self._lock:
            return _described(self._database.examples(concept=concept, limit=limit))

    # -- changing -----------------------------------------------------------------------------------------------------

    def teach(
        self, image: Image, mask: NDArray[np.bool_], name: str, thing: bool | None, *, denied: str = ""
    ) -> dict[str, Any]:
        """Add an example, in place of those of the image that contradict it.

        Args:
            image: with the URI that is kept.
            mask: bool (H, W).
            name: of the concept, tidied.
            thing: a countable object; None as the database knows it.
            denied: what the mask was taken for, where that is corrected.

        Raises:
            MaskError: the features say nothing about it.
        """
        with self._lock, self._step(f"{name} taught") as step:
            there = set(self._database.examples(image=image).id.tolist())
            others = self._contradicting(image, mask, name, denied)
            moved = self._correct(step, lambda: self._database.relabel(others, name)) if others else 0
            things = None if thing is None else [name] * thing
            report = self._database.add_masks(
                image, mask[None], [name], things=things, uri=image.uri, writer=self._writer
            )
            step.added = [] if report.skipped else [one for one in report.ids if one not in there]
            if report.skipped and not moved:
                raise MaskError("selection", expected="something that can be compared", got="none", hint="Select more.")
            found = self._database.examples(ids=[*report.ids, *others])
            return {"added": len(step.added), "moved": moved, "name": found[0].concept if found else name}

    def _contradicting(self, image: Image, mask: NDArray[np.bool_], name: str, denied: str) -> list[str]:
        """Examples of other concepts in the image that are nearly the mask, and those of ``denied`` mostly in it."""
        concepts = {e.id: e.concept for e in self._database.examples(image=image) if e.concept != name}
        records = self._database.store.get(list(concepts), fields=["rle"], with_vectors=False)
        masked = records.take(records.fields["rle"] != "")
        if not len(masked):
            return []
        masks = Masks.from_rle(masked.fields["rle"].tolist(), image.size)
        shared = masks.inside(mask)
        same = shared >= _SAME * (masks.areas + np.float32(mask.sum()) - shared)
        said = np.array([concepts[identity] == denied for identity in masked.ids.tolist()], bool)
        return [str(identity) for identity in masked.ids[same | (said & (shared >= _INSIDE * masks.areas))]]

    def relabel(self, ids: Iterable[str], name: str) -> dict[str, Any]:
        """Move examples to another concept."""
        return self._change(f"example moved to {name}", lambda: self._database.relabel(ids, name))

    def delete(self, ids: Iterable[str]) -> dict[str, Any]:
        """Delete examples."""
        return self._change("example removed", lambda: self._database.delete_examples(ids))

    def rename(self, old: str, new: str) -> dict[str, Any]:
        """Give a concept another name; where that exists, they become one."""
        return self._change(f"{old} renamed to {new}", lambda: self._database.rename(old, new))

    def set_kind(self, name: str, *, thing: bool) -> dict[str, Any]:
        """Say of a concept that it is a countable object, or stuff."""
        what = "a thing" if thing else "stuff"
        return self._change(f"{name} made {what}", lambda: self._database.set_kind(name, thing=thing))

    def remove(self, name: str) -> dict[str, Any]:
        """Remove a concept, by removing its examples one by one, so that it can be undone."""

        def all_of_it() -> int:
            return self._database.delete_examples(self._database.examples(concept=name).id.tolist())

        return self._change(f"{name} removed", all_of_it)

    def undo(self) -> dict[str, Any]:
        """Take the last step back.

        Raises:
            VocabularyError: there is no step, or the database says why it cannot be undone.
        """
        with self._lock:
            if not self._steps:
                raise VocabularyError("undo: nothing was changed here since the page is served.")
            step = self._steps[-1]
            while step.corrections:
                self._database.undo(step.corrections[-1])
                step.corrections.pop()
            if step.added:
                self._database.delete_examples(step.added)
            self._steps.pop()
            return {"undone": step.text}

    def _change(self, text: str, make: Callable[[], int]) -> dict[str, Any]:
        with self._lock, self._step(text) as step:
            return {"changed": self._correct(step, make)}

    @contextmanager
    def _step(self, text: str) -> Iterator[_Step]:
        """A step, remembered where it has done something, also where it has failed half way."""
        step = _Step(text)
        try:
            yield step
        finally:
            if step.corrections or step.added:
                self._steps = [*self._steps, step][-_STEPS:]

    def _correct(self, step: _Step, make: Callable[[], int]) -> int:
        """Make a correction, and remember its number."""
        before = self._database.last_correction
        try:
            return make()
        finally:
            if self._database.last_correction not in (0, before):
                step.corrections.append(self._database.last_correction)


def _described(examples: Examples) -> list[dict[str, Any]]:
    return [
        {"id": e.id, "label": e.concept, "image": file_name(e.image), "writer": e.writer, "added": e.added}
        for e in examples
    ]
