"""What nobody has taught yet: the unknown regions of photographs, in clusters of what looks alike.

    found = discover(segmenter, images_of([Path("photos")]))
    save(found, "found")                                # a page, and the regions as COCO instances
    database.add(named("found", {1: "kettle"}))

The file stands between looking and naming, so a number means the same cluster in both, however much was taught since.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_components
from tqdm import tqdm

from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.reading import load_image
from knnseg.data.vocabulary import UNKNOWN, Vocabulary, tidied, tidy
from knnseg.datasets import LabelledImages
from knnseg.datasets._json import Node, read_json
from knnseg.datasets.formats import open_annotations
from knnseg.errors import ConfigError, DatasetError, skipping
from knnseg.method.pooling import pool
from knnseg.mining.clustering import clusters
from knnseg.mining.pages import crop, write_page
from knnseg.mining.regions import Region, coco_instances
from knnseg.segmenter import Segmenter
from knnseg.stages.protocols import features_of

__all__ = ["Cluster", "Discovery", "Region", "discover", "named", "read_names", "save"]

REGIONS, NAMED = "regions.json", "named.json"
"""Files of a folder: what was found, and what was named."""
PAGE = "discover.html"
CLUSTERS, SHOWN = 60, 24
"""Clusters on the page, and regions of each, at most."""
DISTANCE = 0.6
LEAST = 0.005


@dataclass(frozen=True, slots=True)
class Cluster:
    """Regions that look alike, the most typical first.

    Args:
        number: from 1, the cluster with the largest area first.
        regions: at least one.
    """

    number: int
    regions: tuple[Region, ...]

    @property
    def area(self) -> float:
        """Sum of the shares of the images that they take: 1 is a whole image."""
        return sum(region.share for region in self.regions)

    @property
    def images(self) -> int:
        """In how many images they are."""
        return len({region.image for region in self.regions})


@dataclass(frozen=True, slots=True)
class Discovery:
    """What :func:`discover` found.

    Args:
        images: how many were looked at.
        clusters: the largest first.
        failed: images that could not be used, each with the reason.
    """

    images: int
    clusters: tuple[Cluster, ...]
    failed: tuple[str, ...] = ()

    def coco(self) -> dict[str, Any]:
        """The regions as COCO instances, with a category for each cluster."""
        regions = [(region, cluster.number) for cluster in self.clusters for region in cluster.regions]
        return coco_instances(regions, [f"cluster {cluster.number}" for cluster in self.clusters])


def discover(
    segmenter: Segmenter,
    images: Sequence[Path],
    *,
    least: float = LEAST,
    distance: float = DISTANCE,
    strict: bool = False,
    progress: bool = False,
) -> Discovery:
    """Cluster what a segmenter calls ``unknown``.

    Args:
        segmenter: with a database and a configuration that knows ``unknown``; T decides what is.
        images: paths of images; each is in memory alone.
        least: smaller connected regions are left out; as a share of the image.
        distance: mean cosine distance up to which regions are one cluster; lower gives more and purer ones.
        strict: raise at the first image that cannot be used.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: no database, or a configuration without ``unknown``.
        VocabularyError: an empty database.
    """
    if segmenter.database is None or not segmenter.config.painting.unknown:
        expected = "a concept database, and a configuration with [painting] unknown = true, such as the preset photo"
        raise ConfigError("discover", expected=expected, hint="It looks for what is unknown.")
    segmenter.vocabulary()  # an empty database is found before the first image is read
    regions, vectors, failed = list[Region](), list[NDArray[np.float32]](), list[str]()
    for path in tqdm(images, unit="image", disable=not progress, desc="looking"):
        with skipping(failed, str(path), strict=strict):
            found, embedded = _unknown(segmenter, path, least)
            regions += found
            vectors.append(embedded)
    numbered = [replace(region, id=i) for i, region in enumerate(regions, 1)]
    shares = np.array([region.share for region in regions])
    together = clusters(np.concatenate(vectors), shares, distance) if regions else []
    found_clusters = (Cluster(i, tuple(numbered[j] for j in rows.tolist())) for i, rows in enumerate(together, 1))
    return Discovery(len(images) - len(failed), tuple(found_clusters), tuple(failed))


def _unknown(segmenter: Segmenter, path: Path, least: float) -> tuple[list[Region], NDArray[np.float32]]:
    """The connected unknown regions of an image, and their vectors."""
    image = Image.read(path)
    result = segmenter.predict(image)
    unknown = result.semantic == result.vocabulary.names.index(UNKNOWN)
    parts = connected_components(unknown, background=0, connectivity=1)  # type: ignore[no-untyped-call]  # skimage's
    masks = Masks.from_partition(parts - 1)
    masks = masks.select(masks.areas >= least * unknown.size)
    vectors = pool(features_of([image], segmenter.extractor)[0], masks).vectors  # what prediction made is remembered
    rows = np.flatnonzero(vectors.any(axis=1))
    kept = masks.select(rows)
    shares = (kept.areas / unknown.size).tolist()
    regions = [Region(0, path, image.size, rle, share) for rle, share in zip(kept.to_rle(), shares, strict=True)]
    return regions, vectors[rows]


def save(found: Discovery, folder: str | PathLike[str]) -> Path:
    """Write the page to look at, ``discover.html``, and ``regions.json``, what it shows as COCO instances.

    Args:
        found: what was found.
        folder: made where it does not exist.

    Returns:
        The page.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / REGIONS).write_text(json.dumps(found.coco()), encoding="utf-8")
    shown = found.clusters[:CLUSTERS]
    page = target / PAGE
    write_page(
        "discover.html.jinja", page, images=found.images, regions=sum(len(c.regions) for c in found.clusters),
        clusters=shown, shown={cluster.number: _pictures(cluster) for cluster in shown}, failed=found.failed,
        more=len(found.clusters) - len(shown), folder=str(folder),
    )  # fmt: skip
    return page


def _pictures(cluster: Cluster) -> list[tuple[Region, str]]:
    pictures = []
    for region in cluster.regions[:SHOWN]:
        with skipping([]):  # an image that has gone since costs its picture, not the page
            pictures.append((region, crop(load_image(region.image), region.mask())))
    return pictures


def named(
    folder: str | PathLike[str],
    names: Mapping[int, str],
    *,
    leave_out: Container[int] = (),
    things: Container[str] = (),
) -> LabelledImages:
    """The regions of the clusters that were given a name, for :meth:`knnseg.ConceptDatabase.add`.

    They are written to ``named.json`` in the folder too, as COCO instances.

    Args:
        folder: with ``regions.json``, which :func:`save` has written.
        names: of clusters, by their numbers; several may have one name.
        leave_out: regions that show something else, by their ids.
        things: the names among them that are countable objects.

    Raises:
        DatasetError: the folder has no such file, there is no such cluster, or no region is left.
        VocabularyError: an empty name.
    """
    file = Path(folder) / REGIONS
    document = read_json(file)
    there = {entry["id"].whole(): entry["name"].text() for entry in document["categories"].entries()}
    for number in names:
        if number not in there:
            raise DatasetError(file, expected=f"the number of a cluster, 1 to {len(there)}", got=number)
    labels = list(Vocabulary.of(dict.fromkeys(map(tidied, names.values()))))
    place = {number: labels.index(tidy(name)) + 1 for number, name in names.items()}
    kept = [
        entry.value | {"category_id": place[entry["category_id"].whole()]}
        for entry in document["annotations"].entries()
        if entry["category_id"].whole() in place and entry["id"].whole() not in leave_out
    ]
    shown = {entry["image_id"] for entry in kept}
    written = {
        "images": [entry.value for entry in document["images"].entries() if entry["id"].whole() in shown],
        "annotations": kept,
        "categories": [{"id": i, "name": n, "isthing": int(n in things)} for i, n in enumerate(labels, 1)],
    }
    target = Path(folder) / NAMED
    target.write_text(json.dumps(written), encoding="utf-8")
    return open_annotations(target, format="coco")


def read_names(file: str | PathLike[str]) -> tuple[dict[int, str], list[int]]:
    """What the page saves: names by the numbers of clusters, and the ids of regions to leave out.

    Raises:
        DatasetError: the file is not as the page writes it.
    """
    document = read_json(file)
    names = document["names"]
    numbers = {key: Node(key, str(file), "names").whole(1) for key in names.mapping()}
    left_out = document["leave_out"].entries() if "leave_out" in document.mapping() else []
    return {number: names[key].text() for key, number in numbers.items()}, [entry.whole(1) for entry in left_out]
