"""Rendered scenes: pictures of known things on known surfaces, made on the fly, with exact ground truth.

A dataset that needs no download, for the demonstration, for tests, and for training the bundled ``tiny`` model. Some
concepts are *held back*: the model has never seen or read them, so what is said about them comes from the database.

    >>> scenes = RenderedScenes(100, seed=7, size=(96, 96))
    >>> scenes[0].image.shape, scenes[0].segments.dtype
    ((96, 96, 3), dtype('int32'))
    >>> references = RenderedScenes(8, seed=1, including=["kettle", "lava"])   # four scenes with each, guaranteed
    >>> {"kettle", "lava"} <= {segment.label for scene in references for segment in scene.info}
    True
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias, overload

import numpy as np

from knnseg.data.annotations import LabelledImage, LabelledSegment
from knnseg.datasets._concepts import CONCEPTS, GROUNDS, SceneClass
from knnseg.datasets._scenes import Cast, compose
from knnseg.errors import DatasetError

__all__ = ["CONCEPTS", "ConceptSet", "RenderedScenes", "SceneClass", "describe"]

ConceptSet: TypeAlias = Literal["seen", "held_back", "all"]

_BY_NAME = {concept.name: concept for concept in CONCEPTS}
_SETS: dict[str, tuple[SceneClass, ...]] = {
    "seen": tuple(concept for concept in CONCEPTS if not concept.held_back),
    "held_back": tuple(concept for concept in CONCEPTS if concept.held_back),
    "all": CONCEPTS,
}
_MIN_SIDE = 32
_NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class RenderedScenes(Sequence[LabelledImage]):
    """``count`` scenes of textured surfaces and things on them.

    Scene i depends on nothing but ``seed``, i and the settings other than ``count``: it can be rendered alone, in any
    order, in any process, and is rendered again at each access.

    Args:
        count: number of scenes.
        seed: scenes of different seeds have nothing in common.
        size: (H, W), pixels, at least 32 each. The composition is not the same at another size.
        concepts: which concepts may appear: those that the bundled model was trained on ("seen"), those that it was
            not ("held_back"), or "all".
        including: scene i is guaranteed to show concept ``including[i % len(including)]`` well, from this list of
            names, whatever ``concepts`` says.
        things: (fewest, most) things that are put in a scene, besides a guaranteed one. A thing that finds no place
            without hiding another is left out.

    Raises:
        DatasetError: an argument out of range, or a name that is not in ``CONCEPTS``.
    """

    def __init__(
        self,
        count: int,
        seed: int = 0,
        size: tuple[int, int] = (160, 160),
        concepts: ConceptSet = "all",
        *,
        including: Iterable[str] = (),
        things: tuple[int, int] = (2, 6),
    ) -> None:
        if count < 0:
            raise DatasetError("rendered scenes", expected="a count of at least 0", got=count)
        if seed < 0:
            raise DatasetError("rendered scenes", expected="a seed of at least 0", got=seed)
        if len(size) != 2 or min(size) < _MIN_SIDE:
            raise DatasetError(
                "rendered scenes", expected=f"a size (H, W) of at least {_MIN_SIDE} pixels each", got=size
            )
        if concepts not in _SETS:
            raise DatasetError(
                "rendered scenes", expected=f"concepts to be one of {', '.join(_SETS)}", got=repr(concepts)
            )
        if len(things) != 2 or not 0 <= things[0] <= things[1]:
            raise DatasetError("rendered scenes", expected="things as (fewest, most)", got=things)
        self._count, self.seed, self.size, self.concepts, self.things = count, seed, size, concepts, things
        self.including = tuple(_known(including))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names that can appear, in the order of ``CONCEPTS``."""
        used = {concept.name for concept in _SETS[self.concepts]} | {concept.name for concept in self.including}
        return tuple(concept.name for concept in CONCEPTS if concept.name in used)

    @property
    def thing_classes(self) -> frozenset[str]:
        """Those of ``classes`` that are countable objects."""
        return frozenset(name for name in self.classes if _BY_NAME[name].thing)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> LabelledImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelledImage]: ...
    def __getitem__(self, index: int | slice) -> LabelledImage | list[LabelledImage]:
        """Render scene ``index``, or the scenes of a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        i = index + self._count if index < 0 else index
        if not 0 <= i < self._count:
            raise IndexError(f"rendered scenes: expected an index below {self._count}, got {index}")
        rng = np.random.default_rng([self.seed, i, *self._settings()])
        name = f"{self.seed}-{i}"
        return compose(self._cast(i, rng), self.size, rng, image_id=name, uri=f"rendered:{self.concepts}/{name}")

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[i] for i in range(self._count))

    def __repr__(self) -> str:
        return f"RenderedScenes({self._count}, seed={self.seed}, size={self.size}, concepts={self.concepts!r})"

    def caption(self, index: int) -> str:
        """A sentence about scene ``index``: "a ball and two stars on sand in front of a brick wall"."""
        return describe(self[index].info)

    def _settings(self) -> list[int]:
        """The settings as an integer that is the same in every process and version of Python."""
        text = repr((self.size, self.concepts, self.things, [concept.name for concept in self.including]))
        return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")]

    def _cast(self, i: int, rng: np.random.Generator) -> Cast:
        """Draw what appears: most often two kinds of stuff, one of them a ground."""
        lead = self.including[i % len(self.including)] if self.including else None
        pool = [concept for concept in _SETS[self.concepts] if concept != lead]
        stuff = [concept for concept in pool if not concept.thing]
        objects = [concept for concept in pool if concept.thing]
        picks = list(rng.permutation(len(stuff))[: int(rng.choice([1, 2, 2, 2, 3]))])
        chosen = [stuff[k] for k in picks]
        if lead is not None and not lead.thing:
            chosen = [lead, *chosen[:2]] if len(chosen) > 1 else [lead, *chosen]
        some = [
            objects[k] for k in rng.integers(0, len(objects), int(rng.integers(self.things[0], self.things[1] + 1)))
        ]
        return Cast(tuple(chosen), tuple(some), lead)


def _known(names: Iterable[str]) -> Iterator[SceneClass]:
    if isinstance(names, str):
        raise DatasetError("rendered scenes", expected="a list of concept names", got=f"the string {names!r}")
    for name in names:
        if name not in _BY_NAME:
            raise DatasetError(
                "rendered scenes", expected=f"names from CONCEPTS ({', '.join(_BY_NAME)})", got=repr(name)
            )
        yield _BY_NAME[name]


def describe(segments: Iterable[LabelledSegment]) -> str:
    """Say what segments of a rendered scene show, things first, then the stuff from front to back.

    >>> describe([LabelledSegment(1, "brick wall"), LabelledSegment(2, "sand"), LabelledSegment(3, "star", True)])
    'a star on sand in front of a brick wall'
    """
    segments = list(segments)
    counts: dict[str, int] = {}
    for segment in segments:
        if segment.thing:
            counts[segment.label] = counts.get(segment.label, 0) + 1
    things = [_counted(name, count) for name, count in counts.items()]
    stuff = [segment.label for segment in segments if not segment.thing]
    grounds = [name for name in stuff if name in GROUNDS]
    behind = [_article(name) for name in stuff if name not in GROUNDS]
    places = ([f"on {_listed(grounds)}"] if grounds else []) + ([f"in front of {_listed(behind)}"] if behind else [])
    return " ".join(([_listed(things)] if things else []) + places)


def _counted(name: str, count: int) -> str:
    if count == 1:
        return _article(name)
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {_BY_NAME[name].plural}"


def _article(name: str) -> str:
    if name in {"roof tiles", "lava", "plaid cloth", "polka dot cloth"}:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _listed(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
