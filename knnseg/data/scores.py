"""What is believed about each mask: neighbours, and the probability of each class."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from knnseg.data.arrays import expect
from knnseg.data.vocabulary import UNKNOWN
from knnseg.errors import ConfigError, ShapeError

__all__ = ["FINAL", "ClassScores", "Neighbours", "check_branch"]


FINAL = "final"
"""The branch that every base has: its scores as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The database entries nearest to each mask, best first; where fewer than K were found, id "" and score -inf.

    Args:
        ids: object (N, K), str.
        scores: float32 (N, K), cosine similarity.
        labels: object (N, K), str; "" in empty slots.
        sizes: float32 (N, K), how many times as many cells as the mask the entry covers; 1 in empty slots. None where
            that is not known.
    """

    ids: NDArray[np.object_]
    scores: NDArray[np.float32]
    labels: NDArray[np.object_]
    sizes: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not self.ids.shape == self.scores.shape == self.labels.shape:
            raise ShapeError(
                "Neighbours", expected="one shape", got=f"{self.ids.shape}, {self.scores.shape} and {self.labels.shape}"
            )
        if self.sizes is not None and self.sizes.shape != self.ids.shape:
            raise ShapeError("Neighbours.sizes", expected=f"{self.ids.shape}", got=self.sizes.shape)

    @property
    def found(self) -> NDArray[np.bool_]:
        """Bool (N, K), the slots that hold an entry."""
        return np.isfinite(self.scores)

    def split(self, sizes: Sequence[int]) -> list[Neighbours]:
        """Those of several images apart, which have so many masks each."""
        cuts = np.cumsum(sizes)[:-1]
        columns = (np.split(column, cuts) for column in self.columns())
        return [Neighbours(*parts) for parts in zip(*columns, strict=True)]

    def columns(self) -> list[NDArray[Any]]:
        """The arrays, each (N, K), in the order in which they are given."""
        given = [self.ids, self.scores, self.labels]
        return given if self.sizes is None else [*given, self.sizes]


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """The probability of each class for each mask. A row of zeros is a mask about which nothing is known.

    A base whose scores come about in steps may let retrieval in at an earlier one, a *branch*: it returns a subclass
    that says what the scores are there (:meth:`branch`), and what follows from others (:meth:`resume`). The subclass is
    a frozen dataclass, and every array among its fields has a row for each mask: :meth:`select` and
    :meth:`concatenate` work on all of them.

    Args:
        probabilities: float32 (N, C), rows that sum to 1, to 0, or to less than 1 where the rest is the probability
            that the mask is none of the classes.
        classes: the C class names, in order.
        branches: the branches that the base has; to plain scores they are all the same.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    branches: tuple[str, ...] = (FINAL,)

    def __post_init__(self) -> None:
        expect(self.probabilities, "ClassScores.probabilities", np.float32, 2)
        if self.probabilities.shape[1] != len(self.classes):
            raise ShapeError(
                "ClassScores",
                expected=f"{len(self.classes)} columns, one for each class",
                got=self.probabilities.shape[1],
            )

    def __len__(self) -> int:
        return len(self.probabilities)

    def select(self, rows: NDArray[np.integer]) -> Self:
        """The scores of some masks, in the order given, with all that a subclass knows of them."""
        return replace(self, **{name: array[rows] for name, array in self._columns()})

    @classmethod
    def concatenate(cls, parts: Sequence[ClassScores]) -> ClassScores:
        """The scores of several sets of masks, one after another.

        Raises:
            ShapeError: no part, or parts of different kinds or classes.
        """
        if len({(type(part), part.classes, part.branches) for part in parts}) != 1:
            raise ShapeError("ClassScores", expected="parts of one kind over the same classes")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name, _ in parts[0]._columns()
        }
        return replace(parts[0], **joined)

    def _columns(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The arrays, which have a row for each mask."""
        for field_ in fields(self):
            if isinstance(value := getattr(self, field_.name), np.ndarray):
                yield field_.name, value

    def with_unknown(self) -> ClassScores:
        """With what is left of 1 for the class ``unknown``, which comes last where it is not among the classes yet."""
        rest = np.maximum(1 - self.probabilities.sum(axis=1, keepdims=True), 0)
        if UNKNOWN not in self.classes:
            return ClassScores(np.hstack([self.probabilities, rest]), (*self.classes, UNKNOWN))
        own = np.array([name == UNKNOWN for name in self.classes], np.float32)
        return ClassScores(self.probabilities + rest * own, self.classes)

    def branch(self, name: str) -> ClassScores:
        """The scores at one of the branches, (N, C).

        Raises:
            ConfigError: the base has no such branch.
        """
        check_branch(name, self.branches)
        return self

    def resume(self, name: str, fused: ClassScores) -> ClassScores:
        """The final scores, (N, C), after the scores at a branch were replaced by ``fused``.

        A row that is as it was in ``branch(name)`` gives the row of these scores, bit for bit.

        Raises:
            ConfigError: the base has no such branch.
        """
        check_branch(name, self.branches)
        return fused


def check_branch(name: str, branches: Iterable[str]) -> None:
    """Check the branch that a configuration asks for against those of its base.

    Raises:
        ConfigError: the base has no such branch.
    """
    known = tuple(branches)
    if name not in known:
        raise ConfigError(
            "fusion.branch",
            expected=f"one of {list(known)}, which this base has",
            got=repr(name),
            hint="Other bases may have others",
        )
