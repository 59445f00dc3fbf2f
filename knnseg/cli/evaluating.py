"""What `knnseg eval` does once it has a segmenter and labelled images, and the tables that it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from knnseg.errors import told
from knnstore._options import counted

if TYPE_CHECKING:
    from knnseg.data.vocabulary import Vocabulary
    from knnseg.datasets import LabelledImages
    from knnseg.evaluation import Journal
    from knnseg.evaluation.report import Standing
    from knnseg.segmenter import Segmenter

__all__ = ["print_report", "run_eval", "source_of", "split_of"]

_ALL = 12
"""So many classes are all printed."""
_FEW = 5
"""Of more classes than fit, how many are shown of those that gained most, lost most, and are worst."""


def source_of(**given: object) -> dict[str, Any]:
    """What the options for labelled images say, as JSON has it; options that are not given are left out.

    Paths are in full, and those of files with a digest: a list of classes that has changed is another setting.
    """
    from knnseg.evaluation.settings import digest

    def plain(value: object) -> Any:
        if isinstance(value, tuple):
            return [plain(entry) for entry in value]
        if isinstance(value, Path):
            return f"{value.absolute()} {digest(value)}" if value.is_file() else str(value.absolute())
        return value

    return {name: plain(value) for name, value in given.items() if value not in (None, "")}


def split_of(dataset: str | None, split: str) -> str:
    """The split by its name, or the default where it was not given."""
    from knnseg.datasets import benchmarks

    return split or (benchmarks()[dataset].evaluation if dataset else "")


def run_eval(
    segmenter: Segmenter,
    examples: LabelledImages,
    vocabulary: Vocabulary,
    source: Mapping[str, Any],
    *,
    out: Path | None = None,
    restart: bool = False,
    limit: int | None = None,
    pictures: int = 6,
    strict: bool = False,
) -> dict[str, Any]:
    """Measure, and with ``out`` keep the progress there and write ``report.json`` and ``report.html``.

    Returns:
        :meth:`knnseg.evaluation.Report.to_dict`, and the ``settings``.
    """
    from knnseg.evaluation import Journal, evaluate, settings_of
    from knnseg.evaluation.page import write_page

    settings = settings_of(segmenter, examples, vocabulary, source)
    with ExitStack() as stack:
        journal = None
        if out is not None:
            journal = stack.enter_context(Journal(out / "progress.jsonl", settings, restart=restart))
        stack.enter_context(told(partial(_measured, out, journal)))
        report = evaluate(
            segmenter, examples, vocabulary,
            limit=limit, journal=journal, strict=strict, progress=sys.stderr.isatty(),
        )  # fmt: skip
        result = report.to_dict() | {"settings": settings}
        if out is not None:
            text = json.dumps(result, indent=1, ensure_ascii=False)
            # Names of files may have bytes that are not text; as escapes they are JSON.
            (out / "report.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            write_page(report, segmenter, examples, settings, out / "report.html", pictures=pictures)
    return result


def _measured(out: Path | None, journal: Journal | None) -> str:
    """How far a run has come that ends here, and how to go on."""
    if journal is None:
        return "Nothing of this run is kept; with --out FOLDER a run that was stopped goes on."
    return f"Measured and kept in {out}: {counted(len(journal), 'image')}. Running it again goes on from there."


def print_report(
    result: Mapping[str, Any], groups: Mapping[str, list[str]] | None = None, *, per_class: bool = False
) -> None:
    """Print the IoU of classes, base against final, and the means.

    Args:
        result: of :meth:`knnseg.evaluation.Report.to_dict`.
        groups: classes to print in sections with a mean each; those that the result was made with.
        per_class: print every class that occurs, however many.
    """
    from knnseg.evaluation.report import standings

    compared = result["base"] != result["final"]
    table = _table("class", compared)
    occurring = [name for name, label in result["labels"].items() if label["pixels"]]
    if groups:
        for group, members in groups.items():
            _section(table, result, members)
            _row(table, f"mean of {group}", *(result[kind][f"miou_{group}"] for kind in ("base", "final")))
            table.add_section()
    elif per_class or len(occurring) <= _ALL:
        _section(table, result, occurring)
    else:
        chosen = standings(result, _FEW)
        kinds = {"most improved": chosen.improved, "most worsened": chosen.worsened, "worst": chosen.worst}
        for title, listed in kinds.items():
            if listed:
                _headed(table, title, listed)
    console = Console(markup=False)  # names and paths may have brackets
    # Not the title of the table, which would be broken to its width.
    console.print(
        f"{counted(result['images'], 'image')}, {result['classes']} classes: IoU", soft_wrap=True, highlight=False
    )
    console.print(table)
    console.print(_means(result, compared))


def _table(first: str, compared: bool) -> Table:
    table = Table()
    table.add_column(first)
    for heading in ("base", "with database", "gain") if compared else ("base",):
        table.add_column(heading, justify="right")
    return table


def _section(table: Table, result: Mapping[str, Any], names: list[str]) -> None:
    for name in names:
        _row(table, name, *(result[kind]["per_class"][name]["iou"] for kind in ("base", "final")))
    table.add_section()


def _headed(table: Table, title: str, listed: tuple[Standing, ...]) -> None:
    table.add_row(title, style="bold")
    for standing in listed:
        _row(table, f"  {standing.name}", standing.base, standing.final)
    table.add_section()


def _row(table: Table, name: str, base: float | None, final: float | None) -> None:
    figures = ["–" if value is None else f"{100 * value:.1f}" for value in (base, final)]
    gain = "" if base is None or final is None else f"{100 * (final - base):+.1f}"
    table.add_row(name, *[*figures, gain][: len(table.columns) - 1])


def _means(result: Mapping[str, Any], compared: bool) -> Table:
    from knnseg.evaluation.report import MEANS

    table = _table("mean", compared)
    for key, title in MEANS.items():
        values = [result[kind][key] for kind in ("base", "final")]
        if values != [None, None]:
            _row(table, title, *values)
    return table
