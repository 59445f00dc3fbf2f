"""The commands that move records: ``knnstore copy``, ``export`` and ``import``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from knnstore._options import Json, Where, counted, filter_from, print_json, print_line
from knnstore.transfer import CopyReport, copy_store, export_parquet, import_parquet

__all__ = ["OnConflict", "add_transfer_commands"]


class OnConflict(StrEnum):
    """What to do about an id that is at the destination with other content."""

    ERROR = "error"
    REPLACE = "replace"
    SKIP = "skip"


BatchRows = Annotated[int, typer.Option(min=1, help="Records at once; fewer where they would be more than 16 MiB.")]
Conflicts = Annotated[
    OnConflict,
    typer.Option("--on-conflict", help="An id that is there with other content: stop, replace it, or leave it."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Compare and say what would be done; write nothing.")]
Destination = Annotated[str, typer.Argument(help="Store URL to write to; a collection that is missing is created.")]


def add_transfer_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command(epilog="Example: knnstore copy faiss:///data/concepts 'qdrant://db.example:6334/concepts?tls=1'")(copy)
    app.command(epilog="Example: knnstore export faiss:///data/concepts concepts-2026")(export)
    app.command(name="import", epilog="Example: knnstore import concepts-2026 faiss:///data/again")(import_)


def copy(
    source: Annotated[str, typer.Argument(help="Store URL to read from.")],
    destination: Destination,
    where: Where = None,
    batch: BatchRows = 4096,
    on_conflict: Conflicts = OnConflict.ERROR,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Copy what is stored at a URL, with the collections below it, to another URL, and verify it.

    Interrupted and run again, it goes on: what is there already is compared and not sent again. Other records of the
    destination stay. A destination with another spec is refused, and nothing is changed.
    """
    reports = copy_store(
        source, destination, where=filter_from(where), batch_size=batch, on_conflict=on_conflict.value,
        dry_run=dry_run, progress=sys.stderr.isatty(),
    )  # fmt: skip
    _show(reports, as_json)


def export(
    url: Annotated[str, typer.Argument(help="Store URL to read from.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write: a new or empty one.")],
    where: Where = None,
    batch: BatchRows = 4096,
    as_json: Json = False,
) -> None:
    """Write what is stored at a URL, with the collections below it, as Parquet files and a description in JSON.

    pandas, polars and pyarrow read FOLDER/records as it is. An interrupted export has no metadata.json; run again, it
    starts over. Needs the extra `parquet`.
    """
    reports = export_parquet(
        url, folder, where=filter_from(where), batch_size=batch, progress=sys.stderr.isatty()
    )  # fmt: skip
    if as_json:
        print_json([asdict(report) for report in reports])
        return
    for report in reports:
        print_line(f"{report.source} -> {report.folder}")
        print_line(
            f"  {counted(report.records, 'record')} in {counted(report.files, 'file')}, {report.bytes} bytes; verified"
        )
        print_line(f"  {report.checksum}")


def import_(
    folder: Annotated[Path, typer.Argument(help="Folder that knnstore export wrote.")],
    destination: Destination,
    batch: BatchRows = 4096,
    on_conflict: Conflicts = OnConflict.ERROR,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Copy an export into a store, and verify it. An export that is damaged or incomplete is refused first.

    Interrupted and run again, it goes on. Needs the extra `parquet`.
    """
    reports = import_parquet(
        folder, destination, batch_size=batch, on_conflict=on_conflict.value, dry_run=dry_run,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    _show(reports, as_json)


def _show(reports: list[CopyReport], as_json: bool) -> None:
    if as_json:
        print_json([asdict(report) for report in reports])
        return
    for report in reports:
        for line in _lines(report):
            print_line(line)


def _lines(report: CopyReport) -> list[str]:
    made = ", to be created" if report.dry_run else ", created"
    lines = [f"{report.source} -> {report.destination}{made if report.created else ''}"]
    done = [f"{report.sent} {'to send' if report.dry_run else 'sent'}", f"{report.present} there already"]
    if report.conflicts:
        done.append(f"{report.conflicts} there with other content")
    verified = "verified" if report.kept else "compared, and gone when this command ends: nothing keeps a memory store"
    lines.append(f"  {counted(report.records, 'record')}: {', '.join(done)}{'' if report.dry_run else f'; {verified}'}")
    if report.others:
        lines.append(f"  {counted(report.others, 'other record')} at the destination, left alone")
    return [*lines, f"  {report.checksum}"]
