"""The command ``knnseg``. The commands themselves need the extra ``cli``, so they are in modules of their own.

Exit codes: 0 done; 1 an error that the message explains; 2 wrong usage; 3 done, but some images were left out. With
``--json`` the result is one JSON document on standard output and nothing else is printed there; progress and messages
go to standard error.
"""

from __future__ import annotations

import io
import sys

from knnseg.errors import KnnSegError
from knnstore import KnnStoreError

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script ``knnseg``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label that the terminal has no letters for is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        from knnseg._commands import app

        app()
    except (KnnSegError, KnnStoreError, OSError) as error:  # the last for files that cannot be written
        _fail(str(error))
    except ModuleNotFoundError as error:
        extra = "cli" if error.name in ("typer", "click", "rich", "tomlkit", "jinja2", "filelock") else "torch"
        _fail(f"{error}. Install it with: pip install 'knnseg[{extra}]'")


def _fail(message: str) -> None:
    sys.stderr.write(f"knnseg: {message}\n")
    raise SystemExit(1)


if __name__ == "__main__":
    main()
