"""Work done later or at the same time: made once on first use, read ahead, done for several at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["Later", "ahead", "batched", "each"]

T = TypeVar("T")
R = TypeVar("R")


class Later(Generic[T]):
    """Something that is made when it is first needed, by one thread, while others that need it wait.

    Where making it fails, whoever needs it next tries again.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._lock = make, Lock()
        self._made: list[T] = []

    @classmethod
    def of(cls, value: T) -> Later[T]:
        """Something that is there already."""
        later = cls(lambda: value)
        later.get()
        return later

    @property
    def made(self) -> T | None:
        """The thing, if it was made already."""
        return self._made[0] if self._made else None

    def get(self) -> T:
        """The thing, made now if it was not yet."""
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]


def each(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results for each item, in order, computed in as many threads as there are cores to use.

    For work that lets go of Python's lock, as NumPy, SciPy, scikit-image, Pillow and torch do. The first error is
    raised once all are done.
    """
    if len(items) < 2 or (cores := _cores()) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(len(items), cores), "knnseg") as pool:
        return list(pool.map(function, items))


def ahead(items: Iterable[T], count: int = 1) -> Iterator[T]:
    """The same items; while one is worked with, up to ``count`` of the next are asked for in a thread."""
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1, "knnseg-ahead")
    try:
        waiting = deque(pool.submit(next, iterator, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, iterator, end))
            yield item  # type: ignore[misc]  # not the end
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of ``size`` items, the last with what is left."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
