"""The command ``knnseg``. The commands themselves need the extra ``cli``, so they are in modules of their own.

Exit codes: 0 done; 1 an error that the message explains; 2 wrong usage; 3 done, but some images were left out; 130
interrupted. With ``--json`` the result, or the error, is one JSON document on standard output and nothing else is
printed there; progress and messages go to standard error.
"""

from __future__ import annotations

from knnseg.errors import KnnSegError
from knnstore import KnnStoreError
from knnstore.cli import run_app

__all__ = ["main"]

_EXTRAS = dict.fromkeys(("typer", "click", "rich", "tomlkit", "jinja2", "filelock"), "cli")
_EXTRAS |= {"starlette": "studio", "uvicorn": "studio", "httpx": "label-studio"}


def main() -> None:
    """Run the command line; the console script ``knnseg``."""
    run_app(_app, "knnseg", _explained)


def _app() -> None:
    from knnseg.cli.commands import app

    app()


def _explained(error: Exception) -> tuple[str, int] | None:
    if isinstance(error, ModuleNotFoundError) and not isinstance(error, KnnStoreError):
        return f"{error}. Install it with: pip install 'knnseg[{_EXTRAS.get(error.name or '', 'torch')}]'", 1
    # The last for files that cannot be written.
    return (str(error), 1) if isinstance(error, KnnSegError | KnnStoreError | OSError) else None
