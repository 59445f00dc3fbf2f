"""Export to Parquet files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from knnstore._plugins import open_store
from knnstore.abc import EmbeddingStore
from knnstore.errors import ContentMismatchError, InvalidInputError
from knnstore.filters import Filter
from knnstore.folders import sync, write_whole
from knnstore.transfer import parquet
from knnstore.transfer.checksum import Digester, Tally, rows_in
from knnstore.transfer.copying import check_complete, progress_bar, tallied, told_when_interrupted
from knnstore.transfer.moving import check_options, name_below, stored_at
from knnstore.types import Records
from knnstore.url import StoreURL

__all__ = ["ExportReport", "export_parquet"]

_PART_BYTES = 512 << 20
_MARKER_TEXT = "An export is being written here, or was interrupted. Run it again; it starts over.\n"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written for one collection.

    Args:
        source: where the records came from, without secrets.
        folder: where they are.
        records: how many.
        files: in how many Parquet files.
        bytes: what they take on disk.
        checksum: see :func:`content_checksum`.
    """

    source: str
    folder: str
    records: int
    files: int
    bytes: int
    checksum: str


def export_parquet(
    source: str | StoreURL,
    folder: str | Path,
    *,
    where: Filter | None = None,
    batch_size: int = 4096,
    part_bytes: int = _PART_BYTES,
    progress: bool = False,
) -> list[ExportReport]:
    """Write what is stored at a URL as Parquet files, with a description in JSON, and verify it.

    A collection at the URL goes to the folder itself, and each one right below the URL to a subfolder of its name. In
    each, ``records/`` holds the Parquet files and ``metadata.json`` the spec, the count and the checksum; it is written
    last, so an interrupted export is never mistaken for a whole one.

    Args:
        source: URL to read from.
        folder: where to write: one that does not exist, is empty, or holds an interrupted export, which is removed.
        where: only records for which this holds.
        batch_size: records in a row group; fewer where they would be more than 16 MiB.
        part_bytes: begin another file after about this many bytes, before compression.
        progress: show progress bars on standard error.

    Returns:
        One report for each collection.

    Raises:
        StoreNotFoundError: nothing is stored at the URL.
        InvalidInputError: the folder holds something else, or a whole export.
        ContentMismatchError: the source changed meanwhile; the export stays incomplete.
        StoreCorruptError: what was written reads differently; the export stays incomplete.
        BackendUnavailableError: pyarrow is not installed.
        OSError: the folder cannot be written.
    """
    parquet.load_pyarrow()
    check_options(batch_size)
    url, root = StoreURL.parse(source), Path(folder)
    places = {name_below(url, place): place for place in stored_at(url)}
    _check_names(places)
    interrupted = told_when_interrupted(
        lambda _: f"{url} -> {root}: interrupted; the folder holds no whole export. Run it again: it starts over."
    )
    with interrupted, _all_opened(places, where) as stores, _being_written(root):
        described, reports = {}, []
        for name, store in stores.items():
            writer = _Writer(store, root / name, where, batch_size, part_bytes, progress)
            described[name] = writer.run()
            reports.append(_reported(store, root / name, described[name]))
        below = [name for name in places if name]
        for name in below:
            _write_metadata(root / name, described[name])
        _write_metadata(root, {**_HEAD, **described.get("", {}), "collections": below})
    return reports


_HEAD = {"format": parquet.FORMAT, "version": parquet.VERSION}


@contextmanager
def _all_opened(places: dict[str, StoreURL], where: Filter | None) -> Iterator[dict[str, EmbeddingStore]]:
    stores: dict[str, EmbeddingStore] = {}
    try:
        for name, place in places.items():
            stores[name] = open_store(place, read_only=True)
            if where is not None:
                where.check(stores[name].spec.fields)
        yield stores
    finally:
        for store in stores.values():
            store.close()


def _check_names(places: dict[str, StoreURL]) -> None:
    taken = {parquet.RECORDS, parquet.METADATA, parquet.MARKER} & set(places)
    if taken:
        raise InvalidInputError(
            f"export of {places[min(taken)]}",
            expected="collections of other names than the files of an export",
            hint="Export it alone, with its own URL.",
        )


def _reported(store: EmbeddingStore, folder: Path, described: dict[str, Any]) -> ExportReport:
    files = [folder / parquet.RECORDS / item["name"] for item in described["files"]]
    size = sum(file.stat().st_size for file in files)
    return ExportReport(
        str(store.url), str(folder), described["count"], len(files), size, described["checksum"]
    )  # fmt: skip


# -- the folder --------------------------------------------------------------------------------------------------------


@contextmanager
def _being_written(root: Path) -> Iterator[None]:
    """A folder with nothing of ours in it but the marker, which goes when everything is written."""
    root.mkdir(parents=True, exist_ok=True)
    if not root.is_dir() or any(root.iterdir()):
        _check_leftover(root)
        for item in root.iterdir():
            if item.name != parquet.MARKER:
                shutil.rmtree(item) if item.is_dir() else item.unlink()
    (root / parquet.MARKER).write_text(_MARKER_TEXT, encoding="utf-8")
    sync(root)
    yield
    (root / parquet.MARKER).unlink()


def _check_leftover(root: Path) -> None:
    """Refuse to touch a folder that is not an interrupted export and nothing else."""
    if (root / parquet.METADATA).exists() or not (root / parquet.MARKER).is_file():
        kind = "a whole export" if (root / parquet.METADATA).exists() else "something else"
        raise InvalidInputError(
            f"export to {root}", expected="a new or empty folder", got=f"one with {kind}", hint="Nothing was changed."
        )
    for path in root.rglob("*"):
        ours = path.name in (parquet.METADATA, f"{parquet.METADATA}.partial", parquet.MARKER)
        part = parquet.PART.fullmatch(path.name) and path.parent.name == parquet.RECORDS
        if path.is_symlink() or not (path.is_dir() or ours or part):
            raise InvalidInputError(
                f"export to {root}",
                expected="an interrupted export and nothing else",
                got=str(path.relative_to(root)),
                hint="Nothing was changed.",
            )


def _write_metadata(folder: Path, described: dict[str, Any]) -> None:
    described = {**described, "metadata_checksum": parquet.described_checksum(described)}
    write_whole(folder / parquet.METADATA, (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())


# -- writing -----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Writer:
    store: EmbeddingStore
    folder: Path
    where: Filter | None
    batch_size: int
    part_bytes: int
    progress: bool

    def run(self) -> dict[str, Any]:
        """Write the parts and verify them; return the description of the collection."""
        spec = self.store.spec
        (self.folder / parquet.RECORDS).mkdir(parents=True)
        total = self.store.count(self.where) if self.progress else None
        with progress_bar(total, "exporting", show=self.progress) as bar:
            tally, files = self._write_parts(bar)
        described = {
            **_HEAD, **json.loads(spec.to_json()), "fields": {n: kind.__name__ for n, kind in spec.fields.items()},
            "count": tally.count, "checksum": tally.checksum, "files": files, "collections": [],
            "source": str(self.store.url), "where": None if self.where is None else repr(self.where),
        }  # fmt: skip
        self._verify(tally, tuple(item["name"] for item in files))
        return described

    def _write_parts(self, bar: Any) -> tuple[Tally, list[dict[str, Any]]]:
        """One row group a batch, another file after ``part_bytes``; an empty collection is one empty file."""
        tally, digester, files = Tally(), Digester(self.store.spec), list[dict[str, Any]]()
        batches = self._batches()
        batch = next(batches, None)
        while batch is not None or not files:
            name, rows, size = f"part-{len(files):05d}.parquet", 0, 0
            with self._part(name) as part:
                while batch is not None and (rows == 0 or size < self.part_bytes):
                    tally.add(digester(batch))
                    table = self._table(batch)
                    part.write_table(table)
                    rows, size = rows + len(batch), size + table.nbytes
                    bar.update(len(batch))
                    batch = next(batches, None)
            sync(self.folder / parquet.RECORDS / name)
            files.append({"name": name, "rows": rows})
        sync(self.folder / parquet.RECORDS)
        return tally, files

    def _batches(self) -> Iterator[Records]:
        size = rows_in(self.store.spec, self.batch_size)
        return self.store.scan(self.where, with_vectors=True, batch_size=size)

    def _part(self, name: str) -> Any:
        pa, spec = parquet.load_pyarrow(), self.store.spec
        # Splitting the bytes of the numbers lets zstd find the little order there is: 85 % of the size instead of 93 %.
        return pa.parquet.ParquetWriter(
            self.folder / parquet.RECORDS / name,
            parquet.arrow_schema(spec),
            compression="zstd",
            use_dictionary=["id", *(name for name, kind in spec.fields.items() if kind is str)],
            use_byte_stream_split=["vector.list.element"],
            write_page_checksum=True,
        )

    def _table(self, batch: Records) -> Any:
        pa, schema = parquet.load_pyarrow(), parquet.arrow_schema(self.store.spec)
        assert batch.vectors is not None  # by the scan
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.reshape(-1)), self.store.spec.dim)
        columns = {"id": batch.ids, **batch.fields}
        arrays = [
            vectors if item.name == "vector" else pa.array(columns[item.name], item.type, from_pandas=False)
            for item in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _verify(self, written: Tally, files: tuple[str, ...]) -> None:
        """Read both again: the files must hold what was written, and the source must not have changed."""
        read = parquet.ParquetFolder(self.folder, self.store.spec, written.count, written.checksum, files)
        found = tallied(read, None, self.batch_size, written.count, progress=self.progress)
        found.check(written.count, written.checksum, str(self.folder))
        now = tallied(self.store, self.where, self.batch_size, written.count, progress=self.progress)
        if now != written:
            raise ContentMismatchError(
                f"{self.store.url} changed while it was exported",
                expected=f"{written.count} records, {written.checksum}",
                got=f"{now.count}, {now.checksum}",
                hint="Run the export again when nobody writes to it; it starts over.",
            )
        check_complete(self.store, self.where, now.count, str(self.store.url))
