"""The command ``knnstore``. The commands themselves are in :mod:`knnstore._commands`, which needs the extra ``cli``.

Exit codes: 0 all is well; 1 a check failed, or the store reported an error; 2 the command line or the URL makes no
sense, or something is not installed.
"""

from __future__ import annotations

import io
import sys

from knnstore.errors import InvalidInputError, KnnStoreError, UnknownBackendError

__all__ = ["main"]


def main() -> None:
    """Run the command line; the console script ``knnstore``."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a label that the terminal has no letters for is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        from knnstore._commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "click", "rich"):
            raise
        _fail(f"the command line needs {error.name}. Install it with: pip install 'knnseg[cli]'", 2)
    try:
        app()
    except (InvalidInputError, UnknownBackendError) as error:
        _fail(str(error), 2)
    except (KnnStoreError, OSError) as error:  # the last for files that cannot be written
        _fail(str(error), 1)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
