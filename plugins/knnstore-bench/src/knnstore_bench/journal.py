"""The JSON of a run, written whole after each step, so that a run that was killed goes on where it was."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from knnstore.errors import InvalidInputError
from knnstore.folders import write_whole
from knnstore_bench.results import FORMAT, Detail, Report

__all__ = ["check_same", "load", "save"]

_REPORT: TypeAdapter[Report] = TypeAdapter(Report)
_FRESH = "Take another folder with --out, or start over with --fresh."


def save(report: Report, path: Path) -> None:
    """Write it in one piece: a reader sees the file as it was or as it is, and never half of it."""
    write_whole(path, _REPORT.dump_json(report, indent=1) + b"\n")


def load(path: Path) -> Report | None:
    """What was measured before; None where there is no such file.

    Raises:
        InvalidInputError: the file is something else.
    """
    if not path.exists():
        return None
    try:
        report = _REPORT.validate_json(path.read_bytes())
    except ValidationError as error:
        problem = f"{error.error_count()} things wrong, first: {error.errors()[0]['msg']}"
        raise InvalidInputError(
            f"{path}", expected="results of knnstore bench", got=problem, hint="Take another folder with --out."
        ) from error
    if report.format != FORMAT:
        raise InvalidInputError(f"{path}", expected=f"format {FORMAT}", got=f"format {report.format}", hint=_FRESH)
    return report


def check_same(old: Report, new: Report, path: Path) -> None:
    """Refuse to go on with the results of other work, or of another machine.

    Raises:
        InvalidInputError: naming every difference.
    """
    differences = [
        (field.name, getattr(theirs, field.name), getattr(ours, field.name))
        for theirs, ours in ((old.work, new.work), (old.machine, new.machine))
        for field in fields(theirs)
        if getattr(theirs, field.name) != getattr(ours, field.name)
    ]
    if differences:
        raise InvalidInputError(
            f"{path} has the results of other work",
            expected="; ".join(f"{name} {_shown(ours, theirs)}" for name, theirs, ours in differences),
            got="; ".join(f"{name} {_shown(theirs, ours)}" for name, theirs, ours in differences),
            hint=_FRESH,
        )


def _shown(value: object, other: object) -> str:
    """A value; of several, those that the other has not."""
    if not isinstance(value, tuple) or not isinstance(other, tuple):
        return str(value)
    own = [
        f"{each.name} {each.value}" if isinstance(each, Detail) else str(each) for each in value if each not in other
    ]
    return ", ".join(own) or ("in this order" if len(value) == len(other) else "no more")
