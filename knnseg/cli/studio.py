"""The command ``knnseg studio``."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from knnseg.cli.options import Checkpoint, Device, Preset, Store, names_of, open_segmenter

__all__ = ["studio"]


def studio(
    store: Store,
    images: Annotated[Path, typer.Option(help="Folder of photographs; one that is dropped on the page goes there.")],
    preset: Preset = "photo",
    classes: Annotated[
        list[str] | None,
        typer.Option("--classes", "-c", help="Names to look for beside the concepts of the database, as for segment."),
    ] = None,
    writer: Annotated[str | None, typer.Option(help="Who teaches, kept with each example; by default you.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show, and let nobody teach.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on; other than this machine's own needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    token_env: Annotated[
        str | None, typer.Option(metavar="VAR", help="Environment variable that has the token; otherwise one is made.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Another name that the page is reached by, as through a proxy.")
    ] = None,
    checkpoint: Checkpoint = None,
    device: Device = "auto",
) -> None:
    """Open a page to teach by clicking: select something in a photograph, name it, and see it segmented again.

    knnseg studio -s faiss:///tmp/db --preset photo --images photos
    """
    from knnseg.studio.gallery import Gallery
    from knnseg.studio.listening import Listener
    from knnseg.studio.session import Studio

    gallery, token = Gallery(images), _token(token_env)
    with (
        Listener(host, port, token, names=names or ()) as listener,
        open_segmenter(preset, checkpoint, store, device, create=not read_only) as segmenter,
    ):
        you = _you() if writer is None else writer
        page = Studio(segmenter, gallery, classes=names_of(classes) or (), writer=you, read_only=read_only)
        Console(markup=False).print(f"open {listener.link}\nend with Ctrl-C", soft_wrap=True, highlight=False)
        listener.serve(page)


def _token(variable: str | None) -> str:
    if variable is None:
        return ""
    token = os.environ.get(variable, "")
    if len(token) < 16 or not token.isascii() or not token.replace("-", "").replace("_", "").isalnum():
        raise typer.BadParameter(
            f"--token-env: expected at least 16 letters, digits, - and _ in the environment variable {variable}"
        )
    return token


def _you() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in a container
        return ""
