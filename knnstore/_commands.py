"""What ``knnstore --help`` lists. Errors of the store are left to :func:`knnstore.cli.main`, which prints them."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Any

import typer

from knnstore._check_command import check
from knnstore._options import Group, Json, Url, Version, print_json, print_line
from knnstore._plugins import backends as installed_backends
from knnstore._plugins import collections, get_backend, known_backends, open_store
from knnstore._transfer_commands import add_transfer_commands
from knnstore._upkeep_commands import add_upkeep_commands
from knnstore.errors import BackendUnavailableError, BrokenPluginError, KnnStoreError, StoreNotFoundError
from knnstore.transfer.moving import name_below
from knnstore.types import StoreSpec
from knnstore.url import StoreURL

__all__ = ["app"]

app = typer.Typer(
    name="knnstore",
    cls=Group,
    help="One embedding store in front of several engines.",
    epilog="Exit codes: 0 all is well, 1 a check failed or the store reported an error, 2 wrong usage, 130 Ctrl-C.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def _root(version: Version = False) -> None:
    """Keep sub-commands named, however few there are."""


# -- backends ----------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: knnstore backends --json")
def backends(as_json: Json = False) -> None:
    """List the backends: which are installed and load, which are broken and why, which could be installed."""
    rows = [_status(info.name, info.distribution) for info in installed_backends()]
    there = {row["name"] for row in rows}
    rows += [
        {"name": name, "distribution": "", "status": "not installed", "detail": f"pip install {package}"}
        for name, package in known_backends().items()
        if name not in there
    ]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(f"{row['name']:<10} {row['status']:<14} {row['distribution']:<24} {row['detail']}".rstrip())


def _status(name: str, distribution: str) -> dict[str, str]:
    """Load one backend, and say what came of it."""
    row = {"name": name, "distribution": distribution}
    try:
        return {**row, "status": "loaded", "detail": str(getattr(get_backend(name), "summary", ""))}
    except BrokenPluginError as error:
        return {**row, "status": "broken", "detail": str(error)}


# -- info --------------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: knnstore info faiss:///data/concepts")
def info(url: Url, as_json: Json = False) -> None:
    """Show what is stored at a URL: the spec, the embedding space, figures, capabilities, and collections below it."""
    parsed = StoreURL.parse(url)
    found = collections(parsed)
    here = next((place for place in found if not name_below(parsed, place)), None)
    below = [_described(place) for place in found if place is not here]
    if here is None and not below:
        raise StoreNotFoundError(f"nothing is stored at {parsed}")
    report = {"url": str(parsed), **(_described(here, full=True) if here else {}), "collections": below}
    if as_json:
        print_json(report)
    else:
        print_line("\n".join(_lines(report)))


def _described(url: StoreURL, *, full: bool = False) -> dict[str, Any]:
    """A collection as plain data."""
    with open_store(url, read_only=True) as store:
        short = {"url": str(url), "count": store.count(), "spec": _spec(store.spec)}
        if not full:
            return short
        able = store.capabilities
        by_type = {kind.__name__: sorted(able.filters_on(kind)) for kind in (str, int, float, bool)}
        can = asdict(able) | {"filters": sorted(able.filters), "unordered": sorted(able.unordered)}
        can["filters_by_type"] = by_type
        stats = asdict(store.stats())
        return {**short, "capabilities": can, "stats": stats}


def _spec(spec: StoreSpec) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(spec.to_json())
    return described


def _lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """Nested data as ``name: value`` lines."""
    lines: list[str] = []
    for name, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{name}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            lines += [f"{indent}{name}:", *(f"{indent}  {_one_line(entry)}" for entry in item)]
        else:
            shown = ", ".join(map(str, item)) if isinstance(item, list | tuple) else item
            lines.append(f"{indent}{name}: {'-' if shown in (None, '', {}) else shown}")
    return lines


def _one_line(entry: dict[str, Any]) -> str:
    space = entry["spec"]["space"]
    encoder = f", {space['encoder']}" if space else ""
    half = f" {entry['spec']['dtype']}" if entry["spec"]["dtype"] != "float32" else ""
    width = f"dim {entry['spec']['dim']}{half}"
    return f"{entry['url']}  {entry['count']} records, {width}, {entry['spec']['metric']}{encoder}"


app.command(epilog="Example: knnstore check 'qdrant://db.example:6334/scratch?tls=1' --test test_delete_by_id")(check)
add_transfer_commands(app)
add_upkeep_commands(app)


# -- commands of other distributions -----------------------------------------------------------------------------------

_GROUP = "knnstore.commands"
_KNOWN = {"bench": "knnstore-bench"}


def add_others(app: typer.Typer) -> None:
    """Let each distribution of the group ``knnstore.commands`` add its own, which its entry point names.

    One that is not installed, or does not load, says so when it is called, and is in nobody's way before.
    """
    found = {entry.name: entry for entry in entry_points(group=_GROUP)}
    for name in sorted({*found, *_KNOWN}):
        if name not in found:
            hint = f"Install it with: pip install {_KNOWN[name]}"
            _add_missing(app, name, BackendUnavailableError(f"the command {name!r} is not installed", hint=hint))
            continue
        try:
            found[name].load()(app)
        except Exception as error:  # any exception at all: the module is not ours
            reason = f"the command {name!r} ({found[name].value}) failed to load: {type(error).__name__}: {error}"
            _add_missing(app, name, BrokenPluginError(reason, hint="Reinstall or remove its distribution."))


def _add_missing(app: typer.Typer, name: str, error: KnnStoreError) -> None:
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}

    @app.command(name, epilog=str(error), context_settings=anything, add_help_option=False)
    def missing() -> None:
        """Not installed, or broken; call it to read what to do."""
        raise error


add_others(app)
