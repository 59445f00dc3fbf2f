"""The classes of a prediction, and the form in which class names are compared."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from knnseg.errors import KnnSegWarning, VocabularyError

__all__ = ["UNKNOWN", "Vocabulary", "tidied", "tidy"]

UNKNOWN = "unknown"
"""The class of what belongs to no other."""


def tidy(label: str) -> str:
    """A class name in the form in which names are compared: no spaces around it, and Unicode's form NFC.

    Names that look the same are the same class.
    """
    return unicodedata.normalize("NFC", label.strip()) if isinstance(label, str) else label


def tidied(label: str) -> str:
    """:func:`tidy`, for a label that is to be kept: what is changed is said."""
    tidy_ = tidy(label)
    if tidy_ and tidy_ != label:
        said = f"label {label!r}: taken as {tidy_!r}; spaces around it do not count, nor how Unicode spells a letter"
        warnings.warn(said, KnnSegWarning, stacklevel=3)
    return tidy_


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The classes that a prediction may use, in order, without repetition.

    Args:
        names: the C class names; spaces around them are dropped, and letters brought to Unicode's form NFC.
        things: the names among them that are countable objects; the rest is stuff.
        wording: what a text encoder reads for some of the names, where that is not the name itself: synonyms, plain
            words for a name that is not written as words. Labels in a database are names, whatever their wording.

    Raises:
        VocabularyError: no name, an empty name, a repeated name, or a thing or words of what is not among the names.
    """

    names: tuple[str, ...]
    things: frozenset[str] = field(default_factory=frozenset)
    wording: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise VocabularyError("vocabulary", expected="at least one class name", got="none")
        self._tidy()
        blank = [i for i, name in enumerate(self.names) if not isinstance(name, str) or not name.strip()]
        if blank:
            raise VocabularyError(
                "vocabulary", expected="non-empty names", got=f"{self.names[blank[0]]!r} at {blank[0]}"
            )
        known = frozenset(self.names)
        if len(known) < len(self.names):
            repeated = min(name for name, count in Counter(self.names).items() if count > 1)
            raise VocabularyError("vocabulary", expected="each name once", got=f"{repeated!r} more than once")
        for what, given in (("things", self.things), ("wording of", frozenset(self.wording))):
            if not given <= known:
                raise VocabularyError(f"vocabulary: {what} {sorted(given - known)}", expected="to be among the names")

    def _tidy(self) -> None:
        """Bring every name to the form in which names are compared."""
        object.__setattr__(self, "names", tuple(map(tidy, self.names)))
        object.__setattr__(self, "things", frozenset(map(tidy, self.things)))
        object.__setattr__(self, "wording", {tidy(name): words for name, words in self.wording.items()})

    @classmethod
    def of(cls, classes: Vocabulary | Iterable[str], things: Iterable[str] = ()) -> Vocabulary:
        """Take names as they come: ``Vocabulary.of(["kettle", "grass"], things=["kettle"])``."""
        if isinstance(classes, Vocabulary):
            return classes
        if isinstance(classes, str):
            raise VocabularyError("vocabulary", expected="a list of names", got=f"the string {classes!r}")
        if isinstance(things, str):
            raise VocabularyError("vocabulary", expected="things as a list of names", got=f"the string {things!r}")
        return cls(tuple(classes), frozenset(things))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def subset(self, names: Iterable[str]) -> Vocabulary:
        """These names, in this order, with what is known here of things and wording."""
        kept = tuple(map(tidy, names))
        wording = {name: self.wording[name] for name in kept if name in self.wording}
        return Vocabulary(kept, self.things & set(kept), wording)

    def with_unknown(self) -> Vocabulary:
        """With the class ``unknown`` at the end, where it is not among the names already."""
        return self if UNKNOWN in self.names else Vocabulary((*self.names, UNKNOWN), self.things, self.wording)

    def words(self, name: str) -> tuple[str, ...]:
        """All words for one class, each once: its wording, or else the parts of its name, which commas may part."""
        words = self.wording.get(tidy(name)) or [part.strip() for part in name.split(",")]
        return tuple(dict.fromkeys(word for word in words if word)) or (name,)

    def index(self, names: NDArray[np.object_]) -> NDArray[np.int64]:
        """int64, the shape of ``names``: the position of each name, -1 for a name that is not of this vocabulary."""
        position = {name: i for i, name in enumerate(self.names)}
        found = map(position.get, names.reshape(-1).tolist(), repeat(-1))
        return np.fromiter(found, np.int64, names.size).reshape(names.shape)
