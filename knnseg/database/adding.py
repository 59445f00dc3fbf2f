"""Labelled images become rows of a store: what is not there yet is embedded and written, a batch in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnseg.data.annotations import LabelledImage
from knnseg.data.features import Embeddings
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.reading import ImageLike
from knnseg.data.vocabulary import Vocabulary, tidied
from knnseg.database.inventory import Concept, Inventory
from knnseg.database.naming import Names, is_deleted
from knnseg.database.parts import with_parts
from knnseg.database.schema import (
    FIELDS,
    Content,
    ImageExamples,
    append_rows,
    described,
    segment_masks,
    stored_contents,
)
from knnseg.errors import DatasetError, KnnSegWarning, MaskError, those_that_can
from knnseg.later import each
from knnseg.method.pooling import pool
from knnseg.stages.protocols import FeatureExtractor, features_of
from knnstore import EmbeddingStore, F

__all__ = ["AddReport", "segments", "warn_mixed", "write"]


@dataclass(frozen=True, slots=True)
class AddReport:
    """What :meth:`knnseg.ConceptDatabase.add` did.

    Args:
        images: images read.
        added: examples written.
        present: examples that were there already.
        deleted: examples that were there and have been deleted one by one, and so are left out.
        skipped: segments that could not be used: empty, below ``min_area``, or over featureless ground.
        failed: images that could not be read or used, each with its name and the reason.
        ids: of ``add_masks``, the id of the example of each mask; empty for a stream of images, which may have no end.
    """

    images: int = 0
    added: int = 0
    present: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    deleted: int = 0
    ids: tuple[str, ...] = ()

    def __add__(self, other: AddReport) -> AddReport:
        return AddReport(
            self.images + other.images, self.added + other.added,
            self.present + other.present, self.skipped + other.skipped, (*self.failed, *other.failed),
            self.deleted + other.deleted, (*self.ids, *other.ids),
        )  # fmt: skip


def segments(
    group: Iterable[LabelledImage],
    wanted: frozenset[str] | None,
    min_area: int,
    keys_for: Callable[[Iterable[str]], Mapping[str, str]],
    concepts: Callable[[], Iterable[Concept]],
) -> tuple[list[ImageExamples], AddReport]:
    """The segments of some images that are to be added, and how many are not.

    Args:
        group: the images.
        wanted: the class names to take; None for all.
        min_area: leave out segments with fewer pixels.
        keys_for: the key of the concept of each name.
        concepts: what the database knows, which says what nobody else does: thing or stuff.

    Raises:
        DatasetError: something else than a labelled image.
    """
    prepared, report, known = [], AddReport(), dict[str, bool]()
    for example in group:
        if not isinstance(example, LabelledImage):
            raise DatasetError(
                "add", expected="labelled images", got=type(example).__name__, hint="Use add_masks for arrays."
            )
        info = [s for s in example.info if wanted is None or s.label in wanted]
        masks = segment_masks(example, [s.id for s in info])
        usable = np.asarray(masks.areas >= max(min_area, 1))
        kept = [s for s, ok in zip(info, usable.tolist(), strict=True) if ok]
        report += AddReport(images=1, skipped=int((~usable).sum()))
        keys = keys_for(s.label for s in kept)
        if not known and any(s.thing is None for s in kept):
            known = things_of(concepts())
        things = [known.get(s.label, False) if s.thing is None else s.thing for s in kept]
        image = Image(example.image, example.uri)
        prepared.append(described(image, masks.select(usable), [s.label for s in kept], things, keys))
    return prepared, report


def things_of(concepts: Iterable[Concept]) -> dict[str, bool]:
    """Whether each name, of now or from before, is that of a thing."""
    listed = list(concepts)
    before = {alias: concept.thing for concept in listed for alias in concept.aliases}
    return before | {concept.label: concept.thing for concept in listed}


def warn_mixed(now: Inventory, keys: Iterable[str], said: set[str]) -> None:
    """Warn of concepts that were added to and whose examples do not agree on what they are.

    Args:
        now: what is there since.
        keys: of the examples that were to be added.
        said: the concepts that were warned of, each of which is enough once; gets those of now.
    """
    names = now.names_of(keys) - said
    for concept in now.concepts:
        if concept.mixed and concept.label in names:
            said.add(concept.label)
            warnings.warn(concept.disagreement, KnnSegWarning, stacklevel=3)


def of_arrays(
    image: Image | ImageLike,
    masks: NDArray[np.bool_] | NDArray[np.integer],
    labels: Iterable[str],
    things: Iterable[str] | None,
    uri: str,
    concepts: Callable[[], Iterable[Concept]],
    keys_for: Callable[[Iterable[str]], Mapping[str, str]],
) -> ImageExamples:
    """One image with its masks as arrays; see :meth:`knnseg.ConceptDatabase.add_masks`.

    Args:
        image: the image.
        masks: bool or whole numbers (N, H, W).
        labels: N class names.
        things: the names among them that are countable objects; None where nobody says.
        uri: where the image comes from; "" for the path that was given.
        concepts: what the database knows.
        keys_for: the key of the concept of each name.
    """
    names = [tidied(label) for label in labels]
    known = things_of(concepts()) if things is None else {}
    said = [name for name in names if known.get(name)] if things is None else things
    countable = Vocabulary.of(dict.fromkeys(names), said).things if names else frozenset[str]()
    picture, stack = Image.read(image), Masks.from_dense(masks)
    if stack.size != picture.size:
        raise MaskError("masks", expected=f"{picture.size} like the image", got=stack.size)
    if len(stack) != len(names):
        raise MaskError("masks", expected=f"one mask for each of {len(names)} labels", got=len(stack))
    empty = np.flatnonzero(stack.areas == 0)
    if len(empty):
        raise MaskError("masks", expected="every mask to cover a pixel", got=f"an empty mask at {int(empty[0])}")
    if not uri and isinstance(image, str | PathLike):
        uri = Path(image).absolute().as_uri()
    things_ = [name in countable for name in names]
    return described(Image(picture.pixels, uri), stack, names, things_, keys_for(names))


def write(
    store: EmbeddingStore,
    extractor: FeatureExtractor,
    prepared: list[ImageExamples],
    names: Names,
    *,
    tiles: int = 0,
    keep_masks: bool = True,
    writer: str = "",
    strict: bool = False,
) -> AddReport:
    """Embed what is not there yet, and write it in one call. Parts are not counted.

    Args:
        store: of a concept database.
        extractor: makes the vectors.
        prepared: the examples of some images.
        names: of the concepts, and what was deleted of them.
        tiles: see :func:`knnseg.database.parts.with_parts`.
        keep_masks: store the masks as RLE.
        writer: who adds.
        strict: raise where the extractor refuses an image, instead of leaving it out.
    """
    report, failed = AddReport(), list[str]()
    prepared = [with_parts(examples, tiles) for examples in prepared]
    store.revision()  # what others have added up to now is seen below, also where that takes a moment otherwise
    ids = [identity for examples in prepared for identity in (*examples.ids, *examples.first_ids)]
    stored = store.get(ids, fields=["label"], with_vectors=False)
    there = {
        own for own, key in zip(stored.ids.tolist(), stored.fields["label"].tolist(), strict=True) if names.name(key)
    }
    # A concept that was made of several has examples under the keys of each of them.
    shown = [examples.image.content_hash for examples in prepared if not there.issuperset(examples.ids)]
    known = stored_contents(store, F("image_hash").isin(shown), names.name) if shown else set[Content]()
    work: list[tuple[ImageExamples, list[int]]] = []
    for examples in prepared:
        named = zip(examples.ids, examples.first_ids, examples.contents(names.name), strict=True)
        fresh = [i for i, (*own, same) in enumerate(named) if there.isdisjoint(own) and known.isdisjoint(same)]
        deleted = [i for i in fresh if is_deleted(names.moved.get(examples.ids[i], ""))]
        present = _wholes(examples, range(len(examples.ids))) - _wholes(examples, fresh)
        report += AddReport(present=present, deleted=_wholes(examples, deleted))
        fresh = [i for i in fresh if i not in deleted]
        if fresh:
            there.update(examples.ids)
            work.append((examples, fresh))
    embedded = those_that_can(
        lambda some: _embedded(extractor, some), work, lambda one: one[0].image.uri, failed, strict=strict
    )
    new = [(*one, embeddings) for one, embeddings in zip(work, embedded, strict=True) if embeddings is not None]
    return report + _upsert(store, new, keep_masks, writer) + AddReport(failed=tuple(failed))


def _upsert(
    store: EmbeddingStore, new: list[tuple[ImageExamples, list[int], Embeddings]], keep_masks: bool, writer: str
) -> AddReport:
    """Write some rows of each image."""
    report, columns = AddReport(), {name: list[object]() for name in FIELDS}
    ids, vectors, wholes = list[str](), list[NDArray[np.float32]](), 0
    for examples, fresh, embeddings in new:
        usable = np.flatnonzero(embeddings.vectors.any(axis=1))
        rows = [fresh[i] for i in usable.tolist()]
        report += AddReport(skipped=_wholes(examples, fresh) - _wholes(examples, rows))
        wholes += _wholes(examples, rows)
        ids += [examples.ids[i] for i in rows]
        vectors.append(embeddings.vectors[usable])
        append_rows(columns, examples, rows, embeddings.coverage[usable], keep_masks, writer)
    if ids:
        # Someone else may have added the same example since the look-up above; theirs is as good as ours.
        written = store.upsert(ids, np.concatenate(vectors), columns, on_conflict="skip")
        added = max(0, wholes - (len(ids) - written))
        report += AddReport(added=added, present=wholes - added)
    return report


def _wholes(examples: ImageExamples, rows: Iterable[int]) -> int:
    """How many of these rows are no parts."""
    return sum(not examples.wholes[i] for i in rows)


def _embedded(extractor: FeatureExtractor, work: list[tuple[ImageExamples, list[int]]]) -> list[Embeddings]:
    """The vectors of some rows of each image."""
    features = features_of([examples.image for examples, _ in work], extractor)
    return each(lambda i: pool(features[i], work[i][0].masks.select(work[i][1])), range(len(work)))
