"""All that the numbers of an evaluation depend on, so that a run is only continued where they stay the same."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sized
from importlib.metadata import version
from pathlib import Path
from typing import Any

from knnseg.data.vocabulary import Vocabulary
from knnseg.segmenter import Segmenter
from knnstore import EmbeddingStore

__all__ = ["digest", "settings_of", "versions"]

_PACKAGES = (
    "knnseg",
    "knnstore",
    "numpy",
    "scipy",
    "scikit-image",
    "torch",
    "open_clip_torch",
    "timm",
    "transformers",
    "pycocotools",
)


def settings_of(
    segmenter: Segmenter, examples: object, vocabulary: Vocabulary, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings of a run, as JSON has them.

    Args:
        segmenter: its configuration, with the digest of each file that is named in it, and its database: place,
            embedding space, revision and number of entries; where the revision may stay when records are replaced, a
            digest of them too.
        examples: how many images, where it can tell.
        vocabulary: classes, things, and the words for a class that are not its name.
        more: what else the numbers depend on, such as the data set's name and folder, and the device.
    """
    config = dataclasses.asdict(segmenter.config)
    return {
        **(more or {}),
        "images": len(examples) if isinstance(examples, Sized) else None,
        "classes": list(vocabulary.names),
        "things": sorted(vocabulary.things),
        "words": {name: list(words) for name in vocabulary if (words := vocabulary.words(name)) != (name,)},
        "configuration": config,
        "files": {path: digest(Path(path)) for path in sorted(_files(config))},
        "store": _store(segmenter),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The installed versions of what takes part in a prediction."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except ImportError:  # the extras are optional
            continue
    return found


def _store(segmenter: Segmenter) -> dict[str, Any] | None:
    database = segmenter.database
    if database is None:
        return None
    space = database.extractor.space
    return {
        "url": str(database.store.url), "encoder": space.encoder, "fingerprint": space.fingerprint,
        "revision": database.revision(), "entries": database.store.count(),
        "content": None if database.store.capabilities.revision else _content(database.store),
    }  # fmt: skip


def _content(store: EmbeddingStore) -> str:
    """A digest of what is stored, whatever its order; for a store whose revision may stay when records are replaced.

    One scan without vectors: a record that was written again has another time.
    """
    total = 0
    for part in store.scan(fields=["label", "added"], batch_size=8192):
        for row in zip(part.ids, part.fields["label"], part.fields["added"].tolist(), strict=True):
            total ^= int.from_bytes(hashlib.sha256(repr(row).encode()).digest())
    return f"{total:064x}"


def _files(value: Any) -> set[str]:
    """The strings in nested dictionaries and lists that are paths of files."""
    if isinstance(value, Mapping | list | tuple):
        entries = value.values() if isinstance(value, Mapping) else value
        return {path for entry in entries for path in _files(entry)}
    try:
        return {value} if isinstance(value, str) and Path(value).is_file() else set()
    except OSError:  # longer than a path may be
        return set()


def digest(path: Path) -> str:
    """``"sha256:…"`` of a file's content."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
