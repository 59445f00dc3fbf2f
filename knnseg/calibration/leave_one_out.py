"""Masks of known class as they would be met in a new image: the database is asked as if their image were not in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from tqdm import tqdm

from knnseg.data.features import Embeddings
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.scores import ClassScores, Neighbours
from knnseg.database.concepts import ConceptDatabase
from knnseg.database.originals import Originals, StoredImage, stored_images
from knnseg.errors import ConfigError, skipping, warn_left_out
from knnseg.method.cells import with_cells
from knnseg.method.pooling import pool
from knnseg.models.base import NoBase
from knnseg.segmenter import Segmenter
from knnseg.stages.protocols import features_of, masks_of, scores_of

__all__ = ["Asker", "ExampleAsker", "ProposalAsker", "Queries", "Sites", "classes_at", "classes_of"]

_PIXELS = 32
"""At least looked at in one image: few, so that many images count."""
_TOGETHER = 10_000
"""Pixels to look at in all images together, so that in few images there are more of each."""
_MAJORITY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Sites:
    """Where the class is known and a choice is judged: S pixels of the images, or masks that are given.

    Args:
        votes: float32 CSR (S, N), which masks speak there, and how much each counts, as in painting.
        truth: int64 (S,), positions in the vocabulary.
        image: int64 (S,), which of the images, from 0.
    """

    votes: sparse.csr_array
    truth: NDArray[np.int64]
    image: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Masks as they would be met in a new image.

    Args:
        truth: int64 (N,), positions in the vocabulary; -1 for a mask of no class, which only has a say at its pixels.
        size: float64 (N,), how much each counts within its class.
        neighbours: (N, K), from other images.
        base: P_base, (N, C).
        image: int64 (N,), which of the images they are in, from 0.
        sites: where they are judged.
        alone: masks that are not among them, since their class has no example in another image.
        missing: examples that are not, since their image or mask was not found, or their image cannot be used.
    """

    truth: NDArray[np.int64]
    size: NDArray[np.float64]
    neighbours: Neighbours
    base: ClassScores
    image: NDArray[np.int64]
    sites: Sites
    alone: int = 0
    missing: int = 0

    def of_other_classes(self) -> Queries:
        """The same masks without the neighbours of their own class, as if it had not been taught."""
        found = self.neighbours
        other = found.labels != np.array(self.base.classes, object)[self.truth][:, None]
        order = np.argsort(~other, axis=1, kind="stable")  # the others first, still best first
        scores = np.where(other, found.scores, np.float32(-np.inf))
        columns = (np.take_along_axis(column, order, axis=1) for column in replace(found, scores=scores).columns())
        return replace(self, neighbours=Neighbours(*columns))

    def first(self, k: int) -> Neighbours:
        """The k nearest of each."""
        return Neighbours(*(column[:, :k] for column in self.neighbours.columns()))


class Asker(ABC):
    """Asks database and base about masks of known class, image by image.

    Attributes:
        parts: masks are compared with the parts of examples too, as regions are in a prediction.

    Args:
        segmenter: its stages are used as for a prediction.
        database: its database.
        originals: finds the images.
        neighbours: K.
    """

    parts = True

    def __init__(
        self, segmenter: Segmenter, database: ConceptDatabase, originals: Originals, *, neighbours: int
    ) -> None:
        self._segmenter, self._database, self._originals = segmenter, database, originals
        self._most, self._pixels = neighbours, _PIXELS
        self._silent = isinstance(segmenter.base, NoBase)
        self._vocabulary = segmenter.vocabulary()
        self._known = {concept.label: concept for concept in database.concepts()}

    @property
    def counts(self) -> dict[str, int]:
        """n_c of equation 3."""
        return {name: one.keys if self.parts else one.count for name, one in self._known.items()}

    @abstractmethod
    def _about(self, image: StoredImage, rng: np.random.Generator) -> Queries:
        """The queries that one image gives."""

    def ask(self, most: int, *, seed: int = 0, progress: bool = False) -> Queries:
        """About ``most`` images in a random order, or all that there are.

        Raises:
            ConfigError: there is not one.
        """
        rng, parts, failed, unusable = np.random.default_rng(seed), list[Queries](), list[str](), 0
        hashes = sorted(str(value) for value in self._database.store.count_by("image_hash"))
        self._pixels = max(_PIXELS, _TOGETHER // max(min(most, len(hashes)), 1))
        with tqdm(total=most, unit="image", disable=not progress, desc="asking") as bar:
            for image in self._images(hashes, rng):
                unusable += (examples := len(image.wholes.records))
                with skipping(failed, next(iter(image.uris), image.image_hash)):
                    parts.append(self._about(image, rng))
                    unusable -= examples
                    bar.update(bool(len(parts[-1].sites.truth)))
                if sum(bool(len(part.sites.truth)) for part in parts) >= most:
                    break
        warn_left_out("calibrate", failed, "which cannot be used", depth=3)
        missing = unusable + sum(part.missing for part in parts)
        if not any(len(part.sites.truth) for part in parts):
            raise _nothing(sum(part.alone for part in parts), missing, self._originals)
        return replace(_joined(parts), missing=missing)

    def _images(self, hashes: list[str], rng: np.random.Generator) -> Iterator[StoredImage]:
        """All of the database, in a random order."""
        store = self._database.store
        order = rng.permutation(len(hashes)).tolist()
        for group in stored_images(store, [hashes[i] for i in order], named=self._database.named, with_vectors=True):
            yield from group

    def _elsewhere(self, image: StoredImage, labels: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Bool, the shape of ``labels``: whether another image has an example of the class."""
        own = Counter(image.wholes.records.fields["label"].tolist())
        there = {label for label, count in own.items() if self._known[label].count > count}
        return np.array([label in there for label in labels.tolist()], bool)

    def _neighbours(self, image: StoredImage, embeddings: Embeddings) -> Neighbours:
        own = image.image_hash
        return self._database.neighbours(embeddings, self._most, exclude_image=own, parts=self.parts)

    def _opinion(self, image: Image | None, masks: Masks | None, rows: NDArray[np.int64]) -> ClassScores:
        """P_base of some rows of the masks; zeros without a base."""
        if self._silent or image is None or masks is None or not len(rows):
            zeros = np.zeros((len(rows), len(self._vocabulary)), np.float32)
            return ClassScores(zeros, self._vocabulary.names)
        return scores_of([image], [masks], self._vocabulary, self._segmenter.base)[0].select(rows)

    def _queries(
        self, image: StoredImage, labels: NDArray[np.object_], size: NDArray[np.float64], keys: Embeddings,
        base: ClassScores, sites: Sites, alone: int, missing: int,
    ) -> Queries:  # fmt: skip
        truth = self._vocabulary.index(labels)
        neighbours, one = self._neighbours(image, keys), np.zeros(len(truth), np.int64)
        return Queries(truth, size, neighbours, base, one, sites, alone, missing)

    def _sites(self, votes: sparse.csr_array, labels: NDArray[np.object_]) -> Sites:
        return Sites(votes, self._vocabulary.index(labels), np.zeros(len(labels), np.int64))


class ExampleAsker(Asker):
    """Asks about the stored masks, with their stored vectors, which are compared with whole examples alone."""

    parts = False

    def _about(self, image: StoredImage, rng: np.random.Generator) -> Queries:
        image = image.wholes
        records, labels = image.records, image.records.fields["label"]
        assert records.vectors is not None  # asked for above
        found = None if self._silent else self._originals.find(image)
        usable = image.with_mask if found is not None else np.arange(len(records) if self._silent else 0)
        rows = usable[self._elsewhere(image, labels[usable])]
        masks = None if found is None else image.masks(rows.tolist(), found.size)
        base = self._opinion(found, masks, np.arange(len(rows)))
        left, missing = len(usable) - len(rows), len(records) - len(usable)
        sites = self._sites(sparse.eye_array(len(rows), dtype=np.float32, format="csr"), labels[rows])
        keys = Embeddings(records.vectors[rows], records.fields["coverage"][rows].astype(np.float32))
        return self._queries(image, labels[rows], np.ones(len(rows)), keys, base, sites, left, missing)


class ProposalAsker(Asker):
    """Asks about what the proposer cuts out, at pixels of which the stored masks say what is there."""

    def _about(self, image: StoredImage, rng: np.random.Generator) -> Queries:
        found = self._originals.find(image)
        masks, wholes = None if found is None else self._cut_out(found), image.wholes
        if found is None or masks is None or not len(wholes.with_mask):
            nothing, none = np.empty(0, object), np.empty(0, np.int64)
            keys = Embeddings(np.empty((0, self._database.extractor.dim), np.float32), np.empty(0, np.float32))
            sites, base = (
                self._sites(sparse.csr_array((0, 0), dtype=np.float32), nothing),
                self._opinion(None, None, none),
            )
            return self._queries(image, nothing, np.empty(0), keys, base, sites, 0, len(wholes.records))
        own, at_pixels = classes_of(wholes, masks), classes_at(wholes, masks)
        known = np.flatnonzero((at_pixels != "") & self._elsewhere(image, at_pixels))
        pixels = np.sort(rng.permutation(known)[: self._pixels])
        at = sparse.csc_array(masks.matrix)[:, pixels]
        rows = np.unique(at.indices)
        votes = sparse.csr_array((at.T @ sparse.diags_array(masks.scores)).tocsr()[:, rows], dtype=np.float32)
        elsewhere = self._elsewhere(image, own)
        labels = np.where(elsewhere, own, "")[rows]
        base, sites = self._opinion(found, masks, rows), self._sites(votes, at_pixels[pixels])
        keys = self._keys(image, found, masks.select(rows))
        left, missing = int(((own != "") & ~elsewhere).sum()), len(wholes.records) - len(wholes.with_mask)
        return self._queries(image, labels, masks.areas[rows].astype(np.float64), keys, base, sites, left, missing)

    def _cut_out(self, found: Image) -> Masks:
        """Regions and cells, or whole instances, as in a prediction."""
        masks = masks_of([found], self._segmenter.proposer)[0]
        self.parts = not masks.instances
        return with_cells(masks, self._segmenter.config.painting.cells)

    def _keys(self, image: StoredImage, found: Image, masks: Masks) -> Embeddings:
        """The keys of the masks of an image."""
        return pool(features_of([found], self._database.extractor)[0], masks)


def classes_of(image: StoredImage, masks: Masks) -> NDArray[np.object_]:
    """The class that has more than half of each mask, object (N,), "" for none."""
    names, shares = _by_class(image, masks)
    covered = np.asarray(masks.matrix.sum(axis=1), np.float64).reshape(-1)
    return _ahead(names, (masks.matrix @ shares).toarray() / np.maximum(covered, 1e-12)[:, None])


def classes_at(image: StoredImage, masks: Masks) -> NDArray[np.object_]:
    """The class that has more than half of each cell of the grid of the masks, object (h·w,), "" for none."""
    names, shares = _by_class(image, masks)
    return _ahead(names, shares.toarray())


def _by_class(image: StoredImage, masks: Masks) -> tuple[NDArray[np.object_], sparse.csr_array]:
    """The C classes of an image, and how much of each cell they cover by the stored masks, float32 (h·w, C)."""
    stored = image.masks(image.with_mask.tolist(), masks.size).on_grid(masks.grid)
    names, column = np.unique(image.records.fields["label"][image.with_mask].astype(str), return_inverse=True)
    one_hot = sparse.csr_array((np.ones(len(column), np.float32), (np.arange(len(column)), column)))
    return names.astype(object), sparse.csr_array(stored.matrix.T @ one_hot)


def _ahead(names: NDArray[np.object_], shares: NDArray[Any]) -> NDArray[np.object_]:
    """Of float (N, C) the name of the column that is above one half, "" where none is."""
    return np.where(shares.max(axis=1) > _MAJORITY, names[shares.argmax(axis=1)], "")


def _nothing(alone: int, missing: int, originals: Originals) -> ConfigError:
    reasons = [f"{alone} masks have no such example: add more images."] if alone else []
    if missing:
        reasons.append(f"Of {missing} examples the image or the mask was not found: {originals.advice}.")
    said = " ".join(reasons) or "The database has no images."
    return ConfigError("calibrate", expected="masks whose class has an example in another image", got="none", hint=said)


def _joined(parts: list[Queries]) -> Queries:
    """Those of several images, and only of images that have some."""
    alone, missing = sum(part.alone for part in parts), sum(part.missing for part in parts)
    parts = [part for part in parts if len(part.sites.truth)]
    found, counts, sites = (
        [part.neighbours for part in parts],
        [len(part.truth) for part in parts],
        [part.sites for part in parts],
    )
    order = np.arange(len(parts))
    together = Sites(
        sparse.csr_array(sparse.block_diag([one.votes for one in sites], format="csr")),
        np.concatenate([one.truth for one in sites]),
        np.repeat(order, [len(one.truth) for one in sites]),
    )
    return Queries(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.size for part in parts]),
        Neighbours(*map(np.concatenate, zip(*(one.columns() for one in found), strict=True))),
        ClassScores.concatenate([part.base for part in parts]),
        np.repeat(order, counts),
        together,
        alone,
        missing,
    )
