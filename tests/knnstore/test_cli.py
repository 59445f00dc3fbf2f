"""The command line, run as a user would: through ``main``, with its exit codes."""

from __future__ import annotations

import builtins
import importlib.metadata
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import knnstore
from knnstore import _plugins
from knnstore.cli import main


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["knnstore", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        code = caught.value.code
        return Result(code if isinstance(code, int) else 0, out, err)

    return call


@pytest.fixture
def filled() -> str:
    space = knnstore.EmbeddingSpace("tiny", "sha256:abc")
    spec = knnstore.StoreSpec(2, "l2", {"label": str}, space)
    for url in ("memory:///cli", "memory:///cli/child"):
        with knnstore.open_store(url, spec) as store:
            store.upsert(["a"], np.ones((1, 2), np.float32), {"label": ["x"]})
    return "memory:///cli"


def test_backends(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_plugins._KNOWN, "nearby", "knnstore-nearby")  # an engine of ours that is not installed
    result = run("backends")
    assert result.code == 0
    assert "memory     loaded" in result.out
    assert "pip install knnstore-nearby" in result.out
    rows = json.loads(run("backends", "--json").out)
    assert {"memory", "faiss", "nearby"} <= {row["name"] for row in rows}
    assert all(set(row) == {"name", "distribution", "status", "detail"} for row in rows)


def test_a_broken_backend_is_shown_with_the_reason(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no such device')")
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[knnstore]\nbrokenone = broken_plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    result = run("backends")
    assert result.code == 0
    line = next(line for line in result.out.splitlines() if line.startswith("brokenone"))
    assert "broken " in line
    assert "no such device" in line
    assert "broken-plugin 1.0" in line
    assert "memory     loaded" in result.out


def test_info(run: Any, filled: str) -> None:
    result = run("info", filled)
    assert result.code == 0
    for text in ("dim: 2", "metric: l2", "encoder: tiny", "sha256:abc", "count: 1", "memory:///cli/child  1 records"):
        assert text in result.out
    report = json.loads(run("info", filled, "--json").out)
    assert report["spec"]["fields"] == {"label": "str"}
    assert report["capabilities"]["recall_floor"] == 1
    assert report["capabilities"]["filters_by_type"]["bool"] == ["!=", "==", "isin"]
    assert "    str: !=, <, <=, ==, >, >=, isin\n" in result.out
    assert report["stats"]["count"] == 1
    assert [child["url"] for child in report["collections"]] == ["memory:///cli/child"]


def test_half_precision_is_shown(run: Any) -> None:
    """Whether the URL says it or not; by every command that takes a URL."""
    for place in ("memory:///half", "memory:///half/below"):
        with knnstore.open_store(f"{place}?dtype=float16", knnstore.StoreSpec(3)) as store:
            store.upsert(["a"], np.ones((1, 3), np.float32))
    for url in ("memory:///half", "memory:///half?dtype=float16"):
        shown = run("info", url).out
        assert "dtype: float16" in shown and "memory:///half/below  1 records, dim 3 float16, cosine" in shown
        for command in ("count", "stats", "optimize"):
            assert run(command, url).code == 0
    assert run("info", "memory:///half?dtype=half").code == 2


def test_info_of_a_place_that_only_has_children(run: Any) -> None:
    knnstore.open_store("memory:///above/below", knnstore.StoreSpec(3))
    report = json.loads(run("info", "memory:///above", "--json").out)
    assert report["url"] == "memory:///above"
    assert "spec" not in report
    assert report["collections"][0]["spec"]["dim"] == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["info", "memory:///nothing"], 1, "nothing is stored at memory:///nothing"),
        (["info", "memry:///x"], 2, "Did you mean 'memory'?"),
        (["info", "no url"], 2, "scheme://"),
        (["info", "memory:///never-made?a=b"], 1, "nothing is stored"),
        (["info"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
        (["copy", "memory:///nothing", "memory:///to"], 1, "nothing is stored at memory:///nothing"),
        (["copy", "memory:///nothing", "nosuch:///to"], 1, "nothing is stored"),
        (["copy", "memory:///a", "memory:///b", "--where", "label = 'a'"], 2, "Equality is written =="),
        (["copy", "memory:///a", "memory:///b", "--batch", "0"], 2, "--batch"),
        (["copy", "memory:///a", "memory:///b", "--on-conflict", "hope"], 2, "'hope'"),
        (["export", "memory:///nothing", "folder"], 1, "nothing is stored"),
        (["import", "/nothing/at/all", "memory:///x"], 1, "no export in /nothing/at/all"),
        (["count", "memory:///nothing"], 1, "nothing is stored"),
        (["stats", "memory:///nothing"], 1, "nothing is stored"),
        (["optimize", "memory:///nothing"], 1, "nothing is stored"),
        (["delete", "memory:///nothing", "--id", "a"], 1, "nothing is stored"),
        (["delete", "memory:///nothing"], 2, "give either --where or --id"),
        (["delete", "memory:///nothing", "--id", "a", "--where", "thing"], 2, "give either --where or --id"),
        (["check", "memory:///x", "--test", "test_no_such"], 2, "names of checks"),
        (["check", "nosuch:///x"], 2, "nosuch"),
    ],
)
def test_user_errors_are_one_message(run: Any, arguments: list[str], code: int, said: str) -> None:
    result = run(*arguments)
    assert result.code == code
    assert said in result.err
    assert "Traceback" not in result.err
    assert result.out == ""
    if arguments != ["nonsense"]:  # for programs as well
        told = run(*arguments, "--json")
        assert told.code == code and said in told.err
        error = json.loads(told.out)["error"]
        assert set(error) == {"type", "message", "expected", "got", "hint"}
        assert said in error["message"]


def test_an_error_in_json_has_its_parts(run: Any) -> None:
    error = json.loads(run("copy", "memory:///a", "memory:///a", "--json").out)["error"]
    assert error == {
        "type": "InvalidInputError", "message": "copy to memory:///a: expected another place than the source, got memory:///a",
        "expected": "another place than the source", "got": "memory:///a", "hint": None,
    }  # fmt: skip


def test_a_copy_that_nothing_keeps_is_not_verified(run: Any, scenes: str) -> None:
    result = run("copy", scenes, "memory:///gone")
    assert result.code == 0
    assert "verified" not in result.out and "nothing keeps a memory store" in result.out
    assert [row["kept"] for row in json.loads(run("copy", scenes, "memory:///gone", "--json").out)] == [False, False]


def test_a_password_is_never_printed(run: Any) -> None:
    for url in ("memory://me:hunter2@host/x", "memory://me:hunter2/3@host/x", "memory//me:hunter2@host"):
        result = run("info", url)
        assert result.code in (1, 2)
        assert "hunter2" not in result.out + result.err


def test_check(run: Any) -> None:
    result = run("check", "memory:///checked", "--test", "test_k_limits", "--test", "test_stats")
    assert result.code == 0
    assert "2 checks, 2 passed" in result.out
    report = json.loads(run("check", "memory:///checked", "--test", "test_k_limits", "--json").out)
    assert report["ok"] is True
    assert report["results"][0]["name"] == "test_k_limits"


def test_check_has_a_short_form(run: Any) -> None:
    assert "39 checks, 39 passed" in run("check", "memory:///quick", "--quick").out


def test_check_says_in_a_pipe_how_far_it_has_come(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knnstore._check_command._EVERY", 0.05)
    monkeypatch.setattr("knnstore.memory.MemoryStore._stats", lambda self: time.sleep(0.3))
    result = run("check", "memory:///slow", "--test", "test_k_limits", "--test", "test_stats", "--json")
    assert "1 of 2 checks, 0 failed; test_stats since 0 s" in result.err
    assert json.loads(result.out)["ok"] is False


def test_check_shows_a_bar_on_a_terminal(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = run("check", "memory:///bar", "--test", "test_k_limits", "--test", "test_delete_by_id")
    assert "2/2" in result.err
    assert "test_delete_by_id" in result.err
    assert "2 checks, 2 passed" in result.out


def test_a_failed_check_is_exit_code_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knnstore.memory.MemoryStore._delete_ids", lambda self, ids: 0)
    result = run("check", "memory:///failing", "--test", "test_delete_by_id")
    assert result.code == 1
    assert "failed: test_delete_by_id: " in result.out


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("typer", ["backends"], "knnstore[cli]"),
        ("hypothesis", ["check", "memory:///x"], "knnstore[testing]"),
    ],
)
def test_missing_extras(
    run: Any, monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str], said: str
) -> None:
    for name in list(sys.modules):
        if name.startswith(("knnstore._commands", "knnstore.testing", module)):
            monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def guarded(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", guarded)
    result = run(*arguments)
    assert result.code == 2
    assert f"pip install '{said}'" in result.err


@pytest.mark.parametrize(
    ("entries", "code", "said"),
    [
        ([], 2, "the command 'bench' is not installed. Install it with: pip install knnstore-bench"),
        ([EntryPoint("bench", "no_such_module:add", "knnstore.commands")], 1, "no_such_module:add) failed to load"),
    ],
)
def test_a_command_of_another_distribution_that_is_not_there(
    run: Any, monkeypatch: pytest.MonkeyPatch, entries: list[EntryPoint], code: int, said: str
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: entries)
    monkeypatch.delitem(sys.modules, "knnstore._commands")
    result = run("bench", "memory:///x", "--rounds", "3")
    assert result.code == code and said in result.err
    assert "bench" in run("--help").out


def test_help_has_examples(run: Any) -> None:
    assert "Exit codes" in run("--help").out
    for command in (
        "backends", "info", "check", "copy", "export", "import", "stats", "count", "delete", "drop", "optimize", "ping", "bench",
    ):  # fmt: skip
        result = run(command, "--help")
        assert result.code == 0
        assert "Example" in result.out
        assert "--json" in result.out


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "knnstore.cli", "info", "nosuch:///x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("knnstore: store backend 'nosuch'")
    assert done.stdout == ""


# -- moving house and upkeep -------------------------------------------------------------------------------------------


@pytest.fixture
def scenes(tmp_path: Path) -> str:
    """A concept database as others see it: collections below a URL, none at it."""
    spec = knnstore.StoreSpec(2, "l2", {"label": str, "area": int})
    for name in ("clip", "dinov2"):
        with knnstore.open_store(f"faiss://{tmp_path}/scenes/{name}", spec) as store:
            vectors = np.arange(20, dtype=np.float32).reshape(10, 2)
            labels = [["kettle", "zebra", 'say "猫"'][i % 3] for i in range(10)]
            store.upsert([f"img{i}" for i in range(10)], vectors, {"label": labels, "area": list(range(10))})
    return f"faiss://{tmp_path}/scenes"


def test_copy(run: Any, scenes: str, tmp_path: Path) -> None:
    target = f"faiss://{tmp_path}/target"
    planned = run("copy", scenes, target, "--dry-run")
    assert f"{scenes}/clip -> {target}/clip, to be created" in planned.out
    assert "10 records: 10 to send, 0 there already\n" in planned.out
    assert not (tmp_path / "target").exists()
    part = json.loads(run("copy", scenes, target, "--where", "label == 'say \"猫\"' and 3 < area", "--json").out)
    assert [(row["sent"], row["created"]) for row in part] == [(2, True), (2, True)]
    result = run("copy", scenes, target, "--batch", "3")
    assert (result.code, result.err) == (0, "")
    assert "10 records: 8 sent, 2 there already; verified" in result.out and "sha256-sum:" in result.out
    run("delete", f"{scenes}/clip", "--id", "img1", "--yes")
    assert "1 other record at the destination, left alone" in run("copy", scenes, target).out


def test_copy_that_does_not_fit(run: Any, scenes: str, tmp_path: Path) -> None:
    target = f"faiss://{tmp_path}/target"
    run("copy", scenes, target)
    with knnstore.open_store(f"{scenes}/clip") as store:
        store.upsert(["img3"], np.ones((1, 2), np.float32), {"label": ["x"], "area": [1]})
    result = run("copy", scenes, target)
    assert result.code == 1 and "id 'img3' is stored already" in result.err
    assert "1 there with other content" in run("copy", scenes, target, "--on-conflict", "skip").out
    assert run("copy", scenes, target, "--on-conflict", "replace").code == 0
    knnstore.open_store(f"faiss://{tmp_path}/other/clip", knnstore.StoreSpec(3)).close()
    result = run("copy", scenes, f"faiss://{tmp_path}/other")
    assert result.code == 1 and "holds another collection" in result.err


def test_export_and_import(run: Any, scenes: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "exported")
    result = run("export", scenes, folder, "--where", "area >= 5")
    assert result.code == 0
    assert f"{scenes}/clip -> {folder}/clip" in result.out
    assert "5 records in 1 file," in result.out
    target = f"faiss://{tmp_path}/again"
    assert "5 records: 5 to send" in run("import", folder, target, "--dry-run").out
    rows = json.loads(run("import", folder, target, "--json").out)
    assert [row["sent"] for row in rows] == [5, 5]
    assert "5 records: 0 sent, 5 there already; verified" in run("import", folder, target).out
    again = run("export", scenes, folder)
    assert again.code == 2 and "a whole export" in again.err
    rows = json.loads(run("export", scenes, str(tmp_path / "whole"), "--json").out)
    assert [row["records"] for row in rows] == [10, 10]


def test_a_folder_that_cannot_be_written(run: Any, scenes: str) -> None:
    result = run("export", scenes, "/proc/knnstore")
    assert result.code == 1
    assert result.err.startswith("knnstore: ") and "/proc/knnstore" in result.err and "Traceback" not in result.err


def test_count(run: Any, scenes: str) -> None:
    assert run("count", f"{scenes}/clip").out == "10\n"
    assert run("count", f"{scenes}/clip", "--where", "label in ('kettle', 'zebra')").out == "7\n"
    assert run("count", scenes).out == f"{scenes}/clip  10\n{scenes}/dinov2  10\n"
    assert json.loads(run("count", scenes, "--where", "area < 1", "--json").out)[1] == {
        "url": f"{scenes}/dinov2", "count": 1,
    }  # fmt: skip
    assert run("count", scenes, "--where", "size < 1").code == 1


def test_stats_and_optimize(run: Any, scenes: str) -> None:
    for name in ("clip", "dinov2"):
        assert f"{scenes}/{name}\n  backend: faiss\n  count: 10\n" in run("stats", scenes).out
    rows = json.loads(run("stats", scenes, "--json").out)
    assert rows[0]["recall"] == 1 and rows[0]["details"]["index"] == "Flat"
    assert f"{scenes}/dinov2  optimized in" in run("optimize", scenes).out
    assert [row["url"] for row in json.loads(run("optimize", scenes, "--json").out)] == [
        f"{scenes}/clip",
        f"{scenes}/dinov2",
    ]


def test_delete_where_nobody_can_be_asked(run: Any, scenes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{scenes}/clip"
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    refused = run("delete", url, "--where", "area < 3")
    assert refused.code == 2 and "--yes deletes without asking" in refused.err
    assert run("count", url).out == "10\n"
    assert run("delete", url, "--where", "area > 100").out == "0 records deleted, 10 left\n"  # nothing to ask about
    assert run("delete", url, "--where", "area < 3", "--yes").out == "3 records deleted, 7 left\n"
    result = json.loads(run("delete", url, "--id", "img5", "--id", "img6", "--id", "none", "-y", "--json").out)
    assert result == {"url": url, "deleted": 2, "left": 5}
    assert run("count", f"{scenes}/dinov2").out == "10\n"


def test_delete_wants_one_collection(run: Any, scenes: str) -> None:
    result = run("delete", scenes, "--where", "area >= 0", "--yes")
    assert result.code == 1 and f"{scenes}/dinov2" in result.err
    assert run("count", scenes).out.count("  10\n") == 2


@pytest.mark.parametrize(("answer", "left"), [("y\n", 7), ("n\n", 10), ("\n", 10)])
def test_delete_asks_on_a_terminal(scenes: str, answer: str, left: int) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "knnstore.cli", "delete", f"{scenes}/clip", "--where", "area < 3"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, answer.encode())
    out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert f"Delete 3 of 10 records of {scenes}/clip?" in err + out
    assert process.returncode == (0 if left == 7 else 1)
    with knnstore.open_store(f"{scenes}/clip", read_only=True) as store:
        assert store.count() == left


def test_drop(run: Any, scenes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\nclip\n"))
    refused = run("drop", f"{scenes}/clip")
    assert refused.code == 2 and "--yes" in refused.err
    assert run("drop", scenes, "--yes").code == 1  # nothing at it, two below it
    assert run("count", scenes).out.count("  10\n") == 2
    assert run("drop", f"{scenes}/clip", "--yes").out == f"{scenes}/clip dropped, with 10 records\n"
    assert [str(url) for url in knnstore.collections(scenes)] == [f"{scenes}/dinov2"]
    assert json.loads(run("drop", f"{scenes}/dinov2", "-y", "--json").out) == {"url": f"{scenes}/dinov2", "dropped": 10}
    assert run("drop", f"{scenes}/dinov2", "-y").code == 1


@pytest.mark.parametrize(("answer", "gone"), [("y\nclip\n", True), ("y\ndinov2\n", False), ("n\n", False)])
def test_drop_asks_twice_on_a_terminal(scenes: str, answer: str, gone: bool) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "knnstore.cli", "drop", f"{scenes}/clip"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.write(ours, answer.encode())
    out, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert f"Drop the collection {scenes}/clip with 10 records?" in err + out
    assert process.returncode == (0 if gone else 1)
    assert len(knnstore.collections(f"{scenes}/clip")) == (0 if gone else 1)


def test_ping(run: Any, scenes: str) -> None:
    assert re.search(r"answered in [\d.e-]+ s\n$", run("ping", scenes).out)
    assert json.loads(run("ping", f"{scenes}/clip", "--json").out)["url"] == f"{scenes}/clip"
    lost = run("ping", "qdrant://127.0.0.1:1/c?retries=0&timeout=3", "--json")
    assert lost.code == 1 and json.loads(lost.out)["error"]["type"] == "StoreConnectionError"


@pytest.mark.parametrize("command", ["knnstore", "knnseg"])
def test_version(command: str) -> None:
    program = f"import sys; from {command}.cli import main; sys.argv = [{command!r}, '--version']; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{command} {importlib.metadata.version(command)}\n"


# -- Ctrl-C at the worst moments ---------------------------------------------------------------------------------------

RUN = "from knnstore.cli import run_app\nrun_app(app, 'knnstore', lambda error: None)"
FLOOD = """
import atexit, os, subprocess, time
def flood():  # Ctrl-C again and again, until nobody is there
    command, null = f"while kill -INT {os.getpid()}; do :; done", subprocess.DEVNULL
    subprocess.Popen(["sh", "-c", command], start_new_session=True, stdout=null, stderr=null)
    time.sleep(0.3)
atexit.register(flood)
"""


@pytest.mark.parametrize(
    ("app", "code", "said"),
    [
        ("def app(): exec('raise KeyboardInterrupt')", 130, "\ninterrupted\n"),  # as where a dataclass is made
        (f"{FLOOD}def app(): pass", 0, ""),  # while Python ends
        (f"{FLOOD}def app(): raise KeyboardInterrupt", 130, "\ninterrupted\n"),
    ],
)
def test_ctrl_c_ends_with_a_code_and_no_traceback(app: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(f"{app}\n{RUN}")
    done = subprocess.run([sys.executable, "-m", "ours"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, said)
