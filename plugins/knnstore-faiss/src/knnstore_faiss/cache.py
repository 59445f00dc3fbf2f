"""An approximate index on disk. A cache and nothing else: whatever is wrong with it, it is rebuilt from the database.

    magic (8) | length of header (8) | header, JSON | rows, int64 | alive, uint8 | FAISS's own format | BLAKE2b (32)

The checksum is verified before FAISS sees a byte. Written to a temporary file, synced, renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from filelock import lock_descriptor

from knnstore.folders import sync
from knnstore.types import Dtype
from knnstore_faiss.ann import AnnIndex
from knnstore_faiss.database import Commit
from knnstore_faiss.factory import Effort
from knnstore_faiss.library import load_faiss
from knnstore_faiss.schema import INDEX_FILE

__all__ = ["CacheKey", "Identity", "identity", "load", "of_key", "remove", "remove_leftovers", "save"]

Identity: TypeAlias = tuple[int, int, int]

FILE = INDEX_FILE
_MAGIC = b"KNNIDX01"
_DIGEST = 32
_PIECE = 1 << 20
_FRESH = 60.0
"""Seconds for which a temporary file is left alone: its writer may be about to lock it."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What an index on disk must have been made for.

    Args:
        uuid: of the store.
        index: the factory string.
        dim: D.
        metric: the metric.
        seed: of the training sample.
        dtype: what the numbers of the vectors are.
    """

    uuid: str
    index: str
    dim: int
    metric: str
    seed: int
    dtype: Dtype

    def as_json(self) -> dict[str, Any]:
        """For the header."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Hashing:
    """A file that keeps a checksum of what goes through it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.blake2b(digest_size=_DIGEST)

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self.file.write(data)


def save(folder: Path, key: CacheKey, commit: Commit, index: AnnIndex) -> int:
    """Write the index as it stands at ``commit``; returns the bytes written."""
    faiss = load_faiss()
    effort = {name: getattr(index.effort, name) for name in Effort.__slots__}
    state = [commit.generation, commit.token.hex(), commit.last_row, commit.count]
    header = json.dumps(
        {
            "key": key.as_json(),
            "commit": state,
            "entries": len(index.rows),
            "effort": effort,
            "recall": index.recall,
            "trained_on": index.trained_on,
            "largest": index.largest,
        }
    ).encode()
    remove_leftovers(folder)
    temporary = folder / f"{FILE}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            _lock(file)
            out = _Hashing(file)
            for part in (
                _MAGIC,
                len(header).to_bytes(8, "little"),
                header,
                index.rows.tobytes(),
                index.alive.tobytes(),
            ):
                out.write(part)
            faiss.write_index(index.index, faiss.PyCallbackIOWriter(out.write, _PIECE))
            file.write(out.sum.digest())
            size = file.tell()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / FILE)
    finally:
        temporary.unlink(missing_ok=True)
    sync(folder)
    return size


def identity(folder: Path) -> Identity | None:
    """What tells one file from another that replaced it; None where there is none."""
    try:
        found = (folder / FILE).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def remove(folder: Path) -> None:
    """Remove the index on disk and what interrupted writing has left of others; those being written stay."""
    (folder / FILE).unlink(missing_ok=True)
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files whose writer is gone: one that writes holds a lock, which dies with it."""
    for leftover in folder.glob(f"{FILE}.*.tmp"):
        with suppress(OSError), leftover.open("rb") as file:
            if time.time() - leftover.stat().st_mtime > _FRESH:
                _lock(file)
                leftover.unlink()


def _lock(file: BinaryIO) -> None:
    """Lock for as long as the file is open, or raise where another has it."""
    if not lock_descriptor(file.fileno(), blocking=False):
        raise BlockingIOError(f"{file.name} is being written")


def load(folder: Path, key: CacheKey) -> tuple[AnnIndex, Commit] | str | None:
    """The index on disk and the state it stands for; what is wrong with it; or None where there is none."""
    file = folder / FILE
    try:
        with file.open("rb") as opened:
            return _verified(opened, key)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        return f"unreadable ({type(error).__name__}: {error})"


def _verified(file: BinaryIO, key: CacheKey) -> tuple[AnnIndex, Commit] | str:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    left, digest = size - _DIGEST, hashlib.blake2b(digest_size=_DIGEST)
    while left > 0 and (piece := file.read(min(_PIECE, left))):
        digest.update(piece)
        left -= len(piece)
    if left or file.read() != digest.digest():
        return "truncated or corrupt (checksum)"
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        return "of another format"
    header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    if not of_key(header["key"], key):
        return "made for another store or other settings"
    return _read(file, header, key), _commit(header["commit"])


def of_key(said: dict[str, Any], key: CacheKey) -> bool:
    """Whether an index was made for ``key``; what the first ones do not say is float32."""
    return {"dtype": "float32"} | said == key.as_json()


def _commit(state: list[Any]) -> Commit:
    generation, token, last_row, count = state
    return Commit(generation, bytes.fromhex(token), last_row, count)


def _read(file: BinaryIO, header: dict[str, Any], key: CacheKey) -> AnnIndex:
    faiss = load_faiss()
    entries = header["entries"]
    rows = np.frombuffer(file.read(8 * entries), np.int64).copy()
    alive = np.frombuffer(file.read(entries), bool).copy()
    index = AnnIndex(key.index, key.dim, key.metric, Effort(**header["effort"]), key.dtype)  # type: ignore[arg-type]  # checked key
    index.index = faiss.read_index(faiss.PyCallbackIOReader(file.read, _PIECE))
    index.rows, index.alive, index.recall = rows, alive, header["recall"]
    index.trained_on, index.largest = header["trained_on"], header.get("largest", 0.0)  # not in the first ones
    return index
