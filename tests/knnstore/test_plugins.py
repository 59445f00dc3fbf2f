"""Finding backends. Entry points are faked with dist-info folders, and watched from a process of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import knnstore
from knnstore import _plugins
from knnstore.errors import (
    BrokenPluginError,
    InvalidInputError,
    InvalidURLError,
    SpecMismatchError,
    UnknownBackendError,
    UnsupportedOperationError,
)
from knnstore.memory import MemoryBackend, MemoryStore
from knnstore.types import Capabilities

GOOD = """
import knnstore
from knnstore.memory import MemoryBackend

class Mine(MemoryBackend):
    name = {name!r}

@knnstore.hookimpl
def knnstore_register(register):
    register(Mine())
"""

PLUGINS = {
    "good": GOOD.format(name="good"),
    "raises": "raise RuntimeError('broken at import')",
    "exits": "import sys; sys.exit(3)",
    "missing": "import a_client_that_is_not_installed",
    "syntax": "def (:",
    "misspelt": GOOD.format(name="misspelt").replace("knnstore_register", "knnstore_regster"),
    "unmarked": GOOD.format(name="unmarked").replace("@knnstore.hookimpl", ""),
    "arguments": GOOD.format(name="arguments").replace("(register):", "(register, other):"),
    "nothing": GOOD.format(name="nothing").replace("register(Mine())", "pass"),
    "notabackend": GOOD.format(name="x").replace("register(Mine())", "register('notabackend')"),
    "othername": GOOD.format(name="memory"),
    "hookfails": GOOD.format(name="x").replace("register(Mine())", "1 / 0"),
    "noclient": GOOD.format(name="noclient") + "\n    Mine.open = lambda self, request: __import__('no_such_client')\n",
    "nostore": GOOD.format(name="nostore") + "\n    Mine.open = lambda self, request: None\n",
    "engine": GOOD.format(name="engine")
    + "\n    Mine.open = lambda self, r: (_ for _ in ()).throw(OSError('me:hunter2'))\n",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed distributions, most of them bad."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in PLUGINS.items():
        (folder / f"plugin_{name}.py").write_text(text)
        distribution(folder, f"dist-{name}", f"{name} = plugin_{name}")
    (folder / "plugin_other.py").write_text(GOOD.format(name="good"))
    distribution(folder, "squatter", "memory = plugin_raises\nfaiss = plugin_raises\ntwice = plugin_good")
    distribution(folder, "squatter-two", "twice = plugin_other")
    distribution(folder, "malformed", "malformed = not a module !!")
    return folder


def distribution(folder: Path, name: str, entry_points: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[knnstore]\n{entry_points}\n")


def run(site: Path, code: str) -> Any:
    """Run code in a fresh process that sees the bad distributions; what it prints as JSON."""
    prelude = f"import sys, json; sys.path.append({str(site)!r}); import knnstore\n"
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_listing_imports_nothing(site: Path) -> None:
    found = run(
        site,
        "listed = [(b.name, b.distribution, b.module) for b in knnstore.backends()]\n"
        "print(json.dumps([listed, [m for m in sys.modules if m.startswith('plugin_') or m == 'knnstore.memory']]))",
    )
    listed, imported = found
    assert imported == []
    assert ["good", "dist-good 1.2", "plugin_good"] in listed
    assert {name for name, _, _ in listed} >= {*PLUGINS, "memory", "malformed"}


def test_opening_imports_only_that_one(site: Path) -> None:
    imported = run(
        site,
        "knnstore.open_store('good:///x', knnstore.StoreSpec(2)).close()\n"
        "print(json.dumps([m for m in sys.modules if m.startswith('plugin_')]))",
    )
    assert imported == ["plugin_good"]


def test_broken_plugins_break_nobody_else(site: Path) -> None:
    answers = run(
        site,
        "answers = {}\n"
        "for name in [b.name for b in knnstore.backends()]:\n"
        "    try:\n"
        "        store = knnstore.open_store(f'{name}://me:hunter2@h/x', knnstore.StoreSpec(2))\n"
        "        answers[name] = 'opened ' + type(store).__name__\n"
        "    except knnstore.KnnStoreError as error:\n"
        "        answers[name] = f'{type(error).__name__}: {error}'\n"
        "print(json.dumps(answers))",
    )
    assert "hunter2" not in str(answers)
    assert answers.pop("good") == "opened MemoryStore"
    assert answers.pop("memory") == "opened MemoryStore", "another distribution cannot take a name of ours"
    said = {
        "raises": "broken at import", "exits": "SystemExit", "missing": "a_client_that_is_not_installed",
        "syntax": "SyntaxError", "misspelt": "knnstore_regster", "unmarked": "marked with @knnstore.hookimpl, got none", "arguments": "other",
        "nothing": "got nothing", "notabackend": "got ['str']", "othername": "to register 'othername'",
        "hookfails": "ZeroDivisionError", "twice": "squatter-two 1.2", "malformed": "malformed",
    }  # fmt: skip
    for name, part in said.items():
        assert answers[name].startswith("BrokenPluginError"), answers[name]
        assert part in answers[name]
    assert answers["noclient"].startswith("BackendUnavailableError")
    assert "pip install dist-noclient" in answers["noclient"]
    assert answers["nostore"].startswith(
        "BrokenPluginError: backend 'nostore': open: expected an EmbeddingStore, got NoneType"
    )
    assert answers["engine"].startswith("BackendError: open on engine://me:***@h/x: OSError: me:***")


@pytest.mark.parametrize(
    ("scheme", "hint"),
    [("nearby", "pip install knnstore-nearby"), ("memry", "Did you mean 'memory'?"), ("zzz", "expected one of")],
)
def test_unknown_schemes(scheme: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_plugins._KNOWN, "nearby", "knnstore-nearby")  # an engine of ours that is not installed
    with pytest.raises(UnknownBackendError) as caught:
        knnstore.open_store(f"{scheme}:///x")
    assert hint in str(caught.value)
    assert isinstance(caught.value, LookupError)


class Plugin:
    def __init__(self, *backends: object) -> None:
        self._found = backends

    @knnstore.hookimpl
    def knnstore_register(self, register: Any) -> None:
        for backend in self._found:
            register(backend)


class Weak(MemoryStore):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(consistency=("eventual", "session"))


class WeakBackend(MemoryBackend):
    name = "weak"
    store_type = Weak


def test_registering_by_hand() -> None:
    knnstore.register(Plugin(WeakBackend()))
    assert isinstance(knnstore.get_backend("weak"), WeakBackend)
    assert "weak" not in {info.name for info in knnstore.backends()}, "has no entry point"


def test_every_url_may_say_the_dtype() -> None:
    """No backend sees it, and the URL of an open store does not say it: it is stored."""
    url, spec = "memory:///dtype/one", knnstore.StoreSpec(2)
    store = knnstore.open_store(f"{url}?dtype=float16", spec)
    assert store.spec == dataclasses.replace(spec, dtype="float16") and str(store.url) == url
    assert knnstore.open_store(url).spec.dtype == "float16"
    wide = dataclasses.replace(spec, dtype="float32")
    assert knnstore.open_store(f"{url}?dtype=float16", wide).spec.dtype == "float16"  # the URL counts
    for asked, given in ((f"{url}?dtype=float32", None), (url, spec)):
        with pytest.raises(SpecMismatchError, match="float16"):
            knnstore.open_store(asked, given)
    assert [str(place) for place in knnstore.collections("memory:///dtype?dtype=float16")] == [url]
    assert knnstore.ping(f"{url}?dtype=float16") >= 0
    with pytest.raises(InvalidURLError, match=r"option dtype: expected float32 or float16, got 'half'"):
        knnstore.open_store(f"{url}?dtype=half", spec)
    knnstore.drop_store(f"{url}?dtype=float16")
    assert knnstore.collections("memory:///dtype") == []


def test_consistency_that_is_not_offered() -> None:
    knnstore.register(Plugin(WeakBackend()))
    spec = knnstore.StoreSpec(2)
    for level in ("eventual", "session"):
        knnstore.open_store("weak:///x", spec, consistency=level)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedOperationError, match="strong"):
        knnstore.open_store("weak:///x", spec, consistency="strong")
    with pytest.raises(InvalidInputError, match="consistency"):
        knnstore.open_store("weak:///x", spec, consistency="total")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="spec"):
        knnstore.open_store("weak:///x", {"dim": 2})  # type: ignore[arg-type]


def _nameless(name: object) -> MemoryBackend:
    backend = MemoryBackend()
    backend.name = name  # type: ignore[assignment]
    return backend


@pytest.mark.parametrize(
    "plugin", [object(), Plugin(), Plugin("memory"), Plugin(_nameless("UPPER")), Plugin(_nameless(None))]
)
def test_plugins_that_make_no_sense(plugin: object) -> None:
    with pytest.raises(BrokenPluginError):
        knnstore.register(plugin)
    assert isinstance(knnstore.open_store("memory:///still", knnstore.StoreSpec(2)), MemoryStore)
