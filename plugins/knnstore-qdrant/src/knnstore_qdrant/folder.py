"""Collections as folders on this machine: the layout, the lock, and one engine for all stores of this process.

    <folder>/qdrant-edge/collection.json     the spec and how the collection was made
    <folder>/qdrant-edge/data/               the engine's own files
    <folder>/qdrant-edge.lock                held by the process that has the collection open

Neither Qdrant Edge nor the local mode lets two processes work on one folder, so one process holds the lock, and stores
that it opens at the same folder share one engine. ``collection.json`` is written last: a process killed while it
makes a collection leaves a folder with the mark ``unfinished``, which the next one clears away.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import portalocker

from knnstore.abc import OpenRequest
from knnstore.errors import (
    InvalidURLError,
    SpecMismatchError,
    StoreBusyError,
    StoreCorruptError,
    StoreNotFoundError,
)
from knnstore.remote import Patience
from knnstore.types import StoreSpec
from knnstore.url import StoreURL

__all__ = ["Held", "Layout", "acquire", "check_created", "folder", "is_collection", "remove"]

_FILE = "collection.json"
_FOREIGN = ("edge_config.json", "segments", "meta.json")
_VERSION = 1


def folder(url: StoreURL) -> Path:
    """The folder of a collection: an absolute path.

    Raises:
        InvalidURLError: a host, or no path.
    """
    if url.host or url.port is not None or url.user:
        raise InvalidURLError(f"{url}", expected=f"three slashes, {url.backend}+{url.variant}:///folder", got="a host")
    if not url.path.strip("/") or "\0" in url.path:
        raise InvalidURLError(f"{url}", expected=f"a folder, {url.backend}+{url.variant}:///data/concepts", got="none")
    return Path(url.path)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a collection are.

    Args:
        folder: of the URL.
        kind: ``edge`` or ``local``.
    """

    folder: Path
    kind: str

    @property
    def home(self) -> Path:
        """What makes the folder a collection."""
        return self.folder / f"qdrant-{self.kind}"

    @property
    def unfinished(self) -> Path:
        """A mark: what is there is half made, or half removed."""
        return self.home / "unfinished"

    @property
    def lock(self) -> Path:
        """The file that is locked."""
        return self.folder / f"qdrant-{self.kind}.lock"

    @property
    def data(self) -> Path:
        """The engine's files."""
        return self.home / "data"

    def read(self) -> tuple[StoreSpec, dict[str, object]]:
        """The spec and the creation options.

        Raises:
            StoreCorruptError: the file is not what we write.
        """
        try:
            raw = json.loads((self.home / _FILE).read_text(encoding="utf-8"))
            if raw["version"] != _VERSION:
                raise StoreCorruptError(f"{self.home / _FILE}", expected=f"version {_VERSION}", got=raw["version"])
            return StoreSpec.from_json(raw["spec"]), dict(raw["created"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StoreCorruptError(f"{self.home / _FILE}", expected="the spec of a collection") from error

    def make(self, spec: StoreSpec, created: Mapping[str, object], build: Callable[[Path], Any]) -> Any:
        """Create the collection, with the lock held; returns the engine's object."""
        self.clear()
        self.data.mkdir(parents=True)
        self.unfinished.touch()
        engine = build(self.data)
        text = json.dumps({"version": _VERSION, "spec": spec.to_json(), "created": dict(created)})
        partial = self.home / f"{_FILE}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(self.home / _FILE)
        self.unfinished.unlink()
        return engine

    def clear(self) -> None:
        """Remove everything of ours, with the lock held; the file that makes it a collection goes first."""
        if self.home.exists():
            self.unfinished.touch()
            (self.home / _FILE).unlink(missing_ok=True)
            shutil.rmtree(self.home)


def is_collection(layout: Layout) -> bool:
    """Whether a collection of ours is there."""
    return (layout.home / _FILE).is_file()


@dataclass(slots=True, eq=False)
class Held:
    """An open collection, shared by the stores of this process.

    Args:
        layout: where.
        spec: what it holds.
        created: how it was made.
        engine: the engine's own object.
        lock: held.
    """

    layout: Layout
    spec: StoreSpec
    created: dict[str, object]
    engine: Any
    lock: portalocker.Lock
    pid: int = field(default_factory=os.getpid)
    users: int = 0
    writes: int = 0
    unflushed: int = 0
    mutex: threading.RLock = field(default_factory=threading.RLock)
    token: str = field(default_factory=lambda: os.urandom(8).hex())

    def check_process(self) -> None:
        """Refuse to work in a forked child: the engine's threads are not there, and its files belong to the parent.

        Raises:
            StoreBusyError: this process is not the one that opened the store.
        """
        if self.pid != os.getpid():
            raise StoreBusyError(
                f"{self.layout.folder} is held by process {self.pid}, which forked this one ({os.getpid()})",
                hint="Open the store in one process only, after forking; or use a Qdrant server.",
            )

    def revision(self) -> str:
        """Another text after each write; nobody else can write while we hold the lock."""
        return f"{self.token}-{self.writes}"

    def bytes_on_disk(self) -> int:
        """What the engine's files take; they are sparse, so their blocks count and not their lengths."""
        return sum(path.stat().st_blocks * 512 for path in self.layout.data.rglob("*") if path.is_file())

    def release(self) -> None:
        """One store less; the last one closes the engine and gives the lock back."""
        if self.pid != os.getpid():
            return
        with _gate:
            self.users -= 1
            if self.users:
                return
            _held.pop(self.layout.home, None)
            try:
                self.engine.close()
            finally:
                self.lock.release()


_gate = threading.RLock()
_held: dict[Path, Held] = {}


def acquire(
    request: OpenRequest,
    *,
    timeout: float,
    created: Mapping[str, object],
    build: Callable[[Path], Any],
    load: Callable[[Path], Any],
) -> Held:
    """Open or create the collection of a URL.

    Args:
        request: what was asked for.
        timeout: seconds to wait for the lock.
        created: the creation options of the URL.
        build: makes an empty engine in a folder.
        load: opens the engine in a folder.

    Raises:
        StoreNotFoundError: nothing there, and no spec or read-only.
        StoreBusyError: another process has it open.
        SpecMismatchError: another spec, other creation options, or a folder of Qdrant's that is not ours.
    """
    layout = Layout(folder(request.url), request.url.variant)
    with _gate:
        held = _held.get(layout.home)
        if held is None or held.pid != os.getpid():
            held = _open(layout, request, timeout, created, build, load)
        held.users += 1
    try:
        if request.spec is not None:
            request.spec.check_against(held.spec, str(request.url))
        check_created(created, held.created, str(request.url))
    except BaseException:
        held.release()
        raise
    return held


def _open(
    layout: Layout,
    request: OpenRequest,
    timeout: float,
    created: Mapping[str, object],
    build: Callable[[Path], Any],
    load: Callable[[Path], Any],
) -> Held:
    if not is_collection(layout) and (request.spec is None or request.read_only):
        raise StoreNotFoundError(f"nothing is stored at {request.url}", hint="Give a spec to create it.")
    _refuse_foreign(layout, str(request.url), _FOREIGN)
    layout.folder.mkdir(parents=True, exist_ok=True)
    lock = _locked(layout, timeout)
    try:
        if is_collection(layout):
            engine = Patience(timeout, retries=1000).call(lambda _: load(layout.data), _in_use)
        else:
            assert request.spec is not None  # seen above
            if not layout.unfinished.exists():  # looked for with the lock held: nobody is just making one
                _refuse_foreign(layout, str(request.url), [layout.home.name])
            engine = layout.make(request.spec, created, build)
        held = Held(layout, *layout.read(), engine, lock)
    except BaseException:
        lock.release()
        raise
    _held[layout.home] = held
    return held


def _refuse_foreign(layout: Layout, where: str, names: Iterable[str]) -> None:
    """Touch nothing that somebody else has made with Qdrant."""
    foreign = [name for name in names if (layout.folder / name).exists()]
    if foreign:
        raise SpecMismatchError(
            where, expected="a folder made by knnstore, or a new one", got=f"one with {', '.join(foreign)}"
        )


def _in_use(error: Exception) -> bool:
    """Whether an engine says that another process has its files: one that ends lets go of our lock before them."""
    return "WouldBlock" in str(error) or "already accessed" in str(error)


def _locked(layout: Layout, timeout: float) -> portalocker.Lock:
    lock = portalocker.Lock(
        layout.lock, "a", timeout=timeout, check_interval=0.05,
        flags=portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING,
    )  # fmt: skip
    try:
        lock.acquire()
    except portalocker.exceptions.LockException as error:
        raise StoreBusyError(
            f"{layout.folder} is open in another process",
            hint="Close it there, raise ?timeout= (seconds) to wait longer, or use a Qdrant server.",
        ) from error
    return lock


def remove(layout: Layout, timeout: float, empty: Callable[[Path], bool]) -> bool:
    """Remove a collection if ``empty`` says so of its data; returns whether it has.

    Raises:
        StoreBusyError: it is open, here or in another process.
    """
    lock = _locked(layout, timeout)
    try:
        layout.read()  # ours, and readable
        if not empty(layout.data):
            return False
        layout.clear()
        layout.lock.unlink(missing_ok=True)
    finally:
        lock.release()
    if not any(layout.folder.iterdir()):
        layout.folder.rmdir()
    return True


def check_created(wanted: Mapping[str, object], there: Mapping[str, object], where: str) -> None:
    """Refuse creation options that are not those of the collection; what is not said is not compared.

    Raises:
        SpecMismatchError: naming every difference.
    """
    wrong = {name: value for name, value in wanted.items() if there.get(name) != value}
    if wrong:
        raise SpecMismatchError(
            f"{where} was made with other options",
            expected=", ".join(f"{name}={value}" for name, value in wrong.items()),
            got=", ".join(f"{name}={there.get(name, 'default')}" for name in wrong),
            hint="Nothing was changed. Leave these options out, or copy the records into a new collection.",
        )
