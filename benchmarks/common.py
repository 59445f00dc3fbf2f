"""What several scripts do alike, without torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["put", "real_folder"]


def real_folder() -> Path:
    """The optional folder of real data; a script ends where there is none."""
    folder = Path(os.environ.get("KNNSEG_REAL_DATA") or Path(__file__).parents[2] / "shared" / "real")
    if not folder.is_dir():
        sys.exit(f"{Path(sys.argv[0]).name}: expected the folder of real data in $KNNSEG_REAL_DATA or at {folder}")
    return folder


def put(path: Path, text: str, script: str) -> None:
    """Replace what is between the marks of a page; a new page where there is none.

    Args:
        path: of the page.
        text: Markdown.
        script: the name of the file that makes it, which the marks say.
    """
    before, mark, after = "", f"<!-- tables: made by benchmarks/{script} -->\n", "<!-- end of the tables -->\n"
    if path.is_file():
        before, _, rest = path.read_text(encoding="utf-8").partition(mark)
        after += rest.partition(after)[2]
    path.write_text(f"{before}{mark}\n{text}\n{after}", encoding="utf-8")
