"""The command ``knnseg calibrate``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tomlkit
import typer
from rich.console import Console
from rich.table import Table

from knnseg.cli.options import (
    AsJson,
    Checkpoint,
    Device,
    IgnoreSettings,
    Preset,
    Store,
    ask_to_write,
    open_segmenter,
    print_json,
    there_is,
)

if TYPE_CHECKING:
    from knnseg.calibration.fitting import Calibration
    from knnseg.calibration.judging import Trial
    from knnseg.database.originals import Originals
    from knnseg.database.reembedding import ReembedReport
    from knnstore import EmbeddingStore

__all__ = ["calibrate"]

_FITTED = {"retrieval": ("k", "temperature", "class_balance"), "fusion": ("weight", "threshold")}


def calibrate(
    store: Store,
    preset: Preset = "photo",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="TOML configuration to write.")] = None,
    keys: Annotated[bool, typer.Option("--keys", help="Choose also how keys are made; needs --out.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Embed the examples again where other keys are chosen.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep/--no-keep", help="Keep the numbers with the database.")] = True,
    images: Annotated[Path | None, typer.Option(help="Folder to look in for images that have moved.")] = None,
    on: Annotated[str, typer.Option(help="Ask about proposals, or about the examples themselves.")] = "proposals",
    most: Annotated[int, typer.Option(min=1, help="Images to ask about.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw from a larger database.")] = 0,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
    ignore_settings: IgnoreSettings = False,
    as_json: AsJson = False,
) -> None:
    """Fit k, τ, γ, λ and T on the database itself, without test labels; with --keys, also how keys are made.

    knnseg calibrate -s faiss:///tmp/db

    knnseg calibrate -s faiss:///tmp/db --keys --out mine.toml --apply
    """
    from knnseg.calibration.fitting import calibrate as fit
    from knnseg.database.originals import Originals

    kind = _checked(on, keys, apply, out)
    keep = keep and kind == "proposals"  # what is fitted to given masks is no default for what a proposer cuts
    if keep:
        ask_to_write(store, there_is(store))
    originals = Originals(images)
    with open_segmenter(preset, checkpoint, store, device, create=False, settings=not ignore_settings) as segmenter:
        result = fit(segmenter, originals, on=kind, keys=keys, most=most, seed=seed, progress=sys.stderr.isatty())
        assert segmenter.database is not None  # a store was given
        opened = segmenter.database.store
        if out is not None:
            _write(result, preset, out)
        kept = _keep(result, opened) if keep else 0
        report = _apply(result, opened, store, originals) if apply else None
        again = "" if result.keys is None or apply else _again(store, opened, out, images)
    if as_json:
        print_json(_plain(result) | {"kept": kept, "next": again})
    else:
        _show(result, out, originals)
        _show_kept(result, kept, again, report)


def _checked(on: str, keys: bool, apply: bool, out: Path | None) -> Literal["proposals", "examples"]:
    if on not in ("proposals", "examples") or (keys and on == "examples"):
        raise typer.BadParameter("--on takes proposals or examples, and with --keys proposals")
    if (keys and out is None) or (apply and not keys):
        raise typer.BadParameter("--keys needs --out, for the configuration that makes them; and --apply needs --keys")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)  # now, not when the work is done and would be lost
    return "examples" if on == "examples" else "proposals"


def _plain(result: Calibration) -> dict[str, Any]:
    parts = {name: asdict(getattr(result, name)) for name in ("before", "best")}
    numbers = (
        "asked", "images", "alone", "missing", "base", "gain", "spread", "unknown", "keys_gain", "keys_spread"
    )  # fmt: skip
    keys = None if result.keys is None else {"recipe": result.keys.recipe.described, **result.keys.sections}
    return {name: getattr(result, name) for name in numbers} | parts | {"keys": keys}


def _keep(result: Calibration, store: EmbeddingStore) -> int:
    """Keep what was found with the space that it is for; the version that it has there, 0 where nothing was found."""
    from knnseg.database.settings import Settings, keep_settings
    from knnseg.database.spaces import space_name

    best, keys = result.best, result.keys
    if keys is None and (best.retrieval, best.fusion) == (result.before.retrieval, result.before.fusion):
        return 0
    gain, spread = (result.gain, result.spread) if keys is None else (keys.gain, keys.spread)
    confirmed = {"gain": gain, "spread": spread} if gain > spread else {}  # or it is that of a choice that is not kept
    settings = Settings(
        result.config.base.name,
        {section: {key: getattr(getattr(best, section), key) for key in names} for section, names in _FITTED.items()},
        {} if keys is None else {**keys.sections, "made": {"as": keys.recipe.described}},
        {
            "before": result.before.iou, "iou": best.iou, "images": result.images, "unknown": result.unknown,
            **confirmed,
        },
    )  # fmt: skip
    space = "" if keys is None else space_name(keys.extractor.space)
    return keep_settings(store, settings, space=space).version


def _again(store: str, opened: EmbeddingStore, out: Path | None, images: Path | None) -> str:
    """The command that embeds the examples again."""
    source = opened.url.path.rsplit("/", 1)[-1]
    words = ["knnseg", "concepts", "reembed", "-s", store, "-p", str(out), "--source", source]
    return shlex.join([*words, *(["--images", str(images)] if images else [])])


def _apply(result: Calibration, opened: EmbeddingStore, store: str, originals: Originals) -> ReembedReport | None:
    """Embed the examples again with the keys that were chosen, if any were."""
    from knnseg.database.concepts import ConceptDatabase
    from knnseg.database.reembedding import reembed

    if result.keys is None:
        return None
    with ConceptDatabase.open(store, result.keys.extractor) as target:
        return reembed(opened, target, originals, progress=sys.stderr.isatty())


def _write(result: Calibration, preset: str, out: Path) -> None:
    """The configuration that was given, its comments included, with the best numbers and keys in it."""
    source, keys = Path(preset), result.keys
    if preset.endswith(".toml"):
        document = tomlkit.parse(source.read_text(encoding="utf-8"))
        if result.config.keys.whitening and source.parent.resolve() != out.parent.resolve():
            _set(document, "keys", "whitening", str(Path(result.config.keys.whitening).absolute()))
    else:
        document = tomlkit.document()
        document.add(tomlkit.comment(f"Fitted by knnseg calibrate on {result.asked} masks of {result.images} images."))
        document.add("preset", tomlkit.item(preset))
    for section, names in _FITTED.items():
        for name in names:
            _set(document, section, name, getattr(getattr(result.best, section), name))
    if keys is not None:
        for section, values in keys.sections.items():
            for name, value in values.items():
                _set(document, section, name, value)
        if keys.whitening is not None:
            file = out.with_suffix(".whitening.npz")
            keys.whitening.save(file)
            _set(document, "keys", "whitening", file.name)
        elif keys.recipe.whitening is None and result.config.keys.whitening:
            _set(document, "keys", "whitening", "")
    out.write_text(tomlkit.dumps(document), encoding="utf-8")


def _set(document: tomlkit.TOMLDocument, section: str, key: str, value: object) -> None:
    if section not in document:
        document.add(section, tomlkit.table())
    document[section][key] = value


def _show(result: Calibration, out: Path | None, originals: Originals) -> None:
    table = Table(
        title=f"{result.asked} masks of {result.images} images, each without its own image in the database",
        title_justify="left",
    )
    table.add_column("")
    for heading in ("k", "τ", "γ", "λ", "T", "mean IoU", "accuracy", "loss"):
        table.add_column(heading, justify="right")
    if result.base:
        table.add_row("base alone", *[""] * 6, f"{result.base:.1%}", "")
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
    if out is not None:
        console.print(f"configuration: {out}", soft_wrap=True)


def _gained(result: Calibration) -> str:
    said = _said("the numbers", result.gain, result.spread, better=result.gain > result.spread)
    if not result.keys_gain and not result.keys_spread:
        return said
    return f"{said}\n{_said('the keys', result.keys_gain, result.keys_spread, better=result.keys is not None)}"


def _said(what: str, gain: float, spread: float, *, better: bool) -> str:
    kept = "" if better else "stay, since no choice is clearly better: "
    changes = f"the mean IoU changes by {gain:+.3f} ± {spread:.3f}"
    return f"{what}: {kept}on images that had no part in the choice, {changes}"


def _show_kept(result: Calibration, kept: int, again: str, report: ReembedReport | None) -> None:
    console = Console(markup=False)
    if result.keys is not None:
        console.print(f"keys: {result.keys.recipe.described}", soft_wrap=True)
    if kept:
        where = (
            "the space of these keys" if result.keys is not None else "the database, where they are used from now on"
        )
        console.print(f"kept as settings {kept} of {where}; see `knnseg info`", soft_wrap=True)
    if report is not None:
        console.print(f"embedded again: {report.added} examples, {report.missing} not", soft_wrap=True)
    if again:
        console.print(f"To make these keys: {again}", soft_wrap=True, highlight=False)


def _cells(trial: Trial) -> tuple[str, ...]:
    retrieval, fusion = trial.retrieval, trial.fusion
    numbers = (retrieval.k, retrieval.temperature, retrieval.class_balance, fusion.weight, fusion.threshold)
    return (*(f"{number:g}" for number in numbers), f"{trial.iou:.3f}", f"{trial.accuracy:.1%}", f"{trial.loss:.3f}")
