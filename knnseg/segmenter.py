"""The whole way: an image goes in, a segmentation comes out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Literal, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

from knnseg.config import Config, presets
from knnseg.data.features import Embeddings
from knnseg.data.image import Image, are_several, each_image
from knnseg.data.masks import Masks
from knnseg.data.reading import ImageLike
from knnseg.data.scores import ClassScores, Neighbours, check_branch
from knnseg.data.vocabulary import Vocabulary
from knnseg.database.concepts import Concept, ConceptDatabase
from knnseg.database.naming import taken_as
from knnseg.database.settings import with_settings
from knnseg.errors import ConfigError, ImageError, KnnSegWarning, MaskError, VocabularyError, skipping, those_that_can
from knnseg.later import Later, ahead, batched, each
from knnseg.method.cells import with_cells
from knnseg.method.fusion import fuse
from knnseg.method.painting import paint
from knnseg.method.pooling import pool
from knnseg.method.voting import confidence, vote, vote_weights
from knnseg.models.base import NoBase
from knnseg.result import Evidence, Explanation, Segmentation, explain
from knnseg.stages import registry as stages
from knnseg.stages.protocols import (
    BasePredictor,
    FeatureExtractor,
    MaskProposer,
    check_stage,
    features_of,
    masks_of,
    scores_of,
)
from knnstore import StoreURL
from knnstore.errors import StoreConnectionError, StoreTimeoutError

__all__ = ["Segmenter"]

MaskInput = Masks | NDArray[np.bool_]

BATCH = 8
"""Images that go through the stages together: enough for the cores and for one search, little memory."""


class Segmenter:
    """Segments images into any classes by name, with the help of a concept database.

    Every stage can be any object with the right methods; see :class:`~knnseg.FeatureExtractor`,
    :class:`~knnseg.MaskProposer` and :class:`~knnseg.BasePredictor`.

    Args:
        extractor: makes the retrieval keys; None where there is no database.
        proposer: proposes masks.
        base: predicts without the database; None for none.
        database: the concept database, in the extractor's space; None predicts with the base alone.
        config: the numbers; stage names in it are not used here.
        on_store_error: when the store cannot be reached: ``"raise"``, or ``"base"`` to go on with the base prediction
            and say so in ``Segmentation.degraded``.

    Raises:
        ConfigError: an object without the methods of its stage, or a branch for fusion that the base does not have.
    """

    def __init__(
        self,
        extractor: FeatureExtractor | Later[FeatureExtractor] | None,
        proposer: MaskProposer,
        base: BasePredictor | None = None,
        database: ConceptDatabase | Later[ConceptDatabase] | None = None,
        *,
        config: Config | None = None,
        on_store_error: Literal["raise", "base"] = "raise",
    ) -> None:
        if on_store_error not in ("raise", "base"):
            raise ConfigError("on_store_error", expected="raise or base", got=repr(on_store_error))
        self.proposer, self.base = proposer, base if base is not None else NoBase()
        given: list[tuple[str, object, type]] = [
            ("proposer", self.proposer, MaskProposer), ("base", self.base, BasePredictor)
        ]  # fmt: skip
        if not isinstance(extractor, Later) and (extractor is not None or database is not None):
            given.append(("extractor", extractor, FeatureExtractor))
        for name, stage, kind in given:
            check_stage(name, stage, kind)
        self._extractor = Later.of(extractor) if isinstance(extractor, FeatureExtractor) else extractor
        self._database = Later.of(database) if isinstance(database, ConceptDatabase) else database
        self._on_store_error = on_store_error
        self._known: dict[str, Concept] = {}
        self.config = config or Config.preset("tiny")
        check_branch(self.config.fusion.branch, self.base.branches)

    @classmethod
    def from_config(
        cls,
        config: Config | str | PathLike[str],
        store: str | StoreURL | None = None,
        *,
        device: str = "auto",
        create: bool = True,
        on_store_error: Literal["raise", "base"] = "raise",
        settings: bool = True,
    ) -> Segmenter:
        """Make the stages that a configuration names.

        Args:
            config: a :class:`Config`, the name of a preset, or the path of a TOML file.
            store: URL of the concept database; None for none.
            device: for the models: ``"auto"``, ``"cpu"``, ``"cuda"``.
            create: make the database where it does not exist.
            on_store_error: see the class. With ``"base"``, a store that cannot be reached now is opened when it can.
            settings: use the numbers that are kept with the database where the configuration states none.
        """
        loaded = config if isinstance(config, Config) else read_config(config)
        stages.prepare("features", loaded.features, device=device)  # a mistake in it is found before weights are read
        proposer = stages.make("masks", loaded.masks, device=device)
        base = stages.make("base", loaded.base, device=device)
        # Without a store no keys are needed, and so no weights of the model that makes them.
        extractor = Later(partial(stages.make_extractor, loaded, device=device))

        def opened() -> ConceptDatabase:
            database = ConceptDatabase.open(store or "", extractor.get(), create=create, parts=loaded.keys.parts)
            segmenter.config = with_settings(loaded, database.store) if settings else loaded
            return database

        database = None if store is None else Later(opened)
        segmenter = cls(extractor, proposer, base, database, config=loaded, on_store_error=on_store_error)
        segmenter._concepts()  # opens the database, or finds out that it cannot be reached
        return segmenter

    @property
    def database(self) -> ConceptDatabase | None:
        """The concept database; None where there is none, or where it could not be reached yet."""
        return None if self._database is None else self._database.made

    @property
    def extractor(self) -> FeatureExtractor:
        """What makes the retrieval keys; where no store was given, it is made when it is asked for.

        Raises:
            ConfigError: there is none.
        """
        if self._extractor is None:
            raise ConfigError("extractor", expected="one, to make retrieval keys with", got="a segmenter without")
        return self._extractor.get()

    def close(self) -> None:
        """Close the database."""
        if self.database is not None:
            self.database.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- predicting ---------------------------------------------------------------------------------------------------

    @overload
    def predict(  # type: ignore[overload-overlap]  # a text is an iterable of texts, but means a path
        self, images: Image | ImageLike, classes: Vocabulary | Iterable[str] | None = None, *,
        masks: MaskInput | None = None, exclude_image: str = "",
    ) -> Segmentation: ...  # fmt: skip

    @overload
    def predict(
        self, images: Iterable[Image | ImageLike], classes: Vocabulary | Iterable[str] | None = None, *,
        masks: Sequence[MaskInput] | None = None, exclude_image: str = "",
    ) -> list[Segmentation]: ...  # fmt: skip

    def predict(
        self,
        images: Image | ImageLike | Iterable[Image | ImageLike],
        classes: Vocabulary | Iterable[str] | None = None,
        *,
        masks: MaskInput | Sequence[MaskInput] | None = None,
        exclude_image: str = "",
    ) -> Segmentation | list[Segmentation]:
        """Segment one image, or several in batches.

        Args:
            images: an :class:`~knnseg.data.image.Image`, a path, bytes, a PIL image or uint8 (H, W, 3); or a list or
                another iterable of them. In place of a path may stand that of a folder, or a pattern such as
                ``photos/*.jpg``, for all images there; alone, it gives a list.
            classes: the vocabulary, names or a :class:`Vocabulary`; None takes every concept of the database. A name
                that a concept had before is taken as the one that it has now, with a warning; a :class:`Vocabulary`
                is taken as it is.
            masks: bool (N, H, W) or :class:`Masks` to classify instead of the proposer's; for several images, a list of
                them. An array is taken as whole instances.
            exclude_image: leave out database entries of the image with this content hash.

        Raises:
            ImageError: an image that cannot be read.
            MaskError: masks of another size than the image, or an empty one.
            VocabularyError: no classes, or one of them twice.
            KnnStoreError: the store fails and ``on_store_error`` is ``"raise"``.
        """
        # Once for all images: the classes may be a generator, and a store that is down is down for the whole call.
        active = self._active(classes)
        if not are_several(images):
            one = [Image.read(images)]  # type: ignore[arg-type]  # or it says what else it is
            return self._predict(one, None if masks is None else [masks], active, exclude_image)[0]  # type: ignore[list-item]
        images = list(each_image(images))
        given = None if masks is None else list(masks)  # type: ignore[arg-type]  # one set for each image
        if given is not None and len(given) != len(images):
            raise MaskError("masks", expected=f"one set for each of {len(images)} images", got=len(given))
        found: list[Segmentation] = []
        for start in range(0, len(images), BATCH):
            own = None if given is None else given[start : start + BATCH]
            found += self._predict(each(Image.read, images[start : start + BATCH]), own, active, exclude_image)
        return found

    def stream(
        self,
        images: Image | ImageLike | Iterable[Image | ImageLike],
        classes: Vocabulary | Iterable[str] | None = None,
        *,
        batch: int = BATCH,
        failed: list[str] | None = None,
    ) -> Iterator[Segmentation]:
        """Segment any number of images, in order, with the memory of three batches.

        The next batch is read while one is segmented, and all masks of a batch are one search.

        Args:
            images: as for :meth:`predict`, folders and patterns too; asked for in another thread.
            classes: as for :meth:`predict`; of the database as it is now.
            batch: images at a time.
            failed: gets a line for each image that cannot be used, which is then left out; it begins with the path, or
                with the place in the stream, from 1. None raises at the first.

        Raises:
            ConfigError: a batch below 1.
            KnnSegError: see :meth:`predict`.
        """
        if batch < 1:
            raise ConfigError("stream", expected="a batch of at least 1 image", got=batch)
        return self._stream(each_image(images), self._active(classes), batch, failed)

    def _stream(
        self, sources: Iterable[Image | ImageLike], active: tuple[Vocabulary, str], batch: int, failed: list[str] | None
    ) -> Iterator[Segmentation]:
        kept, strict = [] if failed is None else failed, failed is None

        def segmented(images: list[tuple[int, Image]]) -> list[Segmentation]:
            return self._predict([image for _, image in images], None, active, "")

        def name(numbered: tuple[int, Image]) -> str:
            return numbered[1].uri or f"image {numbered[0]}"

        before = 0
        for group in ahead(each(_tried, part) for part in batched(sources, batch)):
            images = []
            for number, read in enumerate(group, before + 1):
                with skipping(kept, strict=strict):  # what cannot be read is named by its error
                    images.append((number, read()))
            before += len(group)
            yield from (one for one in those_that_can(segmented, images, name, kept, strict=strict) if one is not None)

    def vocabulary(self, classes: Vocabulary | Iterable[str] | None = None) -> Vocabulary:
        """The active vocabulary; what the database knows is filled in for plain names: things, and names of now."""
        return self._active(classes)[0]

    def _active(self, classes: Vocabulary | Iterable[str] | None) -> tuple[Vocabulary, str]:
        """The active vocabulary, and why the database could not be asked about it, "" normally."""
        if isinstance(classes, Vocabulary) and not isinstance(self.base, NoBase):
            return classes, ""
        known, trouble = self._concepts()
        if classes is None and trouble and not known:
            hint = f"The database cannot be asked for its own: {trouble}"
            raise VocabularyError("classes", expected="some", got="none", hint=hint)
        if classes is None and not known:
            hint = "No concept has been taught yet: add examples, or name classes for the base."
            raise VocabularyError("classes", expected="some", got="none", hint=hint)
        if isinstance(classes, Vocabulary):
            vocabulary, said = classes, list[str]()
        else:
            given = Vocabulary.of(known if classes is None else classes).names
            former = {} if trouble else {alias: c.label for c in known.values() for alias in c.aliases}
            now = {name: name if name in known else former.get(name, name) for name in given}
            names = tuple(dict.fromkeys(now.values()))
            vocabulary = Vocabulary(names, frozenset(name for name in names if name in known and known[name].thing))
            said = [taken_as(name, now[name]) for name in given if now[name] != name]
            said += [known[name].disagreement for name in names if name in known and known[name].mixed]
        self._warn(vocabulary, known, said, trouble)
        return vocabulary, trouble

    def _warn(self, vocabulary: Vocabulary, known: dict[str, Concept], said: list[str], trouble: str) -> None:
        """Say what the caller may not know of the classes; Python shows a message once."""
        for text in said:
            warnings.warn(text, KnnSegWarning, stacklevel=4)
        unknown = [name for name in vocabulary if name not in known]
        if unknown and not trouble and isinstance(self.base, NoBase):
            listed = ", ".join(map(repr, unknown[:10])) + (" …" if len(unknown) > 10 else "")
            warnings.warn(
                f"classes: {len(unknown)} of {len(vocabulary)} are known to nobody, since there is no example of them "
                f"and no base predictor, so no pixel will be of them: {listed}", KnnSegWarning, stacklevel=4,
            )  # fmt: skip

    def _predict(
        self, images: list[Image], given: Sequence[MaskInput] | None, active: tuple[Vocabulary, str], exclude: str
    ) -> list[Segmentation]:
        """One batch."""
        if not images:
            return []
        (vocabulary, trouble), clock, painting = active, _Clock(len(images)), self.config.painting
        with clock("proposals"):
            cells = painting.cells if given is None else 0
            masks = masks_of(images, self.proposer) if given is None else list(map(_given, given, images))
            masks = [with_cells(own, cells) for own in masks]
        with clock("base"):
            base = scores_of(images, masks, vocabulary, self.base)
        evidence, final, degraded = [Evidence(scores) for scores in base], base, trouble
        try:
            database = None if trouble else self._connected()
            if database is not None:
                parts = given is None and not all(own.instances for own in masks)
                final, evidence = self._augment(database, images, masks, base, vocabulary, exclude, clock, parts)
        except (StoreConnectionError, StoreTimeoutError) as error:
            if self._on_store_error == "raise":
                raise
            degraded = str(error)
        if painting.unknown:
            vocabulary, final = vocabulary.with_unknown(), [scores.with_unknown() for scores in final]
        with clock("painting"):
            maps = each(lambda i: paint(images[i].pixels, masks[i], final[i], vocabulary, painting), range(len(images)))
        return [
            Segmentation(
                image.pixels, vocabulary, painted.semantic, painted.panoptic, painted.segments, own, scores, why,
                degraded, clock.seconds, image.uri,
            )
            for image, painted, own, scores, why in zip(images, maps, masks, final, evidence, strict=True)
        ]  # fmt: skip

    def _augment(
        self, database: ConceptDatabase, images: list[Image], masks: list[Masks], base: list[ClassScores],
        vocabulary: Vocabulary, exclude: str, clock: _Clock, parts: bool,
    ) -> tuple[list[ClassScores], list[Evidence]]:  # fmt: skip
        """Equations 1 to 4 for all masks of a batch, with one search; regions are compared with parts too."""
        config = self.config
        with clock("features"):
            features = features_of(images, self.extractor)
        with clock("pooling"):
            embeddings = each(lambda i: pool(features[i], masks[i]), range(len(images)))
        with clock("search"):
            found = database.neighbours(
                Embeddings.concatenate(embeddings), config.retrieval.k, vocabulary, exclude_image=exclude, parts=parts
            ).split([len(own) for own in masks])
            counts = {one.label: one.keys if parts else one.count for one in database.concepts()}
        supported = np.array([counts.get(name, 0) > 0 for name in vocabulary])
        with clock("fusion"):
            fused = [self._fused(*one, counts, supported, vocabulary, parts) for one in zip(found, base, strict=True)]
        return [final for final, _ in fused], [evidence for _, evidence in fused]

    def _fused(
        self, found: Neighbours, base: ClassScores, counts: dict[str, int], supported: NDArray[np.bool_],
        vocabulary: Vocabulary, parts: bool,
    ) -> tuple[ClassScores, Evidence]:  # fmt: skip
        weights = vote_weights(found, self.config.retrieval, counts, whole=not parts)
        retrieved = vote(found, weights, vocabulary)
        certainty = confidence(found, retrieved, self.config.fusion)
        final = fuse(base, retrieved, certainty, supported, self.config.fusion)
        return final, Evidence(base, retrieved, found, weights, certainty)

    def _connected(self) -> ConceptDatabase | None:
        """The database, opened now if it could not be reached before."""
        return None if self._database is None else self._database.get()

    def _concepts(self) -> tuple[dict[str, Concept], str]:
        """The concepts of the database by name, and why it could not be asked."""
        try:
            database = self._connected()
            if database is not None:
                self._known = {concept.label: concept for concept in database.concepts()}
            return self._known, ""
        except (StoreConnectionError, StoreTimeoutError) as error:
            if self._on_store_error == "raise":
                raise
            return self._known, str(error)  # as it was when it could be asked

    def explain(self, result: Segmentation, segment: int, *, most: int = 10) -> Explanation:
        """Which database entries voted on a segment, and how base and retrieval compare on it.

        Args:
            result: what :meth:`predict` returned.
            segment: a number in ``result.panoptic``.
            most: how many votes to list.
        """
        return explain(result, segment, None if self.database is None else self.database.store, most)


def read_config(source: str | PathLike[str]) -> Config:
    """A preset by name, or a TOML file by path."""
    text = str(source)
    if not text.endswith(".toml") and text not in presets():
        wanted = f"one of {presets()}, or the path of a file that ends in .toml"
        raise ConfigError("preset", expected=wanted, got=repr(text))
    return Config.from_toml(text) if text.endswith(".toml") else Config.preset(text)


def _tried(source: Image | ImageLike) -> Callable[[], Image]:
    """The image, or why it cannot be read, when it is asked for."""
    try:
        image = Image.read(source)
    except ImageError as error:
        return partial(_raise, error)
    return lambda: image


def _raise(error: ImageError) -> NoReturn:
    raise error


def _given(masks: MaskInput, image: Image) -> Masks:
    taken = masks if isinstance(masks, Masks) else replace(Masks.from_dense(masks), instances=True)
    if taken.size != image.size:
        raise MaskError("masks", expected=f"{image.size} like the image", got=taken.size)
    empty = np.flatnonzero(taken.areas == 0)
    if len(empty):
        raise MaskError("masks", expected="every mask to cover a pixel", got=f"an empty mask at {int(empty[0])}")
    return taken


class _Clock:
    """Wall seconds by stage, an image's share of its batch."""

    def __init__(self, images: int) -> None:
        self._images = images
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = (time.perf_counter() - start) / self._images
