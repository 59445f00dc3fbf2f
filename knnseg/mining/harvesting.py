"""Examples from images of which only the names of what they show are known; see :mod:`knnseg.mining.sharing`.

    found = harvest(segmenter, open_named("kinds"), "harvested")      # a folder for each name
    segmenter.database.add(found.labelled())                          # after a look at harvested/harvest.html

What is kept is drawn on no image by anyone, so a page shows it, and what was dropped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from tqdm import tqdm

from knnseg.data.image import Image
from knnseg.data.masks import Masks, nearest
from knnseg.data.reading import load_image
from knnseg.data.vocabulary import Vocabulary
from knnseg.datasets import LabelledImages, open_annotations
from knnseg.errors import ConfigError, DatasetError, skipping
from knnseg.method.pooling import pool
from knnseg.mining.pages import crop, write_page
from knnseg.mining.regions import Region, coco_instances
from knnseg.mining.sharing import Belief, beliefs, sampled
from knnseg.mining.sources import NamedImage
from knnseg.models.base import NoBase
from knnseg.segmenter import Segmenter
from knnseg.stages.protocols import features_of, masks_of, scores_of

__all__ = ["Dropped", "Harvest", "Harvested", "harvest"]

HARVESTED, PAGE, IMAGES = "harvested.json", "harvest.html", "images"
"""What is written to the folder."""
MARGIN, SHARED, LEAST = 0.5, 0.3, 0.005
SHOWN = 24
"""Regions of each name on the page, and of those without, at most."""


@dataclass(frozen=True, slots=True)
class Harvested:
    """What of an image is kept for one of its names.

    Args:
        name: of the concept.
        region: where it is.
        score: mean of the share of the name over the region, 0 to 1.
    """

    name: str
    region: Region
    score: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """An image of which nothing is kept for one of its names.

    Args:
        name: of the concept.
        image: its path.
        reason: why.
    """

    name: str
    image: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Harvest:
    """What :func:`harvest` found.

    Args:
        folder: with the file and the page.
        images: how many were looked at.
        kept: at most one region for each image and name.
        dropped: the other pairs.
        failed: images that could not be used, each with the reason.
    """

    folder: Path
    images: int
    kept: tuple[Harvested, ...]
    dropped: tuple[Dropped, ...]
    failed: tuple[str, ...] = ()

    def labelled(self) -> LabelledImages:
        """What is kept, for :meth:`knnseg.ConceptDatabase.add`.

        Raises:
            DatasetError: nothing is kept.
        """
        if not self.kept:
            raise DatasetError(
                "harvest", expected="something that images of a name share", got=f"nothing, see {self.folder / PAGE}"
            )
        return open_annotations(self.folder / HARVESTED, format="coco")


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """An image, its path, the vectors of its masks as float16 (N, D), and the masks that others are compared with."""

    named: NamedImage
    path: Path
    vectors: NDArray[np.float16]
    sample: NDArray[np.int64]


def harvest(
    segmenter: Segmenter,
    images: Iterable[NamedImage],
    folder: str | PathLike[str],
    *,
    margin: float = MARGIN,
    shared: float = SHARED,
    least: float = LEAST,
    things: Container[str] | bool = False,
    ask_base: bool = True,
    strict: bool = False,
    progress: bool = False,
) -> Harvest:
    """Find in each image what it shares with the other images of its names, and with no others.

    Every image is read twice, and one or two megabytes are kept of each in between.

    Args:
        segmenter: its extractor and proposer are used, and its base, where it has one.
        images: with their names. Those without tell what is not meant: the more, the better.
        folder: for the page, the file, and images that come as bytes; made where it does not exist.
        margin: a pixel is kept for the best of the names of its image where this has at least this share of them.
        shared: a pixel is kept where at least this share of what its masks' neighbours show is a name of its image.
        least: smaller regions are dropped; as a share of the image.
        things: the names that are countable objects; True or False for all of them.
        ask_base: drop a region that the base, where there is one, takes for another of the names. A base that has never
            seen the concepts knows nothing of them.
        strict: raise at the first image that cannot be used.
        progress: show progress bars on standard error.

    Raises:
        ConfigError: fewer than two images of a name, so that nothing can be shared.
        ImageError: ``strict``, and an image cannot be read.
    """
    target, failed = Path(folder), list[str]()
    target.mkdir(parents=True, exist_ok=True)
    seen = list(_look(segmenter, images, target, failed, strict=strict, progress=progress))
    names = sorted({name for one in seen for name in one.named.names})
    if len(seen) < 2 or not names:
        raise ConfigError("harvest", expected="at least two images and a name", got=f"{len(seen)} with names {names}")
    shown = np.array([[name in one.named.names for name in names] for one in seen])
    believed = beliefs([one.vectors for one in seen], [one.sample for one in seen], shown)
    kept, dropped = list[Harvested](), list[Dropped]()
    picker = _Picker(segmenter, names, margin, shared, least, ask_base=ask_base)
    pairs = list(zip(seen, believed, strict=True))
    for one, belief in tqdm(pairs, unit="image", disable=not progress, desc="painting"):
        with skipping(failed, str(one.path), strict=strict):
            for result in picker(one, belief):
                kept.append(result) if isinstance(result, Harvested) else dropped.append(result)
    kept = [replace(k, region=replace(k.region, id=i)) for i, k in enumerate(kept, 1)]
    found = Harvest(target, len(seen), tuple(kept), tuple(dropped), tuple(failed))
    _save(found, names, things)
    return found


def _look(
    segmenter: Segmenter, images: Iterable[NamedImage], folder: Path, failed: list[str], *, strict: bool, progress: bool
) -> Iterator[_Seen]:
    for number, named in enumerate(tqdm(images, unit="image", disable=not progress, desc="looking")):
        name = f"image {number + 1}" if isinstance(named.image, bytes) else str(named.image)
        with skipping(failed, name, strict=strict):
            path = _file(named.image, folder / IMAGES)
            image = Image.read(path)
            masks = masks_of([image], segmenter.proposer)[0]
            vectors = pool(features_of([image], segmenter.extractor)[0], masks).vectors
            sample = sampled(np.where(vectors.any(axis=1), masks.areas, 0), number)
            yield _Seen(named, path, vectors.astype(np.float16), sample)


def _file(image: Path | bytes, folder: Path) -> Path:
    """The path of an image; one that came as bytes is kept, since an example knows its image."""
    if not isinstance(image, bytes):
        return image
    folder.mkdir(exist_ok=True)
    path = folder / f"{hashlib.sha256(image).hexdigest()[:16]}.png"
    if not path.exists():
        PILImage.fromarray(load_image(image)).save(path)
    return path


@dataclass(frozen=True, slots=True)
class _Picker:
    """Finds for each name of an image the region that is kept, or why there is none; see :func:`harvest`."""

    segmenter: Segmenter
    names: list[str]
    margin: float
    shared: float
    least: float
    ask_base: bool

    def __call__(self, one: _Seen, belief: Belief) -> Iterator[Harvested | Dropped]:
        own = [name for name in self.names if name in one.named.names]
        if not own:
            return
        image = Image.read(one.path)
        best, share = self._best(image, belief)
        for i, name in enumerate(own):
            region = best == i
            if region.mean() < self.least:
                yield Dropped(name, one.path, "nothing in it is shared with other images of the name, and them alone")
            elif other := self._base_says(image, region, name):
                yield Dropped(name, one.path, f"the base takes it for {other}")
            else:
                rle = Masks.from_dense(region[None]).to_rle()[0]
                found = Region(0, one.path, image.size, rle, float(region.mean()))
                yield Harvested(name, found, float(share[region].mean()))

    def _best(self, image: Image, belief: Belief) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The name of each pixel, its position among those of the image or -1, and its share; both (H, W)."""
        masks = masks_of([image], self.segmenter.proposer)[0]
        sums = np.asarray(masks.matrix.T @ (belief.names * belief.shared[:, None]).astype(np.float32))  # (h·w, L)
        total, covered = sums.sum(axis=1), np.asarray(masks.matrix.sum(axis=0)).reshape(-1)
        share = np.divide(sums, total[:, None], out=np.zeros_like(sums), where=total[:, None] > 0)
        top = share.max(axis=1)
        best = np.where((top >= self.margin) & (total >= self.shared * covered) & (total > 0), share.argmax(axis=1), -1)
        return nearest(best.reshape(masks.grid), image.size), nearest(top.reshape(masks.grid), image.size)

    def _base_says(self, image: Image, region: NDArray[np.bool_], name: str) -> str:
        """The name that the base takes a region for; "" where that is its own, or the base has no opinion."""
        base = self.segmenter.base
        if not self.ask_base or isinstance(base, NoBase):
            return ""
        scores = scores_of([image], [Masks.from_dense(region[None])], Vocabulary(tuple(self.names)), base)[0]
        likeliest = self.names[int(scores.probabilities[0].argmax())]
        return "" if likeliest == name or not scores.probabilities.any() else likeliest


def _save(found: Harvest, names: list[str], things: Container[str] | bool) -> None:
    regions = [(one.region, names.index(one.name) + 1) for one in found.kept]
    document = coco_instances(regions, names, (names if things else ()) if isinstance(things, bool) else things)
    (found.folder / HARVESTED).write_text(json.dumps(document), encoding="utf-8")
    sections = [(name, *_pictures(found, name)) for name in names]
    write_page(
        "harvest.html.jinja", found.folder / PAGE, images=found.images, kept=len(found.kept),
        sections=sections, failed=found.failed, file=found.folder / HARVESTED,
    )  # fmt: skip


_Pictures: TypeAlias = list[tuple[str, str, str]]
"""Of each its path, what is said of it, and a JPEG."""


def _pictures(found: Harvest, name: str) -> tuple[int, int, _Pictures, _Pictures]:
    """How many images of a name are kept and dropped, and some of both: the least certain first."""
    kept = sorted((one for one in found.kept if one.name == name), key=lambda one: one.score)
    dropped = [one for one in found.dropped if one.name == name]
    shown, left = list[tuple[str, str, str]](), list[tuple[str, str, str]]()
    for one in kept[:SHOWN]:
        with skipping([]):  # an image that has gone since costs its picture, not the page
            picture = crop(load_image(one.region.image), one.region.mask())
            shown.append((str(one.region.image), f"{one.score:.2f}", picture))
    for other in dropped[:SHOWN]:
        with skipping([]):
            image = load_image(other.image)
            left.append((str(other.image), other.reason, crop(image, np.ones(image.shape[:2], bool))))
    return len(kept), len(dropped), shown, left
