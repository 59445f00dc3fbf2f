"""The command ``knnseg label-studio``."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from knnseg.cli.options import Checkpoint, Device, Preset, Store, names_of, open_segmenter

if TYPE_CHECKING:
    from knnseg.export.label_studio import ShapeKind

__all__ = ["label_studio"]

TOKEN, AUTH = "LABEL_STUDIO_API_KEY", "KNNSEG_BASIC_AUTH"  # of the environment
StuffClasses = Annotated[
    list[str] | None,
    typer.Option(help="Classes that are stuff, as grass and sky, beside those that the database knows as such."),
]


def label_studio(
    store: Store,
    url: Annotated[
        str, typer.Option("--label-studio", envvar="LABEL_STUDIO_URL", help="Label Studio.")
    ] = "http://localhost:8080",
    files: Annotated[
        Path | None, typer.Option(help="Folder of Label Studio's local files, to read them here; else it is asked.")
    ] = None,
    shapes: Annotated[
        str, typer.Option(help="brush, polygon or rectangle: what to draw with where a class has several.")
    ] = "brush",
    stuff_classes: StuffClasses = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Predict, and do not learn from annotations.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 9090,
    preset: Preset = "photo",
    checkpoint: Checkpoint = None,
    device: Device = "auto",
) -> None:
    """Predict for Label Studio, and learn from what is annotated there: an ML backend.

    An access token of Label Studio is taken from LABEL_STUDIO_API_KEY. Where other machines reach this one,
    KNNSEG_BASIC_AUTH has a user and a password, user:password, that Label Studio must give.

    knnseg label-studio -s faiss:///tmp/db
    """
    from knnseg.integrations.label_studio.backend import Backend
    from knnseg.integrations.label_studio.client import Client
    from knnseg.integrations.label_studio.server import Listener

    kind = _kind(shapes)
    if not os.environ.get(TOKEN):
        raise typer.BadParameter(f"set {TOKEN} to an access token of Label Studio (Account & Settings there)")
    client = Client(url, os.environ[TOKEN], files=files)
    listener = Listener(host, port, os.environ.get(AUTH, ""))  # a mistake is found before weights are read
    logging.basicConfig(format="knnseg: %(message)s", stream=sys.stderr)
    logging.getLogger("knnseg").setLevel(logging.INFO)
    name, stuff = f"knnseg-{Path(preset).stem}", names_of(stuff_classes) or ()
    with open_segmenter(preset, checkpoint, store, device, create=not read_only) as segmenter:
        backend = Backend(segmenter, client, name=name, prefer=kind, learn=not read_only, stuff=stuff)
        print(f"ML backend for {url}: {listener.url}", flush=True)
        try:
            listener.serve(backend)
        finally:
            backend.close()


def _kind(shapes: str) -> ShapeKind:
    from knnseg.export.label_studio import ShapeKind

    for kind in get_args(ShapeKind):
        if kind == shapes:
            return kind
    raise typer.BadParameter(f"--shapes takes {', '.join(get_args(ShapeKind))}")
