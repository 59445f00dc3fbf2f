"""One concept database in several embedding spaces: examples are embedded again from their images and kept masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from knnseg.database.changes import Changes
from knnseg.database.concepts import ConceptDatabase
from knnseg.database.inventory import named
from knnseg.database.originals import Originals, StoredImage, stored_images
from knnseg.database.schema import FIELDS, contents, stored_contents
from knnseg.database.spaces import place_of_changes
from knnseg.errors import ConfigError, DatasetError, skipping, told, warn_left_out
from knnseg.method.pooling import pool
from knnseg.stages.protocols import FeatureExtractor
from knnstore import EmbeddingStore, F, StoreSpec

__all__ = ["ReembedReport", "reembed"]


@dataclass(frozen=True, slots=True)
class ReembedReport:
    """What :func:`reembed` did.

    Args:
        images: images read.
        added: examples written.
        present: examples that were there already.
        maskless: examples without a mask (``keep_masks=False``), which cannot be embedded again.
        featureless: examples over featureless ground, as :class:`~knnseg.database.concepts.AddReport` skips them.
        missing: examples whose image was not found, or cannot be used.
        failed: those images, each with where it had been and the reason.
    """

    images: int = 0
    added: int = 0
    present: int = 0
    maskless: int = 0
    featureless: int = 0
    missing: int = 0
    failed: tuple[str, ...] = ()

    def __add__(self, other: ReembedReport) -> ReembedReport:
        return ReembedReport(
            self.images + other.images, self.added + other.added, self.present + other.present,
            self.maskless + other.maskless, self.featureless + other.featureless, self.missing + other.missing,
            (*self.failed, *other.failed),
        )  # fmt: skip


def reembed(
    source: EmbeddingStore,
    target: ConceptDatabase,
    originals: Originals | None = None,
    *,
    batch: int = 16,
    strict: bool = False,
    progress: bool = False,
) -> ReembedReport:
    """Bring every example of one embedding space into that of ``target``, under the same id and with the same fields.

    The source's encoder is not needed. Nothing of the source changes. Memory is bounded by ``batch`` images; each batch
    is written for good, so an interrupted run can be run again and computes only what is missing. So can a run after
    examples were added to the source. Examples that are there already are left as they are. Within one database the
    spaces share the names of the concepts; elsewhere the examples are added under the names that they have now.

    Args:
        source: the store of another space, with the fields of a concept database.
        target: the database to bring them to.
        originals: finds the images; by default where they were when they were added.
        batch: images in one write.
        strict: raise at the first image that is not found or cannot be used; the batches before it stay.
        progress: show a progress bar on standard error.

    Returns:
        What was done. Where images were left out, there is a :class:`~knnseg.errors.KnnSegWarning` too.

    Raises:
        ConfigError: the source is of the target's own space, or ``batch`` is below 1.
        SpecMismatchError: the source has not the fields of a concept database.
    """
    if batch < 1:
        raise ConfigError("reembed", expected="a batch of at least 1 image", got=batch)
    space = source.spec.space
    spec = StoreSpec(source.spec.dim, "cosine", FIELDS, space, source.spec.dtype)
    spec.check_against(source.spec, str(source.url))
    if space is not None and space.fingerprint == target.extractor.space.fingerprint:
        raise ConfigError(
            "reembed", expected="two embedding spaces", got=f"{space.encoder!r} for both", hint="Nothing was written."
        )
    finder, report = originals or Originals(), ReembedReport()
    labels = _labels(source, target)
    source.revision()  # see write() in adding.py; so in _write() below
    hashes = sorted(str(value) for value in source.count_by("image_hash"))

    def done() -> str:
        there = f"{report.added} examples had been added and {report.present} were there already"
        return f"{there}; they stay. Running it again goes on from there."

    with told(done), tqdm(total=len(hashes), unit="image", disable=not progress, desc="embedding again") as bar:
        for group in stored_images(source, hashes, named=labels, batch=batch):
            report += _write(target, group, finder, strict)
            bar.update(len(group))
    warn_left_out("reembed", report.failed)
    return report


def _labels(source: EmbeddingStore, target: ConceptDatabase) -> Callable[[Iterable[str]], NDArray[np.object_]]:
    """How examples of the source are labelled in the target, "" for those of removed concepts.

    Spaces of one database share its names, so there a key stays what it is. Elsewhere examples get the keys of the
    names that they have now.
    """
    place = place_of_changes(source)
    if place == place_of_changes(target.store):
        return lambda keys: np.array([key if target.name(key) else "" for key in keys], object)
    changes = Changes(place, read_only=True)
    names = changes.names()
    changes.close()

    def labels(keys: Iterable[str]) -> NDArray[np.object_]:
        called = named(names, keys)
        there = target.keys_for(name for name in called.tolist() if name)
        return np.array([there.get(name, "") for name in called.tolist()], object)

    return labels


@dataclass(frozen=True, slots=True, eq=False)
class _Embedded:
    """Rows of one image with their new vectors and coverage."""

    image: StoredImage
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    coverage: NDArray[np.float32]


def _write(target: ConceptDatabase, group: list[StoredImage], originals: Originals, strict: bool) -> ReembedReport:
    target.store.revision()
    ids = [identity for image in group for identity in image.records.ids.tolist()]
    there = set(target.store.get(ids, fields=[], with_vectors=False).ids.tolist())
    known = stored_contents(target.store, F("image_hash").isin([image.image_hash for image in group]), target.name)
    report, made, failed = ReembedReport(), list[_Embedded](), list[str]()
    for image in group:
        named = zip(image.records.ids.tolist(), contents(image.records.fields, target.name), strict=True)
        fresh = np.array([identity not in there and known.isdisjoint(same) for identity, same in named])
        whole = image.records.fields["whole"] == ""  # parts are not counted
        report += ReembedReport(present=int((whole & ~fresh).sum()))
        rows = image.with_mask[fresh[image.with_mask]]
        asked = int(whole[rows].sum())
        report += ReembedReport(maskless=int((whole & fresh).sum()) - asked)
        if len(rows):
            report += ReembedReport(missing=asked)
            with skipping(failed, next(iter(image.uris), ""), strict=strict):
                embedded = _embed(image, rows, target.extractor, originals)
                made.append(embedded)
                report += ReembedReport(1, featureless=asked - int(whole[embedded.rows].sum()), missing=-asked)
    late = sum(len(one.rows) for one in made) - _upsert(target, [one for one in made if len(one.rows)])
    wholes = sum(int((one.image.records.fields["whole"][one.rows] == "").sum()) for one in made)
    added = max(0, wholes - late)  # of what somebody else has added since the look-up it is not known which were parts
    return replace(report, added=added, present=report.present + wholes - added, failed=tuple(failed))


def _embed(image: StoredImage, rows: NDArray[np.int64], extractor: FeatureExtractor, originals: Originals) -> _Embedded:
    found = originals.find(image)
    if found is None:
        raise DatasetError(originals.reason(image))
    masks = image.masks(rows.tolist(), found.size)
    embeddings = pool(extractor.extract([found])[0], masks)
    usable = embeddings.vectors.any(axis=1)
    return _Embedded(image, rows[usable], embeddings.vectors[usable], embeddings.coverage[usable])


def _upsert(target: ConceptDatabase, made: list[_Embedded]) -> int:
    if not made:
        return 0
    ids = [identity for one in made for identity in one.image.records.ids[one.rows].tolist()]
    fields = {
        name: np.concatenate([one.image.records.fields[name][one.rows] for one in made])
        for name in FIELDS
        if name != "coverage"  # in cells of the new grid
    }
    fields["coverage"] = np.concatenate([one.coverage for one in made]).astype(np.float64)
    written = target.store.upsert(ids, np.concatenate([one.vectors for one in made]), fields, on_conflict="skip")
    target.agree(dict(zip(ids, fields["label"].tolist(), strict=True)))
    return written
