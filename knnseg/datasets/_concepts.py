"""What can appear in a rendered scene: the concepts, how each is called, and how each is drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from knnseg.datasets import _things_made as made
from knnseg.datasets import _things_nature as nature
from knnseg.datasets._sprites import Sprite

__all__ = ["CONCEPTS", "GROUNDS", "PAINTERS", "Concept", "Painter"]

Painter: TypeAlias = Callable[[Sprite, np.random.Generator], None]


@dataclass(frozen=True, slots=True)
class Concept:
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


PAINTERS: dict[str, Painter] = {
    "apple": nature.apple,
    "ball": made.ball,
    "balloon": made.balloon,
    "boat": made.boat,
    "book": made.book,
    "candle": made.candle,
    "car": made.car,
    "carrot": nature.carrot,
    "clock": made.clock,
    "cup": made.cup,
    "fish": nature.fish,
    "flower": nature.flower,
    "heart": made.heart,
    "house": made.house,
    "key": made.key,
    "mushroom": nature.mushroom,
    "snowman": nature.snowman,
    "star": made.star,
    "tree": nature.tree,
    "umbrella": made.umbrella,
    "anchor": made.anchor,
    "butterfly": nature.butterfly,
    "cactus": nature.cactus,
    "crown": made.crown,
    "donut": nature.donut,
    "guitar": made.guitar,
    "kettle": made.kettle,
    "ladybird": nature.ladybird,
    "pineapple": nature.pineapple,
    "rocket": made.rocket,
}
"""How each thing is painted."""

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

CONCEPTS: tuple[Concept, ...] = tuple(
    [Concept(name, False, name in _HELD_BACK) for name in _STUFF]
    + [Concept(name, True, name in _HELD_BACK, _PLURALS.get(name, f"{name}s")) for name in PAINTERS]
)
"""Every concept: 18 kinds of stuff and 30 kinds of things, of which 4 and 10 are held back from the bundled model."""
