"""Which classes gained, which lost, and which are worst: the few of hundreds that one looks at first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Standing", "Standings", "standings"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One class.

    Args:
        name: the class.
        base: its IoU without the database, 0 to 1.
        final: with it.
    """

    name: str
    base: float
    final: float

    @property
    def gain(self) -> float:
        """What the database gives."""
        return self.final - self.base


@dataclass(frozen=True, slots=True)
class Standings:
    """Classes that occur in the labels.

    Args:
        improved: those that gain, most first.
        worsened: those that lose, most first.
        worst: those of lowest IoU with the database, lowest first.
    """

    improved: tuple[Standing, ...]
    worsened: tuple[Standing, ...]
    worst: tuple[Standing, ...]


def standings(result: Mapping[str, Any], most: int) -> Standings:
    """Pick from what :meth:`Report.to_dict` returned, at most ``most`` of each kind."""
    every = [
        Standing(name, base["iou"], result["final"]["per_class"][name]["iou"])
        for name, base in result["base"]["per_class"].items()
        if result["labels"][name]["pixels"]
    ]

    def first(key: Callable[[Standing], float], listed: list[Standing]) -> tuple[Standing, ...]:
        return tuple(sorted(listed, key=key)[:most])

    return Standings(
        first(lambda s: -s.gain, [s for s in every if s.gain > 0]),
        first(lambda s: s.gain, [s for s in every if s.gain < 0]),
        first(lambda s: s.final, every),
    )
