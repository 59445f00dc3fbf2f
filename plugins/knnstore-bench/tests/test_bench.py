"""``knnstore bench``, on real stores in processes of their own. Wrong and broken backends are plugins in a folder."""

from __future__ import annotations

import io
import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from filelock import FileLock
from knnstore_bench import journal
from knnstore_bench.columns import columns, verdicts
from knnstore_bench.page import as_page
from knnstore_bench.results import BackendRun, Report
from knnstore_bench.runner import Plan, run_bench
from knnstore_bench.summary import rows
from knnstore_bench.table import as_table
from knnstore_bench.workload import made_up
from rich.console import Console

import knnstore
from knnstore.errors import InvalidInputError, UnknownBackendError

ROOT = Path(__file__).parents[3]

PLUGINS = """
import os, signal, time
from dataclasses import replace
import knnstore
from knnstore.memory import MemoryBackend, MemoryStore
from knnstore.types import Hits
from knnstore_faiss import FaissBackend


class Shuffled(MemoryStore):
    "Every query gets the answer of another."

    def _search(self, queries, k, where, fields):
        hits = super()._search(queries, k, where, fields)
        other = list(range(1, len(queries))) + [0]
        return Hits(hits.ids[other], hits.scores[other], {name: c[other] for name, c in hits.fields.items()})


class Unfiltered(MemoryStore):
    def _search(self, queries, k, where, fields):
        return super()._search(queries, k, None, fields)


class Keeping(MemoryStore):
    def _delete_ids(self, ids):
        return len(ids)


class Failing(MemoryStore):
    def _optimize(self):
        raise OSError("the engine says hunter2 <b>and</b> s3cret&key")


class Crashing(MemoryStore):
    def _optimize(self):
        os.kill(os.getpid(), signal.SIGKILL)


class Mine(MemoryBackend):
    "Takes any option, as a server would take a key."

    def __init__(self, name, store_type):
        super().__init__()
        self.name, self.store_type = name, store_type

    def open(self, request):
        return super().open(replace(request, url=replace(request.url, options={})))


class Slow(FaissBackend):
    name = "slow"

    def open(self, request):
        if os.path.exists(request.url.path.rpartition("/")[0] + "/down"):
            raise ConnectionError("it is down")
        store = super().open(request)
        write = store._upsert

        def slowly(batch, on_conflict):
            time.sleep(0.05)
            return write(batch, on_conflict)

        search = store._search

        def slowly_too(*args):
            time.sleep(0.02)
            return search(*args)

        store._upsert, store._search = slowly, slowly_too
        return store


@knnstore.hookimpl
def knnstore_register(register):
    for kind in (Shuffled, Unfiltered, Keeping, Failing, Crashing):
        register(Mine(kind.__name__.lower(), kind))
    register(Slow())
"""
NAMES = ("shuffled", "unfiltered", "keeping", "failing", "crashing", "slow")
SECRETS = ("hunter2", "s3cret&key", "s3cret%26key")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of plugins on the path of this process and of those that it starts."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "bench_plugins.py").write_text(PLUGINS)
    info = folder / "bench_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugins\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[knnstore]\n" + "".join(f"{name} = bench_plugins\n" for name in NAMES))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="module")
def finished(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, list[str]]:
    """One run on good, approximate, wrong, failing and crashing backends; and the content that was there before."""
    folder = tmp_path_factory.mktemp("run")
    place = f"faiss://{folder}/there"
    with knnstore.open_store(place, knnstore.StoreSpec(2)) as store:
        store.upsert(["mine"], np.ones((1, 2), np.float32))
    said = []

    class Heard:
        def start(self, steps: int, done: int) -> None:
            said.append(f"start {steps} {done}")

        def at(self, label: str, step: str) -> None: ...
        def part(self, text: str) -> None: ...
        def done(self) -> None: ...

        def say(self, text: str) -> None:
            said.append(text)

    report = run_bench(_urls(folder), made_up(600, 16), folder, Plan(rounds=2, batch=100), Heard())
    return report, folder, said


def named(report: Report, label: str) -> BackendRun:
    return next(run for run in report.backends if run.label == label)


def complete(run: BackendRun, rounds: int) -> bool:
    steps = (run.opened, run.loaded, run.first_answer, run.optimized, run.quality, run.footprint, run.reopened)
    return run.failure is None and None not in steps and run.deleted is not None and len(run.rounds) == rounds


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_exact_backends_find_everything(finished: Any) -> None:
    report = finished[0]
    for label in ("memory", "faiss"):
        run = named(report, label)
        assert complete(run, 2)
        assert run.quality is not None
        assert (run.quality.recall, run.quality.filtered) == (1, 1)
        assert run.loaded is not None
        assert run.loaded.records == 600
        assert all(len(each.single) == 20 and len(each.batch) == 2 and len(each.filtered) == 10 for each in run.rounds)
        assert all(seconds > 0 for each in run.rounds for seconds in (*each.single, *each.batch, *each.filtered))
    assert named(report, "memory").reopened == ()  # nothing is kept
    assert len(named(report, "faiss").reopened or ()) == 3


def test_an_approximate_index_is_measured_as_such(finished: Any) -> None:
    run = named(finished[0], "faiss index=HNSW32 ef_search=64")
    assert complete(run, 2)
    assert run.opened is not None
    assert run.opened.approximate
    assert run.quality is not None
    assert run.quality.recall > 0.9
    assert run.footprint is not None
    assert run.footprint.on_disk is not None
    assert run.footprint.on_disk > 600 * 16 * 4
    assert run.footprint.process > 0
    assert any(detail.name == "index" for detail in run.footprint.details)


def test_wrong_answers_are_found_out(finished: Any) -> None:
    shuffled = named(finished[0], "shuffled")
    assert shuffled.quality is not None
    assert shuffled.quality.recall < 0.3
    failure = named(finished[0], "unfiltered").failure
    assert failure is not None
    assert failure.step == "recall before optimizing"
    assert "does not match the filter" in failure.error
    failure = named(finished[0], "keeping").failure
    assert failure is not None
    assert failure.step == "deleting"
    assert "expected" in failure.error


def test_a_backend_that_fails_or_crashes_leaves_the_others_whole(finished: Any) -> None:
    report, _, said = finished
    failing, crashing = named(report, "failing"), named(report, "crashing")
    assert failing.failure is not None
    assert failing.failure.step == "optimizing"
    assert "the engine says ***" in failing.failure.error
    assert failing.loaded is not None  # what was measured before stays
    assert crashing.failure is not None
    assert "killed by SIGKILL" in crashing.failure.error
    refused = named(report, "memory nonsense=1")
    assert refused.failure is not None
    assert refused.failure.step == "opening"
    assert "nonsense" in refused.failure.error
    assert any(text.startswith("crashing failed at optimizing") for text in said)


def test_what_was_there_is_untouched_and_nothing_is_left(finished: Any) -> None:
    report, folder, _ = finished
    assert [run.left for run in report.backends] == [None] * len(report.backends)
    place = f"faiss://{folder}/there"
    assert [str(url) for url in knnstore.collections(place)] == [place]
    assert sorted(path.name for path in (folder / "there").iterdir() if path.is_dir()) == []
    with knnstore.open_store(place, read_only=True) as store:
        assert store.get(["mine"]).ids.tolist() == ["mine"]
        assert store.count() == 1


def test_a_finished_run_is_not_measured_again(finished: Any) -> None:
    """Those that failed are tried again; the others stay bit for bit."""
    report, folder, _ = finished
    again = run_bench(_urls(folder), made_up(600, 16), folder, Plan(rounds=2, batch=100))
    for old, new in zip(report.backends, again.backends, strict=True):
        if old.failure is None:
            assert new == old
        else:
            assert new.failure is not None
            assert new.failure.step == old.failure.step
            assert new.left is None


def _urls(folder: Path) -> list[str]:
    place = f"faiss://{folder}/there"
    return [
        "memory:///<script>alert(1)</script>", place, f"{place}?index=HNSW32&ef_search=64", "shuffled:///x",
        "unfiltered:///x", "keeping:///x", "failing://me:hunter2@host/x?api_key=s3cret%26key", "crashing:///x",
        "memory://other/y?nonsense=1",
    ]  # fmt: skip


# -- results -----------------------------------------------------------------------------------------------------------


def test_json_round_trip(finished: Any, tmp_path: Path) -> None:
    report, folder, _ = finished
    journal.save(report, tmp_path / "again.json")
    assert journal.load(tmp_path / "again.json") == report
    assert [path.name for path in tmp_path.iterdir()] == ["again.json"]
    raw = json.loads((folder / "bench.json").read_text())
    assert raw["work"]["records"] == 600
    assert {version["name"] for version in raw["machine"]["versions"]} >= {"python", "numpy", "knnstore", "faiss-cpu"}


def test_secrets_are_nowhere(finished: Any) -> None:
    report, folder, said = finished
    texts = [(folder / "bench.json").read_text(), as_page(report), printed(report), "\n".join(said)]
    assert [secret for text in texts for secret in SECRETS if secret in text] == []
    assert "me:***@host" in texts[0]


def printed(report: Report, width: int = 300) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(as_table(report))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_has_every_backend_and_every_figure(finished: Any) -> None:
    report = finished[0]
    text = printed(report)
    for found in ("recall@10", "1.000", "not kept", "not told", "shuffled", "unfiltered failed at recall"):
        assert found in text
    assert "600 vectors of 16 numbers, cosine, k=10" in text


class Page(HTMLParser):
    """Collects what a test asks about, and checks that elements are closed in order."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_whole_and_needs_nothing_else(finished: Any) -> None:
    text = as_page(finished[0])
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "image", "foreignobject"}
    links = [v for _, attrs in page.tags for n, v in attrs.items() if n.split(":")[-1] in ("href", "src", "action")]
    assert [link for link in links if not str(link).startswith("#")] == []
    assert re.findall(r"https?:|@import|url\((?!#)", text) == []
    ids = [str(attrs["id"]) for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(link)[1:] for link in links} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(ids)


def test_the_page_says_what_an_integrator_needs(finished: Any) -> None:
    page = Page(as_page(finished[0]))
    text = " ".join(" ".join(page.words).split())
    first = [tag for tag, _ in page.tags if tag in ("table", "svg", "h2")]
    assert first[0] == "table"
    assert first.count("svg") == 7
    for wanted in ("How it was measured", "What it cannot tell", "memory:///%3Cscript%3Ealert", "In short",
                   "failing failed at optimizing", "<b>and</b>", "Exact here", "faiss-cpu"):  # fmt: skip
        assert wanted in text
    assert {"ms", "seconds", "MB", "recall@10", "ms a query (median)"} <= {word.strip() for word in page.words}


def test_a_fast_backend_that_finds_nothing_is_not_called_the_fastest(finished: Any) -> None:
    report = finished[0]
    quick = named(report, "shuffled")
    quick = replace(quick, rounds=tuple(replace(r, single=(1e-9,) * 20, batch=(1e-9,) * 2) for r in quick.rounds))
    changed = replace(report, backends=tuple(quick if r.label == "shuffled" else r for r in report.backends))
    said = {verdict.question: verdict.answer for verdict in verdicts(changed, rows(changed))}
    assert not said["Fastest, one query at a time"].startswith("shuffled")
    assert "shuffled" not in said["Exact here"]
    ratio = next(c for c in columns(changed, rows(changed)) if c.unit == "× fastest")
    ratios = {row.label: ratio.value(row) for row in rows(changed)}
    assert ratios[said["Fastest, one query at a time"].partition(";")[0]] == 1
    assert ratios["shuffled"] is not None
    assert ratios["shuffled"] < 0.01


@pytest.mark.parametrize("problem", ["other work", "other machine", "not ours", "nothing of ours"])
def test_results_of_something_else_are_not_overwritten(finished: Any, tmp_path: Path, problem: str) -> None:
    path = tmp_path / "bench.json"
    report = replace(finished[0], work=replace(finished[0].work, urls=("memory:///x",)))
    workload, plan = made_up(600, 16), Plan(rounds=2, batch=100)
    if problem == "other work":
        journal.save(report, path)
        plan = replace(plan, rounds=3)
    elif problem == "other machine":
        journal.save(replace(report, machine=replace(report.machine, cpu="a faster one")), path)
    else:
        path.write_text("{}" if problem == "not ours" else "my diary")
    before = path.read_bytes()
    expected = {"other work": "rounds 3", "other machine": "a faster one"}.get(problem, "results of knnstore bench")
    with pytest.raises(InvalidInputError, match=expected) as caught:
        run_bench(["memory:///x"], workload, tmp_path, plan)
    assert ("--fresh" in str(caught.value)) == ("other" in problem)
    assert len(str(caught.value)) < 600
    assert path.read_bytes() == before


# -- killed and taken up again -----------------------------------------------------------------------------------------


def command(urls: list[str], out: Path, *more: str) -> list[str]:
    options = ["--vectors", "600", "--dim", "16", "--batch", "10", "--rounds", "40", "--out", str(out), *more]
    return [sys.executable, "-m", "knnstore.cli", "bench", *urls, *options]


def stop_when(arguments: list[str], path: Path, ready: Any, number: int) -> tuple[int, str]:
    """Start the command, send it a signal once the file of results is as wanted, and wait until all of it has gone.

    Returns its exit code and what it said.
    """
    process = subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (path.exists() and ready(json.loads(path.read_text()))):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, path.read_text() if path.exists() else "nothing was written"
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=20)[1] == []  # the next run must not meet them
    return process.returncode, said


def recorded(raw: Any) -> dict[tuple[str, str], Any]:
    """What has been measured: (label, step) -> value."""
    found = {}
    for run in raw["backends"]:
        found |= {(run["label"], f"round {i}"): each for i, each in enumerate(run["rounds"])}
        steps = (
            "opened",
            "loaded",
            "first_answer",
            "fresh",
            "optimized",
            "quality",
            "footprint",
            "reopened",
            "deleted",
        )
        found |= {(run["label"], step): run[step] for step in steps if run[step] is not None}
    return found


def test_killed_and_taken_up_again(site: Path, tmp_path: Path) -> None:
    urls, path = [f"slow://{tmp_path}/s", "memory:///m"], tmp_path / "out" / "bench.json"
    arguments = command(urls, tmp_path / "out")

    def loading(raw: Any) -> bool:
        (run, other) = raw["backends"]
        place = f"slow://{tmp_path}/s/{run['collection']}"
        if not other["opened"]:
            return False
        with knnstore.open_store(place, read_only=True) as store:
            return store.count() > 100  # in the middle of it

    stop_when(arguments, path, loading, signal.SIGKILL)
    first = json.loads(path.read_text())
    assert recorded(first).keys() == {("slow", "opened"), ("memory", "opened")}

    code, said = stop_when(arguments, path, lambda raw: len(raw["backends"][0]["rounds"]) >= 2, signal.SIGINT)
    assert code == 130, said
    assert "the same command goes on" in said
    second = json.loads(path.read_text())

    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"going on: {len(recorded(second))} of 98 steps are done" in done.stderr
    last = recorded(json.loads(path.read_text()))
    assert len(last) == 98
    assert recorded(first).items() <= recorded(second).items() <= last.items()
    assert last["slow", "loaded"]["records"] == 600
    assert last["slow", "quality"]["recall"] == last["memory", "quality"]["recall"] == 1
    assert knnstore.collections(f"slow://{tmp_path}/s") == []
    assert (tmp_path / "out" / "bench.html").stat().st_size > 10_000


def test_what_failed_is_tried_again(site: Path, tmp_path: Path) -> None:
    urls = [f"slow://{tmp_path}/s", "memory:///m"]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "down").touch()
    workload, plan = made_up(200, 8), Plan(rounds=1, batch=100)
    before = run_bench(urls, workload, tmp_path, plan)
    assert before.backends[0].failure is not None
    assert "it is down" in before.backends[0].failure.error
    assert before.backends[0].left is None  # never opened, so there is nothing
    assert complete(before.backends[1], 1)
    (tmp_path / "s" / "down").unlink()
    after = run_bench(urls, workload, tmp_path, plan)
    assert complete(after.backends[0], 1)
    assert after.backends[1] == before.backends[1]


def test_fresh_removes_what_an_interrupted_run_has_left(site: Path, tmp_path: Path) -> None:
    urls, out = [f"slow://{tmp_path}/s"], tmp_path / "out"
    stop_when(command(urls, out), out / "bench.json", lambda raw: raw["backends"][0]["opened"], signal.SIGKILL)
    assert len(knnstore.collections(urls[0])) == 1
    with FileLock(out / "bench.lock"):  # as a run at work holds it
        busy = subprocess.run(command(urls, out), cwd=ROOT, capture_output=True, text=True, check=False)
    assert busy.returncode == 2
    assert "expected no other run in it, got one at work" in busy.stderr
    refused = subprocess.run([*command(urls, out), "--k", "3"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "expected k 3, got k 10" in refused.stderr
    assert len(knnstore.collections(urls[0])) == 1
    more = ("--k", "3", "--fresh", "--rounds", "1", "--batch", "300")
    done = subprocess.run([*command(urls, out), *more], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert knnstore.collections(urls[0]) == []
    assert json.loads((out / "bench.json").read_text())["work"]["k"] == 3


# -- the command -------------------------------------------------------------------------------------------------------


def test_from_a_store(site: Path, tmp_path: Path) -> None:
    """The command, on the records of a store; the same vectors are not asked for that are stored."""
    source, made = f"faiss://{tmp_path}/source", made_up(500, 8, "l2")
    with knnstore.open_store(source, made.spec) as store:
        store.upsert(made.ids, made.vectors, made.fields)
        revision = store.revision()
    arguments = ["bench", f"faiss://{tmp_path}/b", "--from", source, "--rounds", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-m", "knnstore.cli", *arguments, "--json"], capture_output=True, text=True,
                          cwd=ROOT, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    raw = json.loads(done.stdout)
    assert raw == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert raw["work"]["records"] == 450
    assert raw["work"]["metric"] == "l2"
    assert raw["backends"][0]["quality"]["recall"] == 1
    with knnstore.open_store(source, read_only=True) as store:
        assert store.revision() == revision


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["memory:///x", "--from", "memory:///nothing"], 1, "nothing is stored"),
        (["memory:///x", "--from", "memory:///y", "--dim", "3"], 2, "--dim and --metric only without --from"),
        (["memory:///x", "--vectors", "3"], 2, "at least 100 vectors"),
        (["memory:///x", "--metric", "manhattan"], 2, "cosine, dot or l2"),
        (["memory:///x", "--k", "0"], 2, "k: expected a whole number of at least 1"),
        (["nosuch:///x", "--vectors", "100"], 2, "nosuch"),
        (["no url", "--vectors", "100"], 2, "scheme://"),
    ],
)
def test_user_errors_come_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    arguments: list[str], code: int, said: str,
) -> None:  # fmt: skip
    from knnstore.cli import main

    monkeypatch.setattr(sys, "argv", ["knnstore", "bench", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_failed_backend_is_exit_code_one(site: Path, tmp_path: Path) -> None:
    arguments = command(["failing:///x"], tmp_path / "out")
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "failing failed at optimizing" in done.stderr
    assert "failing failed at optimizing" in done.stdout
    assert (tmp_path / "out" / "bench.html").exists()


def test_unknown_backends_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnknownBackendError):
        run_bench(["memory:///x", "nosuch:///y"], made_up(100, 4), tmp_path / "out")
    assert not (tmp_path / "out").exists()
