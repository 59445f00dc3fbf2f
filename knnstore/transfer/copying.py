"""Copying records into a store: compare with what is there, send what is missing, verify.

Nothing is written down about how far a copy has come. A copy that runs again asks the destination, batch by batch, for
the records of the same ids, and sends those that are missing. That is right whatever the order of a scan, whoever else
writes, and wherever the copy was killed, which no journal beside the data can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from knnstore.abc import EmbeddingStore
from knnstore.errors import (
    ConflictError,
    ContentMismatchError,
    StoreBusyError,
    StoreConnectionError,
    StoreFullError,
    StoreTimeoutError,
)
from knnstore.filters import Filter
from knnstore.transfer.checksum import Digester, Source, Tally, rows_in
from knnstore.types import Conflict, Records

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["CopyJob", "CopyReport", "check_complete", "progress_bar", "tallied", "told_when_interrupted"]

_MISSING, _SAME, _OTHER = np.uint8(0), np.uint8(1), np.uint8(2)
_BYTES = 16 << 20
_DELAY = 2.0


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy into one collection did, or would do.

    Args:
        source: where the records came from, without secrets.
        destination: where they went, without secrets.
        records: how many the source holds, or match.
        sent: how many were written.
        present: how many were there already, the same in every bit.
        conflicts: how many were there with other content; they were replaced (and count as sent), or kept.
        others: further records at the destination, which stay as they are.
        checksum: of the records of the source, see :func:`content_checksum`.
        created: the collection did not exist before.
        dry_run: nothing was written, and nothing was verified.
        kept: the destination outlives this process; a memory store does not.
    """

    source: str
    destination: str
    records: int
    sent: int
    present: int
    conflicts: int
    others: int
    checksum: str
    created: bool
    dry_run: bool
    kept: bool = True


_PASSING = (StoreBusyError, StoreConnectionError, StoreFullError, StoreTimeoutError)
"""What running it again may mend."""


@contextmanager
def told_when_interrupted(sentence: Callable[[str], str]) -> Iterator[None]:
    """A Ctrl-C, or the error of a store that is away or full, that says what has been done.

    It is still a KeyboardInterrupt, for those who handle it; to an error the sentence is a note.

    Args:
        sentence: given what a step inside has said, "" for nothing, what to say.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(sentence(str(stop))) from stop
    except _PASSING as error:
        notes = getattr(error, "__notes__", [])
        error.add_note(sentence(notes.pop() if notes else ""))
        raise


def progress_bar(total: int | None, what: str, *, show: bool) -> tqdm[Any]:
    """A bar of records on standard error, which appears after two seconds."""
    from tqdm import tqdm  # not when knnstore is imported

    return tqdm(total=total, desc=what, unit="record", unit_scale=True, delay=_DELAY, disable=not show)


def tallied(source: Source, where: Filter | None, batch_size: int, total: int, *, progress: bool) -> Tally:
    """Count and checksum of what a source holds, with a bar."""
    tally, digester = Tally(), Digester(source.spec)
    with progress_bar(total, "verifying", show=progress) as bar:
        for records in source.scan(where, with_vectors=True, batch_size=rows_in(source.spec, batch_size)):
            tally.add(digester(records))
            bar.update(len(records))
    return tally


def check_complete(source: Source, where: Filter | None, found: int, name: str) -> None:
    """A scan that ends too early would end there every time, and only the count tells."""
    stated = source.count(where)
    if stated != found:
        raise ContentMismatchError(
            f"{name} was not read to its end, or changed meanwhile",
            expected=f"{stated} records, as it counts",
            got=f"{found} from its scan",
            hint="Run it again when nobody writes there. If it happens again, its backend has a fault.",
        )


@dataclass(slots=True)
class _Pass:
    """What one pass over the source came across."""

    seen: Tally = field(default_factory=Tally)
    conflicts: Tally = field(default_factory=Tally)
    missing: int = 0
    present: int = 0


@dataclass(slots=True)
class CopyJob:
    """One copy from a source into an open store.

    Args:
        source: where to read, twice.
        name: of the source, for messages.
        destination: where to write, or None in a dry run where it does not exist.
        place: of the destination, for messages.
        where: only records for which this holds.
        batch_size: records read at once; fewer where they would be more than 16 MiB.
        on_conflict: what to do about an id that is at the destination with other content.
        progress: show a progress bar on standard error.
    """

    source: Source
    name: str
    destination: EmbeddingStore | None
    place: str
    where: Filter | None = None
    batch_size: int = 4096
    on_conflict: Conflict = "error"
    progress: bool = False

    def run(self, *, created: bool) -> CopyReport:
        """Copy and verify.

        Raises:
            ConflictError: an id is there with other content, and ``on_conflict`` is ``"error"``.
            ContentMismatchError: the source changed meanwhile, or the destination does not hold what was sent.
        """
        assert self.destination is not None  # a dry run only previews
        before = self.destination.count()
        sent = self._walk("copying", ask=before > 0, write=True)
        self.destination.flush()
        changed = sent.missing > 0 or (self.on_conflict == "replace" and sent.conflicts.count > 0)
        # Where everything was compared and nothing sent, that was the verification.
        found = self._walk("verifying", ask=True, write=False) if changed or not before else sent
        others = self.destination.count() - found.seen.count
        self._compare(sent, found, others)
        return self._report(sent, others, created=created, dry_run=False)

    def preview(self, *, created: bool) -> CopyReport:
        """Compare only, and write nothing."""
        there = 0 if self.destination is None else self.destination.count()
        found = self._walk("comparing", ask=there > 0, write=False)
        others = there - found.present - found.conflicts.count
        return self._report(found, others, created=created, dry_run=True)

    def _report(self, walked: _Pass, others: int, *, created: bool, dry_run: bool) -> CopyReport:
        replaced = walked.conflicts.count if self.on_conflict == "replace" else 0
        return CopyReport(
            self.name, self.place, walked.seen.count, walked.missing + replaced, walked.present,
            walked.conflicts.count, others, walked.seen.checksum, created, dry_run,
            self.destination is None or self.destination.capabilities.persistent,
        )  # fmt: skip

    def _walk(self, what: str, *, ask: bool, write: bool) -> _Pass:
        """Go through the source once, comparing with the destination, sending what is missing there if ``write``."""
        walked, digester = _Pass(), Digester(self.source.spec)
        size = rows_in(self.source.spec, self.batch_size)
        total = self.source.count(self.where) if self.progress else None
        interrupted = told_when_interrupted(lambda _: self._so_far(what, walked))
        with interrupted, progress_bar(total, what, show=self.progress) as bar:
            for records in self.source.scan(self.where, with_vectors=True, batch_size=size):
                digests = digester(records)
                state = self._state(records) if ask else np.full(len(records), _MISSING)
                if write:
                    self._send(records, state)
                walked.seen.add(digests)
                walked.conflicts.add(digests[state == _OTHER])
                walked.missing += int((state == _MISSING).sum())
                walked.present += int((state == _SAME).sum())
                bar.update(len(records))
        return walked

    def _so_far(self, what: str, walked: _Pass) -> str:
        done = f"{self.name} -> {self.place}: interrupted while {what}, after {walked.seen.count} records"
        if what == "copying":
            replaced = walked.conflicts.count if self.on_conflict == "replace" else 0
            done += f", {walked.missing + replaced} of them sent and {walked.present} there already"
        return done

    def _state(self, records: Records) -> NDArray[np.uint8]:
        """Whether each record is missing at the destination, the same there, or another: uint8 (N,)."""
        state = np.full(len(records), _MISSING)
        if self.destination is not None:
            there = self.destination.get(records.ids.tolist())
            row_of = {value: row for row, value in enumerate(records.ids.tolist())}
            rows = np.array([row_of[value] for value in there.ids.tolist()], np.intp)
            state[rows] = np.where(_equal(records, rows, there), _SAME, _OTHER)
        return state

    def _send(self, records: Records, state: NDArray[np.uint8]) -> None:
        """Write what is missing, and what differs if it is to be replaced."""
        if self.on_conflict == "error" and (state == _OTHER).any():
            first = str(records.ids[np.flatnonzero(state == _OTHER)[0]])
            raise ConflictError(
                f"{self.place}: id {first!r} is stored already, with other content than in {self.name}",
                hint="Nothing was overwritten. on_conflict: replace takes the source's, skip keeps what is there.",
            )
        wanted = (state == _MISSING) | ((state == _OTHER) & (self.on_conflict == "replace"))
        assert self.destination is not None  # by run()
        for piece in map(records.take, _pieces(records, np.flatnonzero(wanted))):
            assert piece.vectors is not None  # by the scan
            # Replacing, also where nothing was: writing a batch again after a lost reply must not conflict.
            self.destination.upsert(piece.ids.tolist(), piece.vectors, piece.fields)

    def _compare(self, sent: _Pass, found: _Pass, others: int) -> None:
        if found.seen != sent.seen:
            raise ContentMismatchError(
                f"{self.name} changed while it was copied",
                expected=f"{sent.seen.count} records, {sent.seen.checksum}",
                got=f"{found.seen.count}, {found.seen.checksum}",
                hint="Run the copy again when nobody writes to it; what is there already is not sent again.",
            )
        check_complete(self.source, self.where, found.seen.count, self.name)
        kept = sent.conflicts if self.on_conflict == "skip" else Tally()
        if found.missing or found.conflicts != kept or others < 0:
            raise ContentMismatchError(
                f"{self.place} does not hold what was copied from {self.name}",
                expected=f"{found.seen.count} records as they were sent",
                got=f"{found.missing} missing, {found.conflicts.count - kept.count} with other content"
                f", a count of {found.seen.count + others}",
                hint="Does somebody else write there? Run the copy again; it sends what is missing.",
            )


def _equal(records: Records, rows: NDArray[np.intp], there: Records) -> NDArray[np.bool_]:
    """Whether what is there has the bits of these rows in the vector and equal values in every field: bool (M,)."""
    assert records.vectors is not None and there.vectors is not None  # by the scan, and by get
    same = (records.vectors[rows].view(np.uint32) == there.vectors.view(np.uint32)).all(axis=1)
    for name, column in records.fields.items():
        same &= np.asarray(column[rows] == there.fields[name], np.bool_)
    return same


def _pieces(records: Records, rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """The chosen rows in pieces of at most about 16 MiB, long texts included."""
    if not len(rows):
        return
    texts = [column for column in records.fields.values() if column.dtype == object]
    assert records.vectors is not None  # by the scan
    size = 4 * records.vectors.shape[1] + 8 * (len(records.fields) - len(texts))
    sizes = np.full(len(rows), size, np.int64)
    for column in (records.ids, *texts):
        sizes += np.fromiter((4 * len(value) for value in column[rows].tolist()), np.int64, len(rows))
    ends = np.flatnonzero(np.diff((np.cumsum(sizes) - 1) // _BYTES)) + 1
    yield from np.split(rows, ends)
