"""``knnstore check``: the conformance kit against a store, and how far it has come."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from knnstore._options import Json, Url, print_json, print_line
from knnstore.errors import BackendUnavailableError

if TYPE_CHECKING:
    from knnstore.testing.live import CheckResult

__all__ = ["check"]

_EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


def check(
    url: Url,
    test: Annotated[list[str] | None, typer.Option(help="Run only this check; may be given more than once.")] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only some checks of each rule: minutes on a server."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run the conformance kit against a store, in throw-away collections below the URL.

    What is stored at the URL itself is not touched. The collections are emptied and removed afterwards; the report
    lists those that the backend cannot remove. What the backend declares that its engine cannot do is run and counts as
    a gap, not as a failure. How far it has come is said on standard error. Needs the extra `testing`.
    """
    try:
        from knnstore.testing.live import check_store
    except ModuleNotFoundError as error:
        if error.name not in ("pytest", "hypothesis"):
            raise
        raise BackendUnavailableError(
            f"check needs {error.name}", hint="Install it with: pip install 'knnstore[testing]'"
        ) from error
    with _Progress() as progress:
        report = check_store(url, tests=test or (), quick=quick, on_start=progress.at, on_result=progress.done)
    if as_json:
        print_json({**asdict(report), "ok": report.ok})
    else:
        print_line(report.summary())
    raise typer.Exit(0 if report.ok else 1)


class _Progress:
    """On standard error: a bar on a terminal; elsewhere a line every few seconds, also during a long check."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._total, self._done, self._failed, self._name, self._since = 0, 0, 0, "", time.monotonic()
        self._over = threading.Event()
        self._beat = threading.Thread(target=self._say_now_and_then, daemon=True)

    def __enter__(self) -> Self:
        if not sys.stderr.isatty():
            self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._beat.is_alive():
            self._beat.join()
        if self._bar is not None:
            self._bar.close()

    def at(self, name: str, total: int) -> None:
        """A check begins."""
        if self._bar is None and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="check", dynamic_ncols=True, file=sys.stderr)
        self._name, self._total, self._since = name, total, time.monotonic()
        if self._bar is not None:
            self._bar.set_description_str(name)

    def done(self, result: CheckResult) -> None:
        """A check has ended; a failure in cleaning up comes beside it, and is not a check of its own."""
        self._failed += result.outcome in ("failed", "gap closed")
        if result.name != self._name:
            return
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._failed} failed" if self._failed else "", refresh=False)
            self._bar.update()

    def _say_now_and_then(self) -> None:
        while not self._over.wait(_EVERY):
            if self._name:
                line = f"{self._done} of {self._total} checks, {self._failed} failed; {self._name}"
                typer.echo(f"{line} since {time.monotonic() - self._since:.0f} s", err=True)
