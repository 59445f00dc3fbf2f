"""Which names the masks of images show, where it is only known which names each image shows. Pure functions on arrays.

Every mask is compared with masks of *other* images. What images of a name share, and others do not, is likely what the
name means. Each mask starts with a share for every name of its image, by how many of its neighbours are in images of
that name; a seldom name counts for more, since grass is in images of sheep and not the other way round. Then the
neighbours say what they are themselves, and so on: sheep in images without grass settle what is sheep in the others.
This is label propagation over candidate sets, as of partial labels (Hüllermeier and Beringer, 2006). That images known
by their names alone are enough is the finding of C2C (arXiv 2311.11293).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["Belief", "beliefs", "sampled"]

SAMPLE = 64
"""Masks of an image that others are compared with."""
NEIGHBOURS, PART = 30, 150
"""Neighbours that are asked: one in 150 of the sampled masks, since more images show more of a name; at least 30."""
TEMPERATURE = 0.05
ROUNDS = 10
_POWER, _RARE, _BALANCE = 2.0, 0.5, 0.1
"""Exponents: of the share of neighbours, of how many images have the name, and of how many masks seem to show it."""
_LITTLE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What the masks of one image show.

    Args:
        names: float64 (N, L), shares of the L names of the image; rows sum to 1, or to 0 where nothing is known.
        shared: float64 (N,), the share of what its neighbours show that is a name of this image at all, 0 to 1.
    """

    names: NDArray[np.float64]
    shared: NDArray[np.float64]


def sampled(areas: NDArray[np.floating], seed: int) -> NDArray[np.int64]:
    """The rows of the masks of an image that others are compared with, large ones more likely; in order."""
    likely = np.sqrt(areas.astype(np.float64))
    usable = np.flatnonzero(likely)
    count = min(SAMPLE, len(usable))
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(usable, count, replace=False, p=likely[usable] / likely[usable].sum()))


def beliefs(
    vectors: Sequence[NDArray[np.floating]], samples: Sequence[NDArray[np.int64]], shown: NDArray[np.bool_]
) -> list[Belief]:
    """What the masks of each image show.

    Args:
        vectors: of each image, (N, D), unit-norm rows.
        samples: of each image, the rows that others are compared with.
        shown: bool (images, C), which names each image shows; an image of no name only tells what is no name.
    """
    image = np.repeat(np.arange(len(vectors)), [len(rows) for rows in samples])
    near = _near(vectors, samples, image)
    columns = [np.flatnonzero(row) for row in shown]
    frequency = np.maximum(shown.mean(axis=0), _LITTLE) ** -_RARE
    found = []
    for links, own in zip(near, columns, strict=True):
        score = (links @ shown[image][:, own].astype(np.float64)) ** _POWER * frequency[own]
        found.append(Belief(_shares(score), np.asarray(score.any(axis=1), np.float64)))
    for _ in range(ROUNDS):
        found = _round(found, near, samples, columns, shown)
    return found


def _round(
    found: list[Belief], near: list[sparse.csr_array], samples: Sequence[NDArray[np.int64]],
    columns: list[NDArray[np.int64]], shown: NDArray[np.bool_],
) -> list[Belief]:  # fmt: skip
    """Each mask asks its neighbours what they show."""
    said = np.zeros((sum(map(len, samples)), shown.shape[1] + 1))  # the last for images of no name
    start = 0
    for belief, rows, own in zip(found, samples, columns, strict=True):
        part = slice(start, start + len(rows))
        said[part, own] = belief.names[rows] * belief.shared[rows, None]
        said[part, -1] = 0 if len(own) else 1
        start += len(rows)
    said *= (said.sum(axis=0) + _LITTLE) ** -_BALANCE
    total = said.sum(axis=1)
    fresh = []
    for links, own in zip(near, columns, strict=True):
        votes = np.asarray(links @ said[:, own])
        fresh.append(Belief(_shares(votes), votes.sum(axis=1) / np.maximum(links @ total, _LITTLE**2)))
    return fresh


def _shares(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    total = scores.sum(axis=1, keepdims=True)
    return np.divide(scores, total, out=np.zeros(scores.shape), where=total > 0)


def _near(
    vectors: Sequence[NDArray[np.floating]], samples: Sequence[NDArray[np.int64]], image: NDArray[np.int64]
) -> list[sparse.csr_array]:
    """Of each image, (N, S): what its neighbours among the S sampled masks of other images weigh; rows sum to 1."""
    compared = np.concatenate([own[rows] for own, rows in zip(vectors, samples, strict=True)]).astype(np.float32)
    found = []
    for i, own in enumerate(vectors):
        k = min(max(NEIGHBOURS, len(image) // PART), int((image != i).sum()))
        scores = own.astype(np.float32) @ compared.T
        scores[:, image == i] = -np.inf
        best = np.argpartition(-scores, max(k - 1, 0), axis=1)[:, :k].copy()  # not a view, which would keep it all
        chosen = np.take_along_axis(scores, best, 1).astype(np.float64)
        weights = np.exp((chosen - chosen.max(axis=1, initial=-1, keepdims=True)) / TEMPERATURE)
        rows = np.repeat(np.arange(len(own)), k)
        places = (_shares(weights).reshape(-1), (rows, best.reshape(-1)))
        found.append(sparse.csr_array(places, shape=(len(own), len(image))))
    return found
