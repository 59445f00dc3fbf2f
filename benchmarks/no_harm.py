"""No harm: what examples of some of the classes do to a base that knows some of the classes, whichever fusion.

    python benchmarks/no_harm.py             # the tables and the picture in docs; a quarter of an hour
    python benchmarks/no_harm.py --draws 1 --images 5 --out /tmp/no-harm    # a quick look

The photographs are in $KNNSEG_REAL_DATA or ../shared/real.

Examples come from the reference halves, measured is on the query halves. The bases: ``conse``, and ``half``, a linear
head on the same encoder, trained on the whole reference half for one half of the classes, another one in each draw; it
gives the others nothing. Features of an image are made once and kept in ``--cache``; a cell then takes a second or two.

Maps are made as painting makes them, on every fourth row and column of the grid of the masks.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from common import put, real_folder
from matplotlib.figure import Figure
from mobilenet import photographs
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax
from tqdm import tqdm

from knnseg import ClassScores, Config, Image, Segmenter, Vocabulary
from knnseg.config import FusionConfig
from knnseg.data.masks import nearest
from knnseg.data.scores import Neighbours
from knnseg.datasets import LabelledImages
from knnseg.evaluation.metrics import ConfusionMatrix
from knnseg.method.cells import with_cells
from knnseg.method.fusion import fuse
from knnseg.method.pooling import pool
from knnseg.method.voting import confidence, vote, vote_weights
from knnseg.stages.protocols import features_of, masks_of, scores_of
from knnstore import Records

CONFIG = Config.preset("photo-words")
FUSIONS = {
    "late": FusionConfig(mode="late"),
    "supported": FusionConfig(mode="supported"),
    "evidence": CONFIG.fusion,
}
"""The plain one and the default of the library, as they are, and what the preset has."""
SHARES, COUNTS = (0.25, 0.5, 0.75, 1.0), (1, 2, 5, 20, 0)
"""Of the classes that have examples; images of each, 0 for all."""
CELLS = [(0.0, 0), *product(SHARES, COUNTS)]
"""Where nothing has examples there is one cell."""
BASE_LOSS, RETRIEVAL_LOSS = 0.2, 1.0
"""Points of mean IoU that may be lost against the base; and against retrieval, where every class has examples."""
EVERY, BLOCK = 4, 4096
"""Rows and columns of the grid between the pixels that are measured; masks that are compared at once."""
BASES = ("conse", "half")
Floats: TypeAlias = NDArray[np.float32]
Row: TypeAlias = dict[str, Any]
"""One base in one draw of a cell: which, and the mean IoU of the base, of retrieval, and of each fusion."""


@dataclass(frozen=True)
class Examples:
    """The N rows of a concept database with one half in it: examples, and parts of them.

    Args:
        keys: float32 (N, D).
        labels: int (N,), positions in the vocabulary.
        images: int (N,), which image they are of.
        whole: bool (N,), those that are no part.
        cells: float32 (N,), cells of the features that they cover.
    """

    keys: Floats
    labels: NDArray[np.int64]
    images: NDArray[np.int64]
    whole: NDArray[np.bool_]
    cells: Floats


@dataclass(frozen=True)
class Masks:
    """Of some images: N masks, regions and cells, and A of the pixels that they cover.

    Args:
        keys: float32 (N, D).
        base: float32 (N, C), of ``conse``.
        coverage: float32 CSR (A, N), how much of a pixel each mask covers.
        truth: int (A,), its class, -1 where nobody knows.
        cells: float32 (N,), cells of the features that each mask covers.
    """

    keys: Floats
    base: Floats
    coverage: sparse.csr_array
    truth: NDArray[np.int64]
    cells: Floats

    def mean_iou(self, scores: Floats) -> float:
        """In points, of the map that scores (N, C) give, over the classes that are there.

        A pixel that nobody has an opinion of is of no class.
        """
        total, classes = self.coverage @ scores, scores.shape[1]
        matrix = ConfusionMatrix(classes)
        matrix.merge(matrix.measure(self.truth[None], np.where(total.any(axis=1), total.argmax(axis=1), -1)[None]))
        return 100 * matrix.mean_iou(np.unique(self.truth[self.truth >= 0]).tolist())


# -- features, once ---------------------------------------------------------------------------------------------------


def look(reference: LabelledImages, query: LabelledImages, path: Path) -> tuple[Examples, Masks]:
    """The pooled features of one set, from the file if it is there."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, Segmenter.from_config(CONFIG, f"faiss://{folder}/db") as made:
            examples = _examples(made, reference)
            seen = [_masks(made, query, i) for i in tqdm(range(len(query)), desc="masks")]
        parts = {f"examples{i}": column for i, column in enumerate(examples)}
        parts |= {f"masks{i}": np.concatenate([one[i] for one in seen]) for i in (0, 1, 3, 4)}
        coverage = sparse.block_diag([one[2] for one in seen], format="csr")
        parts |= {name: getattr(coverage, name) for name in ("data", "indices", "indptr", "shape")}
        np.savez(path, **parts)
    with np.load(path) as file:
        keys, base, truth, cells = (file[f"masks{i}"] for i in (0, 1, 3, 4))
        coverage = sparse.csr_array((file["data"], file["indices"], file["indptr"]), shape=tuple(file["shape"]))
        return Examples(*(file[f"examples{i}"] for i in range(5))), Masks(keys, base, coverage, truth, cells)


def _examples(made: Segmenter, images: LabelledImages) -> tuple[NDArray[Any], ...]:
    """The columns of :class:`Examples`."""
    database = made.database
    assert database is not None
    database.add(images, progress=True)
    fields = ["label", "image_hash", "whole", "coverage"]
    rows = Records.concatenate(list(database.store.scan(fields=fields, with_vectors=True)))
    assert rows.vectors is not None
    labels = images.vocabulary.index(database.named(rows.fields["label"]))
    numbers = np.unique(rows.fields["image_hash"].astype(str), return_inverse=True)[1]
    return rows.vectors, labels, numbers, rows.fields["whole"] == "", rows.fields["coverage"].astype(np.float32)


def _masks(made: Segmenter, images: LabelledImages, i: int) -> tuple[Floats, Floats, Any, NDArray[np.int64], Floats]:
    """The columns of :class:`Masks`, of one image."""
    example, vocabulary = images[i], images.vocabulary
    image = Image(example.image)
    (masks,) = masks_of([image], made.proposer)
    masks = with_cells(masks, CONFIG.painting.cells)
    keys = pool(features_of([image], made.extractor)[0], masks)
    (scores,) = scores_of([image], [masks], vocabulary, made.base)
    height, width = masks.grid
    pixels = np.arange(height * width).reshape(height, width)[::EVERY, ::EVERY].ravel()
    coverage = sparse.csr_array(sparse.diags_array(masks.scores) @ masks.matrix).T.tocsr()[pixels]
    truth = nearest(example.semantic(list(vocabulary)), masks.grid).reshape(-1)[pixels]
    known = np.where(truth < len(vocabulary), truth, -1).astype(np.int64)
    return keys.vectors, scores.probabilities, coverage, known, keys.coverage


# -- cells ------------------------------------------------------------------------------------------------------------


def linear_head(
    examples: Examples, known: NDArray[np.int64], classes: int, scale: float = 10.0
) -> tuple[Floats, Floats]:
    """Weights (D, C) and biases (C,) of a multinomial regression on some of the classes, all of which count alike."""
    kept = examples.whole & np.isin(examples.labels, known)
    keys, labels = (
        torch.from_numpy(scale * examples.keys[kept]),
        torch.from_numpy(np.searchsorted(known, examples.labels[kept])),
    )
    weights, bias = (torch.zeros(size, len(known), requires_grad=True) for size in (keys.shape[1], 1))
    share = 1 / torch.bincount(labels, minlength=len(known)).clamp(min=1)
    optimiser = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        value = F.cross_entropy(keys @ weights + bias, labels, share) + 1e-3 * weights.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    full, least = np.zeros((keys.shape[1], classes), np.float32), np.full(classes, -np.inf, np.float32)
    full[:, known], least[known] = scale * weights.detach().numpy(), bias.detach().numpy()[0]
    return full, least


def draw(examples: Examples, rng: np.random.Generator, share: float, count: int) -> NDArray[np.int64]:
    """The masks of so many images each of a share of the classes."""
    present = np.unique(examples.labels)
    taken = [np.empty(0, np.int64)]
    for label in rng.permutation(present)[: round(share * len(present))]:
        own = np.flatnonzero(examples.labels == label)
        images = np.unique(examples.images[own])
        few = rng.permutation(images)[:count] if count else images
        taken.append(own[np.isin(examples.images[own], few)])
    return np.sort(np.concatenate(taken))


def neighbours(masks: Masks, examples: Examples, labels: NDArray[np.object_], taken: NDArray[np.int64]) -> Neighbours:
    """The k best for each mask among the rows taken."""
    k, keys = min(CONFIG.retrieval.k, len(taken)), examples.keys[taken].T
    if not k:
        nothing = np.empty((len(masks.keys), 0), object)
        return Neighbours(nothing, nothing.astype(np.float32), nothing, nothing.astype(np.float32))
    best, found = [], []
    for start in range(0, len(masks.keys), BLOCK):
        scores = masks.keys[start : start + BLOCK] @ keys
        some = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, some, 1), axis=1, kind="stable")
        best.append(np.take_along_axis(some, order, 1))
        found.append(np.take_along_axis(scores, best[-1], 1))
    rows = taken[np.concatenate(best)]
    names, sizes = labels[rows], examples.cells[rows] / masks.cells[:, None]
    return Neighbours(names, np.concatenate(found), names, sizes)


def measure(examples: Examples, masks: Masks, vocabulary: Vocabulary, draws: int) -> Iterator[Row]:
    """A row for each cell, base and draw: mean IoU of the base, of retrieval, and of each fusion."""
    names = np.array(vocabulary.names, object)
    bar = tqdm(total=draws * len(CELLS), desc="cells")
    for number in range(draws):
        rng = np.random.default_rng(number)
        present = np.unique(examples.labels)
        weights, bias = linear_head(examples, np.sort(rng.permutation(present)[: len(present) // 2]), len(names))
        half = softmax(masks.keys @ weights + bias, axis=1).astype(np.float32)
        bases = {"conse": ClassScores(masks.base, vocabulary.names), "half": ClassScores(half, vocabulary.names)}
        alone = {name: masks.mean_iou(base.probabilities) for name, base in bases.items()}
        for share, count in CELLS:
            taken = draw(examples, rng, share, count)
            found = neighbours(masks, examples, names[examples.labels], taken)
            entries = np.bincount(examples.labels[taken], minlength=len(names))
            counts = {name: int(n) for name, n in zip(names, entries, strict=True) if n}
            voted = vote(found, vote_weights(found, CONFIG.retrieval, counts), vocabulary)
            place: Row = {"share": share, "count": count, "retrieval": masks.mean_iou(voted.probabilities)}
            for name, base in bases.items():
                yield place | {"base": name, "alone": alone[name]} | _fused(masks, base, found, voted, entries > 0)
            bar.update()
    bar.close()


def _fused(masks: Masks, base: ClassScores, found: Neighbours, voted: ClassScores, supported: NDArray[np.bool_]) -> Row:
    """The mean IoU of each fusion."""
    scores = {
        mode: fuse(base, voted, confidence(found, voted, config), supported, config) for mode, config in FUSIONS.items()
    }
    return {mode: masks.mean_iou(fused.probabilities) for mode, fused in scores.items()}


# -- the page ----------------------------------------------------------------------------------------------------------

Cells: TypeAlias = dict[tuple[str, str, float, int], dict[str, tuple[float, float]]]
"""By set, base, share and count: the mean and the spread over the draws of each difference."""


def summary(rows: dict[str, list[Row]]) -> Cells:
    """Differences in points: ``mode`` to the base, and ``mode/retrieval`` to retrieval alone."""
    cells: Cells = {}
    for (name, measured), base, (share, count) in product(rows.items(), BASES, CELLS):
        own = [row for row in measured if (row["base"], row["share"], row["count"]) == (base, share, count)]
        column = {key: np.array([row[key] for row in own], float) for key in ("alone", "retrieval", *FUSIONS)}
        cell = {mode: column[mode] - column["alone"] for mode in FUSIONS}
        cell |= {f"{mode}/retrieval": column[mode] - column["retrieval"] for mode in FUSIONS}
        cells[name, base, share, count] = {key: (float(d.mean()), float(d.std())) for key, d in cell.items()}
    return cells


def harmed(cells: Cells, mode: str) -> list[str]:
    """The cells that lose more than they may, in words."""
    found = []
    for (name, base, share, count), cell in cells.items():
        place = f"{name}, `{base}`, {share:.0%} of the classes, {count or 'all'} image{'' if count == 1 else 's'} each"
        (lost, spread), (against, around) = cell[mode], cell[f"{mode}/retrieval"]
        if lost < -BASE_LOSS:
            found.append(f"{place}: {lost:+.1f} ± {spread:.1f} against the base")
        if share == 1 and against < -RETRIEVAL_LOSS:
            found.append(f"{place}: {against:+.1f} ± {around:.1f} against retrieval")
    return found


def page(cells: Cells, facts: dict[str, str]) -> str:
    """The tables in Markdown."""
    limits = len(cells) + sum(share == 1 for _, _, share, _ in cells)
    lines = [*facts.values(), ""]
    lines += [f"| fusion | limits broken, of {limits} | mean gain over the base | worst cell against the base |"]
    lines += ["|---|---|---|---|"]
    for mode in FUSIONS:
        gains = [cell[mode][0] for cell in cells.values()]
        lines.append(f"| `{mode}` | {len(harmed(cells, mode))} | {np.mean(gains):+.1f} | {min(gains):+.1f} |")
    for name, base in product(dict.fromkeys(key[0] for key in cells), BASES):
        lines += [
            "",
            f"### {name}, base `{base}`",
            "",
            "| classes with examples | images each | " + " | ".join(FUSIONS),
        ]
        lines[-1] += " |"
        lines += ["|---|---|" + "---|" * len(FUSIONS)]
        for share, count in CELLS:
            told = (_told(cells[name, base, share, count], mode, share) for mode in FUSIONS)
            lines.append(f"| {share:.0%} | {(count or 'all') if share else '–'} | " + " | ".join(told) + " |")
    for mode in FUSIONS:
        broken = harmed(cells, mode)
        lines += ["", f"Limits broken by `{mode}`:" if broken else f"`{mode}` breaks no limit.", ""]
        lines += [f"- {line}" for line in broken]
    return "\n".join(lines).rstrip() + "\n"


def _told(cell: dict[str, tuple[float, float]], mode: str, share: float) -> str:
    text = "{:+.1f} ± {:.1f}".format(*cell[mode])
    return text + (" ({:+.1f})".format(cell[f"{mode}/retrieval"][0]) if share == 1 else "")


def picture(cells: Cells, path: Path) -> None:
    """A heat map for each fusion, base and set."""
    places = list(product(dict.fromkeys(key[0] for key in cells), BASES))
    figure = Figure(figsize=(3.2 * len(FUSIONS), 2.2 * len(places)), layout="tight")
    axes = figure.subplots(len(places), len(FUSIONS), squeeze=False)
    for ((name, base), mode), axis in zip(product(places, FUSIONS), axes.flat, strict=True):
        values = np.array([[cells[name, base, share, count][mode][0] for count in COUNTS] for share in SHARES])
        axis.imshow(values, cmap="RdBu", vmin=-20, vmax=20, aspect="auto")
        axis.set_title(f"{name}, {base}: {mode}", fontsize=8)
        axis.set_xticks(range(len(COUNTS)), [str(count or "all") for count in COUNTS], fontsize=7)
        axis.set_yticks(range(len(SHARES)), [f"{share:.0%}" for share in SHARES], fontsize=7)
        for (y, x), value in np.ndenumerate(values):
            colour = "white" if abs(value) > 12 else "black"
            axis.text(x, y, f"{value:+.1f}", ha="center", va="center", fontsize=7, color=colour)
    figure.supxlabel("images of each class that has examples", fontsize=8)
    figure.supylabel("classes that have examples", fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    place, docs = Path(tempfile.gettempdir()) / "knnseg-no-harm", Path(__file__).parents[1] / "docs"
    parser.add_argument("--images", type=int, default=50, help="measure on at most so many, spread over the query half")
    parser.add_argument("--draws", type=int, default=5, help="for each cell")
    parser.add_argument("--cache", type=Path, default=place, help="folder for features")
    parser.add_argument("--out", type=Path, default=docs, help="folder for the page and the picture")
    options = parser.parse_args()
    folder = real_folder()
    rows, facts = dict[str, list[Row]](), dict[str, str]()
    for name in ("msrc", "camvid"):
        reference, query = photographs(folder, "reference", name), photographs(folder, "query", name)
        step = -(-len(query) // options.images)
        seen = look(reference, query[::step], options.cache / f"{name}-{step}.npz")
        rows[name] = list(measure(*seen, reference.vocabulary, options.draws))
        facts[name] = (
            f"- {name}: {len(reference)} images to take examples from, {len(query[::step])} to measure on; mean IoU of "
            + ", ".join(f"`{base}` {_mean(rows[name], base):.1f}" for base in BASES)
        )
    cells = summary(rows)
    (options.out / "assets").mkdir(parents=True, exist_ok=True)
    put(options.out / "no-harm.md", page(cells, facts), "no_harm.py")
    picture(cells, options.out / "assets" / "no-harm.png")
    print(page(cells, facts))


def _mean(rows: list[Row], base: str) -> float:
    return float(np.mean([row["alone"] for row in rows if row["base"] == base]))


if __name__ == "__main__":
    main()
