"""The command ``knnseg info``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from knnseg.cli.options import AsJson, Store, print_json, there_is
from knnstore._options import counted

if TYPE_CHECKING:
    from knnstore import StoreURL

__all__ = ["info"]


def info(
    store: Store,
    every: Annotated[bool, typer.Option("--all", help="Also settings that newer ones have replaced.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a concept database has: its embedding spaces, and the settings that calibrate has kept with them.

    knnseg info -s faiss:///tmp/db
    """
    found = [_space(place) for place in there_is(store)]
    if as_json:
        print_json(found)
        return
    for space in found:
        half = " in half precision" if space["dtype"] == "float16" else ""
        there = counted(space["examples"], "example")
        print(f"{space['space']}: {space['encoder']}, {space['dim']} numbers{half}, {there}")
        if space["note"]:
            print(f"  made with {space['note']}")
        newest = {one["base"]: one["version"] for one in space["settings"]}
        for one in space["settings"]:
            if every or newest[one["base"]] == one["version"]:
                _show(one, in_use=newest[one["base"]] == one["version"])


def _space(place: StoreURL) -> dict[str, Any]:
    from knnseg.database.parts import WHOLE
    from knnseg.database.settings import settings_of
    from knnstore import open_store

    with open_store(place, read_only=True) as opened:
        space = opened.spec.space
        return {
            "space": place.path.rsplit("/", 1)[-1],
            "encoder": "" if space is None else space.encoder,
            "note": "" if space is None else space.note,
            "dim": opened.spec.dim,
            "dtype": opened.spec.dtype,
            "examples": opened.count(WHOLE if "whole" in opened.spec.fields else None),  # a database of before has none
            "settings": [asdict(one) for one in settings_of(opened)],
        }


def _show(one: dict[str, Any], *, in_use: bool) -> None:
    when = datetime.fromtimestamp(one["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    state = "in use" if in_use else "replaced"
    print(f"  settings {one['version']}, {when}, {state} with base {one['base']}:")
    for section, values in {**one["numbers"], **one["keys"]}.items():
        print(f"    [{section}] " + ", ".join(f"{key} = {value}" for key, value in values.items()))
    measured = one["measured"]
    if measured:
        on = f"on {measured['images']} images of the database"
        print(f"    mean IoU {measured['before']:.3f} before and {measured['iou']:.3f} with them {on}", end="")
        gained = "gain" in measured  # only T has changed where not
        print(f"; {measured['gain']:+.3f} ± {measured['spread']:.3f} on those that did not choose" if gained else "")
