"""A session in another process: its memory is its own, and when an engine crashes the others go on.

The process ends with this one, however this one ends: the next run must not meet it at work in the same collection.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Concatenate, ParamSpec, TypeVar

from knnstore.types import StoreSpec
from knnstore.url import StoreURL
from knnstore_bench.session import Session

__all__ = ["StepFailedError", "Worker"]

P = ParamSpec("P")
T = TypeVar("T")

_SECONDS_TO_CLOSE = 30


class StepFailedError(Exception):
    """A request that failed; its text is that of the store's error, without secrets."""


class Worker:
    """The other process. It is started by the first request.

    Args:
        url: of the collection, secrets and all; they travel through a pipe and appear in no list of processes.
        spec: what it holds.
    """

    def __init__(self, url: StoreURL, spec: StoreSpec) -> None:
        # A fresh interpreter: after a fork, engines with threads of their own may hang, and memory would be shared.
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, url, spec), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: Callable[Concatenate[Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Have a method of :class:`Session` run there, and wait for what it returns.

        Raises:
            StepFailedError: it raised, or the process has died.
        """
        try:
            self._pipe.send((method.__name__, args, kwargs))
            good, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(_SECONDS_TO_CLOSE)
            raise StepFailedError(f"{method.__name__}: its process {_ended(self._process.exitcode)}") from None
        if not good:
            raise StepFailedError(value)
        result: T = value
        return result

    def stop(self) -> None:
        """Close the store, if it still can, and end the process."""
        self._pipe.close()
        self._process.join(_SECONDS_TO_CLOSE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"has ended with code {code}"
    return f"was killed by {signal.Signals(-code).name}"


def _serve(pipe: Connection, url: StoreURL, spec: StoreSpec) -> None:
    """The main function over there: requests, one after another, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that people see, which then stops this one
    threading.Thread(target=_die_with_parent, daemon=True).start()
    session = Session(url, spec)
    while True:
        try:
            name, args, kwargs = pipe.recv()
        except EOFError:
            break
        pipe.send(_outcome(session, name, args, kwargs, url))
    session.close()


def _outcome(
    session: Session, name: str, args: tuple[object, ...], kwargs: dict[str, object], url: StoreURL
) -> tuple[bool, object]:
    try:
        return True, getattr(session, name)(*args, **kwargs)
    except Exception as error:  # whatever it is, the other backends go on
        return False, url.redact(f"{type(error).__name__}: {error}")


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
