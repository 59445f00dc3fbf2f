"""The images that stored examples came from: grouped again, found again, and proved by their pixels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from knnseg.errors import DatasetError, ImageError
from knnseg.images import content_hash, load_image
from knnseg.types import ImageArray, Masks
from knnstore import EmbeddingStore, F, Records

__all__ = ["Originals", "StoredImage", "stored_images"]


@dataclass(frozen=True, slots=True, eq=False)
class StoredImage:
    """The examples of one image.

    Args:
        image_hash: SHA-256 of its pixels.
        records: its rows, with all fields.
    """

    image_hash: str
    records: Records

    @property
    def uris(self) -> tuple[str, ...]:
        """Where it was when its examples were added, each place once; none where nobody said."""
        return tuple(uri for uri in dict.fromkeys(map(str, self.records.fields["image"].tolist())) if uri)

    @property
    def with_mask(self) -> NDArray[np.int64]:
        """int64, the rows that keep their mask."""
        return np.flatnonzero([bool(rle) for rle in self.records.fields["rle"]])

    def masks(self, rows: Iterable[int], size: tuple[int, int]) -> Masks:
        """The masks of some rows, for an image of ``size`` (H, W)."""
        return Masks.from_rle([self.records.fields["rle"][i] for i in rows], size)


def stored_images(
    store: EmbeddingStore, hashes: Iterable[str], *, with_vectors: bool = False, batch: int = 16
) -> Iterator[list[StoredImage]]:
    """The examples of a concept database image by image, in batches of at most ``batch`` images.

    A store is in no order, so the rows of a batch are asked for together: memory is bounded by its images, and a
    database of any size is one request for each batch.

    Args:
        store: with the fields of :data:`knnseg.examples.FIELDS`.
        hashes: content hashes of the images that are wanted, such as the keys of ``store.count_by("image_hash")``.
        with_vectors: read the vectors too.
        batch: images in one request.
    """
    listed = list(hashes)
    for start in range(0, len(listed), batch):
        group = listed[start : start + batch]
        parts = list(store.scan(F("image_hash").isin(group), with_vectors=with_vectors))
        if parts:
            together = _concatenated(parts)
            yield [_of_image(together, wanted) for wanted in group if (together.fields["image_hash"] == wanted).any()]


def _concatenated(parts: list[Records]) -> Records:
    vectors = [part.vectors for part in parts if part.vectors is not None]
    return Records(
        np.concatenate([part.ids for part in parts]),
        np.concatenate(vectors) if vectors else None,
        {name: np.concatenate([part.fields[name] for part in parts]) for name in parts[0].fields},
    )


def _of_image(records: Records, image_hash: str) -> StoredImage:
    """The rows of one image, by id, so that the order of the store does not show."""
    rows = np.flatnonzero(records.fields["image_hash"] == image_hash)
    rows = rows[np.argsort(records.ids[rows].astype(str), kind="stable")]
    vectors = None if records.vectors is None else records.vectors[rows]
    return StoredImage(image_hash, Records(records.ids[rows], vectors, {n: c[rows] for n, c in records.fields.items()}))


class Originals:
    """Finds the image of a stored example, and holds it against the hash that the example has kept.

    Args:
        folder: where to look for files of the same name, in any subfolder, when the image is not where it was.

    Raises:
        DatasetError: ``folder`` is none.
    """

    def __init__(self, folder: str | PathLike[str] | None = None) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise DatasetError(f"images: expected a folder, got {folder}")
        self._folder = None if folder is None else Path(folder)

    def find(self, image: StoredImage) -> ImageArray | None:
        """uint8 (H, W, 3), or None where no file of these pixels is found."""
        paths = itertools.chain.from_iterable(map(self._candidates, image.uris))
        for path, upright in itertools.product(dict.fromkeys(paths), (True, False)):  # some are annotated as stored
            try:
                pixels = load_image(path, upright=upright)
            except ImageError:
                continue  # another file of that name may be readable
            if content_hash(pixels) == image.image_hash:
                return pixels
        return None

    def _candidates(self, uri: str) -> Iterator[Path]:
        parts = urlsplit(uri)
        path = Path(url2pathname(parts.path) if parts.scheme == "file" else uri)
        if parts.scheme in ("file", "") and path.is_file():
            yield path
        yield from self._by_name.get(path.name, ())

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        """The files below the folder by name: it is walked once."""
        found: dict[str, list[Path]] = {}
        for path in sorted(self._folder.rglob("*")) if self._folder is not None else ():
            if path.is_file():
                found.setdefault(path.name, []).append(path)
        return found
