"""The concept database: masked examples as rows of an embedding store.

One store URL holds one collection for each embedding space, named after it, so that vectors of two encoders can never
meet. An instance has the same id in every space: it is derived from the picture, the mask and the key of its concept.
Adding the same example again, or going on after an interruption, adds nothing twice; nor does it after a renaming,
since a concept keeps its key, or after a merge, since what is there is also looked at for its content.

The field ``label`` of an example holds that key. What a key is called stands in :mod:`knnseg.database.naming`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from knnseg.data.annotations import LabelledImage
from knnseg.data.features import Embeddings
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.reading import ImageLike
from knnseg.data.scores import Neighbours
from knnseg.data.vocabulary import Vocabulary, tidied, tidy
from knnseg.database.adding import AddReport, segments, write
from knnseg.database.inventory import Concept, Inventory, named
from knnseg.database.naming import Change, Changes, Names, kind, named_anew, naming, noted, removal
from knnseg.database.schema import CONTENT, FIELDS, Content, ImageExamples, contents, described, readable
from knnseg.database.spaces import place_of_changes, space_name, spaces
from knnseg.errors import ConfigError, MaskError, VocabularyError, told, warn_left_out
from knnseg.later import ahead, batched
from knnseg.stages.protocols import FeatureExtractor
from knnstore import EmbeddingStore, F, Filter, StoreSpec, StoreURL, open_store
from knnstore.errors import StoreNotFoundError

__all__ = ["FIELDS", "AddReport", "Concept", "ConceptDatabase", "space_name"]


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
        self._changes = Changes(place_of_changes(store), read_only=store.read_only)
        self._seen: Inventory | None = None
        self._counted: tuple[str, dict[str, int], dict[str, int]] | None = None

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
            there = [str(other) for other in spaces(url).values()]
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
            What was done. Where images were left out, there is a :class:`~knnseg.errors.KnnSegWarning` too.
        """
        if batch < 1:
            raise ConfigError("add", expected="a batch of at least 1 image", got=batch)
        self._tidy_up()
        strict = strict or isinstance(examples, LabelledImage)
        images = [examples] if isinstance(examples, LabelledImage) else examples
        wanted = None if classes is None else frozenset(map(tidy, classes))
        total = len(images) if isinstance(images, Sized) else None
        report, failed = AddReport(), list[str]()

        def done() -> str:
            return (
                f"Of {report.images} images that were read, {report.added} examples had been added and "
                f"{report.present} were there already; they stay. Running it again goes on from there."
            )

        # disable=None would hide the bar where standard error is not a terminal; a caller that asks gets one.
        with told(done), tqdm(total=total, unit="image", disable=not progress, desc="adding") as bar:
            read = (image for _, image in readable(images, failed, strict=strict))
            for group in ahead(batched(read, batch)):
                prepared, counted = segments(group, wanted, min_area, self.keys_for)
                report += counted + self._write(prepared, keep_masks=keep_masks, writer=writer, strict=strict)
                bar.update(len(group))
                bar.set_postfix(added=report.added, present=report.present)
        report = replace(report, failed=(*failed, *report.failed))
        warn_left_out("add", report.failed)
        return report

    def add_masks(
        self,
        image: Image | ImageLike,
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
        prepared = described(Image(picture.pixels, uri), stack, names, things_, self.keys_for(names))
        return AddReport(images=1) + self._write([prepared], keep_masks=True, writer=writer, strict=True)

    def _write(self, prepared: list[ImageExamples], *, keep_masks: bool, writer: str, strict: bool) -> AddReport:
        return write(
            self._store, self.extractor, prepared, self._changes.names().name,
            keep_masks=keep_masks, writer=writer, strict=strict,
        )  # fmt: skip

    def keys_for(self, names: Iterable[str]) -> dict[str, str]:
        """The key that new examples of each name get; one that was never used is named first."""
        wanted = list(dict.fromkeys(names))
        known = self._changes.names()
        for name in wanted:
            if not known.keys(name):  # it was removed, or called something else, and is added again
                known = self._changes.make(partial(named_anew, name, self._look().counts))
        return {name: known.key(name) for name in wanted}

    # -- looking ------------------------------------------------------------------------------------------------------

    def concepts(self) -> tuple[Concept, ...]:
        """Every concept with its number of examples, by name, as they are now, whoever has changed them."""
        return self._look().concepts

    def revision(self) -> str:
        """A text that changes with the examples and with the names; see :meth:`EmbeddingStore.revision`."""
        return self._revision(self._changes.names())

    def _revision(self, names: Names) -> str:
        return f"{self._store.revision()}/{names.number}{names.token[:8]}"

    def name(self, key: str) -> str:
        """What the concept of a key is called; "" where it is removed."""
        return self._changes.names().name(key)

    def named(self, keys: Iterable[str]) -> NDArray[np.object_]:
        """The names of the concepts of some examples, by their field ``label``: object (N,); "" for what is removed."""
        return named(self._changes.names(), keys)

    def _look(self) -> Inventory:
        """What is there; looked up again where it may have changed."""
        names = self._changes.names()
        while True:
            revision = self._revision(names)
            if self._seen is not None and self._seen.revision == revision and self._store.capabilities.revision:
                return self._seen
            counts, things = self._count()
            before, names = names, self._changes.names()
            if names == before:  # otherwise old names would be put beside new examples
                self._seen = Inventory(revision, names, counts, things)
                return self._seen

    def _count(self) -> tuple[dict[str, int], dict[str, int]]:
        """The examples of each key, and the things among them; not counted again where only names have changed."""
        revision = self._store.revision()
        if self._counted is None or self._counted[0] != revision or not self._store.capabilities.revision:
            counts = {str(key): count for key, count in self._store.count_by("label").items() if count}
            things = self._store.count_by("label", where=F("thing") == True)  # noqa: E712  # builds a filter
            self._counted = revision, counts, {str(key): count for key, count in things.items()}
        return self._counted[1:]

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
        seen = self._look()
        keys = seen.keys_of(None if vocabulary is None else vocabulary.names)
        found = self._nearest(embeddings, k, seen, seen.restriction(keys), exclude_image)
        if np.isin(found.labels, ["", *seen.names_of(keys)]).all():
            return found
        # Somebody has added another class since the look, which a filter that only leaves out did not know of.
        return self._nearest(embeddings, k, seen, F("label").isin(keys), exclude_image)

    def _nearest(
        self, embeddings: Embeddings, k: int, seen: Inventory, where: Filter | None, exclude_image: str
    ) -> Neighbours:
        if exclude_image:
            other = F("image_hash") != exclude_image
            where = other if where is None else where & other
        asked = embeddings.vectors.any(axis=1)
        hits = self._store.search(embeddings.vectors[asked], k, where=where, fields=["label"])
        shape = (len(embeddings), k)
        ids, labels = np.full(shape, "", object), np.full(shape, "", object)
        scores = np.full(shape, -np.inf, np.float32)
        ids[asked], scores[asked] = hits.ids, hits.scores
        there = hits.ids != ""
        names = np.full(hits.ids.shape, "", object)
        names[there] = named(seen.names, hits.fields["label"][there])
        labels[asked] = names
        return Neighbours(ids, scores, labels)

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
        if not new.strip():
            raise VocabularyError("rename", expected="a non-empty new name", got=repr(new))
        name, count = tidied(new), self._known(old).count
        if tidy(old) == name:
            return count
        return count - self._change(lambda seen: naming(seen.keys_of([self._known(old).label]), name))

    def set_kind(self, label: str, *, thing: bool) -> int:
        """Say of a concept that it is a countable object, or that it is stuff, whatever its examples say.

        Returns:
            How many examples had said otherwise.

        Raises:
            VocabularyError: there is no such concept.
        """
        concept = self._known(label)
        self._change(lambda seen: kind(seen.keys_of([self._known(label).label]), thing=thing))
        return concept.count - concept.things if thing else concept.things

    def merge(self, labels: Iterable[str], into: str) -> int:
        """Make one concept of several, in one step; returns how many examples moved."""
        if not into.strip():
            raise VocabularyError("merge", expected="a non-empty name", got=repr(into))
        name = tidied(into)
        listed = [label for label in dict.fromkeys(map(tidy, labels)) if label != name]
        count = sum(self._known(label).count for label in listed)
        if not listed:
            return 0
        return count - self._change(
            lambda seen: naming(seen.keys_of([self._known(label).label for label in listed]), name)
        )

    def remove(self, label: str) -> int:
        """Forget a concept; returns how many examples it had.

        It is forgotten at once. Should deleting its examples be interrupted, whoever changes the database next goes on.

        Raises:
            VocabularyError: there is no such concept.
        """
        count = self._known(label).count
        self._change(lambda seen: removal(seen.keys_of([self._known(label).label])))
        return count

    def _known(self, label: str) -> Concept:
        there = {concept.label: concept for concept in self.concepts()}
        if tidy(label) not in there:
            raise VocabularyError("concept", expected=f"one of {sorted(there)[:20]}", got=repr(label))
        return there[tidy(label)]

    def _change(self, change: Callable[[Inventory], Change]) -> int:
        """Make a change that holds for what is there at that moment, and finish what it leaves to do; see there."""
        self._changes.make(lambda names: change(replace(self._look(), names=names)))
        with told(lambda: "The change is made and stays. What is left to delete, the next change or add deletes."):
            return self._tidy_up()

    def _tidy_up(self) -> int:
        """Delete what removed concepts have left, and what merged ones have twice; after others' changes too.

        Returns:
            How many examples were there twice.
        """
        seen = self._look()
        if left := sorted(seen.names.removed & seen.counts.keys()):
            self._store.delete(where=F("label").isin(left))
        doubles = 0
        for name in sorted(seen.names.untidied):
            keys = [key for key in seen.keys_of([name]) if key in seen.counts]
            doubles += self._drop_doubles(name, keys) if len(keys) > 1 else 0  # a name is a key too, mostly unused
            self._changes.make(partial(noted, name))
        return doubles

    def _drop_doubles(self, name: str, keys: list[str]) -> int:
        """Keep one of each example that a concept has under several keys, that of its own name first."""
        met: set[Content] = set()
        dropped = 0
        for own in (True, False):
            chosen = [key for key in keys if (key == name) is own]
            for records in self._store.scan(F("label").isin(chosen), fields=CONTENT) if chosen else ():
                records.fields["label"][:] = name
                double = []
                for exact, coarse in contents(records.fields):
                    double.append(not met.isdisjoint((exact, coarse)))
                    met.add(exact if exact[2] else coarse)
                if any(double):
                    self._store.delete(ids=records.ids[double].tolist())
                dropped += sum(double)
        return dropped

    def close(self) -> None:
        """Close the store."""
        self._changes.close()
        self._store.close()

    def __enter__(self) -> ConceptDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
