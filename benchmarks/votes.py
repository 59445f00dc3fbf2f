"""Equation 3, part by part: what each way to weigh the votes gives with the keys and the regions of the preset photo.

    python benchmarks/votes.py               # the tables of docs/design/photo.md; about ten minutes
    python benchmarks/votes.py --every 9     # a quick look

The photographs are in $KNNSEG_REAL_DATA or ../shared/real. On the reference halves, what an image is compared with are
the other two of three contiguous blocks of each group of shots: all their images, every tenth, or two images of each
class. On the query halves it is the whole reference half. Features are made once and kept in ``--cache``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from mobilenet import photographs
from numpy.typing import NDArray
from tqdm import tqdm

from knnseg import Config, Image, Masks, Segmenter
from knnseg.config import RetrievalConfig
from knnseg.data.masks import nearest
from knnseg.data.scores import Neighbours
from knnseg.datasets import LabelledImages
from knnseg.method.pooling import pool
from knnseg.method.voting import vote_weights
from knnseg.stages.protocols import features_of, masks_of

CONFIG = Config.preset("photo")
SETS = ("msrc", "camvid")
NEAREST, DRAWS = 64, 3
"""Neighbours that there are to choose from; and draws where a database is drawn."""
Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Half:
    """Of one half: N true masks; R regions of some of the images, and the A pieces into which these cut the images.

    Args:
        keys, labels, images, cells: of the true masks: (N, D), class, image, and how many cells each covers.
        region_keys, region_cells: of the regions: (R, D), and how many cells each covers.
        pieces: int (A, P), the regions that a piece lies in.
        truth: float32 (A, C), pixels of each class in a piece.
        piece_images: int (A,), the image that a piece is in.
    """

    keys: Floats
    labels: Ints
    images: Ints
    cells: Floats
    region_keys: Floats
    region_cells: Floats
    pieces: Ints
    truth: Floats
    piece_images: Ints


@dataclass(frozen=True)
class Asked:
    """Q masks and their nearest entries.

    Args:
        scores: float64 (Q, K), best first.
        labels, images: int (Q, K), of the entries.
        sizes: float32 (Q, K), how many times as many cells as the mask an entry covers.
        whole: the masks are whole things.
        crowd: float64 (Q, K), how alike an entry is to its own ten nearest of other images.
        classes: float64 (Q, K), the mean of that over the class of the entry.
        counts: int (C,), entries of each class.
    """

    scores: Doubles
    labels: Ints
    images: Ints
    sizes: Floats
    whole: bool
    crowd: Doubles
    classes: Doubles
    counts: Ints


# -- features, once ---------------------------------------------------------------------------------------------------


def look(images: LabelledImages, every: int, path: Path) -> Half:
    """What one half gives, from the file if it is there; regions of every so many images."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        made, parts, start = Segmenter.from_config(CONFIG), list[dict[str, NDArray[Any]]](), 0
        for i in tqdm(range(len(images)), desc=path.stem):
            parts.append(_one(made, images, i, start, regions=i % every == 0))
            start += len(parts[-1].get("region_keys", ()))
        names = [field.name for field in fields(Half)]
        np.savez(path, **{name: np.concatenate([part[name] for part in parts if name in part]) for name in names})
    with np.load(path) as file:
        return Half(**file)


def _one(made: Segmenter, images: LabelledImages, i: int, start: int, *, regions: bool) -> dict[str, NDArray[Any]]:
    """The columns of :class:`Half` that one image gives; ``start`` is the number of regions before it."""
    example, image = images[i], Image(images[i].image)
    (features,) = features_of([image], made.extractor)
    own = pool(features, Masks.from_partition(np.where(example.segments > 0, example.segments, -1)))
    labels = images.vocabulary.index(np.array([segment.label for segment in example.info], object))
    known = {"keys": own.vectors, "labels": labels, "images": np.full(len(labels), i), "cells": own.coverage}
    if not regions:
        return known
    (masks,) = masks_of([image], made.proposer)
    cut, columns = pool(features, masks), masks.matrix.tocsc()
    columns.sort_indices()
    pieces, at = np.unique(columns.indices.reshape(columns.shape[1], -1), axis=0, return_inverse=True)
    truth = example.semantic(list(images.vocabulary))
    there, seen = nearest(at.reshape(masks.grid), truth.shape), (truth >= 0) & (truth < len(images.vocabulary))
    pixels = np.zeros((len(pieces), len(images.vocabulary)), np.float32)
    np.add.at(pixels, (there[seen], truth[seen]), 1)
    places = {"pieces": pieces.astype(np.int64) + start, "truth": pixels, "piece_images": np.full(len(pieces), i)}
    return {**known, "region_keys": cut.vectors, "region_cells": cut.coverage, **places}


# -- the lines --------------------------------------------------------------------------------------------------------

Line: TypeAlias = Callable[[Asked], Doubles]
"""Weights (Q, K) of the nearest; 0 for those that have no vote."""


def ours(**changes: object) -> Line:
    """The library's weights with the preset's numbers, some of them changed."""
    return lambda asked: weighted(asked, asked.scores, replace(CONFIG.retrieval, **changes))


def weighted(asked: Asked, scores: Doubles, config: RetrievalConfig) -> Doubles:
    """The library's weights of the k best by other scores."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, : config.k]
    picked = np.take_along_axis(scores, order, 1)
    best, labels, sizes = (np.take_along_axis(column, order, 1) for column in (scores, asked.labels, asked.sizes))
    names = labels.astype(str).astype(object)
    found = Neighbours(names, best.astype(np.float32), names, sizes)
    counts = {str(c): int(n) for c, n in enumerate(asked.counts)}
    weights = np.zeros_like(asked.scores)
    own = vote_weights(found, config, counts, whole=asked.whole)
    np.put_along_axis(weights, order, np.where(np.isfinite(picked), own, 0), 1)
    return weights


def damped(share: float, column: str) -> Line:
    """s_j less a share of how alike the entry, or its class, is to others: CSLS (Conneau et al., ICLR 2018)."""
    return lambda asked: weighted(asked, asked.scores - share * getattr(asked, column), CONFIG.retrieval)


def tempered(of: Callable[[Doubles], Doubles], k: int = CONFIG.retrieval.k) -> Line:
    """A temperature for each mask, (Q, 1), from the similarities of its own neighbours."""

    def line(asked: Asked) -> Doubles:
        scores = asked.scores[:, :k]
        own = scores[:, :1] - (scores[:, :1] - scores) * CONFIG.retrieval.temperature / np.maximum(of(scores), 1e-4)
        rest = np.full((len(scores), asked.scores.shape[1] - scores.shape[1]), -np.inf)
        return weighted(asked, np.hstack([own, rest]), replace(CONFIG.retrieval, k=k))

    return line


def perplexed(scores: Doubles, votes: float = 5.0) -> Doubles:
    """The temperature at which the entropy of the weights is that of so many equal votes (van der Maaten and Hinton,
    JMLR 2008)."""
    away = scores[:, :1] - scores
    low, high = np.full((len(scores), 1), np.log(1e-3)), np.zeros((len(scores), 1))
    for _ in range(25):
        middle = (low + high) / 2
        weights = np.exp(-away / np.exp(middle))
        weights /= weights.sum(axis=1, keepdims=True)
        entropy = -(weights * np.log(np.maximum(weights, 1e-300))).sum(axis=1, keepdims=True)
        wide = entropy > np.log(min(votes, 0.999 * scores.shape[1]))
        low, high = np.where(wide, low, middle), np.where(wide, middle, high)
    return np.exp((low + high) / 2)


def one_an_image(asked: Asked) -> Doubles:
    """Only the nearest entry of each image has a vote."""
    again = np.zeros(asked.images.shape, bool)
    for j in range(1, again.shape[1]):
        again[:, j] = (asked.images[:, :j] == asked.images[:, j : j + 1]).any(axis=1)
    return weighted(asked, np.where(again, -np.inf, asked.scores), CONFIG.retrieval)


def within_classes(asked: Asked, falling: float = 0.3, most: int = 3) -> Doubles:
    """Of each class the mean of its best similarities, each counting so much of the one before; one vote a class."""
    rank = np.zeros(asked.labels.shape, np.int64)
    for j in range(1, rank.shape[1]):
        rank[:, j] = (asked.labels[:, :j] == asked.labels[:, j : j + 1]).sum(axis=1)
    share = np.where(rank < np.minimum(most, asked.counts[asked.labels]), falling**rank, 0)
    means = np.full(asked.scores.shape, -np.inf)
    for j in np.flatnonzero((rank == 0).any(axis=0)):
        same = share * (asked.labels == asked.labels[:, j : j + 1])
        full = falling ** np.arange(most) * (np.arange(most) < asked.counts[asked.labels[:, j]][:, None])
        missing = full.sum(axis=1) - same.sum(axis=1)  # what is not among the nearest is as the last of them
        mean = ((same * asked.scores).sum(axis=1) + missing * asked.scores[:, -1]) / full.sum(axis=1)
        means[:, j] = np.where(rank[:, j] == 0, mean, -np.inf)
    return weighted(asked, means, replace(CONFIG.retrieval, k=means.shape[1]))


LINES: dict[str, Line] = {
    "**the preset**": ours(),
    "the nearest alone": ours(k=1, size_match=0.0),
    "20 equal votes": ours(k=20, weighting="uniform", class_balance=0.0, size_match=0.0),
    "without β": ours(size_match=0.0),
    "without β and γ": ours(size_match=0.0, class_balance=0.0),
    "β = 0.25": ours(size_match=0.25),
    "β = 0.5": ours(size_match=0.5),
    "γ = 0.5": ours(class_balance=0.5),
    "k = 20": ours(k=20),
    "τ = 0.02": ours(temperature=0.02),
    "τ = 0.1": ours(temperature=0.1),
    "local τ: a tenth of the distance to the nearest": tempered(lambda scores: 0.1 * (1 - scores[:, :1])),
    "local τ: a quarter of the way to the tenth": tempered(lambda scores: 0.25 * (scores[:, :1] - scores[:, -1:])),
    "local τ: five votes' worth of 30": tempered(perplexed, k=30),
    "hubs damped, a tenth": damped(0.1, "crowd"),
    "hubs damped, a quarter": damped(0.25, "crowd"),
    "dense classes damped, a tenth": damped(0.1, "classes"),
    "one vote an image": one_an_image,
    "means within classes": within_classes,
}

# -- measuring --------------------------------------------------------------------------------------------------------


def ask(half: Half, keys: Floats, cells: Floats, rows: Ints, *, whole: bool, classes: int) -> Asked:
    """The nearest of some true masks of a half."""
    entries, labels, images = half.keys[rows], half.labels[rows], half.images[rows]
    k = min(NEAREST, len(rows))
    scores, found = np.empty((len(keys), k)), np.empty((len(keys), k), np.int64)
    for at in range(0, len(keys), 4096):
        similar = keys[at : at + 4096] @ entries.T
        best = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similar, best, 1), axis=1, kind="stable")
        found[at : at + 4096] = np.take_along_axis(best, order, 1)
        scores[at : at + 4096] = np.take_along_axis(similar, found[at : at + 4096], 1)
    crowd, counts = _crowd(entries, images), np.bincount(labels, minlength=classes)
    mean = np.bincount(labels, crowd, minlength=classes) / np.maximum(counts, 1)
    sizes = half.cells[rows][found] / cells[:, None]
    return Asked(scores, labels[found], images[found], sizes, whole, crowd[found], mean[labels[found]], counts)


def _crowd(entries: Floats, images: Ints, most: int = 10) -> Doubles:
    similar = np.where(images[:, None] == images, np.float32(-np.inf), entries @ entries.T)
    top = -np.partition(-similar, min(most, len(entries) - 1) - 1, axis=1)[:, :most].astype(np.float64)
    there = np.isfinite(top)
    return np.where(there, top, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def shares(asked: Asked, line: Line) -> Doubles:
    """P_ret, (Q, C)."""
    weights, found = line(asked), np.zeros((len(asked.scores), len(asked.counts)))
    for j in range(weights.shape[1]):
        found[np.arange(len(found)), asked.labels[:, j]] += weights[:, j]
    total = found.sum(axis=1, keepdims=True)
    return np.divide(found, total, out=np.zeros_like(found), where=total > 0)


class Tally:
    """What one line gets right: accuracy and mean over classes of true masks, mean IoU of regions."""

    def __init__(self, classes: int) -> None:
        self._right, self._all = np.zeros(classes), np.zeros(classes)
        self._matrix = np.zeros((classes + 1, classes))

    def masks(self, found: Doubles, labels: Ints) -> None:
        self._all += np.bincount(labels, minlength=len(self._all))
        self._right += np.bincount(labels[found.argmax(axis=1) == labels], minlength=len(self._all))

    def regions(self, found: Doubles, pieces: Ints, truth: Floats) -> None:
        total = found[pieces].sum(axis=1)
        np.add.at(self._matrix, np.where(total.any(axis=1), total.argmax(axis=1), len(self._all)), truth)

    def points(self) -> Doubles:
        """The three figures, in points."""
        there, right = self._all > 0, np.diag(self._matrix)
        present = self._matrix.sum(axis=0)
        union = present + self._matrix[:-1].sum(axis=1) - right
        by_class = self._right[there] / self._all[there]
        iou = right[present > 0] / union[present > 0]
        return 100 * np.array([self._right.sum() / self._all.sum(), by_class.mean(), iou.mean()])


def measure(tallies: dict[str, Tally], known: Half, rows: Ints, half: Half, images: Ints) -> None:
    """Ask about some images of a half, with some true masks of another, or of the same, in the database."""
    classes = half.truth.shape[1]
    own = np.isin(half.images, images)
    masks = ask(known, half.keys[own], half.cells[own], rows, whole=True, classes=classes)
    pieces = np.isin(half.piece_images, images)
    used, inverse = np.unique(half.pieces[pieces], return_inverse=True)
    regions = ask(known, half.region_keys[used], half.region_cells[used], rows, whole=False, classes=classes)
    for name, line in LINES.items():
        tallies[name].masks(shares(masks, line), half.labels[own])
        found = shares(regions, line)
        tallies[name].regions(found, inverse.reshape(half.pieces[pieces].shape), half.truth[pieces])


def blocks(stems: list[str]) -> Ints:
    """Which of three contiguous blocks of its group of shots each image is in."""
    groups, found = np.array([stem.split("_")[0] for stem in stems]), np.zeros(len(stems), np.int64)
    for group in dict.fromkeys(groups):
        for number, part in enumerate(np.array_split(np.flatnonzero(groups == group), 3)):
            found[part] = number
    return found


def drawn(half: Half, images: Ints, size: str, rng: np.random.Generator) -> Ints:
    """The true masks that are in a database made of some images."""
    rows = np.flatnonzero(np.isin(half.images, images))
    if size == "a tenth":
        return rows[np.isin(half.images[rows], images[int(rng.integers(10)) :: 10])]
    if size == "two a class":
        few = [
            (c, rng.permutation(np.unique(half.images[rows[half.labels[rows] == c]]))[:2]) for c in _classes(half, rows)
        ]
        return np.sort(np.concatenate([rows[(half.labels[rows] == c) & np.isin(half.images[rows], i)] for c, i in few]))
    return rows


def _classes(half: Half, rows: Ints) -> list[int]:
    return np.unique(half.labels[rows]).tolist()


def folds(half: Half, stems: list[str], size: str) -> dict[str, Doubles]:
    """The figures of each line on the three blocks of a reference half."""
    block, classes = blocks(stems), half.truth.shape[1]
    figures = []
    for draw in range(1 if size == "all" else DRAWS):
        tallies = {name: Tally(classes) for name in LINES}
        for fold in range(3):
            rng = np.random.default_rng(3 * draw + fold)
            rows = drawn(half, np.flatnonzero(block != fold), size, rng)
            measure(tallies, half, rows, half, np.flatnonzero(block == fold))
        figures.append({name: tally.points() for name, tally in tallies.items()})
    return {name: np.mean([one[name] for one in figures], axis=0) for name in LINES}


def table(title: str, columns: dict[str, dict[str, Doubles]]) -> str:
    """In Markdown."""
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in LINES:
        told = ("{:.1f} / {:.1f}; {:.1f}".format(*column[name]) for column in columns.values())
        lines.append(f"| {name} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=3, help="regions of every so many images")
    parser.add_argument("--query", action="store_true", help="the query halves too")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "knnseg-votes", help="for features")
    options = parser.parse_args()
    folder = Path(os.environ.get("KNNSEG_REAL_DATA") or Path(__file__).parents[2] / "shared" / "real")
    if not folder.is_dir():
        sys.exit(f"votes.py: expected the folder of real data in $KNNSEG_REAL_DATA or at {folder}")
    few, query = dict[str, dict[str, Doubles]](), dict[str, dict[str, Doubles]]()
    for name in SETS:
        images = photographs(folder, "reference", name)
        half = look(images, options.every, options.cache / f"{name}-reference-{options.every}.npz")
        stems = json.loads((folder / name / "split.json").read_text(encoding="utf-8"))["reference"]
        few |= {f"{name}, {size}": folds(half, stems, size) for size in ("all", "a tenth", "two a class")}
        if options.query:
            asked = photographs(folder, "query", name)[:: options.every]
            other = look(asked, 1, options.cache / f"{name}-query-{options.every}.npz")
            tallies = {line: Tally(half.truth.shape[1]) for line in LINES}
            measure(tallies, half, np.arange(len(half.keys)), other, np.arange(len(asked)))
            query[name] = {line: tally.points() for line, tally in tallies.items()}
    print(table("reference halves", few))
    if query:
        print(table("query halves", query))


if __name__ == "__main__":
    main()
