"""What every backend of a server needs: bounded patience, and requests of a size that the server takes.

>>> from knnstore.remote import Patience
>>> replies = iter([ConnectionError("busy"), "done"])
>>> def attempt(seconds_left):
...     reply = next(replies)
...     if isinstance(reply, Exception):
...         raise reply
...     return reply
>>> Patience(timeout=5, retries=2).call(attempt, retriable=lambda error: isinstance(error, ConnectionError))
'done'
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import tenacity
from numpy.typing import NDArray

from knnstore.errors import KnnStoreError, StoreAuthenticationError, StoreClosedError
from knnstore.types import Batch

__all__ = [
    "Patience", "PerProcess", "is_loopback", "keep_grpc_up", "may_not_write", "record_bytes", "row_slices", "slices",
    "upload",
]  # fmt: skip

T = TypeVar("T")


class _Closable(Protocol):
    def close(self) -> object: ...


C = TypeVar("C", bound=_Closable)


_UNANSWERED = 3
"""Tries of one call as long as nothing was ever answered: a wrong host or port is told at once."""


@dataclass(slots=True, eq=False)
class Patience:
    """How long one request may take, and how often it is tried: one for each server, whose answers it remembers.

    The time decides: a server that has answered before is asked again, after growing pauses, until time is up. One that
    has never answered is more likely not there at all, and is given up after three tries.

    Args:
        timeout: seconds for one request with all its retries and the pauses between them.
        retries: how often a request that failed is sent again, at most.
        answered: whether a call has succeeded yet; set by the first one that does.
    """

    timeout: float = 30.0
    retries: int = 1000
    answered: bool = False

    def call(
        self,
        attempt: Callable[[float], T],
        retriable: Callable[[Exception], bool],
        *,
        timeout: float | None = None,
    ) -> T:
        """Try until it succeeds, fails for good, or time is up; pauses are random, up to 0.1 s at first and 2 s later.

        Args:
            attempt: sends the request; it is given the seconds that are left and must not take longer.
            retriable: whether an exception may be gone at another try. Only requests that can be repeated without harm
                may come here; upserts and deletes of a store can.
            timeout: for this request, where it may take longer than others.

        Raises:
            Exception: whatever the last attempt has raised.
        """
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        time_is_up = tenacity.stop_before_delay(seconds)
        trials = tenacity.Retrying(
            stop=lambda state: self._tried_enough(state) or time_is_up(state),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            retry=tenacity.retry_if_exception(lambda e: isinstance(e, Exception) and retriable(e)),
            reraise=True,
        )
        answer = trials(lambda: attempt(max(deadline - time.monotonic(), 0.001)))
        self.answered = True
        return answer

    def _tried_enough(self, state: tenacity.RetryCallState) -> bool:
        most = self.retries + 1
        return state.attempt_number >= (most if self.answered else min(most, _UNANSWERED))


class PerProcess(Generic[C]):
    """A server's client, made for each process at its first call, since none survives a fork, and closed once for all.

    Args:
        where: the server, for the error.
        make: makes a client, which has a method ``close``.
        patience: with the server.
        retriable: see :meth:`Patience.call`.
    """

    def __init__(
        self, where: str, make: Callable[[], C], patience: Patience, retriable: Callable[[Exception], bool]
    ) -> None:
        self._where, self._make, self._patience, self._retriable = where, make, patience, retriable
        self._gate, self._closed = threading.Lock(), False
        self._made: tuple[int, C] | None = None

    def call(self, send: Callable[[C, float], T], *, timeout: float | None = None) -> T:
        """Send a request, again where that may help.

        Args:
            send: is given the client of this process and the seconds that are left.
            timeout: see :meth:`Patience.call`.

        Raises:
            StoreClosedError: closed before, or meanwhile, whatever the client calls that.
            Exception: whatever the last attempt has raised.
        """
        try:
            return self._patience.call(
                lambda left: send(self._current(), left),
                lambda error: not self._closed and self._retriable(error),
                timeout=timeout,
            )
        except Exception as error:
            if self._closed and not isinstance(error, StoreClosedError):
                raise self._error() from error
            raise

    def _current(self) -> C:
        with self._gate:
            if self._closed:  # a call that was on its way must not make another client, which nobody would close
                raise self._error()
            if self._made is None or self._made[0] != os.getpid():
                self._made = os.getpid(), self._make()
            return self._made[1]

    def _error(self) -> StoreClosedError:
        return StoreClosedError(f"{self._where} was closed while it was in use")

    def close(self) -> None:
        """Close the client of this process, and make no other; that of a parent is left alone."""
        with self._gate:
            self._closed = True
            if self._made is not None and self._made[0] == os.getpid():
                self._made[1].close()
            self._made = None


@cache
def keep_grpc_up() -> Any:
    """A gRPC channel that is never used nor closed, for a backend that speaks gRPC to ask for before it makes its own.

    After the last channel is closed gRPC ends its threads in the background, and a child that is forked at that moment
    has a lock that nobody opens: it would hang in making its own channel, and no timeout could end that.
    """
    return import_module("grpc").insecure_channel("localhost:1")


def is_loopback(host: str) -> bool:
    """Whether a host is this machine."""
    return host in ("localhost", "::1") or host.startswith("127.")


def record_bytes(batch: Batch) -> NDArray[np.int64]:
    """About what each record takes in a request: int64 (N,). Numbers count 16, for their framing."""
    sizes = np.full(len(batch), 4 * batch.vectors.shape[1] + 64, np.int64)
    sizes += _text_bytes(batch.ids)
    for column in batch.fields.values():
        sizes += 16
        if column.dtype == object:
            sizes += _text_bytes(column)
    return sizes


def _text_bytes(texts: Iterable[str]) -> NDArray[np.int64]:
    return np.fromiter((len(text.encode()) for text in texts), np.int64)


def slices(sizes: NDArray[np.int64], max_bytes: int, max_count: int) -> Iterator[slice]:
    """Cut a sequence of things of these sizes into runs that are small enough; a thing that is too large goes alone."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + max_bytes, side="right"))
        stop = min(max(stop, start + 1), start + max_count)
        yield slice(start, stop)
        start = stop


def may_not_write(what: str, options: str, got: str = "one that may only read") -> StoreAuthenticationError:
    """What to raise where a server lets the caller read and not write.

    Args:
        what: where, and what the server has said.
        options: those of the URL that say who asks.
        got: what is known of who asks.
    """
    return StoreAuthenticationError(
        what,
        expected="a key or a user that may write",
        got=got,
        hint=f"Give another one ({options}); to read, open the store with read_only=True.",
    )


def row_slices(rows: int, row_bytes: int, max_bytes: int, max_count: int) -> Iterator[slice]:
    """The same for rows of one size, such as queries."""
    step = max(1, min(max_count, max_bytes // max(row_bytes, 1)))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def upload(
    batch: Batch,
    send: Callable[[Batch], int],
    as_ours: Callable[[Exception], KnnStoreError],
    *,
    max_bytes: int,
    max_count: int,
) -> int:
    """Write a batch in requests of bounded size, in order, each of them whole or not at all.

    Args:
        batch: what to write.
        send: writes a part and returns how many records it wrote, once the server has acknowledged them.
        as_ours: turns the engine's exception into one of ours.
        max_bytes: of one request, about; see :func:`record_bytes`.
        max_count: records of one request.

    Returns:
        How many records were written.

    Raises:
        KnnStoreError: a part failed. Its message says how many records had been acknowledged before.
    """
    written = 0
    for part in slices(record_bytes(batch), max_bytes, max_count):
        try:
            written += send(batch.part(part))
        except Exception as error:
            ours = error if isinstance(error, KnnStoreError) else as_ours(error)
            if part.start:
                ours.args = (f"{ours} {_so_far(part.start, len(batch))}", *ours.args[1:])
            if ours is error:
                raise
            raise ours from error
    return written


def _so_far(done: int, total: int) -> str:
    return f"The first {done} of {total} records of the call had been written; writing all of them again is safe."
