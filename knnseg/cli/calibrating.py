"""The command ``knnseg calibrate``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tomlkit
import typer
from rich.console import Console
from rich.table import Table

from knnseg.cli.options import AsJson, Checkpoint, Device, Preset, Store, print_json, there_is

if TYPE_CHECKING:
    from knnseg.calibration.fitting import Calibration, Trial
    from knnseg.database.originals import Originals

__all__ = ["calibrate"]


def calibrate(
    store: Store,
    preset: Preset = "photo",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="TOML configuration to write.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder to look in for images that have moved.")] = None,
    on: Annotated[str, typer.Option(help="Ask about proposals, or about the examples themselves.")] = "proposals",
    most: Annotated[int, typer.Option(min=1, help="Masks to ask about.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw from a larger database.")] = 0,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fit k, τ, γ, λ and T on the database itself, without test labels.

    knnseg calibrate -s faiss:///tmp/db --out mine.toml

    knnseg segment photo.jpg -s faiss:///tmp/db --preset mine.toml
    """
    from knnseg.calibration.fitting import calibrate as fit
    from knnseg.database.originals import Originals
    from knnseg.segmenter import Segmenter, read_config
    from knnseg.stages.registry import with_checkpoint

    if on not in ("proposals", "examples"):
        raise typer.BadParameter("--on takes proposals or examples")
    kind: Literal["proposals", "examples"] = "examples" if on == "examples" else "proposals"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)  # now, not when the work is done and would be lost
    there_is(store)
    originals, config = Originals(images), read_config(preset)
    config = config if checkpoint is None else with_checkpoint(config, str(checkpoint))
    with Segmenter.from_config(config, store, device=device, create=False) as segmenter:
        result = fit(segmenter, originals, on=kind, most=most, seed=seed, progress=sys.stderr.isatty())
    if out is not None:
        out.write_text(_toml(result, preset, out), encoding="utf-8")
    if as_json:
        parts = {name: asdict(getattr(result, name)) for name in ("before", "best")}
        numbers = ("asked", "alone", "missing", "base", "gain", "spread", "unknown")
        print_json({name: getattr(result, name) for name in numbers} | parts)
    else:
        _show(result, out, originals)


def _toml(result: Calibration, preset: str, out: Path) -> str:
    """The configuration that was given, its comments included, with the best numbers in it."""
    source = Path(preset)
    if preset.endswith(".toml"):
        document = tomlkit.parse(source.read_text(encoding="utf-8"))
        if result.config.keys.whitening and source.parent.resolve() != out.parent.resolve():
            _set(document, "keys", "whitening", str(Path(result.config.keys.whitening).absolute()))
    else:
        document = tomlkit.document()
        document.add(tomlkit.comment(f"Fitted by knnseg calibrate on {result.asked} masks."))
        document.add("preset", tomlkit.item(preset))
    retrieval, fusion = result.best.retrieval, result.best.fusion
    _set(document, "retrieval", "k", retrieval.k)
    _set(document, "retrieval", "temperature", retrieval.temperature)
    _set(document, "retrieval", "class_balance", retrieval.class_balance)
    _set(document, "fusion", "weight", fusion.weight)
    _set(document, "fusion", "threshold", fusion.threshold)
    return tomlkit.dumps(document)


def _set(document: tomlkit.TOMLDocument, section: str, key: str, value: object) -> None:
    if section not in document:
        document.add(section, tomlkit.table())
    document[section][key] = value


def _show(result: Calibration, out: Path | None, originals: Originals) -> None:
    table = Table(title=f"{result.asked} masks, each without its own image in the database", title_justify="left")
    table.add_column("")
    for heading in ("k", "τ", "γ", "λ", "T", "accuracy", "loss"):
        table.add_column(heading, justify="right")
    if result.base:
        table.add_row("base alone", *[""] * 5, f"{result.base:.1%}", "")
    for name, trial in (("before", result.before), ("fitted", result.best)):
        table.add_row(name, *_cells(trial))
    console = Console(markup=False)
    console.print(table)
    console.print(_gained(result), soft_wrap=True)
    if result.unknown:
        said = f"{result.unknown:.0%} of the masks would be, if their class had no example"
        console.print(f"unknown: what has less confidence than T; {said}", soft_wrap=True)
    if result.alone:
        console.print(f"left out: {result.alone} masks whose class has no example in another image", soft_wrap=True)
    if result.missing:
        console.print(
            f"left out: {result.missing} examples whose image or mask was not found; {originals.advice}", soft_wrap=True
        )
    console.print(f"configuration: {out}" if out else "To keep it: --out FILE.toml", soft_wrap=True)


def _gained(result: Calibration) -> str:
    change = f"on images that had no part in the choice, the loss is lower by {result.gain:.3f} ± {result.spread:.3f}"
    return change if result.gain > result.spread else f"kept, since no choice is clearly better: {change}"


def _cells(trial: Trial) -> tuple[str, ...]:
    retrieval, fusion = trial.retrieval, trial.fusion
    numbers = (retrieval.k, retrieval.temperature, retrieval.class_balance, fusion.weight, fusion.threshold)
    return (*(f"{number:g}" for number in numbers), f"{trial.accuracy:.1%}", f"{trial.loss:.3f}")
