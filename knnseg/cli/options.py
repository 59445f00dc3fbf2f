"""Options that several commands take, and how results are printed for machines."""

from __future__ import annotations

import csv
import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from knnseg.data.vocabulary import tidy
from knnseg.database.changes import SPEC
from knnseg.database.spaces import changes_below, spaces
from knnseg.errors import KnnSegWarning
from knnstore import StoreURL, collections, open_store
from knnstore._plugins import may_write
from knnstore.errors import (
    StoreAuthenticationError,
    StoreConnectionError,
    StoreNotFoundError,
    StoreTimeoutError,
)

if TYPE_CHECKING:
    from knnseg.data.vocabulary import Vocabulary
    from knnseg.database.adding import AddReport
    from knnseg.segmenter import Segmenter

__all__ = [
    "AsJson",
    "Checkpoint",
    "Device",
    "IgnoreSettings",
    "Preset",
    "Store",
    "Strict",
    "Version",
    "finish",
    "known_names",
    "names_of",
    "open_segmenter",
    "print_json",
    "printed_warnings",
    "say_unknown",
    "show_added",
]

Store = Annotated[str, typer.Option("--store", "-s", help="URL of the concept database, such as faiss:///folder.")]
Preset = Annotated[
    str,
    typer.Option(
        "--preset", "-p", envvar="KNNSEG_PRESET",
        help="A preset (`photo`, `photo-words`, `tiny`, `base`, `fcclip`) or the path of a TOML configuration.",
    ),
]  # fmt: skip
Device = Annotated[str, typer.Option(help="Where models run: auto, cpu, cuda, cuda:1.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Weights for the stages that take a checkpoint.")]
IgnoreSettings = Annotated[
    bool, typer.Option("--ignore-settings", help="Leave the numbers that calibrate has kept with the database.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read or used.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"knnseg {version('knnseg')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Show the version and end.", callback=_show_version, is_eager=True)
]

_PARTLY = 3
"""The exit code where some images were left out."""


def finish(failed: Sequence[str], done: int) -> None:
    """Name the images that were left out, and leave with an exit code that says so.

    Args:
        failed: the name of each, with the reason.
        done: how many images were not left out; where not one was, the command has failed.
    """
    for text in failed:
        print(f"knnseg: left out: {text}", file=sys.stderr)
    if failed:
        raise typer.Exit(_PARTLY if done else 1)


def show_added(report: AddReport, as_json: bool) -> None:
    """Say what was added, and name the images that were left out."""
    if as_json:
        print_json(asdict(report))
    else:
        print(
            f"images read: {report.images}; examples added: {report.added}, there already: {report.present}, "
            f"too small or featureless: {report.skipped}"
            + (f", deleted before: {report.deleted}" if report.deleted else "")
        )
    finish(report.failed, report.images)


def names_of(given: list[str] | None, known: Iterable[str] = ()) -> list[str] | None:
    """Class names from an option that may be repeated.

    A value that is as a whole the name of a known class is that class. ``@FILE`` is a file with a name in each line.
    Any other is names separated by commas, as in a CSV file: a name in double quotes may have commas.

    Args:
        given: the values; None where the option was not given.
        known: the names that may be meant as a whole.

    Raises:
        typer.BadParameter: a file that cannot be read.
    """
    whole = frozenset(known)
    return None if given is None else [name for text in given for name in _names(text, whole)]


def known_names(segmenter: Segmenter) -> list[str]:
    """What a value of ``--classes`` may mean as a whole: the names that concepts have, and those that they had."""
    if segmenter.database is None:
        return []
    try:
        return [name for concept in segmenter.database.concepts() for name in (concept.label, *concept.aliases)]
    except (StoreConnectionError, StoreTimeoutError):  # the segmenter knows what to do
        return []


def _names(text: str, whole: frozenset[str]) -> list[str]:
    if tidy(text) in whole:
        return [tidy(text)]
    try:
        if text.startswith("@"):
            lines = Path(text[1:]).read_text(encoding="utf-8").splitlines()
            return [tidy(line) for line in lines if line.strip()]
        return [tidy(name) for row in csv.reader([text], skipinitialspace=True) for name in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise typer.BadParameter(f"--classes: expected names, or @FILE with one in each line: {error}") from error


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Warnings of this package as messages, each once; what :func:`finish` will say better is left to it."""
    with warnings.catch_warnings():
        plain, said = warnings.showwarning, set[str]()

        def show(message: Warning | str, category: type[Warning], *where: object) -> None:
            if issubclass(category, KnnSegWarning):
                if str(message) not in said:
                    print(f"knnseg: {message}", file=sys.stderr)
                said.add(str(message))
            else:
                plain(message, category, *where)  # type: ignore[arg-type]  # passed on as it came

        warnings.filterwarnings("always", category=KnnSegWarning)
        warnings.filterwarnings("ignore", message=r"\w+: images left out", category=KnnSegWarning)
        warnings.showwarning = show  # type: ignore[assignment]  # the rest of its arguments is in *where
        yield


def there_is(store: str, *, may_be_down: bool = False) -> list[StoreURL]:
    """Find a mistake in the URL of a store before weights are read; returns the collections of its database.

    Raises:
        KnnStoreError: a URL that makes no sense, of a backend that is not installed, or where nothing is stored.
    """
    try:
        found = list(spaces(store).values())
    except (StoreConnectionError, StoreTimeoutError):
        if not may_be_down:
            raise
        return []
    if not found:
        with suppress(StoreNotFoundError):  # an option that is misspelt is said first
            open_store(store, read_only=True).close()
        raise StoreNotFoundError(f"nothing is stored at {StoreURL.parse(store)}", hint="Add examples first.")
    return found


def ask_to_write(store: str, places: list[StoreURL] | None = None) -> None:
    """Ask for the right to write before weights are read.

    Where nothing is stored yet, the changes of concepts are made first: they need no model.

    Args:
        store: URL of the database.
        places: its collections, where they are known.

    Raises:
        StoreAuthenticationError: a key that may only read, or a folder that this user may not write to.
        KnnStoreError: as for any write.
    """
    places = collections(store) if places is None else places
    refused = None
    for place in places or [changes_below(store)]:
        try:
            with open_store(place, None if places else SPEC) as opened:
                may_write(opened)
            return
        except StoreAuthenticationError as error:  # the key may be limited to another one of them
            refused = error
    assert refused is not None  # there is at least one place
    raise refused


@contextmanager
def open_segmenter(
    preset: str,
    checkpoint: Path | None,
    store: str | None,
    device: str,
    *,
    create: bool,
    on_store_error: Literal["raise", "base"] = "raise",
    settings: bool = True,
) -> Iterator[Segmenter]:
    """The segmenter that the options speak of; closed afterwards."""
    from knnseg.segmenter import Segmenter, read_config
    from knnseg.stages.registry import with_checkpoint

    if store is not None and not create:
        there_is(store, may_be_down=on_store_error == "base")
    elif store is not None:
        ask_to_write(store)
    config = read_config(preset)
    if checkpoint is not None:
        config = with_checkpoint(config, str(checkpoint))
    others = spaces(store) if store is not None and create else {}
    with Segmenter.from_config(
        config, store, device=device, create=create, on_store_error=on_store_error, settings=settings
    ) as segmenter:
        if others and len(spaces(store or "")) > len(others):
            said = f"{StoreURL.parse(store or '')} has examples of another model, {', '.join(others)}"
            print(f"knnseg: {said}; those of {preset} are kept apart. Is it the --preset you mean?", file=sys.stderr)
        yield segmenter


def say_unknown(segmenter: Segmenter, vocabulary: Vocabulary) -> None:
    """Name the classes that the database has no examples of: misspelt, perhaps, or cut at a comma."""
    from knnseg.models.base import NoBase

    if segmenter.database is None or isinstance(segmenter.base, NoBase):  # the segmenter itself warns without a base
        return
    with suppress(StoreConnectionError, StoreTimeoutError):  # if it is down, the segmenter knows what to do
        known = {concept.label for concept in segmenter.database.concepts()}
        unknown = [name for name in vocabulary if name not in known]
        if unknown:
            listed = ", ".join(map(repr, unknown[:20])) + (" …" if len(unknown) > 20 else "")
            print(f"knnseg: no examples, so from the base alone: {listed}", file=sys.stderr)


def print_json(result: object) -> None:
    """One JSON document, with escapes where standard output cannot carry every letter."""
    plain = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(result, indent=1, ensure_ascii=not plain))
