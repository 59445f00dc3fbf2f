"""The command line, run as a user would: through ``main``, with its exit codes."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
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
    assert report["stats"]["count"] == 1
    assert [child["url"] for child in report["collections"]] == ["memory:///cli/child"]


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


def test_a_failed_check_is_exit_code_one(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knnstore.memory.MemoryStore._delete_ids", lambda self, ids: None)
    result = run("check", "memory:///failing", "--test", "test_delete_by_id")
    assert result.code == 1
    assert "failed: test_delete_by_id: " in result.out


@pytest.mark.parametrize(
    ("module", "arguments", "said"),
    [
        ("typer", ["backends"], "knnseg[cli]"),
        ("hypothesis", ["check", "memory:///x"], "knnseg[testing]"),
        ("matplotlib", ["bench", "memory:///x"], "knnseg[bench]"),
    ],
)
def test_missing_extras(
    run: Any, monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str], said: str
) -> None:
    for name in list(sys.modules):
        if name.startswith(("knnstore._commands", "knnstore.testing", "knnstore.bench", module)):
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


def test_help_has_examples(run: Any) -> None:
    assert "Exit codes" in run("--help").out
    for command in ("backends", "info", "check", "bench"):
        result = run(command, "--help")
        assert result.code == 0
        assert "Example" in result.out
        assert "--json" in result.out


def test_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "knnstore.cli", "info", "nosuch:///x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: store backend 'nosuch'")
    assert done.stdout == ""
