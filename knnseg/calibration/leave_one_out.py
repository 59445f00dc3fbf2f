"""Masks of known class as they would be met in a new image: the database is asked as if their image were not in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

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
from knnseg.method.pooling import pool
from knnseg.models.base import NoBase
from knnseg.segmenter import Segmenter
from knnseg.stages.protocols import features_of, masks_of, scores_of

__all__ = ["Asker", "ExampleAsker", "ProposalAsker", "Queries", "what_is_there"]

_PROPOSALS = 32
"""Asked about in one image, so that many images count."""
_MAJORITY = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Masks as they would be met in a new image.

    Args:
        truth: int64 (N,), positions in the vocabulary.
        size: float64 (N,), how much each counts within its class.
        neighbours: (N, K), from other images.
        base: P_base, (N, C).
        image: int64 (N,), which of the images they are in, from 0.
        alone: masks that are not among them, since their class has no example in another image.
        missing: examples that are not, since their image or mask was not found, or their image cannot be used.
    """

    truth: NDArray[np.int64]
    size: NDArray[np.float64]
    neighbours: Neighbours
    base: ClassScores
    image: NDArray[np.int64]
    alone: int = 0
    missing: int = 0

    def of_other_classes(self) -> Queries:
        """The same masks without the neighbours of their own class, as if it had not been taught."""
        found = self.neighbours
        other = found.labels != np.array(self.base.classes, object)[self.truth][:, None]
        order = np.argsort(~other, axis=1, kind="stable")  # the others first, still best first
        scores = np.where(other, found.scores, np.float32(-np.inf))
        columns = (np.take_along_axis(column, order, axis=1) for column in (found.ids, scores, found.labels))
        return replace(self, neighbours=Neighbours(*columns))

    def first(self, k: int) -> Neighbours:
        """The k nearest of each."""
        found = self.neighbours
        return Neighbours(found.ids[:, :k], found.scores[:, :k], found.labels[:, :k])


class Asker(ABC):
    """Asks database and base about masks of known class, image by image.

    Args:
        segmenter: its stages are used as for a prediction.
        database: its database.
        originals: finds the images.
        neighbours: K.
    """

    def __init__(
        self, segmenter: Segmenter, database: ConceptDatabase, originals: Originals, *, neighbours: int
    ) -> None:
        self._segmenter, self._database, self._originals = segmenter, database, originals
        self._most = neighbours
        self._silent = isinstance(segmenter.base, NoBase)
        self._vocabulary = segmenter.vocabulary()
        self._counts = {concept.label: concept.count for concept in database.concepts()}

    @abstractmethod
    def _about(self, image: StoredImage, rng: np.random.Generator) -> Queries:
        """The queries that one image gives."""

    def ask(self, most: int, *, seed: int = 0, progress: bool = False) -> Queries:
        """About images in a random order, until there are ``most`` queries or no more images.

        Raises:
            ConfigError: there is not one.
        """
        rng, parts, failed, unusable = np.random.default_rng(seed), list[Queries](), list[str](), 0
        with tqdm(total=most, unit="mask", disable=not progress, desc="asking") as bar:
            for image in self._images(rng):
                unusable += len(image.records)
                with skipping(failed, next(iter(image.uris), image.image_hash)):
                    parts.append(self._about(image, rng))
                    unusable -= len(image.records)
                    bar.update(len(parts[-1].truth))
                if sum(len(part.truth) for part in parts) >= most:
                    break
        warn_left_out("calibrate", failed, "which cannot be used", depth=3)
        missing = unusable + sum(part.missing for part in parts)
        if not any(len(part.truth) for part in parts):
            raise _nothing(sum(part.alone for part in parts), missing, self._originals)
        return replace(_joined(parts), missing=missing)

    def _images(self, rng: np.random.Generator) -> Iterator[StoredImage]:
        """All of the database, in a random order, without the parts of examples."""
        store = self._database.store
        hashes = sorted(str(value) for value in store.count_by("image_hash"))
        order = rng.permutation(len(hashes)).tolist()
        for group in stored_images(store, [hashes[i] for i in order], named=self._database.named, with_vectors=True):
            for image in group:
                yield replace(image, records=image.records.take(image.records.fields["whole"] == ""))

    def _elsewhere(self, image: StoredImage, labels: NDArray[np.object_]) -> NDArray[np.bool_]:
        """Bool, the shape of ``labels``: whether another image has an example of the class."""
        own = Counter(image.records.fields["label"].tolist())
        return np.array([self._counts[label] > own[label] for label in labels.tolist()], bool)

    def _neighbours(self, image: StoredImage, vectors: NDArray[np.float32]) -> Neighbours:
        embeddings = Embeddings(vectors, np.ones(len(vectors), np.float32))
        return self._database.neighbours(embeddings, self._most, exclude_image=image.image_hash)

    def _opinion(self, image: Image | None, masks: Masks | None, rows: NDArray[np.int64]) -> ClassScores:
        """P_base of some rows of the masks; zeros without a base."""
        if self._silent or image is None or masks is None or not len(rows):
            zeros = np.zeros((len(rows), len(self._vocabulary)), np.float32)
            return ClassScores(zeros, self._vocabulary.names)
        return scores_of([image], [masks], self._vocabulary, self._segmenter.base)[0].select(rows)

    def _queries(
        self, image: StoredImage, labels: NDArray[np.object_], size: NDArray[np.float64], vectors: NDArray[np.float32],
        base: ClassScores, alone: int, missing: int,
    ) -> Queries:  # fmt: skip
        truth = self._vocabulary.index(labels)
        neighbours, one = self._neighbours(image, vectors), np.zeros(len(truth), np.int64)
        return Queries(truth, size, neighbours, base, one, alone, missing)


class ExampleAsker(Asker):
    """Asks about the stored masks, with their stored vectors."""

    def _about(self, image: StoredImage, rng: np.random.Generator) -> Queries:
        records, labels = image.records, image.records.fields["label"]
        assert records.vectors is not None  # asked for above
        found = None if self._silent else self._originals.find(image)
        usable = image.with_mask if found is not None else np.arange(len(records) if self._silent else 0)
        rows = usable[self._elsewhere(image, labels[usable])]
        masks = None if found is None else image.masks(rows.tolist(), found.size)
        base = self._opinion(found, masks, np.arange(len(rows)))
        left, missing = len(usable) - len(rows), len(records) - len(usable)
        return self._queries(image, labels[rows], np.ones(len(rows)), records.vectors[rows], base, left, missing)


class ProposalAsker(Asker):
    """Asks about what the proposer cuts out, as far as the stored masks say what it is."""

    def _about(self, image: StoredImage, rng: np.random.Generator) -> Queries:
        found = self._originals.find(image)
        if found is None or not len(image.with_mask):
            none = np.empty(0, np.int64)
            vectors = np.empty((0, self._database.extractor.dim), np.float32)
            base = self._opinion(None, None, none)
            return self._queries(image, np.empty(0, object), np.empty(0), vectors, base, 0, len(image.records))
        masks = masks_of([found], self._segmenter.proposer)[0]
        labels, areas = what_is_there(image, masks)
        embedded = pool(features_of([found], self._database.extractor)[0], masks).vectors
        usable = np.flatnonzero((labels != "") & embedded.any(axis=1))
        usable = np.sort(rng.permutation(usable)[:_PROPOSALS])
        rows = usable[self._elsewhere(image, labels[usable])]
        base = self._opinion(found, masks, rows)
        left, missing = len(usable) - len(rows), len(image.records) - len(image.with_mask)
        return self._queries(image, labels[rows], areas[rows], embedded[rows], base, left, missing)


def what_is_there(image: StoredImage, masks: Masks) -> tuple[NDArray[np.object_], NDArray[np.float64]]:
    """The class that has more than half of each mask, object (N,), "" for none; and the areas, float64 (N,)."""
    stored = image.masks(image.with_mask.tolist(), masks.size).on_grid(masks.grid)
    names, column = np.unique(image.records.fields["label"][image.with_mask].astype(str), return_inverse=True)
    one_hot = sparse.csr_array((np.ones(len(column), np.float32), (np.arange(len(column)), column)))
    covered = np.asarray(masks.matrix.sum(axis=1), np.float64).reshape(-1)
    shares = (masks.matrix @ stored.matrix.T @ one_hot).toarray() / np.maximum(covered, 1e-12)[:, None]
    classes = np.where(shares.max(axis=1) > _MAJORITY, names.astype(object)[shares.argmax(axis=1)], "")
    return classes, masks.areas.astype(np.float64)


def _nothing(alone: int, missing: int, originals: Originals) -> ConfigError:
    reasons = [f"{alone} masks have no such example: add more images."] if alone else []
    if missing:
        reasons.append(f"Of {missing} examples the image or the mask was not found: {originals.advice}.")
    said = " ".join(reasons) or "The database has no images."
    return ConfigError("calibrate", expected="masks whose class has an example in another image", got="none", hint=said)


def _joined(parts: list[Queries]) -> Queries:
    found = [part.neighbours for part in parts]
    counts = [len(part.truth) for part in parts if len(part.truth)]
    return Queries(
        np.concatenate([part.truth for part in parts]),
        np.concatenate([part.size for part in parts]),
        Neighbours(*(np.concatenate([getattr(n, name) for n in found]) for name in ("ids", "scores", "labels"))),
        ClassScores.concatenate([part.base for part in parts if len(part.base)]),
        np.repeat(np.arange(len(counts)), counts),
        sum(part.alone for part in parts),
        sum(part.missing for part in parts),
    )
