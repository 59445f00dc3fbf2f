"""The images that stored examples came from: grouped again, found again, and proved by their pixels."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
from numpy.typing import NDArray

from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.reading import load_image
from knnseg.errors import DatasetError, ImageError
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
        """Where it was when its examples were added, each place once; empty where nobody said."""
        return tuple(uri for uri in dict.fromkeys(map(str, self.records.fields["image"].tolist())) if uri)

    @property
    def wholes(self) -> StoredImage:
        """Without the parts of examples."""
        return replace(self, records=self.records.take(self.records.fields["whole"] == ""))

    @property
    def with_mask(self) -> NDArray[np.int64]:
        """int64, the rows that keep their mask."""
        return np.flatnonzero([bool(rle) for rle in self.records.fields["rle"]])

    def masks(self, rows: Iterable[int], size: tuple[int, int]) -> Masks:
        """The masks of some rows, for an image of ``size`` (H, W)."""
        return Masks.from_rle([self.records.fields["rle"][i] for i in rows], size)


def stored_images(
    store: EmbeddingStore,
    hashes: Iterable[str],
    *,
    named: Callable[[Iterable[str]], NDArray[np.object_]] | None = None,
    with_vectors: bool = False,
    batch: int = 16,
) -> Iterator[list[StoredImage]]:
    """The examples of a concept database image by image, in batches of at most ``batch`` images.

    A store is in no order, so the rows of a batch are asked for together: memory is bounded by its images, and a
    database of any size is one request for each batch.

    Args:
        store: with the fields of :data:`knnseg.database.schema.FIELDS`.
        hashes: content hashes of the images that are wanted, such as the keys of ``store.count_by("image_hash")``.
        named: turns the keys of their concepts into what their field ``label`` is to be, "" for what is left out; they
            stay keys by default.
        with_vectors: read the vectors too.
        batch: images in one request.
    """
    listed = list(hashes)
    for start in range(0, len(listed), batch):
        group = listed[start : start + batch]
        parts = list(store.scan(F("image_hash").isin(group), with_vectors=with_vectors))
        if parts:
            together = Records.concatenate(parts)
            if named is not None:
                together.fields["label"] = named(together.fields["label"].tolist())
                together = together.take(together.fields["label"] != "")
            yield [_of_image(together, wanted) for wanted in group if (together.fields["image_hash"] == wanted).any()]


def _of_image(records: Records, image_hash: str) -> StoredImage:
    """The rows of one image, by id, so that the order of the store does not show."""
    rows = np.flatnonzero(records.fields["image_hash"] == image_hash)
    rows = rows[np.argsort(records.ids[rows].astype(str), kind="stable")]
    return StoredImage(image_hash, records.take(rows))


class Originals:
    """Finds the image of a stored example by its pixels, whose hash the example has kept.

    A file is looked at first where the image was, then under its name in the folder, then every file in the folder: an
    image may have been moved, renamed, or added without saying where it is.

    Args:
        folder: where to look, in any subfolder, when the image is not where it was.

    Raises:
        DatasetError: ``folder`` is not a folder.
    """

    def __init__(self, folder: str | PathLike[str] | None = None) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise DatasetError("images", expected="a folder", got=folder)
        self._folder = None if folder is None else Path(folder)
        self._read: dict[str, Path] = {}

    def find(self, image: StoredImage) -> Image | None:
        """The image, or None where no file of these pixels is found."""
        paths = itertools.chain.from_iterable(map(self._candidates, image.uris))
        found = (_read(path).get(image.image_hash) for path in dict.fromkeys(paths))
        first = next((image for image in found if image is not None), None)
        return self._by_content(image.image_hash) if first is None else first

    def reason(self, image: StoredImage) -> str:
        """Why an image was not found, beginning with where it had been."""
        for uri in image.uris:
            path = _path(uri)
            try:
                if path is not None and path.is_file():
                    load_image(path)
                    return f"{uri}: the file has other pixels now"
            except ImageError as error:
                return f"{uri}: {error}"
        return f"{next(iter(image.uris), f'an image of hash {image.image_hash}')}: not found"

    @property
    def advice(self) -> str:
        """What helps where images were not found."""
        if self._folder is None:
            return "give the folder where the images are now (--images)"
        return (
            f"no file below {self._folder} has their pixels: give the folder where the images are as they were "
            "(--images), or add them again"
        )

    def _candidates(self, uri: str) -> Iterator[Path]:
        path = _path(uri)
        if path is not None and path.is_file():
            yield path
        yield from self._by_name.get(Path(url2pathname(urlsplit(uri).path)).name if path is None else path.name, ())

    def _by_content(self, wanted: str) -> Image | None:
        """Read on in the folder until a file with these pixels comes; what was read is known by its hashes."""
        if wanted in self._read:
            return _read(self._read[wanted]).get(wanted)
        for path in self._unread:
            found = _read(path)
            self._read |= dict.fromkeys(found, path)
            if wanted in found:
                return found[wanted]
        return None

    @cached_property
    def _files(self) -> list[Path]:
        """The files below the folder, which is walked once."""
        if self._folder is None:
            return []
        return sorted(Path(root, name) for root, _, names in os.walk(self._folder) for name in names)

    @cached_property
    def _unread(self) -> Iterator[Path]:
        return iter(self._files)

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for path in self._files:
            found.setdefault(path.name, []).append(path)
        return found


def _path(uri: str) -> Path | None:
    """The file that a URI or a path speaks of; None for one on another machine."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(uri)


def _read(path: Path) -> dict[str, Image]:
    """The pixels of a file by their hash, upright and as they are stored, since some are annotated so."""
    found: dict[str, Image] = {}
    for upright in (True, False):
        with contextlib.suppress(ImageError):  # another file may be readable
            image = Image(load_image(path, upright=upright), path.absolute().as_uri())
            found.setdefault(image.content_hash, image)
    return found
