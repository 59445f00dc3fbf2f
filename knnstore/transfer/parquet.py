"""The form of an export: folders of Parquet files with a description in JSON.

    DIR/metadata.json            dim, metric, fields, space, dtype, count, checksum, files, names of collections below
    DIR/records/part-00000.parquet, …
    DIR/NAME/…                   the same again for each collection below
    DIR/INCOMPLETE               only while an export is being written

The parts have a folder of their own so that pandas, polars and pyarrow can be given its path: none of them reads a
folder with another file in it. ``metadata.json`` is written last and at once, so that what an interrupted export leaves
has none.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from knnstore.errors import BackendUnavailableError, StoreCorruptError, StoreNotFoundError
from knnstore.filters import FieldType, Filter
from knnstore.types import Column, Records, StoreSpec, empty_column

__all__ = [
    "FORMAT",
    "MARKER",
    "METADATA",
    "PART",
    "RECORDS",
    "VERSION",
    "ParquetFolder",
    "arrow_schema",
    "described_checksum",
    "load_pyarrow",
    "read_folder",
]

FORMAT, VERSION = "knnstore-parquet", 2
_UNSIGNED = 1
"""The version whose description has no checksum of its own; it is still read."""
METADATA, MARKER, RECORDS = "metadata.json", "INCOMPLETE", "records"
PART = re.compile(r"part-\d{5,}\.parquet")


def load_pyarrow() -> Any:
    """The module ``pyarrow`` with ``pyarrow.parquet`` in it.

    Raises:
        BackendUnavailableError: it is not installed; the message has the pip command.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BackendUnavailableError(
            f"Parquet needs pyarrow: {error}", hint="Install it with: pip install 'knnstore[parquet]'"
        ) from error
    return pyarrow


def arrow_schema(spec: StoreSpec) -> Any:
    """The columns of a part: ``id``, ``vector``, then the fields in the order of the spec."""
    pa = load_pyarrow()
    kinds: dict[FieldType, Any] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    columns = [("id", pa.string()), ("vector", pa.list_(pa.float32(), spec.dim))]
    columns += [(name, kinds[kind]) for name, kind in spec.fields.items()]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns])


@dataclass(frozen=True, slots=True)
class ParquetFolder:
    """One exported collection; a source of records like a store.

    Args:
        folder: where.
        spec: what it holds.
        size: how many records, as noted.
        checksum: their checksum, as noted.
        files: the names of the parts.
    """

    folder: Path
    spec: StoreSpec
    size: int
    checksum: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.folder)

    def count(self, where: Filter | None = None) -> int:
        """How many records there are, or match."""
        if where is None:
            return self.size
        return sum(len(records) for records in self.scan(where, batch_size=4096))

    def scan(
        self, where: Filter | None = None, *, with_vectors: bool = False, batch_size: int = 1024
    ) -> Iterator[Records]:
        """Every record, or every match, once.

        Raises:
            StoreCorruptError: a part is missing, cannot be read, or has other columns.
        """
        pa, schema = load_pyarrow(), arrow_schema(self.spec)
        columns = [name for name in schema.names if with_vectors or name != "vector"]
        for name in self.files:
            path = self.folder / RECORDS / name
            try:
                # With pre_buffer, which is the default, a whole file would be held in memory.
                with pa.parquet.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as part:
                    if not part.schema_arrow.equals(schema):
                        raise StoreCorruptError(f"{path}", expected=_columns(schema), got=_columns(part.schema_arrow))
                    for batch in part.iter_batches(batch_size, columns=columns):
                        yield from _matching(self._records(batch, with_vectors), where)
            except (OSError, ValueError, pa.ArrowException) as error:
                if isinstance(error, StoreCorruptError):
                    raise
                raise StoreCorruptError(f"{path} cannot be read: {error}") from error

    def _records(self, batch: Any, with_vectors: bool) -> Records:
        """As the schema has been checked, there are no nulls but inside a vector, where they read as NaN."""
        vectors = None
        if with_vectors:
            flat = batch.column("vector").flatten().to_numpy(zero_copy_only=False)
            vectors = np.asarray(flat, np.float32).reshape(-1, self.spec.dim)
        fields = {name: _column(batch.column(name), kind) for name, kind in self.spec.fields.items()}
        return Records(_column(batch.column("id"), str), vectors, fields)


def _columns(schema: Any) -> str:
    return ", ".join(f"{item.name} {item.type}{'' if item.nullable else ' not null'}" for item in schema)


def _column(column: Any, kind: FieldType) -> Column:
    typed = empty_column(kind, len(column))
    typed[:] = column.to_numpy(zero_copy_only=False)
    return typed


def _matching(records: Records, where: Filter | None) -> Iterator[Records]:
    if where is not None:
        records = records.take(where.mask(records.fields))
    if len(records):
        yield records


# -- reading the description -------------------------------------------------------------------------------------------


def read_folder(folder: Path) -> list[tuple[str, ParquetFolder]]:
    """The collections of an export: "" for the one at the folder itself, and the names of those below.

    Raises:
        StoreNotFoundError: no export is there.
        StoreCorruptError: the export was interrupted, is damaged, is of a later version, or was not made by us.
    """
    raw = _described(folder)
    found = [("", _collection(folder, raw))] if "dim" in raw else []
    for name in _names(folder, raw):
        below = _described(folder / name)
        found.append((name, _collection(folder / name, below)))
    return found


def _described(folder: Path) -> dict[str, Any]:
    path = folder / METADATA
    if not path.is_file():
        if (folder / MARKER).exists():
            raise StoreCorruptError(
                f"{folder} holds an export that was interrupted", hint="Run the export again; it starts over."
            )
        raise StoreNotFoundError(f"no export in {folder}", expected=f"a file {METADATA}, which an export writes last")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreCorruptError(f"{path} is damaged: {error}") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise StoreCorruptError(f"{path}", expected=f'"format": "{FORMAT}"', got="a description of something else")
    if raw.get("version") not in (_UNSIGNED, VERSION):
        raise StoreCorruptError(
            f"{path}", expected=f"version {VERSION}", got=f"version {raw.get('version')!r}", hint="Update knnstore."
        )
    noted = raw.pop("metadata_checksum", None)
    if noted != described_checksum(raw) and not (noted is None and raw["version"] == _UNSIGNED):
        raise StoreCorruptError(
            f"{path} was changed after the export", expected=noted, got=described_checksum(raw),
            hint="Put the original back, or export again; to change a spec, copy into a store that has the other one.",
        )  # fmt: skip
    return raw


def described_checksum(described: dict[str, Any]) -> str:
    """Of everything in a description but this checksum: ``sha256:…``. How the JSON is laid out does not matter."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _names(folder: Path, raw: dict[str, Any]) -> list[str]:
    """The names of the collections below; none may lead out of the folder."""
    names = raw.get("collections", [])
    plain = isinstance(names, list) and all(
        isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name for name in names
    )
    if not plain:
        raise StoreCorruptError(f"{folder / METADATA}: collections", expected="a list of names of folders")
    return names


def _collection(folder: Path, raw: dict[str, Any]) -> ParquetFolder:
    try:
        kept = {key: raw[key] for key in ("dim", "metric", "fields", "space")}
        spec = StoreSpec.from_json(json.dumps(kept | {"dtype": raw.get("dtype", "float32")}))
        files = tuple(item["name"] for item in raw["files"])
        if not all(PART.fullmatch(name) for name in files):
            raise ValueError(f"a part that is not named part-….parquet: {files}")
        return ParquetFolder(folder, spec, int(raw["count"]), str(raw["checksum"]), files)
    except (LookupError, TypeError, ValueError, OSError) as error:
        raise StoreCorruptError(f"{folder / METADATA} is damaged: {error}") from error
