"""The command ``knnstore``. The commands themselves are in :mod:`knnstore._commands`, which needs the extra ``cli``.

Exit codes: 0 all is well; 1 a check failed, or the store reported an error; 2 the command line or the URL makes no
sense, or something is not installed; 130 interrupted. With ``--json`` an error is one JSON document on standard output
too, beside the sentence on standard error.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from knnstore.errors import BackendUnavailableError, InvalidInputError, KnnStoreError, UnknownBackendError
from knnstore.url import without_urls

__all__ = ["main", "run_app"]

_INTERRUPTED = 130
"""128 and the number of SIGINT, as shells have it."""


def main() -> None:
    """Run the command line; the console script ``knnstore``."""
    run_app(_app, "knnstore", _explained)


def _app() -> None:
    from knnstore._commands import app

    app()


def _explained(error: Exception) -> tuple[str, int] | None:
    if isinstance(error, ModuleNotFoundError) and error.name in ("typer", "click", "rich"):
        return f"the command line needs {error.name}. Install it with: pip install 'knnstore[cli]'", 2
    if isinstance(error, InvalidInputError | UnknownBackendError | BackendUnavailableError):
        return str(error), 2
    return (str(error), 1) if isinstance(error, KnnStoreError | OSError) else None  # a file that cannot be written


def run_app(app: Callable[[], object], prefix: str, explained: Callable[[Exception], tuple[str, int] | None]) -> None:
    """Run a command line, and turn what it raises into a sentence and an exit code.

    Args:
        app: the command line, made by typer.
        prefix: the name of the command, which the sentence of an error begins with.
        explained: the sentence and the exit code of an error; None for one that is nobody's but ours.

    Raises:
        SystemExit: always, but for an error that is not explained.
    """
    # Before a library that uses OpenMP is loaded, which reads it once: threads that wait by spinning take the cores
    # from those that they wait for, wherever anything else runs on the machine. It changes no result.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        _run(app, prefix, explained)
    except KeyboardInterrupt as stop:  # a second one, while the first is being told
        raise SystemExit(_interrupted(stop)) from None
    finally:
        _let_it_end()


def _run(app: Callable[[], object], prefix: str, explained: Callable[[Exception], tuple[str, int] | None]) -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label that the terminal has no letters for is not an error
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        raise SystemExit(_ended(end)) from None
    except KeyboardInterrupt as stop:
        raise SystemExit(_interrupted(stop)) from None
    except Exception as error:
        said = explained(error)
        if said is None:
            raise
        text = without_urls("\n".join([said[0], *_notes(error)]), sys.argv[1:])
        sys.stderr.write(f"{prefix}: {text}\n")
        _print_json(error, text)
        raise SystemExit(said[1]) from None


def _let_it_end() -> None:
    """Ctrl-C changes nothing any more: the exit code is known, and Python would die of it on its way out.

    It would die of one that has been told, too, if that came while it ran code from a text, as dataclasses are made: it
    keeps a note of that until it runs another text.
    """
    exec("")  # noqa: S102  # the other text
    # When it ends, and not now: a program that called a command in its own process goes on.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)


def _ended(end: SystemExit) -> object:
    """The exit code of what typer has handled itself, and has told people but not programs."""
    for reason in _reasons(end):
        if isinstance(reason, KeyboardInterrupt):
            return _interrupted(reason)
        if callable(message := getattr(reason, "format_message", None)):  # wrong usage; printed already
            _print_json(reason, message())
            break
    return end.code


def _interrupted(stop: KeyboardInterrupt) -> int:
    text = "\n".join([str(stop) or "interrupted", *_notes(stop)])
    sys.stderr.write(f"\n{text}\n")
    _print_json(stop, text)
    return _INTERRUPTED


def _notes(error: BaseException) -> list[str]:
    """What a long step has done before it ended."""
    return list(getattr(error, "__notes__", ()))


def _reasons(error: BaseException) -> Iterator[BaseException]:
    reason = error.__cause__ or error.__context__
    while reason is not None:
        yield reason
        reason = reason.__cause__ or reason.__context__


def _print_json(error: BaseException, message: str) -> None:
    """The error for a program, where it has asked for JSON."""
    if "--json" in sys.argv:
        parts: dict[str, Any] = {"type": type(error).__name__, "message": message}
        for name in ("expected", "got", "hint"):
            value = getattr(error, name, None)
            parts[name] = None if value in (None, "") else without_urls(str(value), sys.argv[1:])
        sys.stdout.write(json.dumps({"error": parts}, indent=2) + "\n")


if __name__ == "__main__":
    main()
