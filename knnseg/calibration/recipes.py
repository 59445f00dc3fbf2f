"""How keys can be made, tried on the pooled vectors of the images: the network looks at each once for each input size.

Pooling is a mean, and choosing layers, centring and whitening are affine, so all of them can be done after pooling.
What an image as a whole adds is a cosine of its own. So a recipe costs a few products of matrices, and no image.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnseg.calibration.leave_one_out import ProposalAsker, Queries
from knnseg.data.features import Embeddings, Features
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.scores import Neighbours
from knnseg.database.originals import StoredImage
from knnseg.method.pooling import averages
from knnseg.segmenter import Segmenter
from knnseg.stages.keys import Whitened, WithContext
from knnseg.stages.protocols import Adjustable, FeatureExtractor, features_of

__all__ = ["KeysAsker", "Recipe", "Workshop"]

SIDES = (480, 640, 800)
EXPONENTS = (0.0, 0.25, 0.5, 1.0)
CONTEXTS = (0.0, 0.35, 0.6)
_ROWS = 2048
"""Queries that are compared with all examples at once."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to make keys.

    Args:
        side: pixels of the longer side of what the network sees; 0 where its extractor has no choice of it.
        layers: those that are taken; () where there is no choice of them.
        whitening: None for the features as they are; the exponent of :meth:`knnseg.Whitened.of_moments` on the images
            of the database, 0 to only centre them; -1 for the whitening that is in use.
        context: weight of the whole image, 0 for none.
    """

    side: int
    layers: tuple[int, ...]
    whitening: float | None
    context: float

    @property
    def described(self) -> str:
        """For people."""
        size = [f"long side {self.side}", f"layers {list(self.layers)}"] if self.side else []
        white = {None: "not centred", 0.0: "centred", -1.0: "whitened as before"}
        how = white.get(self.whitening) or f"whitened to the power {self.whitening:g}"
        return ", ".join([*size, how, f"context {self.context:g}" if self.context else "no context"])


@dataclass(slots=True)
class _Pooled:
    """Of one input size: the examples, the masks that are asked about and the images, as means of plain features.

    Args:
        examples: float32 (n, D) of each image.
        asked: the same.
        images: float32 (D,) of each image.
        weight: of all cells together.
        total: float64 (D,), their weighted sum.
        products: float64 (D, D), that of their products.
    """

    examples: list[NDArray[np.float32]] = field(default_factory=list)
    asked: list[NDArray[np.float32]] = field(default_factory=list)
    images: list[NDArray[np.float32]] = field(default_factory=list)
    weight: float = 0.0
    total: NDArray[np.float64] | float = 0.0
    products: NDArray[np.float64] | float = 0.0

    def add(self, features: Features, examples: Masks, asked: Masks) -> None:
        """One image."""
        cells = features.data.reshape(features.dim, -1).T
        weighted = features.inside.reshape(-1, 1).astype(np.float32) * cells
        self.examples.append(averages(features, examples))
        self.asked.append(averages(features, asked))
        total = weighted.sum(axis=0, dtype=np.float64)
        self.images.append((total / features.inside.sum()).astype(np.float32))
        self.weight, self.total = self.weight + float(features.inside.sum()), self.total + total
        self.products = self.products + (cells.T @ weighted).astype(np.float64)

    def moments(self, channels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and covariance of some channels over all cells."""
        mean = np.asarray(self.total / self.weight)[channels]
        return mean, np.asarray(self.products / self.weight)[np.ix_(channels, channels)] - np.outer(mean, mean)


class Workshop:
    """What an extractor leaves to be chosen, and extractors made by a recipe.

    Args:
        extractor: that of the database.
    """

    def __init__(self, extractor: FeatureExtractor) -> None:
        context = extractor.weight if isinstance(extractor, WithContext) else 0.0
        inner = extractor.source if isinstance(extractor, WithContext) else extractor
        used = inner if isinstance(inner, Whitened) else None
        root = inner if used is None else used.source
        self.root, self._used = root, used
        self._options = root if isinstance(root, Adjustable) else None
        side, layers = (root.long_side, tuple(root.layers)) if isinstance(root, Adjustable) else (0, ())
        self.start = Recipe(side, layers, None if used is None else -1.0, context)

    @property
    def sides(self) -> list[int]:
        """The input sizes to look at images with, that of now first."""
        return [self.start.side, *(side for side in SIDES if self.start.side and side != self.start.side)]

    def others(self, recipe: Recipe) -> list[list[Recipe]]:
        """A list for each part of a recipe, of those that differ in this part."""
        free = [replace(recipe, whitening=None) if recipe.whitening == -1 else recipe]
        sides = [replace(one, side=side) for one in free for side in self.sides]
        layers = self.start.layers
        parts = [layers, *((layer,) for layer in layers)] if len(layers) > 1 else [layers]
        whitenings: list[float | None] = [None, *EXPONENTS]
        own = replace(recipe, side=self.start.side, layers=layers) == recipe
        return [
            sides,
            [replace(one, layers=part) for one in free for part in parts],
            [replace(recipe, whitening=w) for w in [*whitenings, *([-1.0] if self._used and own else [])]],
            [replace(recipe, context=context) for context in CONTEXTS],
        ]

    def plain(self, side: int) -> FeatureExtractor:
        """Plain features of all layers at a size."""
        same = self._options is None or side == self.start.side
        return self.root if same or self._options is None else self._options.adjusted(side, self.start.layers)

    def channels(self, recipe: Recipe) -> NDArray[np.int64]:
        """Where the layers of a recipe are among all."""
        if self._options is None:
            return np.arange(self.root.dim)
        ends = np.cumsum([0, *self._options.layers.values()])
        starts = dict(zip(self._options.layers, itertools.pairwise(ends.tolist()), strict=True))
        return np.concatenate([np.arange(*starts[layer]) for layer in recipe.layers])

    def whitened(self, recipe: Recipe, source: FeatureExtractor, pooled: _Pooled) -> Whitened | None:
        """What the recipe makes of the features of ``source``, which has its layers; None for nothing."""
        if recipe.whitening is None:
            return None
        if recipe.whitening == -1:
            return self._used
        return Whitened.of_moments(source, *pooled.moments(self.channels(recipe)), recipe.whitening)

    def extractor(self, recipe: Recipe, pooled: _Pooled) -> tuple[FeatureExtractor, Whitened | None]:
        """Makes keys by a recipe; and the whitening in it, which has to be kept."""
        source = self.root
        if self._options is not None and (recipe.side, recipe.layers) != (self.start.side, self.start.layers):
            source = self._options.adjusted(recipe.side, recipe.layers)
        white = self.whitened(recipe, source, pooled)
        keys: FeatureExtractor = source if white is None else white
        return (WithContext(keys, recipe.context) if recipe.context else keys), white

    def sections(self, recipe: Recipe) -> dict[str, dict[str, Any]]:
        """What a configuration says of a recipe where it differs from now; the whitening is a file, and not here."""
        features: dict[str, Any] = {}
        if recipe.side != self.start.side:
            features["long_side"] = recipe.side
        if recipe.layers != self.start.layers:
            features["layers"] = list(recipe.layers)
        keys = {"context": recipe.context} if recipe.context != self.start.context else {}
        return {name: values for name, values in (("features", features), ("keys", keys)) if values}


class KeysAsker(ProposalAsker):
    """Asks as proposals do, and keeps what the keys of any recipe can be made of.

    The examples of the images that are asked about are all that is searched, so a part of a large database stands for
    the whole.
    """

    def __init__(self, segmenter: Segmenter, *rest: Any, workshop: Workshop, **named: Any) -> None:
        super().__init__(segmenter, *rest, **named)
        self.workshop = workshop
        self._plain = {side: workshop.plain(side) for side in workshop.sides}
        self._pooled = {side: _Pooled() for side in workshop.sides}
        self._labels, self._owners, self._askers = list[str](), list[int](), list[int]()
        self._sizes, self._asked_sizes = list[float](), list[float]()
        self._made: dict[Recipe, tuple[FeatureExtractor, Whitened | None]] = {}

    def _keys(self, image: StoredImage, found: Image, masks: Masks) -> Embeddings:
        rows = image.with_mask.tolist()
        examples, number = image.masks(rows, found.size), len(self._pooled[self.workshop.start.side].images)
        looked = {side: features_of([found], plain)[0] for side, plain in self._plain.items()}
        for side, features in looked.items():  # all of them worked
            self._pooled[side].add(features, examples, masks)
        self._labels += image.records.fields["label"][image.with_mask].tolist()
        self._owners += [number] * len(rows)
        self._askers += [number] * len(masks)
        self._sizes += (examples.areas / math.prod(found.size)).tolist()
        self._asked_sizes += (masks.areas / math.prod(found.size)).tolist()
        nothing = np.zeros((len(masks), self._database.extractor.dim), np.float32)  # which finds no neighbours
        return Embeddings(nothing, np.ones(len(masks), np.float32))

    def extractor(self, recipe: Recipe) -> tuple[FeatureExtractor, Whitened | None]:
        """Makes keys by a recipe; and the whitening in it, which has to be kept."""
        if recipe not in self._made:
            self._made[recipe] = self.workshop.extractor(recipe, self._pooled[recipe.side])
        return self._made[recipe]

    def queries(self, asked: Queries, recipe: Recipe) -> Queries:
        """What :meth:`ask` gave, with the neighbours that the keys of a recipe find."""
        pooled, channels = self._pooled[recipe.side], self.workshop.channels(recipe)
        white = self.extractor(recipe)[1]

        def keys(vectors: list[NDArray[np.float32]]) -> NDArray[np.float32]:
            plain = np.concatenate(vectors).reshape(-1, len(pooled.images[0]))[:, channels]
            made = plain if white is None else (plain - white.mean) @ white.matrix
            return _unit(np.asarray(made, np.float32))

        examples, images, wanted = keys(pooled.examples), keys([np.stack(pooled.images)]), keys(pooled.asked)
        owners, askers = np.array(self._owners, np.int64), np.array(self._askers, np.int64)
        labels, k = np.array(self._labels, object), min(self._most, len(owners))
        ids, best = np.empty((len(askers), k), np.int64), np.empty((len(askers), k), np.float32)
        for start in range(0, len(askers), _ROWS):
            rows = slice(start, start + _ROWS)
            scores = wanted[rows] @ examples.T
            if recipe.context:
                alike = (images @ images.T)[askers[rows]][:, owners]
                scores = (scores + recipe.context**2 * alike) / (1 + recipe.context**2)
            own = askers[rows, None] == owners
            scores[own | ~wanted[rows].any(axis=1, keepdims=True) | ~examples.any(axis=1)] = -np.inf
            near = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            near = np.take_along_axis(near, np.argsort(-np.take_along_axis(scores, near, 1), 1, kind="stable"), 1)
            ids[rows], best[rows] = near, np.take_along_axis(scores, near, 1)
        there = np.isfinite(best)
        sizes = np.array(self._sizes)[ids] / np.array(self._asked_sizes)[:, None]
        found = Neighbours(
            np.where(there, "example", "").astype(object), best, np.where(there, labels[ids], ""),
            np.where(there, sizes, 1).astype(np.float32),
        )  # fmt: skip
        return replace(asked, neighbours=found)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
