"""Copying what is stored at a URL, with every collection below it, to another URL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from knnstore._plugins import collections, may_write, open_store
from knnstore._validation import check_limit, check_vectors
from knnstore.abc import EmbeddingStore
from knnstore.errors import InvalidInputError, SpecMismatchError, StoreNotFoundError
from knnstore.filters import Filter
from knnstore.options import dtype_option
from knnstore.transfer.checksum import Source
from knnstore.transfer.copying import CopyJob, CopyReport, told_when_interrupted
from knnstore.types import STORED, Conflict, Records, StoreSpec
from knnstore.url import StoreURL

__all__ = ["Job", "check_options", "copy_store", "name_below", "run_jobs", "stored_at"]

_AGAIN = "Run it again to go on: what is there already is compared and not sent again."


@dataclass(frozen=True, slots=True)
class Job:
    """One collection on its way.

    Args:
        name: of the source, for messages.
        source: an export, or the URL of a collection.
        target: where to.
    """

    name: str
    source: Source | StoreURL
    target: StoreURL


def stored_at(url: StoreURL) -> list[StoreURL]:
    """The collections at a URL and right below it, at least one.

    Raises:
        StoreNotFoundError: there is none.
    """
    found = collections(url)
    if not found:
        raise StoreNotFoundError(f"nothing is stored at {url}", hint="knnstore info shows what is at a URL.")
    return found


def name_below(url: StoreURL, place: StoreURL) -> str:
    """The name of a collection below a URL, "" for the one at the URL itself."""
    here, there = url.path.rstrip("/"), place.path.rstrip("/")
    return "" if here == there else there.rpartition("/")[2]


def copy_store(
    source: str | StoreURL,
    destination: str | StoreURL,
    *,
    where: Filter | None = None,
    batch_size: int = 4096,
    on_conflict: Conflict = "error",
    dry_run: bool = False,
    progress: bool = False,
) -> list[CopyReport]:
    """Copy what is stored at a URL to another one, between any two backends, and verify it.

    Every collection at the source and right below it is copied, each under its own name; one that does not exist at the
    destination is created with the spec of the source. Memory is bounded by a batch. Killed at any moment and run
    again, it goes on: what is at the destination already is compared and not sent again. Records of the destination
    that the source does not have stay as they are.

    At the end the source is read once more and every record is compared with the destination, so what is reported is
    what both hold then.

    Args:
        source: URL to read from.
        destination: URL to write to.
        where: copy only records for which this holds.
        batch_size: records read and sent at once; fewer where they would be more than 16 MiB.
        on_conflict: about an id that the destination has with other content: raise an ``"error"``, ``"replace"`` it, or
            ``"skip"`` it, which leaves the destination's.
        dry_run: compare only; create and write nothing.
        progress: show progress bars on standard error.

    Returns:
        One report for each collection.

    Raises:
        StoreNotFoundError: nothing is stored at the source.
        SpecMismatchError: a collection of the destination has another dim, metric, fields or embedding space. Nothing
            was changed.
        ConflictError: ``on_conflict="error"`` and an id is there with other content. Nothing was overwritten; other
            records may have been copied before it was found.
        ContentMismatchError: the source changed while it was copied, or the destination does not hold what was sent.
        StoreAuthenticationError: the key may only read at the destination, which is asked first.
    """
    source, destination = StoreURL.parse(source), StoreURL.parse(destination)
    check_options(batch_size, on_conflict)
    if _place(source) == _place(destination):
        raise InvalidInputError(f"copy to {destination}", expected="another place than the source", got=str(source))
    jobs = [
        Job(str(place), place, destination.child(name) if name else destination)
        for place in stored_at(source)
        for name in [name_below(source, place)]
    ]
    return run_jobs(jobs, where, batch_size, on_conflict, dry_run=dry_run, progress=progress)


def check_options(batch_size: int, on_conflict: str = "error") -> None:
    """Refuse what makes no sense before anything is opened."""
    check_limit("batch_size", batch_size)
    if on_conflict not in ("replace", "skip", "error"):
        raise InvalidInputError("on_conflict", expected="replace, skip or error", got=repr(on_conflict))


def _ask_to_write(jobs: Iterable[Job]) -> None:
    """Find out that a key may only read before anything is read to be written there; see :func:`may_write`.

    A collection that is missing is made when its turn comes, which asks the same.
    """
    for job in jobs:
        with suppress(StoreNotFoundError), open_store(job.target) as there:
            may_write(there)


def _place(url: StoreURL) -> tuple[str, str, str, int | None, str]:
    return url.backend, url.variant, url.host, url.port, url.path.rstrip("/")


def run_jobs(
    jobs: Sequence[Job],
    where: Filter | None,
    batch_size: int,
    on_conflict: Conflict,
    *,
    dry_run: bool,
    progress: bool,
    check: Callable[[], object] = lambda: None,
) -> list[CopyReport]:
    """Look at every pair first, so that one that does not fit is found before anything is written; then copy.

    Args:
        jobs: what to copy where.
        where: only records for which this holds.
        batch_size: see :func:`copy_store`; so are the others.
        on_conflict: what to do about an id that is there with other content.
        dry_run: compare only.
        progress: show progress bars.
        check: called in between, once it is known that all pairs fit and that the destination may be written to.
    """
    reports = list[CopyReport]()

    def so_far(inside: str) -> str:
        whole = f"{len(reports)} of {len(jobs)} collections were done. " if len(jobs) > 1 else ""
        return f"{inside or 'interrupted before anything was written'}. {whole}{_AGAIN}"

    with told_when_interrupted(so_far):
        filters = _filters(jobs, where)
        if not dry_run:
            _ask_to_write(jobs)
        check()
        _run(jobs, reports, filters, batch_size, on_conflict, dry_run=dry_run, progress=progress)
    return reports


def _run(
    jobs: Sequence[Job],
    reports: list[CopyReport],
    filters: list[Filter | None],
    batch_size: int,
    on_conflict: Conflict,
    *,
    dry_run: bool,
    progress: bool,
) -> None:
    for job, concerning in zip(jobs, filters, strict=True):
        with ExitStack() as stack:
            source = _opened(job, stack)
            there = _existing(job.target, source.spec, read_only=dry_run)
            created = there is None
            if there is None and not dry_run:
                there = open_store(job.target, source.spec)
            if there is not None:
                stack.enter_context(there)
            copy = CopyJob(source, job.name, there, str(job.target), concerning, batch_size, on_conflict, progress)
            reports.append(copy.preview(created=created) if dry_run else copy.run(created=created))


def _filters(jobs: Sequence[Job], where: Filter | None) -> list[Filter | None]:
    """Look at every job; the filter for each.

    A collection that has none of the fields of the filter is copied whole, where another has them: a concept database
    keeps the names of its concepts beside the examples.
    """
    specs = [_look(job) for job in jobs]
    named = {leaf.field for leaf in where.leaves()} if where is not None else set[str]()
    concerned = [not named.isdisjoint(spec.fields) for spec in specs]
    filters = [where if concerns or not any(concerned) else None for concerns in concerned]
    for spec, filter_ in zip(specs, filters, strict=True):
        if filter_ is not None:
            filter_.check(spec.fields)
    return filters


def _look(job: Job) -> StoreSpec:
    with ExitStack() as stack:
        source = _opened(job, stack)
        there = _existing(job.target, source.spec, read_only=True)
        if there is not None:
            there.close()
        return source.spec


def _opened(job: Job, stack: ExitStack) -> Source:
    """What to read, as the destination keeps it where that is asked to have a dtype."""
    source, dtype = job.source, dtype_option(job.target)[1]
    opened = stack.enter_context(open_store(source, read_only=True)) if isinstance(source, StoreURL) else source
    if dtype is None or dtype == opened.spec.dtype:
        return opened
    return _Converted(opened, replace(opened.spec, dtype=dtype))


@dataclass(frozen=True, slots=True)
class _Converted:
    """A source as a store of another dtype would keep it.

    Args:
        source: to read.
        spec: its own but for the dtype.
    """

    source: Source
    spec: StoreSpec

    def count(self, where: Filter | None = None) -> int:
        """How many records there are, or match."""
        return self.source.count(where)

    def scan(
        self, where: Filter | None = None, *, with_vectors: bool = False, batch_size: int = 1024
    ) -> Iterator[Records]:
        """Every record, or every match, once, with all fields."""
        for records in self.source.scan(where, with_vectors=with_vectors, batch_size=batch_size):
            if records.vectors is not None:
                rows = check_vectors(records.vectors, self.spec.dim, self.spec.metric, dtype=self.spec.dtype)
                records = replace(records, vectors=rows)
            yield records


def _existing(url: StoreURL, spec: StoreSpec, *, read_only: bool) -> EmbeddingStore | None:
    """The collection at the destination, or None; creates nothing.

    Raises:
        SpecMismatchError: it does not fit. Unlike in :func:`open_store`, a spec without a space fits no collection with
            one: vectors of unknown origin must not enter it.
    """
    try:
        store = open_store(url, read_only=read_only)
    except StoreNotFoundError:
        return None
    try:
        spec.check_against(store.spec, str(url))
        if spec.space is None and store.spec.space is not None:
            raise SpecMismatchError(
                f"{url} holds another collection",
                expected="space none, as at the source",
                got=f"space {store.spec.space.fingerprint}{STORED}",
                hint="Nothing was changed. Vectors of unknown origin do not mix with those of a known encoder.",
            )
    except SpecMismatchError:
        store.close()
        raise
    return store
