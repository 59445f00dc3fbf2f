"""What a store holds, in one number that does not depend on the order in which it is read.

Every record has a digest: SHA-256 over a header (dim, names and types of the fields), the id, the field values and the
bytes of the vector. The checksum of a store is the sum of the digests modulo 2^256. A sum, and not an exclusive or:
under that one a record that came twice would cancel itself, and three copies would look like one. It finds accidents;
it is not a signature, since whoever can choose the records can work towards a sum.

The header and the lengths come first and have a fixed size, so no two different records have the same bytes. Of the
two zeros of a ``float`` field only 0.0 is hashed: they are equal, and an engine that keeps numbers in SQLite or as JSON
may drop the sign. In a vector every bit counts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import StoreCorruptError
from knnstore.filters import FieldType, Filter
from knnstore.types import Column, Records, StoreSpec

__all__ = ["Digester", "Source", "Tally", "content_checksum", "rows_in"]

_MODULUS = 1 << 256
_BYTES = 16 << 20
_NUMBERS: dict[FieldType, str] = {int: "<i8", float: "<f8", bool: "u1"}


class Source(Protocol):
    """What records can be read from: an open store, or an export."""

    @property
    def spec(self) -> StoreSpec:
        """What it holds."""

    def count(self, where: Filter | None = None) -> int:
        """How many records there are, or match."""

    def scan(
        self, where: Filter | None = None, *, with_vectors: bool = False, batch_size: int = 1024
    ) -> Iterator[Records]:
        """Every record, or every match, once, with all fields."""


def rows_in(spec: StoreSpec, batch_size: int, most_bytes: int = _BYTES) -> int:
    """How many records to read at once: at most ``batch_size``, and at most 16 MiB of vectors."""
    return max(1, min(batch_size, most_bytes // (4 * spec.dim)))


class Digester:
    """Turns records of one spec into digests.

    Args:
        spec: what the records are; neither the metric nor the space enters the digest.
    """

    def __init__(self, spec: StoreSpec) -> None:
        names = sorted(spec.fields)
        self._texts = [name for name in names if spec.fields[name] is str]
        self._numbers = [(name, _NUMBERS[spec.fields[name]]) for name in names if spec.fields[name] is not str]
        header = {"dim": spec.dim, "fields": {name: spec.fields[name].__name__ for name in names}, "version": 1}
        self._header = np.frombuffer(hashlib.sha256(json.dumps(header).encode()).digest(), np.uint8)

    def __call__(self, records: Records) -> NDArray[np.uint8]:
        """The digests: uint8 (N, 32), in the order of the records, which must have vectors and all fields."""
        if records.vectors is None:
            raise ValueError("digests need records with their vectors")
        texts = [_encoded(records.ids), *(_encoded(records.fields[name]) for name in self._texts)]
        fixed = self._fixed(records, texts)
        width, data = fixed.shape[1], fixed.reshape(-1).data
        sha256, join = hashlib.sha256, b"".join
        listed = [
            sha256(join((data[row * width : (row + 1) * width], *parts))).digest()
            for row, parts in enumerate(zip(*texts, strict=True))
        ]
        return np.frombuffer(join(listed), np.uint8).reshape(len(listed), 32)

    def _fixed(self, records: Records, texts: list[list[bytes]]) -> NDArray[np.uint8]:
        """What has the same size in every record: uint8 (N, bytes)."""
        count = len(records)
        assert records.vectors is not None  # by the caller
        columns = [np.broadcast_to(self._header, (count, 32))]
        columns += [_as_bytes(np.fromiter(map(len, part), "<u4", count)) for part in texts]
        columns += [_as_bytes(_number(records.fields[name], kind)) for name, kind in self._numbers]
        columns.append(_as_bytes(records.vectors.astype("<f4", copy=False)))
        return np.concatenate(columns, axis=1)


def _encoded(column: Column) -> list[bytes]:
    return [value.encode() for value in column.tolist()]


def _number(column: Column, kind: str) -> Column:
    return (column + 0.0).astype(kind) if kind == "<f8" else column.astype(kind)  # -0.0 + 0.0 is 0.0


def _as_bytes(column: Column) -> NDArray[np.uint8]:
    """uint8 (N, bytes of a row)."""
    flat = np.ascontiguousarray(column)
    return flat.view(np.uint8).reshape(len(flat), flat.itemsize * (flat.shape[1] if flat.ndim == 2 else 1))


@dataclass(slots=True)
class Tally:
    """A count and a checksum that grow as records go by. Two are equal where the same records went by, in any order."""

    count: int = 0
    total: int = field(default=0, repr=False)

    def add(self, digests: NDArray[np.uint8]) -> None:
        """Count records by their digests: uint8 (N, 32)."""
        words = np.ascontiguousarray(digests).view("<u4").sum(axis=0, dtype=np.uint64)  # no overflow below 2^32 records
        self.total = (self.total + sum(int(word) << (32 * i) for i, word in enumerate(words))) % _MODULUS
        self.count += len(digests)

    @property
    def checksum(self) -> str:
        """The sum as text: ``sha256-sum:…``."""
        return f"sha256-sum:{self.total:064x}"

    def check(self, count: object, checksum: object, where: str) -> None:
        """Check it against what was noted earlier.

        Raises:
            StoreCorruptError: another count or checksum.
        """
        if (self.count, self.checksum) != (count, checksum):
            raise StoreCorruptError(
                f"{where} is damaged", expected=f"{count} records, {checksum}", got=f"{self.count}, {self.checksum}"
            )


def content_checksum(store: Source, where: Filter | None = None, *, batch_size: int = 4096) -> str:
    """A checksum of ids, vectors and field values that does not depend on the order of the records.

    Two stores of one width and with the same fields hold the same records exactly when their checksums are equal,
    whatever the backend. Reads everything once; memory is bounded by a batch.

    Args:
        store: an open store.
        where: only records for which this holds.
        batch_size: records read at once.

    Returns:
        ``sha256-sum:`` and 64 hexadecimal digits; all zeros where there is no record.
    """
    tally, digests = Tally(), Digester(store.spec)
    for records in store.scan(where, with_vectors=True, batch_size=rows_in(store.spec, batch_size)):
        tally.add(digests(records))
    return tally.checksum
