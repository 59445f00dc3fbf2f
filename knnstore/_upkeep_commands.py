"""The commands that keep a store: ``knnstore stats``, ``count``, ``delete`` and ``optimize``."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from knnstore._options import Json, Url, Where, counted, filter_from, print_json, print_line
from knnstore._plugins import drop_store, open_store
from knnstore._plugins import ping as ping_store
from knnstore.abc import EmbeddingStore
from knnstore.errors import StoreNotFoundError
from knnstore.filters import Filter
from knnstore.transfer.moving import name_below, stored_at
from knnstore.url import StoreURL

__all__ = ["add_upkeep_commands"]


def add_upkeep_commands(app: typer.Typer) -> None:
    """Add them to the command line."""
    app.command(epilog="Example: knnstore stats faiss:///data/concepts")(stats)
    app.command(epilog="Example: knnstore count faiss:///data/concepts --where 'label == \"kettle\"'")(count)
    app.command(epilog="Example: knnstore delete faiss:///data/concepts/clip --where 'area < 20'")(delete)
    app.command(epilog="Example: knnstore drop faiss:///data/concepts/clip")(drop)
    app.command(epilog="Example: knnstore optimize faiss:///data/concepts")(optimize)
    app.command(epilog="Example: knnstore ping 'qdrant://db.example:6334/concepts?tls=1'")(ping)


def stats(url: Url, as_json: Json = False) -> None:
    """Show figures about the collection at a URL and those right below it: records, bytes, measured recall."""
    rows = []
    for place in stored_at(StoreURL.parse(url)):
        with open_store(place, read_only=True) as store:
            rows.append({"url": str(place), **asdict(store.stats())})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(row.pop("url"))
        for name, value in {**row, **row.pop("details")}.items():
            if name != "details":
                print_line(f"  {name}: {'-' if value is None else value}")


def count(url: Url, where: Where = None, as_json: Json = False) -> None:
    """Count the records at a URL, or those that match; with a line for each collection where there are several."""
    wanted, rows = filter_from(where), list[dict[str, Any]]()
    for place in stored_at(StoreURL.parse(url)):
        with open_store(place, read_only=True) as store:
            rows.append({"url": str(place), "count": store.count(wanted)})
    if as_json:
        print_json(rows)
    elif len(rows) == 1:
        print_line(str(rows[0]["count"]))
    else:
        for row in rows:
            print_line(f"{row['url']}  {row['count']}")


def delete(
    url: Url,
    where: Where = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="This record; may be given more than once.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Delete records of the one collection at a URL, after showing how many and asking.

    Where nobody can be asked, in a script, it refuses unless --yes is given. The collection itself stays; see drop.
    """
    if (where is None) == (not ids):
        raise typer.BadParameter("give either --where or --id")
    wanted = filter_from(where)
    _only_here(StoreURL.parse(url))
    with open_store(url) as store:
        matching = _matching(store, wanted, ids or [])
        if matching and not yes:
            _ask(f"Delete {matching} of {counted(store.count(), 'record')} of {store.url}?")
        if matching:
            matching = store.delete(ids) if wanted is None else store.delete(where=wanted)
            store.flush()
        left, place = store.count(), str(store.url)
    if as_json:
        print_json({"url": place, "deleted": matching, "left": left})
    else:
        print_line(f"{counted(matching, 'record')} deleted, {left} left")


def _only_here(url: StoreURL) -> None:
    """Deleting from several collections at once is never what a URL should do by itself."""
    found = stored_at(url)
    if all(name_below(url, place) for place in found):
        raise StoreNotFoundError(f"no collection at {url} itself", hint=f"Choose one of: {', '.join(map(str, found))}.")


def _matching(store: EmbeddingStore, where: Filter | None, ids: list[str]) -> int:
    return len(store.get(ids, fields=[], with_vectors=False)) if where is None else store.count(where)


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise typer.BadParameter("nobody can be asked here; --yes deletes without asking")
    typer.confirm(question, abort=True, err=True)


def drop(
    url: Url,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the one collection at a URL with all its records, after asking twice. There is no way back.

    What is below the URL stays. Where nobody can be asked, in a script, it refuses unless --yes is given.
    """
    parsed = StoreURL.parse(url)
    _only_here(parsed)
    with open_store(parsed, read_only=True) as store:
        records, place = store.count(), str(store.url)
    if not yes:
        _ask(f"Drop the collection {place} with {counted(records, 'record')}?")
        name = parsed.path.rstrip("/").rpartition("/")[2]
        if typer.prompt(f"Type its name, {name}, to drop it for good", err=True) != name:
            raise typer.Abort
    drop_store(parsed)
    if as_json:
        print_json({"url": place, "dropped": records})
    else:
        print_line(f"{place} dropped, with {counted(records, 'record')}")


def ping(url: Url, as_json: Json = False) -> None:
    """Ask whether the engine at a URL answers and lets us in. No collection is needed, and none is read."""
    seconds = round(ping_store(url), 4)
    if as_json:
        print_json({"url": str(StoreURL.parse(url)), "seconds": seconds})
    else:
        print_line(f"{StoreURL.parse(url)} answered in {seconds} s")


def optimize(url: Url, as_json: Json = False) -> None:
    """Let the engine rebuild, compact or train whatever makes searching faster, in every collection at a URL."""
    rows = []
    for place in stored_at(StoreURL.parse(url)):
        with open_store(place) as store:
            start = time.perf_counter()
            store.optimize()
            rows.append({"url": str(place), "seconds": round(time.perf_counter() - start, 3)})
    if as_json:
        print_json(rows)
        return
    for row in rows:
        print_line(f"{row['url']}  optimized in {row['seconds']} s")
