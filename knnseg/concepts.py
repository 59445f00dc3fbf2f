"""The concept database: masked examples as rows of an embedding store.

One store URL holds one collection for each embedding space, named after it, so that vectors of two encoders can never
meet. An instance has the same id in every space: it is derived from the picture, the mask and the label that it was
added with. Adding the same example again, or going on after an interruption, adds nothing twice; nor does it after a
renaming, since what is there is also looked at for its content.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from knnseg.adding import AddReport, segments, write
from knnseg.annotations import LabelledImage
from knnseg.errors import ConfigError, MaskError, VocabularyError, warn_left_out
from knnseg.examples import FIELDS, Content, ImageExamples, contents, described, readable, stored_contents
from knnseg.features import FeatureExtractor
from knnseg.images import ImageLike, load_image
from knnseg.types import Embeddings, Masks, Neighbours, Vocabulary
from knnseg.vocabulary import tidied, tidy
from knnstore import EmbeddingSpace, EmbeddingStore, F, Filter, Records, StoreSpec, StoreURL, collections, open_store
from knnstore.errors import StoreNotFoundError

__all__ = ["FIELDS", "AddReport", "Concept", "ConceptDatabase", "space_name"]


@dataclass(frozen=True, slots=True)
class Concept:
    """A class as the database knows it.

    Args:
        label: its name.
        count: examples.
        things: those of them that say it is a countable object; the others say it is stuff.
    """

    label: str
    count: int
    things: int

    @property
    def thing(self) -> bool:
        """A countable object, by more than half of its examples."""
        return 2 * self.things > self.count

    @property
    def mixed(self) -> bool:
        """The examples do not agree whether it is a thing."""
        return 0 < self.things < self.count

    @property
    def disagreement(self) -> str:
        """For messages: what a mixed concept is taken as, and what to do."""
        return (
            f"concept {self.label!r}: {self.things} of {self.count} examples say that it is a thing, the others stuff; "
            f"taken as {'a thing' if self.thing else 'stuff'}. Say which it is: knnseg concepts kind, or "
            "ConceptDatabase.set_kind"
        )


def space_name(space: EmbeddingSpace) -> str:
    """The name of the collection that holds a space: readable, and distinct for distinct fingerprints."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in space.encoder.lower()).strip("-")
    return f"{plain[:32]}-{hashlib.sha256(space.fingerprint.encode()).hexdigest()[:12]}"


class ConceptDatabase:
    """Labelled masks, searchable by appearance. Adding needs one pass and no training.

    Args:
        store: an open store whose spec has :data:`FIELDS`.
        extractor: makes the vectors; its space must be the store's. None is enough to list, rename, merge and remove.
    """

    def __init__(self, store: EmbeddingStore, extractor: FeatureExtractor | None) -> None:
        dim, space = (store.spec.dim, store.spec.space) if extractor is None else (extractor.dim, extractor.space)
        StoreSpec(dim, "cosine", FIELDS, space).check_against(store.spec, str(store.url))
        self._store, self._extractor = store, extractor
        self._concepts: tuple[str, tuple[Concept, ...]] | None = None
        self._spelt: dict[str, list[str]] = {}  # by the label as it is taken now: as older versions have written it

    @classmethod
    def open(
        cls, url: str | StoreURL, extractor: FeatureExtractor, *, create: bool = True, read_only: bool = False
    ) -> ConceptDatabase:
        """Open the collection of the extractor's space below ``url``.

        Args:
            url: a store URL; ``faiss:///folder`` keeps each space in a folder of its own below.
            extractor: makes the vectors.
            create: make it where it does not exist.
            read_only: write nothing.

        Raises:
            StoreNotFoundError: it does not exist and ``create`` is false; the message names the spaces that do.
        """
        place = StoreURL.parse(url).child(space_name(extractor.space))
        spec = StoreSpec(extractor.dim, "cosine", FIELDS, extractor.space)
        if create and not read_only:
            return cls(open_store(place, spec), extractor)
        try:
            return cls(open_store(place, read_only=read_only), extractor)
        except StoreNotFoundError as error:
            there = [str(other) for other in collections(url)]
            raise StoreNotFoundError(
                f"no concept database of encoder {extractor.space.encoder!r} at {StoreURL.parse(url)}",
                expected=place.path.rsplit("/", 1)[-1],
                got=", ".join(there) or "nothing there",
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
            StoreNotFoundError: there is none; the message names the spaces that there are.
            ConfigError: there are several, and none was named.
        """
        there = {place.path.rsplit("/", 1)[-1]: place for place in collections(url)}
        picked = [place for name, place in there.items() if space in ("", name)]
        if len(picked) > 1:
            raise ConfigError(
                f"embedding space: expected the name of one of {sorted(there)} at {StoreURL.parse(url)}, got none. "
                "Give it (--space), or the configuration that the examples were made with (--preset)."
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
            raise ConfigError("concept database: expected an extractor, to make vectors with; it was opened without")
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

        Memory is bounded by ``batch`` images. Each batch is written at once and for good, so an interrupted run has
        lost nothing that it reported, and running it again skips what is there without computing its features.

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
            What was done. Where images were left out, there is a :class:`~knnseg.errors.KnnSegWarning` too.
        """
        if batch < 1:
            raise ConfigError(f"add: expected a batch of at least 1 image, got {batch}")
        strict = strict or isinstance(examples, LabelledImage)
        images = [examples] if isinstance(examples, LabelledImage) else examples
        wanted = None if classes is None else frozenset(map(tidy, classes))
        total = len(images) if isinstance(images, Sized) else None
        report, failed = AddReport(), list[str]()
        # disable=None would hide the bar where standard error is no terminal; a caller that asks gets one.
        with tqdm(total=total, unit="image", disable=not progress, desc="adding") as bar:
            for group in _batched((image for _, image in readable(images, failed, strict=strict)), batch):
                prepared, counted = segments(group, wanted, min_area)
                report += counted + self._write(prepared, keep_masks=keep_masks, writer=writer, strict=strict)
                bar.update(len(group))
                bar.set_postfix(added=report.added, present=report.present)
        report = replace(report, failed=(*failed, *report.failed))
        warn_left_out("add", report.failed)
        return report

    def add_masks(
        self,
        image: ImageLike,
        masks: NDArray[np.bool_],
        labels: Iterable[str],
        *,
        things: Iterable[str] | None = None,
        uri: str = "",
        writer: str = "",
    ) -> AddReport:
        """Add one image with its masks as arrays.

        Args:
            image: a path, bytes, a PIL image, or uint8 (H, W, 3).
            masks: bool (N, H, W); they may overlap.
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
        names = [tidied(label) for label in labels]
        said = [c.label for c in self.concepts() if c.thing and c.label in names] if things is None else things
        countable = Vocabulary.of(dict.fromkeys(names), said).things if names else frozenset[str]()
        pixels, stack = load_image(image), Masks.from_dense(masks)
        if stack.size != pixels.shape[:2]:
            raise MaskError(f"masks: expected {pixels.shape[:2]} like the image, got {stack.size}")
        if len(stack) != len(names):
            raise MaskError(f"masks: expected one mask for each of {len(names)} labels, got {len(stack)}")
        empty = np.flatnonzero(stack.areas == 0)
        if len(empty):
            raise MaskError(f"masks: expected every mask to cover a pixel, got an empty mask at {int(empty[0])}")
        if not uri and isinstance(image, str | PathLike):
            uri = Path(image).absolute().as_uri()
        example = LabelledImage(pixels, np.zeros(stack.size, np.int32), (), uri)
        prepared = described(example, stack, names, [name in countable for name in names])
        return AddReport(images=1) + self._write([prepared], keep_masks=True, writer=writer, strict=True)

    def _write(self, prepared: list[ImageExamples], *, keep_masks: bool, writer: str, strict: bool) -> AddReport:
        return write(self._store, self.extractor, prepared, keep_masks=keep_masks, writer=writer, strict=strict)

    # -- looking ------------------------------------------------------------------------------------------------------

    def concepts(self) -> tuple[Concept, ...]:
        """Every concept with its number of examples, by name; remembered until the store changes."""
        revision = self._store.revision()
        if self._concepts is None or self._concepts[0] != revision:
            counts = {str(label): count for label, count in self._store.count_by("label").items() if count}
            countable = self._store.count_by("label", where=F("thing") == True)  # noqa: E712  # builds a filter
            spelt: dict[str, list[str]] = {}
            for label in counts:
                spelt.setdefault(tidy(label), []).append(label)
            found = [
                Concept(name, sum(counts[label] for label in same), sum(countable.get(label, 0) for label in same))
                for name, same in spelt.items()
            ]
            self._spelt = {name: same for name, same in spelt.items() if same != [name]}
            self._concepts = (revision, tuple(sorted(found, key=lambda concept: concept.label)))
        return self._concepts[1]

    def neighbours(
        self, embeddings: Embeddings, k: int, vocabulary: Vocabulary | None = None, *, exclude_image: str = ""
    ) -> Neighbours:
        """Equation 2: the k entries of highest cosine for each mask.

        Args:
            embeddings: N pooled vectors; a vector of zeros finds nothing.
            k: how many.
            vocabulary: only entries of these classes; None takes all.
            exclude_image: leave out entries of the image with this content hash, for leave-one-image-out.
        """
        where: Filter | None = None if vocabulary is None else self._of(*vocabulary.names)
        if exclude_image:
            other = F("image_hash") != exclude_image
            where = other if where is None else where & other
        asked = embeddings.vectors.any(axis=1)
        hits = self._store.search(embeddings.vectors[asked], k, where=where, fields=["label"])
        shape = (len(embeddings), k)
        ids, labels = np.full(shape, "", object), np.full(shape, "", object)
        scores = np.full(shape, -np.inf, np.float32)
        ids[asked], labels[asked], scores[asked] = hits.ids, hits.fields["label"], hits.scores
        if self._spelt:
            labels = np.array([tidy(label) for label in labels.reshape(-1)], object).reshape(shape)
        return Neighbours(ids, scores, labels)

    # -- changing -----------------------------------------------------------------------------------------------------

    def rename(self, old: str, new: str) -> int:
        """Give a concept another name, merging it into ``new`` where that exists.

        An example of both, of the same mask in the same picture, is kept once.

        Returns:
            How many examples moved.

        Raises:
            VocabularyError: there is no concept ``old``, or ``new`` is empty.
        """
        if not new.strip():
            raise VocabularyError("rename: expected a non-empty new name")
        name, count = tidied(new), self._known(old).count
        if tidy(old) == name:
            return count
        there = stored_contents(self._store, self._of(name))
        return sum(self._renamed(records, name, there) for records in self._rows(old))

    def _renamed(self, records: Records, name: str, there: set[Content]) -> int:
        """Give rows another label, and forget those whose content is there under it."""
        records.fields["label"][:] = name
        same = np.array([not there.isdisjoint(content) for content in contents(records.fields)], bool)
        kept = np.flatnonzero(~same)
        if len(kept):
            assert records.vectors is not None  # asked for
            columns = {field: column[kept] for field, column in records.fields.items()}
            self._store.upsert(records.ids[kept].tolist(), records.vectors[kept], columns)
        if same.any():
            self._store.delete(ids=records.ids[same].tolist())
        return len(kept)

    def set_kind(self, label: str, *, thing: bool) -> int:
        """Say of all examples of a concept that it is a countable object, or that it is stuff.

        Returns:
            How many examples had said otherwise.

        Raises:
            VocabularyError: there is no such concept.
        """
        concept = self._known(label)
        for records in self._rows(label):
            records.fields["thing"][:] = thing
            assert records.vectors is not None  # asked for
            self._store.upsert(records.ids.tolist(), records.vectors, records.fields)
        return concept.count - concept.things if thing else concept.things

    def merge(self, labels: Iterable[str], into: str) -> int:
        """Rename each of ``labels`` to ``into``; returns how many examples moved."""
        listed = [label for label in dict.fromkeys(map(tidy, labels)) if label != tidy(into)]
        for label in listed:
            self._known(label)  # all of them, before anything is changed
        return sum(self.rename(label, into) for label in listed)

    def remove(self, label: str) -> int:
        """Forget a concept; returns how many examples it had.

        Raises:
            VocabularyError: there is no such concept.
        """
        count = self._known(label).count
        self._store.delete(where=self._of(tidy(label)))
        return count

    def _known(self, label: str) -> Concept:
        there = {concept.label: concept for concept in self.concepts()}
        if tidy(label) not in there:
            raise VocabularyError(f"concept: expected one of {sorted(there)[:20]}, got {label!r}")
        return there[tidy(label)]

    def _of(self, *names: str) -> Filter:
        """The rows of some concepts, as they are spelt in the store."""
        if self._concepts is None:  # only older versions have spelt them otherwise, so an old answer will do
            self.concepts()
        return F("label").isin([label for name in names for label in self._spelt.get(name, [name])])

    def _rows(self, label: str) -> list[Records]:
        """All rows of a concept, read before any is changed."""
        return list(self._store.scan(self._of(tidy(label)), with_vectors=True))

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __enter__(self) -> ConceptDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _batched(items: Iterable[LabelledImage], size: int) -> Iterator[tuple[LabelledImage, ...]]:
    """itertools.batched, which Python 3.11 does not have."""
    iterator = iter(items)
    while group := tuple(itertools.islice(iterator, size)):
        yield group
