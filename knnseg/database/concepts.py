"""The concept database: masked examples as rows of an embedding store.

One store URL holds one collection for each embedding space, named after it, so that vectors of two encoders can never
meet. An instance has the same id in every space: it is derived from the picture, the mask and the key of its concept.
Adding the same example again, or going on after an interruption, adds nothing twice; nor does it after a renaming,
since a concept keeps its key, or after a merge, since what is there is also looked at for its content.

The field ``label`` of an example holds that key. What a key is called stands in :mod:`knnseg.database.naming`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from datetime import datetime
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from knnseg.data.annotations import LabelledImage
from knnseg.data.features import Embeddings
from knnseg.data.image import Image
from knnseg.data.reading import ImageLike
from knnseg.data.scores import Neighbours
from knnseg.data.vocabulary import Vocabulary, tidy
from knnseg.database.adding import AddReport, of_arrays, segments, warn_mixed, write
from knnseg.database.changes import Changes
from knnseg.database.correcting import Correction, Corrections
from knnseg.database.examples import Examples, full_ids, listed, wanted
from knnseg.database.inventory import Concept, Looking, named
from knnseg.database.schema import FIELDS, ImageExamples, readable
from knnseg.database.searching import nearest
from knnseg.database.spaces import place_of_changes, space_name, spaces
from knnseg.errors import ConfigError, told, warn_left_out
from knnseg.later import ahead, batched
from knnseg.stages.protocols import FeatureExtractor
from knnstore import EmbeddingStore, StoreSpec, StoreURL, open_store
from knnstore.errors import StoreNotFoundError

__all__ = [
    "FIELDS",
    "AddReport",
    "Concept",
    "ConceptDatabase",
    "Correction",
    "Examples",
    "space_name",
]


class ConceptDatabase:
    """Labelled masks, searchable by appearance. Adding needs one pass and no training.

    Args:
        store: an open store whose spec has :data:`FIELDS`.
        extractor: makes the vectors; its space must be the store's. None is enough to list, rename, merge and remove.
        parts: what is added is also stored in parts, see :class:`~knnseg.config.KeysConfig`.
    """

    def __init__(self, store: EmbeddingStore, extractor: FeatureExtractor | None, parts: int = 0) -> None:
        dim, space = (store.spec.dim, store.spec.space) if extractor is None else (extractor.dim, extractor.space)
        StoreSpec(dim, "cosine", FIELDS, space, store.spec.dtype).check_against(store.spec, str(store.url))
        self._store, self._extractor, self._parts = store, extractor, parts
        self._changes = Changes(place_of_changes(store), read_only=store.read_only)
        self._looking = Looking(store, self._changes)
        self._corrections = Corrections(store, self._changes, self._looking)
        self._mixed: set[str] = set()

    @classmethod
    def open(
        cls, url: str | StoreURL, extractor: FeatureExtractor, *, create: bool = True, read_only: bool = False,
        parts: int = 0,
    ) -> ConceptDatabase:  # fmt: skip
        """Open the collection of the extractor's space below ``url``.

        Args:
            url: a store URL; ``faiss:///folder`` keeps each space in a folder of its own below, and a new one in half
                precision after ``?dtype=float16``.
            extractor: makes the vectors.
            create: make it where it does not exist.
            read_only: write nothing.
            parts: see the class.

        Raises:
            StoreNotFoundError: it does not exist and ``create`` is false; the message names the spaces that do.
        """
        place = StoreURL.parse(url).child(space_name(extractor.space))
        try:  # without a spec, as the dtype of a space is chosen when it is made; the rest is checked above
            return cls(open_store(place, read_only=read_only), extractor, parts)
        except StoreNotFoundError as error:
            if create and not read_only:
                spec = StoreSpec(extractor.dim, "cosine", FIELDS, extractor.space)
                return cls(open_store(place, spec), extractor, parts)
            raise StoreNotFoundError(
                f"no concept database of encoder {extractor.space.encoder!r} at {StoreURL.parse(url)}",
                expected=place.path.rsplit("/", 1)[-1],
                got=", ".join(map(str, spaces(url).values())) or "nothing there",
                hint="Add examples first, or choose the preset that it was made with.",
            ) from error

    @classmethod
    def existing(cls, url: str | StoreURL, space: str = "", *, read_only: bool = False) -> ConceptDatabase:
        """Open what is there without a model, to list, rename, merge and remove concepts.

        Args:
            url: a store URL, as for :meth:`open`.
            space: the collection of an embedding space, as ``knnstore info`` names it; "" takes the only one.
            read_only: write nothing.

        Raises:
            StoreNotFoundError: it is not there; the message names the spaces that there are.
            ConfigError: there are several, and none was named.
        """
        there = spaces(url)
        picked = [place for name, place in there.items() if space in ("", name)]
        if len(picked) > 1:
            raise ConfigError(
                "embedding space",
                expected=f"the name of one of {sorted(there)} at {StoreURL.parse(url)}",
                got="none",
                hint="Give it (--space), or the configuration that the examples were made with (--preset).",
            )
        if not picked:
            raise StoreNotFoundError(
                f"no concept database at {StoreURL.parse(url)}", expected=space or "an embedding space",
                got=", ".join(sorted(there)) or "nothing there", hint="Add examples first.",
            )  # fmt: skip
        return cls(open_store(picked[0], read_only=read_only), None)

    @property
    def store(self) -> EmbeddingStore:
        """The store underneath."""
        return self._store

    @property
    def extractor(self) -> FeatureExtractor:
        """What makes the vectors.

        Raises:
            ConfigError: the database was opened without.
        """
        if self._extractor is None:
            raise ConfigError("concept database", expected="one with an extractor", got="one opened without")
        return self._extractor

    # -- adding -------------------------------------------------------------------------------------------------------

    def add(
        self,
        examples: LabelledImage | Iterable[LabelledImage],
        *,
        classes: Iterable[str] | None = None,
        min_area: int = 1,
        keep_masks: bool = True,
        writer: str = "",
        batch: int = 16,
        strict: bool = False,
        progress: bool = False,
    ) -> AddReport:
        """Add every labelled segment of every image, streaming.

        Memory is bounded by three batches, since the next are read in another thread meanwhile. Each is written at once
        and for good, so an interrupted run has lost nothing that it reported, and running it again skips what is there
        without computing its features.

        An image of a sequence that cannot be read or used does not end the run: it is left out, and the report says so.
        A generator that raises has ended, so what it raises is raised here.

        Args:
            examples: images with their segments, in any number; a generator is fine.
            classes: take only these; None takes all.
            min_area: leave out segments with fewer pixels.
            keep_masks: store the masks as RLE too, so that the database can be moved to another encoder later.
            writer: who adds, kept with each example.
            batch: images in one write.
            strict: raise at the first image that cannot be used; the batches before it stay.
            progress: show a progress bar on standard error.

        Returns:
            What was done. Where images were left out, there is a :class:`~knnseg.errors.KnnSegWarning` too, and where
            the examples of a concept do not agree whether it is a thing, once for each.
        """
        if batch < 1:
            raise ConfigError("add", expected="a batch of at least 1 image", got=batch)
        self._corrections.tidy_up()
        strict = strict or isinstance(examples, LabelledImage)
        images = [examples] if isinstance(examples, LabelledImage) else examples
        wanted = None if classes is None else frozenset(map(tidy, classes))
        total = len(images) if isinstance(images, Sized) else None
        report, failed, keys = AddReport(), list[str](), set[str]()

        def done() -> str:
            return (
                f"Of {report.images} images that were read, {report.added} examples had been added and "
                f"{report.present} were there already; they stay. Running it again goes on from there."
            )

        # disable=None would hide the bar where standard error is not a terminal; a caller that asks gets one.
        with told(done), tqdm(total=total, unit="image", disable=not progress, desc="adding") as bar:
            read = (image for _, image in readable(images, failed, strict=strict))
            for group in ahead(batched(read, batch)):
                prepared, counted = segments(group, wanted, min_area, self.keys_for, self.concepts)
                report += counted + self._write(prepared, keep_masks=keep_masks, writer=writer, strict=strict)
                keys.update(*(one.labels for one in prepared))
                bar.update(len(group))
                bar.set_postfix(added=report.added, present=report.present)
            warn_mixed(self._looking.now(), keys, self._mixed)
        report = replace(report, failed=(*failed, *report.failed))
        warn_left_out("add", report.failed)
        return report

    def add_masks(
        self,
        image: Image | ImageLike,
        masks: NDArray[np.bool_] | NDArray[np.integer],
        labels: Iterable[str],
        *,
        things: Iterable[str] | None = None,
        uri: str = "",
        writer: str = "",
    ) -> AddReport:
        """Add one image with its masks as arrays.

        Args:
            image: a path, bytes, a PIL image, or uint8 (H, W, 3).
            masks: bool (N, H, W), or whole numbers of which one is inside; they may overlap.
            labels: N class names; spaces around them are dropped, and letters brought to Unicode's form NFC.
            things: the names among them that are countable objects, the others are stuff; None says nothing, and each
                is what the database knows of it. What it does not know is stuff.
            uri: where the image comes from; by default the path that was given.
            writer: who adds.

        Raises:
            MaskError: masks of another size than the image or in another number than the labels, or an empty mask;
                nothing is added.
            VocabularyError: an empty label, or a thing that is not among the labels; nothing is added.
        """
        prepared = of_arrays(image, masks, labels, things, uri, self.concepts, self.keys_for)
        self._corrections.restore(dict(zip(prepared.ids, prepared.labels, strict=True)))
        written = self._write([prepared], keep_masks=True, writer=writer, strict=True)
        if things is not None and written.added:  # otherwise they are what the others are
            warn_mixed(self._looking.now(), prepared.labels, self._mixed)
        return replace(written, images=1, ids=tuple(prepared.ids))

    def _write(self, prepared: list[ImageExamples], *, keep_masks: bool, writer: str, strict: bool) -> AddReport:
        return write(
            self._store, self.extractor, prepared, self._changes.names(), tiles=self._parts,
            keep_masks=keep_masks, writer=writer, strict=strict,
        )  # fmt: skip

    def keys_for(self, names: Iterable[str]) -> dict[str, str]:
        """The key that new examples of each name get; one that was never used is named first."""
        return self._corrections.keys_for(names)

    def agree(self, keys: Mapping[str, str]) -> None:
        """For who has written rows of another embedding space: what was corrected meanwhile holds for them too.

        Args:
            keys: the field ``label`` of each row that was written, by its id.
        """
        self._corrections.agree(keys)

    # -- looking ------------------------------------------------------------------------------------------------------

    def concepts(self) -> tuple[Concept, ...]:
        """Every concept with its number of examples, by name, as they are now, whoever has changed them."""
        return self._looking.now().concepts

    def revision(self) -> str:
        """A text that changes with the examples and with the names; see :meth:`EmbeddingStore.revision`."""
        return self._looking.revision(self._changes.names())

    def name(self, key: str) -> str:
        """What the concept of a key is called; "" where it is removed."""
        return self._changes.names().name(key)

    def named(self, keys: Iterable[str]) -> NDArray[np.object_]:
        """The names of the concepts of some examples, by their field ``label``: object (N,); "" for what is removed."""
        return named(self._changes.names(), keys)

    def examples(
        self,
        *,
        concept: str | None = None,
        writer: str | None = None,
        image: str | PathLike[str] | Image | None = None,
        since: float | datetime | None = None,
        ids: Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Examples:
        """Single examples, newest first, and by id where they are of the same moment.

        Nothing but ids and times is read of those that are not returned, and no vectors or masks of any.

        Args:
            concept: only its examples, by the name that it has now or had before.
            writer: only what they have added.
            image: only those of this image: the path or URI that was kept with it, the SHA-256 of its pixels, or the
                image itself.
            since: only those that were added then or later: seconds since the epoch, or a time.
            ids: only these; one that is not there is left out.
            limit: how many at most; None for all.

        Raises:
            VocabularyError: there is no such concept.
        """
        name = None if concept is None else self._corrections.known(concept).label
        seen = self._looking.now()
        return listed(self._store, seen, wanted(seen, name, writer, image, since), ids, limit)

    def ids(self, beginnings: Iterable[str]) -> list[str]:
        """The ids of the examples that begin so; for people, who type the first few digits.

        Raises:
            VocabularyError: no id begins so, or several do.
        """
        return full_ids(self._store, self._looking.now(), beginnings)

    def neighbours(
        self, embeddings: Embeddings, k: int, vocabulary: Vocabulary | None = None, *, exclude_image: str = "",
        parts: bool = True,
    ) -> Neighbours:  # fmt: skip
        """Equation 2: the k entries of highest cosine for each mask.

        Args:
            embeddings: N pooled vectors; a vector of zeros finds nothing.
            k: how many.
            vocabulary: only entries of these classes; None takes all.
            exclude_image: leave out entries of the image with this content hash, for leave-one-image-out.
            parts: take those of examples too.
        """
        return nearest(self._store, self._looking, embeddings, k, vocabulary, exclude_image, parts)

    # -- changing -----------------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> int:
        """Give a concept another name, merging it into ``new`` where that exists.

        One small write, however many examples there are. Of examples of both, of the same mask in the same picture, one
        is kept.

        Returns:
            How many examples moved.

        Raises:
            VocabularyError: there is no concept ``old``, at the moment of the change, or ``new`` is empty.
        """
        return self._corrections.rename(old, new)

    def set_kind(self, label: str, *, thing: bool) -> int:
        """Say of a concept that it is a countable object, or that it is stuff, whatever its examples say.

        Returns:
            How many examples had said otherwise.

        Raises:
            VocabularyError: there is no such concept.
        """
        return self._corrections.set_kind(label, thing=thing)

    def merge(self, labels: Iterable[str], into: str) -> int:
        """Make one concept of several, in one step; returns how many examples moved."""
        return self._corrections.merge(labels, into)

    def remove(self, label: str) -> int:
        """Forget a concept; returns how many examples it had.

        It is forgotten at once. Should deleting its examples be interrupted, whoever changes the database next goes on.

        Raises:
            VocabularyError: there is no such concept.
        """
        return self._corrections.remove(label)

    def relabel(self, ids: Iterable[str], concept: str) -> int:
        """Move single examples to another concept, a new one where there is none; returns how many were moved.

        They are moved in every embedding space, and keep their ids, so adding the same data set again leaves them where
        they are now. One that the concept has already, of the same mask in the same picture, is deleted.

        Args:
            ids: of the examples; one that is not there is left out.
            concept: by the name that it has now or had before.
        """
        return self._corrections.relabel(ids, concept)

    def delete_examples(self, ids: Iterable[str]) -> int:
        """Delete single examples, in every embedding space.

        They are seen by nobody from then on. Adding the data set that they are from leaves them out; adding one of them
        with :meth:`add_masks` brings it back, and so does :meth:`undo`. :meth:`purge` deletes them for good.

        Args:
            ids: of the examples; one that is not there is left out.

        Returns:
            How many examples were deleted.
        """
        return self._corrections.delete(ids)

    def purge(self) -> int:
        """Delete for good what :meth:`delete_examples`, relabelling and merging have deleted; returns how many it was.

        That cannot be undone any more.
        """
        return self._corrections.purge()

    def history(self, limit: int | None = None) -> tuple[Correction, ...]:
        """The last corrections of everybody, newest first.

        Args:
            limit: how many at most; None for all that are remembered, which are the last fifty.
        """
        return self._corrections.history(limit)

    @property
    def last_correction(self) -> int:
        """The number of the last correction that was made through this object and is not undone; 0 for none."""
        return self._corrections.last

    def undo(self, number: int | None = None) -> Correction:
        """Take a correction back: a renaming, a merge, a kind, or what was done to single examples.

        Nothing that anybody has done since is lost: where a later correction has changed the same, that one has to be
        undone first. A removed concept does not come back. An undo can be undone by its own number.

        Args:
            number: of the correction, as :meth:`history` tells it; None for the last one that was made through this
                object and is not undone.

        Returns:
            What was undone.

        Raises:
            VocabularyError: there is no such correction, or it cannot be undone; the message says why.
        """
        return self._corrections.undo(number)

    def close(self) -> None:
        """Close the store."""
        self._changes.close()
        self._store.close()

    def __enter__(self) -> ConceptDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
