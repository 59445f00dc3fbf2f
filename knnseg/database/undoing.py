"""Corrections that were made: what each was, whether it can be undone, and the change that undoes it."""

from __future__ import annotations

from dataclasses import dataclass

from knnseg.data.vocabulary import tidy
from knnseg.database.naming import REMEMBERED, Change, Names, Step, is_deleted, undoing
from knnseg.errors import VocabularyError

__all__ = ["Correction", "check_undo", "described", "parts", "undone"]


@dataclass(frozen=True, slots=True)
class Correction:
    """A correction that somebody has made.

    Args:
        number: the corrections of a database are numbered in order, with gaps.
        time: when it was made, as seconds since the epoch.
        what: what it has done, for people.
        examples: how many single examples it has moved or deleted, their parts included.
        undone: the number of the correction that has undone it, or 0.
    """

    number: int
    time: float
    what: str
    examples: int = 0
    undone: int = 0


def undone(number: int, first: int, names: Names) -> Change:
    """The change that undoes one, where it can be undone at that moment; see :func:`check_undo`."""
    check_undo(names, names.step(number))
    return undoing(number, first)


def parts(names: Names, number: int) -> list[Step]:
    """A correction with all that belongs to it."""
    steps = [step for step in names.history if step.belongs_to == number]
    if not steps or steps[0].number != number:
        there = [step.number for step in names.history if step.belongs_to == step.number]
        expected = f"the number of one of the last {REMEMBERED} corrections, {there}"
        raise VocabularyError("undo", expected=expected, got=number)
    return steps


def check_undo(names: Names, step: Step | None) -> None:
    """Raise where a correction cannot be undone.

    Raises:
        VocabularyError: with the reason.
    """
    reason = ""
    if step is None:
        reason = f"it is not among the last {REMEMBERED} any more"
    elif step.undone:
        reason = f"correction {step.undone} has undone it already"
    elif step.change["op"] == "remove":
        reason = "the examples of a removed concept are deleted for good. Add them again"
    elif names.purged_since(step):
        reason = "what it has deleted was purged since"
    elif names.overtaken(step):
        reason = "a later correction has changed the same. Undo that one first"
    if reason:
        what = "this correction" if step is None else f"correction {step.number} ({_said(names, step)[0]})"
        raise VocabularyError(f"undo: {what} cannot be undone: {reason}.")


def described(names: Names, head: Step) -> Correction:
    """A correction with all that belongs to it, for people."""
    what, _ = _said(names, head)
    count = sum(len(step.moved) for step in parts(names, head.number))
    now = names.step(head.number)
    return Correction(head.number, head.time, what, count, now.undone if now else 0)


def _said(names: Names, step: Step) -> tuple[str, int]:
    """What a correction has done, in words, and to how many single examples."""
    change, count = step.change, len(step.moved)
    match change["op"]:
        case "name":
            before = sorted({old or tidy(key) for key, (old, _) in step.called.items()})
            return f"{', '.join(map(repr, before))} renamed to {change['name']!r}", 0
        case "kind":
            kinds = sorted({names.name(key) or tidy(key) for key in change["keys"]})
            return f"{', '.join(map(repr, kinds))} made {'a thing' if change['thing'] else 'stuff'}", 0
        case "remove":
            return f"{', '.join(repr(names.called.get(key) or tidy(key)) for key in change['keys'])} removed", 0
        case "undo":
            return f"correction {change['number']} undone", count
    if is_deleted(change["to"]):
        return "examples deleted", count
    return f"examples moved to {names.name(change['to'])!r}", count
