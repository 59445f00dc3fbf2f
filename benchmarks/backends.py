"""The run that docs/choosing-a-backend.md shows: `knnstore bench` on every backend that is installed here.

    python benchmarks/backends.py [--vectors 20000] [--dim 384] [--rounds 10] [--only NAMES] [--fresh] [--write]

Milvus and Qdrant servers are those of $KNNSTORE_MILVUS_URL and $KNNSTORE_QDRANT_URL; where the wheel `milvus` is
installed, its server is started for the run. With --write, the table of the page is replaced, between its two comments,
and so is the HTML page that it links to. Nothing else holds these figures. A run that was interrupted goes on, unless a
server that it had started has gone with it; then give --fresh.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from knnstore_bench import journal
from knnstore_bench.columns import columns, verdicts
from knnstore_bench.results import Report
from knnstore_bench.summary import rows

import knnstore

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/results/backends"
DOCS, SHOWN = ROOT / "docs/choosing-a-backend.md", ROOT / "docs/bench-example.html"
BETWEEN = re.compile(r"(<!-- figures: .*? -->\n).*?(\n<!-- end of the figures -->)", re.DOTALL)
LEFT_OUT = {("filtered", "recall@10"), ("delete", "records/s")}

MEMORY = ["memory:///bench"]
FAISS = [
    "faiss://{here}/faiss",
    "faiss://{here}/faiss?index=HNSW32&ef_search=16",
    "faiss://{here}/faiss?index=HNSW32&ef_search=64",
    "faiss://{here}/faiss?index=HNSW32&ef_search=256",
    "faiss://{here}/faiss?index=IVF256,Flat&nprobe=4",
    "faiss://{here}/faiss?index=IVF256,Flat&nprobe=16",
    "faiss://{here}/faiss?index=SQ8",
]
EDGE = ["qdrant+edge://{here}/edge"]


@contextlib.contextmanager
def contenders(here: Path, installed: set[str]) -> Iterator[list[str]]:
    """The URLs of everything that can be measured here."""
    embedded = {"memory": MEMORY, "faiss": FAISS, "qdrant": EDGE}
    urls = [url for name, group in embedded.items() if name in installed for url in group]
    urls = [url.format(here=here) for url in urls]
    with contextlib.ExitStack() as stack:
        if "milvus" in installed and (server := milvus(here, stack)):
            urls += [f"{server}/default/bench?index=FLAT", f"{server}/default/bench?index=HNSW"]
        if "qdrant" in installed and (server := os.environ.get("KNNSTORE_QDRANT_URL", "")):
            urls.append(f"{server}/bench")
        yield urls


def milvus(here: Path, stack: contextlib.ExitStack) -> str:
    given = os.environ.get("KNNSTORE_MILVUS_URL", "")
    if given or find_spec("milvus") is None:
        return given
    from knnstore.testing.servers import MilvusProgram

    return stack.enter_context(MilvusProgram(here / "milvus")).url


def markdown(report: Report) -> str:
    """The table of the page, and what is to be said of it."""
    shown = rows(report)
    found = [column for column in columns(report, shown) if (column.title, column.unit) not in LEFT_OUT]
    lines = ["| | " + " | ".join(f"{column.title}: {column.unit}" for column in found) + " |"]
    lines.append("|---|" + "--:|" * len(found))
    for row in shown:
        cells = [
            column.missing(row) if (value := column.value(row)) is None else column.text(value) for column in found
        ]
        lines.append(f"| `{row.label}` | " + " | ".join(cells) + " |")
    work, machine = report.work, report.machine
    said = (
        f"{work.records:,} made-up vectors of {work.dim} numbers, {work.metric}, k={work.k}, {work.rounds} rounds, on "
    )
    said += f"{machine.cores} cores of {machine.cpu}, {report.started}; "
    said += ", ".join(f"{version.name} {version.value}" for version in machine.versions) + "."
    answers = [f"- {verdict.question}: {verdict.answer}" for verdict in verdicts(report, shown)]
    failed = [f"- `{row.label}` failed {row.failure}" for row in shown if row.failure]
    return "\n".join([said, "", *lines, "", *answers, *failed])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="some backends by name, such as memory,faiss; all by default")
    parser.add_argument("--fresh", action="store_true", help="forget an earlier run")
    parser.add_argument("--write", action="store_true", help="put the figures into the documentation")
    chosen = parser.parse_args()
    here = Path(tempfile.gettempdir()) / "knnstore-backends"
    here.mkdir(exist_ok=True)
    options = ["--vectors", chosen.vectors, "--dim", chosen.dim, "--rounds", chosen.rounds, "--out", OUT]
    options += ["--fresh"] if chosen.fresh else []
    installed = {info.name for info in knnstore.backends()}
    with contenders(here, installed & set(chosen.only.split(",")) if chosen.only else installed) as urls:
        command = [sys.executable, "-m", "knnstore.cli", "bench", *urls, *map(str, options)]
        if subprocess.run(command, check=False).returncode not in (0, 1):  # 1: one has failed, which is shown
            raise SystemExit("not finished")
    shutil.rmtree(here)
    report = journal.load(OUT / "bench.json")
    assert report is not None, "bench has just written it"
    if chosen.write:
        text, done = BETWEEN.subn(lambda found: found[1] + markdown(report) + found[2], DOCS.read_text("utf-8"))
        assert done == 1, f"{DOCS} has no place for the figures"
        DOCS.write_text(text, "utf-8")
        shutil.copy(OUT / "bench.html", SHOWN)


if __name__ == "__main__":
    main()
