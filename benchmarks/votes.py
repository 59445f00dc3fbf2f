"""Equation 3, part by part: what each way to weigh the votes gives with the keys and the masks of the preset photo.

    python benchmarks/votes.py               # the tables of docs/design/photo.md; a quarter of an hour
    python benchmarks/votes.py --every 9     # a quick look

The photographs are in $KNNSEG_REAL_DATA or ../shared/real. On the reference halves, what an image is compared with are
the other two of three contiguous blocks of each group of shots: all their images, every tenth, or two images of each
class. On the query halves it is the whole reference half. Features are made once and kept in ``--cache``.

Maps are made as painting makes them, on a grid of pixels, without the edges of images that are larger than the grid of
the regions.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from common import real_folder
from mobilenet import photographs
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from knnseg import Config, Image, Segmenter
from knnseg.config import RetrievalConfig
from knnseg.data.masks import nearest
from knnseg.data.scores import Neighbours
from knnseg.datasets import LabelledImages
from knnseg.evaluation.metrics import ConfusionMatrix
from knnseg.method.cells import with_cells
from knnseg.method.pooling import pool
from knnseg.method.voting import vote_weights
from knnseg.stages.protocols import features_of, masks_of
from knnstore import Records

CONFIG = Config.preset("photo")
NEAREST, DRAWS, GRID, BLOCK = 40, 2, 3, 4096
"""Neighbours to choose from; draws where a database is drawn; rows and columns between the pixels that are measured;
masks that are compared at once."""
Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Few: TypeAlias = dict[str, NDArray[Any]]
"""The columns of some masks: ``keys`` (N, D), ``cells`` that each covers, and ``images`` that they are of."""


@dataclass(frozen=True)
class Half:
    """Of one half: the N rows of its database, R regions and cells of some of the images, and A of the pixels there.

    Args:
        rows: also ``labels``, and which are a ``part``.
        masks: the regions and cells.
        coverage: float32 CSR (A, R), how much of a pixel each of them covers.
        truth: int (A,), its class, -1 where nobody knows.
        pixels: int (A,), which image it is of.
    """

    rows: Few
    masks: Few
    coverage: sparse.csr_array
    truth: Ints
    pixels: Ints


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
        with tempfile.TemporaryDirectory() as folder, Segmenter.from_config(CONFIG, f"faiss://{folder}/db") as made:
            rows = _rows(made, images)
            seen = [_masks(made, images, i) for i in tqdm(range(0, len(images), every), desc=path.stem)]
        coverage = sparse.block_diag([one.pop("coverage") for one in seen], format="csr")
        columns = {f"rows_{name}": column for name, column in rows.items()}
        columns |= {name: np.concatenate([one[name] for one in seen]) for name in seen[0]}
        columns |= {name: getattr(coverage, name) for name in ("data", "indices", "indptr", "shape")}
        np.savez(path, **columns)
    with np.load(path) as file:
        coverage = sparse.csr_array((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
        rows, masks = (
            {name.removeprefix(kind): file[name] for name in file.files if name.startswith(kind)}
            for kind in ("rows_", "masks_")
        )
        return Half(rows, masks, coverage, file["truth"], file["pixels"])


def _rows(made: Segmenter, images: LabelledImages) -> Few:
    database = made.database
    assert database is not None
    database.add(images, progress=True)
    fields = ["label", "image_hash", "coverage", "whole"]
    found = Records.concatenate(list(database.store.scan(fields=fields, with_vectors=True)))
    assert found.vectors is not None
    number = {Image(images[i].image).content_hash: i for i in range(len(images))}
    return {
        "keys": found.vectors,
        "cells": found.fields["coverage"].astype(np.float32),
        "images": np.array([number[one] for one in found.fields["image_hash"]]),
        "labels": images.vocabulary.index(database.named(found.fields["label"])),
        "part": found.fields["whole"] != "",
    }


def _masks(made: Segmenter, images: LabelledImages, i: int) -> dict[str, Any]:
    example, names = images[i], list(images.vocabulary)
    image = Image(example.image)
    masks = with_cells(masks_of([image], made.proposer)[0], CONFIG.painting.cells)
    own = pool(features_of([image], made.extractor)[0], masks)
    height, width = masks.grid
    pixels = np.arange(height * width).reshape(height, width)[::GRID, ::GRID].ravel()
    truth = nearest(example.semantic(names), masks.grid).reshape(-1)[pixels]
    return {
        "masks_keys": own.vectors,
        "masks_cells": own.coverage,
        "masks_images": np.full(len(masks), i),
        "coverage": sparse.csr_array(sparse.diags_array(masks.scores) @ masks.matrix).T.tocsr()[pixels],
        "truth": np.where(truth < len(names), truth, -1),
        "pixels": np.full(len(pixels), i),
    }


# -- the lines --------------------------------------------------------------------------------------------------------

Line: TypeAlias = Callable[[Asked], tuple[Ints, Doubles]]
"""Of the entries that have a vote: their classes, and their weights."""


def ours(**changes: Any) -> Line:
    """The library's weights with the preset's numbers, some of them changed."""
    return lambda asked: weighted(asked, asked.scores, replace(CONFIG.retrieval, **changes))


def weighted(asked: Asked, scores: Doubles, config: RetrievalConfig) -> tuple[Ints, Doubles]:
    """The library's weights of the k best by other scores."""
    order = slice(None, config.k)
    columns = [column[:, order] for column in (scores, asked.labels, asked.sizes)]
    if scores is not asked.scores:
        best = np.argsort(-scores, axis=1, kind="stable")[:, order]
        columns = [np.take_along_axis(column, best, 1) for column in (scores, asked.labels, asked.sizes)]
    names = np.array([str(c) for c in range(len(asked.counts))], object)
    known = dict(zip(names, asked.counts.tolist(), strict=True))
    found = Neighbours(names[columns[1]], columns[0].astype(np.float32), names[columns[1]], columns[2])
    return columns[1], vote_weights(found, config, known, whole=asked.whole)


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


def one_an_image(asked: Asked) -> tuple[Ints, Doubles]:
    """Of the entries of a class in one image only the nearest has a vote."""
    kind, again = asked.images * len(asked.counts) + asked.labels, np.zeros(asked.images.shape, bool)
    for j in range(1, again.shape[1]):
        again[:, j] = (kind[:, :j] == kind[:, j : j + 1]).any(axis=1)
    return weighted(asked, np.where(again, -np.inf, asked.scores), CONFIG.retrieval)


def one_a_class(asked: Asked) -> tuple[Ints, Doubles]:
    """Of the 40 nearest, the best of each class has a vote."""
    again = np.zeros(asked.labels.shape, bool)
    for j in range(1, again.shape[1]):
        again[:, j] = (asked.labels[:, :j] == asked.labels[:, j : j + 1]).any(axis=1)
    return weighted(asked, np.where(again, -np.inf, asked.scores), replace(CONFIG.retrieval, k=NEAREST))


LINES: dict[str, Line] = {
    "**the preset**": ours(),
    "the nearest alone": ours(k=1, size_match=0.0),
    "20 equal votes": ours(k=20, weighting="uniform", class_balance=0.0, size_match=0.0),
    "without β": ours(size_match=0.0),
    "without β and γ": ours(size_match=0.0, class_balance=0.0),
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
    "one vote for each class of an image": one_an_image,
    "one vote for each class": one_a_class,
}

# -- measuring --------------------------------------------------------------------------------------------------------


def ask(known: Half, rows: Ints, asked: Few, masks: Ints, classes: int, *, whole: bool) -> Asked:
    """The nearest rows of a half to some masks; those that are whole things are compared with wholes."""
    kept = rows[~known.rows["part"][rows]] if whole else rows
    entries, labels, images, cells = (known.rows[name][kept] for name in ("keys", "labels", "images", "cells"))
    keys, k = asked["keys"][masks], min(NEAREST, len(kept))
    scores, found = np.empty((len(keys), k)), np.empty((len(keys), k), np.int64)
    for at in range(0, len(keys), BLOCK):
        similar = keys[at : at + BLOCK] @ entries.T
        best = np.argpartition(-similar, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similar, best, 1), axis=1, kind="stable")
        found[at : at + BLOCK] = np.take_along_axis(best, order, 1)
        scores[at : at + BLOCK] = np.take_along_axis(similar, found[at : at + BLOCK], 1)
    crowd, counts = _crowd(entries, images), np.bincount(labels, minlength=classes)
    mean = np.bincount(labels, crowd, minlength=classes) / np.maximum(counts, 1)
    sizes = cells[found] / asked["cells"][masks, None]
    return Asked(scores, labels[found], images[found], sizes, whole, crowd[found], mean[labels[found]], counts)


def _crowd(entries: Floats, images: Ints, most: int = 10) -> Doubles:
    means = []
    for at in range(0, len(entries), BLOCK):
        similar = entries[at : at + BLOCK] @ entries.T
        similar[images[at : at + BLOCK, None] == images] = -np.inf
        top = -np.partition(-similar, min(most, len(entries) - 1) - 1, axis=1)[:, :most].astype(np.float64)
        there = np.isfinite(top)
        means.append(np.where(there, top, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1))
    return np.concatenate(means)


def shares(asked: Asked, line: Line) -> Doubles:
    """P_ret, (Q, C)."""
    (labels, weights), found = line(asked), np.zeros((len(asked.scores), len(asked.counts)))
    for j in range(weights.shape[1]):
        found[np.arange(len(found)), labels[:, j]] += weights[:, j]
    return found


class Tally:
    """What one line gets right: accuracy and mean over classes of true masks, mean IoU of regions."""

    def __init__(self, classes: int) -> None:
        self._right, self._all, self._matrix = np.zeros(classes), np.zeros(classes), ConfusionMatrix(classes)

    def masks(self, found: Doubles, labels: Ints) -> None:
        self._all += np.bincount(labels, minlength=len(self._all))
        self._right += np.bincount(labels[found.argmax(axis=1) == labels], minlength=len(self._all))

    def pixels(self, found: Doubles, truth: Ints) -> None:
        best = np.where(found.any(axis=1), found.argmax(axis=1), -1)
        self._matrix.merge(self._matrix.measure(truth[None], best[None]))

    def points(self) -> Doubles:
        """The three figures, in points."""
        there = self._all > 0
        by_class = self._right[there] / self._all[there]
        return 100 * np.array([self._right.sum() / self._all.sum(), by_class.mean(), self._matrix.mean_iou()])


def measure(tallies: dict[str, Tally], known: Half, rows: Ints, half: Half, images: Ints, classes: int) -> None:
    """Ask about some images of a half, with some rows of another, or of the same, in the database."""
    own = np.flatnonzero(np.isin(half.rows["images"], images) & ~half.rows["part"])
    cut = np.flatnonzero(np.isin(half.masks["images"], images))
    there = np.flatnonzero(np.isin(half.pixels, images))
    coverage = half.coverage[there][:, cut]
    masks = ask(known, rows, half.rows, own, classes, whole=True)
    regions = ask(known, rows, half.masks, cut, classes, whole=False)
    for name, line in LINES.items():
        tallies[name].masks(shares(masks, line), half.rows["labels"][own])
        tallies[name].pixels(coverage @ shares(regions, line), half.truth[there])


def blocks(stems: list[str]) -> Ints:
    """Which of three contiguous blocks of its group of shots each image is in."""
    groups, found = np.array([stem.split("_")[0] for stem in stems]), np.zeros(len(stems), np.int64)
    for group in dict.fromkeys(groups):
        for number, part in enumerate(np.array_split(np.flatnonzero(groups == group), 3)):
            found[part] = number
    return found


def drawn(half: Half, images: Ints, size: str, rng: np.random.Generator) -> Ints:
    """The rows of a database that is made of some images."""
    of, labels = half.rows["images"], half.rows["labels"]
    if size == "a tenth":
        return np.flatnonzero(np.isin(of, images[int(rng.integers(10)) :: 10]))
    rows = np.isin(of, images)
    if size == "two a class":
        own = [(rows & (labels == c)) for c in np.unique(labels[rows])]
        rows = np.any([one & np.isin(of, rng.permutation(np.unique(of[one]))[:2]) for one in own], axis=0)
    return np.flatnonzero(rows)


def folds(half: Half, stems: list[str], size: str, classes: int) -> dict[str, Doubles]:
    """The figures of each line on the three blocks of a reference half."""
    block, figures = blocks(stems), []
    for draw in range(1 if size == "all" else DRAWS):
        tallies = {name: Tally(classes) for name in LINES}
        for fold in range(3):
            rows = drawn(half, np.flatnonzero(block != fold), size, np.random.default_rng(3 * draw + fold))
            measure(tallies, half, rows, half, np.flatnonzero(block == fold), classes)
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
    parser.add_argument("--every", type=int, default=3, help="regions, and query images, of every so many")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "knnseg-votes", help="for features")
    options = parser.parse_args()
    folder = real_folder()
    reference, query = dict[str, dict[str, Doubles]](), dict[str, dict[str, Doubles]]()
    for name in ("camvid", "msrc"):
        images, asked = (photographs(folder, half, name) for half in ("reference", "query"))
        half = look(images, options.every, options.cache / f"{name}-reference-{options.every}.npz")
        other = look(asked[:: options.every], 1, options.cache / f"{name}-query-{options.every}.npz")
        stems, classes = json.loads((folder / name / "split.json").read_text())["reference"], len(images.vocabulary)
        for size in ("all", "a tenth", "two a class"):
            reference[f"{name}, {size}"] = folds(half, stems, size, classes)
            print(table(f"reference, {name}", {size: reference[f"{name}, {size}"]}), flush=True)
        tallies = {line: Tally(classes) for line in LINES}
        measure(tallies, half, np.arange(len(half.rows["keys"])), other, np.unique(other.pixels), classes)
        query[name] = {line: tally.points() for line, tally in tallies.items()}
    print(table("reference halves", reference), table("query halves", query), sep="\n")


if __name__ == "__main__":
    main()
