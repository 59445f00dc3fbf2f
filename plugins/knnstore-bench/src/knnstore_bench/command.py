"""``knnstore bench``. What takes long to import is imported when it runs, not when `knnstore --help` lists it."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from knnstore.errors import InvalidInputError

if TYPE_CHECKING:
    from knnstore_bench.results import Report
    from knnstore_bench.workload import Workload

__all__ = ["add_commands"]

_VECTORS, _DIM = 20_000, 384
_WIDTH = 200  # of a table that goes to a file


def add_commands(app: typer.Typer) -> None:
    """Add ``bench`` to the commands of ``knnstore``, which finds this by its entry point."""
    app.command(epilog="Example: knnstore bench memory:///a 'faiss:///tmp/b?index=HNSW32' qdrant://localhost:6334/c")(
        bench
    )


def bench(
    urls: Annotated[list[str], typer.Argument(help="Store URLs; the same backend may be given with several options.")],
    source: Annotated[str, typer.Option("--from", help="Take the vectors from this store, and queries too.")] = "",
    vectors: Annotated[int | None, typer.Option(help="How many: 20000, or all of --from.", show_default=False)] = None,
    dim: Annotated[int | None, typer.Option(help="Width of made-up vectors: 384.", show_default=False)] = None,
    metric: Annotated[
        str | None, typer.Option(help="Of made-up vectors: cosine, dot or l2.", show_default=False)
    ] = None,
    k: Annotated[int, typer.Option(help="Hits of each query.")] = 10,
    rounds: Annotated[int, typer.Option(help="Turns of each backend; more make p95 more certain.")] = 10,
    batch: Annotated[int, typer.Option(help="Records of one upsert.")] = 1000,
    out: Annotated[Path, typer.Option(help="Folder for bench.json and bench.html.")] = Path("knnstore-bench"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget an earlier run in that folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of the table.")] = False,
) -> None:
    """Do the same work on each backend: load, search with and without a filter, reopen, delete; and compare.

    Everything happens in throw-away collections below the URLs. A run that was interrupted goes on when the command is
    given again.
    """
    from knnstore_bench.page import write_page
    from knnstore_bench.runner import Plan, run_bench
    from knnstore_bench.table import as_table

    plan = Plan(k, rounds, batch, fresh)
    with _Bar() as bar:
        try:
            report = run_bench(urls, _workload(source, vectors, dim, metric), out, plan, bar)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command goes on from here") from None
    write_page(report, out / "bench.html")
    if as_json:
        typer.echo((out / "bench.json").read_text(encoding="utf-8"), nl=False)
    else:
        Console(width=None if sys.stdout.isatty() else _WIDTH).print(as_table(report))
        typer.echo(f"page: {out / 'bench.html'}")
    raise typer.Exit(1 if _failed(report) else 0)


def _failed(report: Report) -> bool:
    return any(run.failure is not None for run in report.backends)


def _workload(source: str, vectors: int | None, dim: int | None, metric: Any) -> Workload:
    from knnstore_bench.workload import from_store, made_up

    if not source:
        count, width = _VECTORS if vectors is None else vectors, _DIM if dim is None else dim
        return made_up(count, width, metric or "cosine")
    if dim is not None or metric is not None:
        raise InvalidInputError("bench", expected="--dim and --metric only without --from, which has its own")
    return from_store(source, vectors)


@dataclass
class _Bar:
    """Progress on standard error: a bar on a terminal, nothing but what is worth reading elsewhere."""

    _bar: Any = field(default=None)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, steps: int, done: int) -> None:
        from tqdm import tqdm

        if done:
            self.say(f"going on: {done} of {steps} steps are done")
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def at(self, label: str, step: str) -> None:
        if self._bar is not None:
            self._bar.set_description_str(f"{label}: {step}")

    def part(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def done(self) -> None:
        self._bar.set_postfix_str("", refresh=False)
        self._bar.update()

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
