"""What may be wrong in a database: concepts that are twins, and examples that disagree with their neighbours.

Both come from one question, asked of every example: which are the nearest examples in other photographs?
"""

from __future__ import annotations

import difflib
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnseg.data.features import Embeddings
from knnseg.database.concepts import ConceptDatabase
from knnseg.database.examples import Examples

__all__ = ["Odd", "Review", "Twins", "review"]

_MOST = 4000
"""Examples that are asked about, the newest."""
_NEIGHBOURS = 8
"""That are counted, of other photographs than the example's."""
_ASKED = 24
"""Asked for, since some are of the same photograph."""
_AT_ONCE = 512
_MIXED = 0.3
"""Of two concepts, the share that each has among the neighbours of the other from which on they are twins."""
_AGAINST = 0.6
"""The share of one other concept among the neighbours of an example from which on it disagrees."""
_SPELT = 0.85
"""The likeness of two names, see ``difflib``, from which on they are spelt alike."""


@dataclass(frozen=True, slots=True)
class Twins:
    """Two concepts that may be one.

    Args:
        names: of both, that with more examples first.
        why: for people.
    """

    names: tuple[str, str]
    why: str


@dataclass(frozen=True, slots=True)
class Odd:
    """An example that most of its neighbours disagree with.

    Args:
        id: of the example.
        label: what it is said to be.
        rather: what most of its neighbours are.
        share: how many of them.
    """

    id: str
    label: str
    rather: str
    share: float


@dataclass(frozen=True, slots=True)
class Review:
    """What was found.

    Args:
        asked: how many examples were asked about.
        twins: concepts that may be one.
        odd: examples that disagree with their neighbours, the loneliest first; not with those of a twin.
    """

    asked: int
    twins: tuple[Twins, ...]
    odd: tuple[Odd, ...]


def review(database: ConceptDatabase, *, most: int = _MOST) -> Review:
    """Look for twins and for odd examples.

    Args:
        database: what is looked through.
        most: how many examples are asked about, the newest.
    """
    examples = database.examples(limit=most)
    names = [concept.label for concept in database.concepts()]
    counts = {concept.label: concept.count for concept in database.concepts()}
    shares, seen = _shares(database, examples, names)
    own = np.array([names.index(label) for label in examples.concept], np.int64)
    twins = _twins(shares, seen, own, names, counts)
    alike = {frozenset(pair.names) for pair in twins}
    odd = [one for one in _odd(shares, seen, own, examples, names) if frozenset((one.label, one.rather)) not in alike]
    return Review(len(examples), twins, tuple(odd))


def _shares(
    database: ConceptDatabase, examples: Examples, names: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The share of each concept among the neighbours of each example (N, C); and which examples have some (N,)."""
    shares = np.zeros((len(examples), len(names)))
    hashes = dict(zip(examples.id.tolist(), examples.image_hash.tolist(), strict=True))
    row = {identity: n for n, identity in enumerate(examples.id.tolist())}
    for start in range(0, len(examples), _AT_ONCE):
        records = database.store.get(list(row)[start : start + _AT_ONCE], fields=["image_hash"])
        assert records.vectors is not None  # asked for
        ones = np.ones(len(records), np.float32)
        found = database.neighbours(Embeddings(records.vectors, ones), _ASKED, parts=False)
        _learn(database, hashes, found.ids)
        for identity, ids, labels in zip(records.ids.tolist(), found.ids, found.labels, strict=True):
            others = [label for i, label in zip(ids, labels, strict=True) if i and hashes[i] != hashes[identity]]
            for label in others[:_NEIGHBOURS]:
                shares[row[identity], names.index(label)] += 1 / len(others[:_NEIGHBOURS])
    return shares, np.asarray(shares.any(axis=1), bool)


def _learn(database: ConceptDatabase, hashes: dict[str, str], ids: NDArray[np.object_]) -> None:
    """Look up the photographs of neighbours that are not known yet."""
    unknown = sorted(set(ids.ravel().tolist()) - hashes.keys() - {""})
    records = database.store.get(unknown, fields=["image_hash"], with_vectors=False)
    hashes |= dict.fromkeys(unknown, "") | dict(
        zip(records.ids.tolist(), records.fields["image_hash"].tolist(), strict=True)
    )


def _twins(
    shares: NDArray[np.float64], seen: NDArray[np.bool_], own: NDArray[np.int64], names: list[str],
    counts: dict[str, int],
) -> tuple[Twins, ...]:  # fmt: skip
    """Concepts whose examples are neighbours of each other's, and those that are spelt alike."""
    mean = np.zeros((len(names), len(names)))
    for c in range(len(names)):
        rows = seen & (own == c)
        mean[c] = shares[rows].mean(axis=0) if rows.any() else 0
    found = []
    for a, b in itertools.combinations(range(len(names)), 2):
        first, second = sorted((names[a], names[b]), key=lambda name: -counts[name])
        if min(mean[a, b], mean[b, a]) >= _MIXED:
            why = f"they look alike: of the neighbours of each, {100 * min(mean[a, b], mean[b, a]):.0f} % are the other"
            found.append((min(mean[a, b], mean[b, a]), Twins((first, second), why)))
        elif difflib.SequenceMatcher(None, first.casefold(), second.casefold()).ratio() >= _SPELT:
            found.append((0.0, Twins((first, second), "they are spelt alike")))
    return tuple(twins for _, twins in sorted(found, key=lambda pair: -pair[0]))


def _odd(
    shares: NDArray[np.float64], seen: NDArray[np.bool_], own: NDArray[np.int64], examples: Examples, names: list[str]
) -> tuple[Odd, ...]:
    """Examples with most neighbours of one other concept; not those of a concept that only their photograph has."""
    images = {name: set(examples.image_hash[examples.concept == name].tolist()) for name in names}
    rows = np.arange(len(examples))
    others = shares.copy()
    others[rows, own] = 0
    best = others.argmax(axis=1) if len(names) else own
    found = [
        Odd(str(examples.id[i]), names[own[i]], names[best[i]], float(others[i, best[i]]))
        for i in np.flatnonzero(seen).tolist()
        if others[i, best[i]] >= _AGAINST and len(images[names[own[i]]]) > 1
    ]
    return tuple(sorted(found, key=lambda odd: (-odd.share, odd.id)))
