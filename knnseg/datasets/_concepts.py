"""What can appear in a rendered scene: the concepts, how each is called, and how each is drawn."""

from __future__ import annotations

from dataclasses import dataclass

from knnseg.datasets._things import PAINTERS

__all__ = ["CONCEPTS", "GROUNDS", "PAINTERS", "SceneClass"]


@dataclass(frozen=True, slots=True)
class SceneClass:
    """A class of a rendered scene.

    Args:
        name: in the singular, as in a vocabulary.
        thing: whether it is a countable object; the rest is stuff.
        held_back: whether the bundled ``tiny`` model never saw it, neither drawn nor named.
        plural: how a caption calls several; "" for stuff.
    """

    name: str
    thing: bool
    held_back: bool = False
    plural: str = ""


_HELD_BACK = frozenset(
    {
        *("anchor", "butterfly", "cactus", "crown", "donut", "guitar", "kettle", "ladybird", "pineapple", "rocket"),
        *("honeycomb", "lava", "polka dot cloth", "roof tiles"),
    }
)
_PLURALS = {"butterfly": "butterflies", "cactus": "cacti", "fish": "fish", "snowman": "snowmen"}
_STUFF = (
    "brick wall",
    "checkered floor",
    "cloudy sky",
    "grass",
    "gravel",
    "hedge",
    "metal plate",
    "plaid cloth",
    "sand",
    "snow",
    "starry sky",
    "striped wallpaper",
    "water",
    "wooden floor",
    "honeycomb",
    "lava",
    "polka dot cloth",
    "roof tiles",
)

GROUNDS = frozenset(
    {"checkered floor", "grass", "gravel", "lava", "metal plate", "sand", "snow", "water", "wooden floor"}
)
"""Stuff that things can stand on; the rest stands upright behind them. Seen from above, anything can lie anywhere."""

CONCEPTS: tuple[SceneClass, ...] = tuple(
    [SceneClass(name, False, name in _HELD_BACK) for name in _STUFF]
    + [SceneClass(name, True, name in _HELD_BACK, _PLURALS.get(name, f"{name}s")) for name in PAINTERS]
)
"""Every concept: 18 kinds of stuff and 30 kinds of things, of which 4 and 10 are held back from the bundled model."""
