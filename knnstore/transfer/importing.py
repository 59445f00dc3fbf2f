"""Import from Parquet files."""

from __future__ import annotations

from pathlib import Path

from knnstore.transfer import parquet
from knnstore.transfer.copying import CopyReport, tallied, told_when_interrupted
from knnstore.transfer.moving import Job, check_options, run_jobs
from knnstore.types import Conflict
from knnstore.url import StoreURL

__all__ = ["import_parquet"]


def import_parquet(
    folder: str | Path,
    destination: str | StoreURL,
    *,
    batch_size: int = 4096,
    on_conflict: Conflict = "error",
    dry_run: bool = False,
    progress: bool = False,
) -> list[CopyReport]:
    """Copy an export into a store. Everything is checked against the noted checksums before anything is written.

    As in :func:`copy_store`, collections are created where they do not exist, an interrupted import goes on when it is
    run again, and the destination is verified at the end.

    Args:
        folder: what :func:`export_parquet` wrote.
        destination: URL to write to; each collection of a subfolder goes right below it.
        batch_size: see :func:`copy_store`; so are the others.
        on_conflict: what to do about an id that is there with other content.
        dry_run: compare only; create and write nothing.
        progress: show progress bars on standard error.

    Returns:
        One report for each collection.

    Raises:
        StoreNotFoundError: no export is there.
        StoreCorruptError: it was interrupted, is damaged, or was not made by :func:`export_parquet`. Nothing was
            changed.
        SpecMismatchError, ConflictError, ContentMismatchError, StoreAuthenticationError: see :func:`copy_store`.
        BackendUnavailableError: pyarrow is not installed.
    """
    parquet.load_pyarrow()
    check_options(batch_size, on_conflict)
    url, found = StoreURL.parse(destination), parquet.read_folder(Path(folder))
    jobs = [Job(str(part), part, url.child(name) if name else url) for name, part in found]

    def check() -> None:
        with told_when_interrupted(lambda _: f"interrupted while checking {folder}; nothing was written"):
            for _, part in found:
                tally = tallied(part, None, batch_size, part.size, progress=progress)
                tally.check(part.size, part.checksum, str(part))

    return run_jobs(jobs, None, batch_size, on_conflict, dry_run=dry_run, progress=progress, check=check)
