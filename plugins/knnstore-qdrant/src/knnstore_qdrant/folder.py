"""Collections as folders on this machine: the layout, the lock, and one engine for all stores of this process.

    <folder>/qdrant-edge/collection.json     the spec and how the collection was made
    <folder>/qdrant-edge/data/               the engine's own files
    <folder>/qdrant-edge/revision            the mark of what is there; away from the first write on, until closing
    <folder>/qdrant-edge.lock                held by the process that has the collection open

Qdrant Edge does not let two processes work on one folder, so one process holds the lock, and stores that it opens at
the same folder share one engine. ``collection.json`` is written last, and removed first: a process
killed while it makes or removes a collection leaves a folder with the mark ``unfinished``, or one without any file,
and the next one clears either away.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4
from weakref import WeakValueDictionary

from filelock import lock_descriptor

from knnstore.abc import OpenRequest
from knnstore.errors import (
    SpecMismatchError,
    StoreBusyError,
    StoreClosedError,
    StoreCorruptError,
    StoreFullError,
    StoreNotFoundError,
)
from knnstore.folders import folder_of
from knnstore.options import check_created
from knnstore.remote import Patience
from knnstore.types import StoreSpec

__all__ = ["Held", "Layout", "acquire", "is_collection", "remove"]

_FILE = "collection.json"
_FOREIGN = ("edge_config.json", "segments", "meta.json")
_VERSION = 1
_WAIT = "Close it there, raise ?timeout= (seconds) to wait longer, or use a Qdrant server."


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parts of a collection are.

    Args:
        folder: of the URL.
    """

    folder: Path

    @property
    def home(self) -> Path:
        """What makes the folder a collection."""
        return self.folder / "qdrant-edge"

    @property
    def unfinished(self) -> Path:
        """A mark: what is there is half made, or half removed."""
        return self.home / "unfinished"

    @property
    def lock(self) -> Path:
        """The file that is locked."""
        return self.folder / "qdrant-edge.lock"

    @property
    def revision(self) -> Path:
        """A mark as on a server, see mark.py, with which the next one who opens the collection goes on.

        It is not there while somebody writes, or was killed writing: then there is a new one.
        """
        return self.home / "revision"

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
        self.home.mkdir()
        self.unfinished.touch()
        self.data.mkdir()
        engine = build(self.data)
        text = json.dumps({"version": _VERSION, "spec": spec.to_json(), "created": dict(created)})
        partial = self.home / f"{_FILE}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.rename(self.home / _FILE)
        self.unfinished.unlink()
        return engine

    def clear(self) -> None:
        """Remove everything of ours, with the lock held: first what makes it a collection, the mark last."""
        if self.home.exists():
            self.unfinished.touch()
            (self.home / _FILE).unlink(missing_ok=True)
            if self.data.exists():
                shutil.rmtree(self.data)
            (self.home / f"{_FILE}.partial").unlink(missing_ok=True)
            self.revision.unlink(missing_ok=True)
            self.unfinished.unlink()
            self.home.rmdir()

    def half_made(self) -> bool:
        """Whether what is there may be cleared away: nothing, or what a killed process has left."""
        return self.unfinished.exists() or not any(path.is_file() for path in self.home.rglob("*"))


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
        lock: locked for as long as it is open.
    """

    layout: Layout
    spec: StoreSpec
    created: dict[str, object]
    engine: Any
    lock: BinaryIO
    pid: int = field(default_factory=os.getpid)
    mark: str = ""
    users: int = 0
    unflushed: int = 0
    mutex: threading.RLock = field(default_factory=threading.RLock)
    calls: int = 0
    closed: bool = False
    idle: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        with suppress(OSError):
            self.mark = self.layout.revision.read_text(encoding="utf-8")
        if not self.mark:
            self.mark = uuid4().hex
            self._keep_mark()  # now: who only reads may be killed too

    def _keep_mark(self) -> None:
        with suppress(OSError):  # without it the next one has a new mark, and looks again at what it knew
            self.layout.revision.write_text(self.mark, encoding="utf-8")

    @contextmanager
    def used(self) -> Iterator[Any]:
        """The engine, for one call; closing waits until it is over.

        Raises:
            StoreClosedError: the last store has been closed, which another thread may have done.
        """
        with self.idle:
            if self.closed:
                raise StoreClosedError(f"{self.layout.folder} was closed while it was in use")
            self.calls += 1
        try:
            yield self.engine
        finally:
            with self.idle:
                self.calls -= 1
                self.idle.notify_all()

    @contextmanager
    def written(self) -> Iterator[None]:
        """Another revision once a write is done, and not before it: who sees the new one must see what was written."""
        self.layout.revision.unlink(missing_ok=True)
        try:
            yield
        finally:
            self.mark = uuid4().hex

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

    def check_there(self) -> None:
        """Refuse to write into a folder that has been removed, whoever has made another one in its place.

        Raises:
            StoreNotFoundError: the file that we hold the lock of is not the one that is there.
            StoreClosedError: as for :meth:`used`.
        """
        with self.used():
            there = _still_at(self.layout.lock, self.lock)
        if not there:
            raise StoreNotFoundError(
                f"{self.layout.folder} was removed while it was open",
                hint="Nothing was written. Close all stores of this folder and open it again.",
            )

    def revision(self) -> str:
        """Another text after each write; nobody else can write while we hold the lock."""
        return self.mark

    def need_space(self, size: int) -> None:
        """Refuse to grow where the disk may not hold it.

        Raises:
            StoreFullError: fewer bytes than this are free.
        """
        free = shutil.disk_usage(self.layout.data).free
        if free < size:
            raise StoreFullError(
                f"{self.layout.folder}: free space on its disk",
                expected=f"at least {size / 2**20:.0f} MiB",
                got=f"{free / 2**20:.0f} MiB",
                hint="Free some space; nothing of this request was written.",
            )

    def bytes_on_disk(self) -> int:
        """What the engine's files take; they are sparse, so their blocks count and not their lengths."""
        return sum(path.stat().st_blocks * 512 for path in self.layout.data.rglob("*") if path.is_file())

    def release(self) -> None:
        """One store less; the last one waits for calls in other threads, closes the engine and gives the lock back."""
        if self.pid != os.getpid():
            return
        with _door(self.layout.home):
            self.users -= 1
            if self.users:
                return
            _held.pop(self.layout.home, None)
            with self.idle:
                self.closed = True
                self.idle.wait_for(lambda: not self.calls)
            try:
                self.engine.close()
                self._keep_mark()
            finally:
                self.lock.close()


_gate = threading.Lock()
_held: dict[Path, Held] = {}
_doors: WeakValueDictionary[Path, Any] = WeakValueDictionary()


def _door(home: Path) -> Any:
    """The lock of one folder within this process, for opening and closing it; other folders are not held up."""
    with _gate:
        return _doors.setdefault(home, threading.RLock())


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
    layout = Layout(folder_of(request.url))
    door = _door(layout.home)
    if not door.acquire(timeout=timeout):
        raise StoreBusyError(f"{layout.folder} is being opened or closed by another thread", hint=_WAIT)
    try:
        held = _held.get(layout.home)
        if held is None or held.pid != os.getpid():
            held = _open(layout, request, timeout, created, build, load)
        held.users += 1
    finally:
        door.release()
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
            engine = Patience(timeout, answered=True).call(lambda _: load(layout.data), _in_use)
            layout.unfinished.unlink(missing_ok=True)  # killed between the last two steps of making it
        else:
            assert request.spec is not None  # seen above
            if not layout.half_made():  # looked for with the lock held: nobody is just making one
                _refuse_foreign(layout, str(request.url), [layout.home.name])
            engine = layout.make(request.spec, created, build)
        held = Held(layout, *layout.read(), engine, lock)
    except BaseException:
        lock.close()
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


def _locked(layout: Layout, timeout: float) -> BinaryIO:
    end = time.monotonic() + timeout
    while True:
        file = layout.lock.open("ab")
        # One that was removed with its collection while we waited guards nothing: the next one will lock another file.
        if lock_descriptor(file.fileno(), blocking=False) and _still_at(layout.lock, file):
            return file
        file.close()
        if time.monotonic() > end:
            raise StoreBusyError(f"{layout.folder} is open in another process", hint=_WAIT)
        time.sleep(0.05)


def _still_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def remove(layout: Layout, timeout: float, empty: Callable[[Path], bool]) -> bool:
    """Remove a collection if ``empty`` says so of its data; returns whether it has.

    Raises:
        StoreBusyError: it is open, here or in another process.
    """
    held = _held.get(layout.home)
    if held is not None and held.pid == os.getpid():
        raise StoreBusyError(f"{layout.folder} is open in this process", hint="Close its stores first.")
    lock = _locked(layout, timeout)
    try:
        layout.read()  # ours, and readable
        if not empty(layout.data):
            return False
        layout.clear()
        layout.lock.unlink(missing_ok=True)
    finally:
        lock.close()
    if not any(layout.folder.iterdir()):
        layout.folder.rmdir()
    return True
