"""The whole way: an image goes in, a segmentation comes out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray

from knnseg.config import Config, presets
from knnseg.data.image import ImageLike, load_image
from knnseg.data.masks import Masks
from knnseg.data.scores import ClassScores, check_branch
from knnseg.data.vocabulary import Vocabulary
from knnseg.database.concepts import Concept, ConceptDatabase
from knnseg.errors import ConfigError, KnnSegWarning, MaskError, VocabularyError
from knnseg.method.fusion import fuse
from knnseg.method.painting import paint
from knnseg.method.pooling import pool
from knnseg.method.voting import confidence, vote, vote_weights
from knnseg.models.base import NoBase
from knnseg.result import Evidence, Segmentation
from knnseg.stages import registry as stages
from knnseg.stages.protocols import BasePredictor, EncodedImage, FeatureExtractor, MaskProposer
from knnstore import StoreURL
from knnstore.errors import StoreConnectionError, StoreTimeoutError

__all__ = ["Explanation", "Segmenter", "Vote"]

MaskInput = Masks | NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Vote:
    """One database entry that voted on a segment.

    Args:
        id: its id.
        label: the class that it voted for.
        weight: its share of all votes on the segment, 0 to 1.
        similarity: cosine to the mask that it was nearest to.
        image: where its image is.
        box: (x0, y0, x1, y1) in that image, pixels.
    """

    id: str
    label: str
    weight: float
    similarity: float
    image: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a segment has its class.

    Args:
        label: the class it got.
        base: mean P_base of the classes over the masks that made the segment, weighted by shared pixels.
        retrieved: mean P_ret likewise.
        final: mean P_final likewise.
        votes: the entries that voted, heaviest first.
    """

    label: str
    base: dict[str, float]
    retrieved: dict[str, float]
    final: dict[str, float]
    votes: tuple[Vote, ...]


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
        extractor: FeatureExtractor | None,
        proposer: MaskProposer,
        base: BasePredictor | None = None,
        database: ConceptDatabase | None = None,
        *,
        config: Config | None = None,
        on_store_error: Literal["raise", "base"] = "raise",
    ) -> None:
        if on_store_error not in ("raise", "base"):
            raise ConfigError(f"on_store_error: expected raise or base, got {on_store_error!r}")
        given: dict[str, tuple[object, type, bool]] = {
            "extractor": (extractor, FeatureExtractor, database is None),
            "proposer": (proposer, MaskProposer, False),
            "base": (base, BasePredictor, True),
        }
        for name, (stage, kind, may_be_none) in given.items():
            if not isinstance(stage, kind) and not (stage is None and may_be_none):
                raise ConfigError(f"{name}: expected an object with the methods of {kind.__name__}, got {stage!r}")
        self._extractor, self.proposer, self.base = extractor, proposer, base if base is not None else NoBase()
        self._later: Callable[[], FeatureExtractor] | None = None
        self.database, self._on_store_error = database, on_store_error
        self._known: dict[str, Concept] = {}
        self._open: Callable[[], ConceptDatabase] | None = None
        self.config = config or Config.preset("tiny")
        if (branches := getattr(self.base, "branches", None)) is not None:  # else its scores will tell
            check_branch(self.config.fusion.branch, branches)

    @classmethod
    def from_config(
        cls,
        config: Config | str | PathLike[str],
        store: str | StoreURL | None = None,
        *,
        device: str = "auto",
        create: bool = True,
        on_store_error: Literal["raise", "base"] = "raise",
    ) -> Segmenter:
        """Make the stages that a configuration names.

        Args:
            config: a :class:`Config`, the name of a preset, or the path of a TOML file.
            store: URL of the concept database; None for none.
            device: for the models: ``"auto"``, ``"cpu"``, ``"cuda"``.
            create: make the database where it does not exist.
            on_store_error: see the class. With ``"base"``, a store that cannot be reached now is opened when it can.
        """
        loaded = config if isinstance(config, Config) else read_config(config)
        stages.prepare("features", loaded.features, device=device)  # a mistake in it is found before weights are read
        proposer = stages.make("masks", loaded.masks, device=device)
        base = stages.make("base", loaded.base, device=device)
        # Without a store no keys are needed, and so no weights of the model that makes them.
        segmenter = cls(None, proposer, base, config=loaded, on_store_error=on_store_error)
        segmenter._later = partial(stages.make_extractor, loaded, device=device)
        if store is not None:
            segmenter._open = partial(ConceptDatabase.open, store, segmenter.extractor, create=create)
            segmenter._concepts()  # opens it, or finds out that it cannot be reached
        return segmenter

    def _connected(self) -> ConceptDatabase | None:
        """The database, opened now if it could not be reached before."""
        if self.database is None and self._open is not None:
            self.database = self._open()
        return self.database

    @property
    def extractor(self) -> FeatureExtractor:
        """What makes the retrieval keys; where no store was given, it is made when it is asked for.

        Raises:
            ConfigError: there is none.
        """
        if self._extractor is None:
            if self._later is None:
                raise ConfigError(
                    "extractor: expected one, to make retrieval keys with; the segmenter was made without"
                )
            self._extractor = self._later()
        return self._extractor

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
    def predict(
        self, images: ImageLike, classes: Vocabulary | Iterable[str] | None = None, *,
        masks: MaskInput | None = None, exclude_image: str = "",
    ) -> Segmentation: ...  # fmt: skip

    @overload
    def predict(
        self, images: list[ImageLike] | tuple[ImageLike, ...], classes: Vocabulary | Iterable[str] | None = None, *,
        masks: Sequence[MaskInput] | None = None, exclude_image: str = "",
    ) -> list[Segmentation]: ...  # fmt: skip

    def predict(
        self,
        images: ImageLike | list[ImageLike] | tuple[ImageLike, ...],
        classes: Vocabulary | Iterable[str] | None = None,
        *,
        masks: MaskInput | Sequence[MaskInput] | None = None,
        exclude_image: str = "",
    ) -> Segmentation | list[Segmentation]:
        """Segment one image, or several.

        Args:
            images: a path, bytes, a PIL image or uint8 (H, W, 3); or a list or tuple of them.
            classes: the vocabulary, names or a :class:`Vocabulary`; None takes every concept of the database.
            masks: bool (N, H, W) or :class:`Masks` to classify instead of the proposer's; for several images, a list of
                them. An array is taken as whole instances.
            exclude_image: leave out database entries of the image with this content hash.

        Raises:
            ImageError: an image that cannot be read.
            MaskError: masks of another size than the image, or an empty one.
            ConfigError: the configuration fuses at a branch that the base does not have.
            VocabularyError: no classes, or one of them twice.
            KnnStoreError: the store fails and ``on_store_error`` is ``"raise"``.
        """
        # Once for all images: the classes may be a generator, and a store that is down is down for the whole call.
        vocabulary, trouble = self._active(classes)
        if not isinstance(images, list | tuple):
            return self._predict(images, vocabulary, masks, exclude_image, trouble)  # type: ignore[arg-type]  # one set
        given = [None] * len(images) if masks is None else list(masks)  # type: ignore[arg-type]  # one set for each image
        if len(given) != len(images):
            raise MaskError(f"masks: expected one set for each of {len(images)} images, got {len(given)}")
        return [
            self._predict(image, vocabulary, own, exclude_image, trouble)
            for image, own in zip(images, given, strict=True)
        ]

    def vocabulary(self, classes: Vocabulary | Iterable[str] | None = None) -> Vocabulary:
        """The active vocabulary; what the database knows of things and stuff is filled in for plain names."""
        return self._active(classes)[0]

    def _active(self, classes: Vocabulary | Iterable[str] | None) -> tuple[Vocabulary, str]:
        """The active vocabulary, and why the database could not be asked about it, "" normally."""
        if isinstance(classes, Vocabulary) and not isinstance(self.base, NoBase):
            return classes, ""
        known, trouble = self._concepts()
        if classes is None and trouble and not known:
            raise VocabularyError(f"classes: expected some, since the database cannot be asked for its own: {trouble}")
        if isinstance(classes, Vocabulary):
            vocabulary, mixed = classes, []
        else:
            names = tuple(known) if classes is None else Vocabulary.of(classes).names
            vocabulary = Vocabulary(names, frozenset(name for name in names if name in known and known[name].thing))
            mixed = [known[name] for name in names if name in known and known[name].mixed]
        self._warn(vocabulary, known, mixed, trouble)
        return vocabulary, trouble

    def _warn(self, vocabulary: Vocabulary, known: dict[str, Concept], mixed: list[Concept], trouble: str) -> None:
        """Say what the caller may not know of the classes; Python shows a message once."""
        for concept in mixed:
            warnings.warn(concept.disagreement, KnnSegWarning, stacklevel=4)
        unknown = [name for name in vocabulary if name not in known]
        if unknown and not trouble and isinstance(self.base, NoBase):
            listed = ", ".join(map(repr, unknown[:10])) + (" …" if len(unknown) > 10 else "")
            warnings.warn(
                f"classes: {len(unknown)} of {len(vocabulary)} are known to nobody, since there is no example of them "
                f"and no base predictor, so no pixel will be of them: {listed}", KnnSegWarning, stacklevel=4,
            )  # fmt: skip

    def _predict(
        self, source: ImageLike, vocabulary: Vocabulary, given: MaskInput | None, exclude_image: str, trouble: str
    ) -> Segmentation:
        image, clock = EncodedImage(load_image(source)), _Clock()
        with clock("proposals"):
            masks = _given(given, image.size) if given is not None else self.proposer.propose(image.pixels)
        with clock("base"):
            base = self.base.predict(image, masks, vocabulary)
        check_branch(self.config.fusion.branch, base.branches)
        evidence, degraded = Evidence(base), trouble
        final = base
        try:
            database = None if trouble else self._connected()
            if database is not None:
                final, evidence = self._augment(database, image, masks, base, vocabulary, exclude_image, clock)
        except (StoreConnectionError, StoreTimeoutError) as error:
            if self._on_store_error == "raise":
                raise
            degraded = str(error)
        with clock("painting"):
            maps = paint(image.pixels, masks, final, vocabulary, self.config.painting)
        return Segmentation(
            image.pixels, vocabulary, maps.semantic, maps.panoptic, maps.segments, masks, final, evidence, degraded,
            clock.seconds, str(source) if isinstance(source, str | PathLike) else "",
        )  # fmt: skip

    def _augment(
        self, database: ConceptDatabase, image: EncodedImage, masks: Masks, base: ClassScores, vocabulary: Vocabulary,
        exclude: str, clock: _Clock,
    ) -> tuple[ClassScores, Evidence]:  # fmt: skip
        """Equations 1 to 4 for all masks of an image."""
        config = self.config
        with clock("features"):
            features = image.features(self.extractor)
        with clock("pooling"):
            embeddings = pool(features, masks)
        with clock("search"):
            found = database.neighbours(embeddings, config.retrieval.k, vocabulary, exclude_image=exclude)
            counts = {concept.label: concept.count for concept in database.concepts()}
        with clock("fusion"):
            weights = vote_weights(found, config.retrieval, counts)
            retrieved = vote(found, weights, vocabulary)
            certainty = confidence(found, retrieved, config.fusion)
            supported = np.array([counts.get(name, 0) > 0 for name in vocabulary])
            final = fuse(base, retrieved, certainty, supported, config.fusion)
        return final, Evidence(base, retrieved, found, weights, certainty)

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

    # -- explaining ---------------------------------------------------------------------------------------------------

    def explain(self, result: Segmentation, segment: int, *, most: int = 10) -> Explanation:
        """Which database entries voted on a segment, and how base and retrieval compare on it.

        Args:
            result: what :meth:`predict` returned.
            segment: a number in ``result.panoptic``.
            most: how many votes to list.
        """
        label = result.segment(segment).label
        shared = result.masks.inside(result.panoptic == segment) * result.masks.scores
        shared = (shared / max(float(shared.sum()), 1e-12)).astype(np.float64)
        evidence = result.evidence

        def mean(scores: ClassScores | None) -> dict[str, float]:
            if scores is None:
                return {}
            shares = (shared @ scores.probabilities).tolist()
            return {name: p for name, p in zip(scores.classes, shares, strict=True) if p > 0}

        votes = () if evidence.neighbours is None else self._votes(result, shared, most)
        return Explanation(label, mean(evidence.base), mean(evidence.retrieved), mean(result.scores), votes)

    def _votes(self, result: Segmentation, shared: NDArray[np.floating], most: int) -> tuple[Vote, ...]:
        found, weights = result.evidence.neighbours, result.evidence.weights
        assert found is not None and weights is not None and self.database is not None  # they come together
        totals: dict[str, float] = {}
        similarity: dict[str, float] = {}
        labels = dict(zip(found.ids.ravel().tolist(), found.labels.ravel().tolist(), strict=True))
        for n in np.flatnonzero(shared).tolist():
            for j in np.flatnonzero(weights[n]).tolist():
                identity = found.ids[n, j]
                totals[identity] = totals.get(identity, 0.0) + float(shared[n] * weights[n, j])
                similarity[identity] = max(similarity.get(identity, -1.0), float(found.scores[n, j]))
        heaviest = sorted(totals, key=lambda identity: (-totals[identity], identity))[:most]
        records = self.database.store.get(heaviest, with_vectors=False)
        columns = records.fields
        return tuple(
            Vote(
                identity, labels[identity], totals[identity], similarity[identity], columns["image"][i],
                (int(columns["x0"][i]), int(columns["y0"][i]), int(columns["x1"][i]), int(columns["y1"][i])),
            )
            for i, identity in enumerate(records.ids.tolist())
        )  # fmt: skip


def read_config(source: str | PathLike[str]) -> Config:
    """A preset by name, or a TOML file by path."""
    text = str(source)
    if not text.endswith(".toml") and text not in presets():
        raise ConfigError(
            f"preset: expected one of {presets()}, or the path of a file that ends in .toml, got {text!r}"
        )
    return Config.from_toml(text) if text.endswith(".toml") else Config.preset(text)


def _given(masks: MaskInput, size: tuple[int, int]) -> Masks:
    taken = masks if isinstance(masks, Masks) else replace(Masks.from_dense(masks), instances=True)
    if taken.size != size:
        raise MaskError(f"masks: expected {size} like the image, got {taken.size}")
    empty = np.flatnonzero(taken.areas == 0)
    if len(empty):
        raise MaskError(f"masks: expected every mask to cover a pixel, got an empty mask at {int(empty[0])}")
    return taken


class _Clock:
    """Wall seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
