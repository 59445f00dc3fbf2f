"""What is measured, as data; pydantic reads and writes it as JSON. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "FORMAT",
    "BackendRun",
    "Deleted",
    "Detail",
    "Failure",
    "Footprint",
    "Loaded",
    "Machine",
    "Opened",
    "Quality",
    "Report",
    "Round",
    "Work",
]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Detail:
    """A name and what it stands for: a version, or a figure that a backend reports."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured."""

    system: str
    cpu: str
    cores: int
    memory: int
    versions: tuple[Detail, ...]
    threads: tuple[Detail, ...]


@dataclass(frozen=True, slots=True)
class Work:
    """What every backend had to do. Results of unequal work are never put side by side.

    Args:
        source: where the vectors come from.
        digest: identifies the records, the queries and the filter.
        records: N.
        dim: D.
        metric: the metric.
        queries: queries of one batch.
        k: hits of each query.
        filter: as text, "" for none.
        filter_share: share of the records that it lets through.
        rounds: turns of each backend.
        batch: records of one upsert and of one delete.
        urls: the backends, in order, without secrets.
    """

    source: str
    digest: str
    records: int
    dim: int
    metric: str
    queries: int
    k: int
    filter: str
    filter_share: float
    rounds: int
    batch: int
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Opened:
    """What the backend says of itself once it is open.

    Args:
        seconds: until the collection was there, empty; the client library is imported in this time.
        process: growth of the resident memory by that: what the client library takes.
        server: the data lives in another process.
        persistent: it is there after the process ends.
        approximate: a search may miss some of the true neighbours.
    """

    seconds: float
    process: int
    server: bool
    persistent: bool
    approximate: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """All records written and settled: the time inside ``upsert`` and ``flush``."""

    seconds: float
    records: int


@dataclass(frozen=True, slots=True)
class Round:
    """One turn: seconds of each search, with one query, with a batch, and with one query and the filter."""

    single: tuple[float, ...]
    batch: tuple[float, ...]
    filtered: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Quality:
    """Share of the true neighbours that are found, among all records and among those that match the filter.

    Args:
        recall: among all.
        filtered: among those that match; None without a filter.
        indexed: records that an approximate index covered then; None where there is no such thing.
    """

    recall: float
    filtered: float | None
    indexed: int | None = None


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the records take. None is "not told".

    Args:
        on_disk: as the store tells.
        in_memory: as the store tells.
        process: growth of the resident memory of a process that has opened it and searched, what opening took included.
        details: whatever else the store tells.
    """

    on_disk: int | None
    in_memory: int | None
    process: int
    details: tuple[Detail, ...]


@dataclass(frozen=True, slots=True)
class Deleted:
    """Removing a tenth of the records by id, then those that match the filter."""

    by_id: int
    by_id_seconds: float
    by_filter: int
    by_filter_seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """The step that failed, and the text of the error without secrets."""

    step: str
    error: str


@dataclass(frozen=True, slots=True)
class BackendRun:
    """One backend. A step that has been measured is here; one that has not is None.

    Args:
        url: where, without secrets.
        label: what it is called on the page.
        collection: name of its collection below the URL.
        opened: first step.
        loaded: all records written.
        first_answer: seconds from there to the first answer.
        optimized: seconds that ``optimize`` took.
        rounds: the searches.
        quality: recall, once it is optimised.
        fresh: recall before that.
        footprint: disk and memory.
        reopened: seconds of each closing, opening and first answer; empty where nothing is kept.
        deleted: deleting.
        failure: why it went no further, None if it did.
        left: why its collection is still there; None once it has been removed.
    """

    url: str
    label: str
    collection: str
    opened: Opened | None = None
    loaded: Loaded | None = None
    first_answer: float | None = None
    optimized: float | None = None
    rounds: tuple[Round, ...] = ()
    quality: Quality | None = None
    footprint: Footprint | None = None
    reopened: tuple[float, ...] | None = None
    deleted: Deleted | None = None
    failure: Failure | None = None
    left: str | None = "not removed yet"
    fresh: Quality | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured.

    Args:
        format: of this file.
        started: day and time, UTC.
        work: what was done.
        machine: where.
        backends: in the order of the URLs.
    """

    format: int
    started: str
    work: Work
    machine: Machine
    backends: tuple[BackendRun, ...]
