"""A key that may only read: who writes is told so, before any model is loaded."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import knnstore
from knnseg.cli.commands import app
from knnseg.stages import registry
from knnstore import F, StoreSpec
from knnstore.errors import StoreAuthenticationError

TRANSPORTS = ("grpc", "http")
SPEC = StoreSpec(dim=4, metric="cosine", fields={"label": str})
KEYS = {"api_key": "the-wr1ting-key", "read_only_key": "the-r3ading-key"}


@pytest.fixture
def urls(make_bridge):
    """Of one place, for the key that may write and for the one that may not."""
    bridge = make_bridge(**KEYS)
    return lambda path, transport="grpc": [bridge.url(path, transport, api_key=key) for key in KEYS.values()]


def ask(call, *arguments, **named):
    with pytest.raises(StoreAuthenticationError) as caught:
        call(*arguments, **named)
    text = str(caught.value)
    for part in (
        "expected a key or a user that may write",
        "got one that may only read",
        "api_key_env=",
        "read_only=True",
    ):
        assert part in text
    assert not any(key in text for key in KEYS.values())


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_write_says_that_the_key_may_only_read(urls, transport):
    full, reading = urls("c", transport)
    ask(knnstore.open_store, reading, SPEC)
    with knnstore.open_store(full, SPEC) as store, knnstore.open_store(reading) as other:
        rows = np.eye(4, dtype=np.float32)
        store.upsert(["a", "b"], rows[:2], {"label": ["x", "y"]})
        assert other.count() == 2 and other.revision() == store.revision()
        ask(other.upsert, ["c"], rows[:1], {"label": ["z"]})
        ask(other.delete, ["not there"])
        ask(other.delete, where=F("label") == "x")
        assert store.count() == 2


def test_a_wrong_key_is_not_one_that_may_only_read(make_bridge):
    with pytest.raises(StoreAuthenticationError, match="Check the API key") as caught:
        knnstore.open_store(make_bridge(**KEYS).url("c", api_key="another"), SPEC)
    assert "read" not in str(caught.value)


@pytest.fixture
def pairs(tmp_path):
    """One image of noise, and its label map."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(tmp_path / "mask.png")
    return tmp_path


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_model_is_loaded_for_a_key_that_may_only_read(urls, transport, pairs, monkeypatch):
    full, reading = urls("db", transport)
    add = ["add", str(pairs / "a.png"), "--mask", str(pairs / "mask.png"), "--label", "noise", "-s"]
    asked = []
    make = registry.make

    def loading(kind, *arguments, **named):
        asked.append(kind)
        return make(kind, *arguments, **named)

    monkeypatch.setattr(registry, "make", loading)
    run = CliRunner().invoke
    ask(run, app, [*add, reading], catch_exceptions=False)  # nothing is there yet
    assert run(app, [*add, full], catch_exceptions=False).exit_code == 0
    assert asked
    asked.clear()
    for command in (
        [*add, reading],
        ["concepts", "rename", "noise", "din", "-p", "tiny", "-s", reading],
        ["concepts", "merge", "noise", "--into", "din", "-s", reading],
        ["concepts", "kind", "noise", "--thing", "-s", reading],
        ["concepts", "remove", "noise", "-y", "-s", reading],
        ["concepts", "reembed", "-s", reading],
    ):
        ask(run, app, command, catch_exceptions=False)
    assert not asked, "a model was loaded"
    listed = run(app, ["concepts", "list", "--json", "-s", reading], catch_exceptions=False)
    assert [c["label"] for c in json.loads(listed.stdout)] == ["noise"]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_copies_ask_for_the_right_to_write_first(urls, tmp_path, transport):
    """Before the source is read: what is there already would be compared for long, and an export checked."""
    full, reading = urls("moved", transport)
    source, folder = f"memory://rights-{transport}", tmp_path / "exported"
    with knnstore.open_store(source, SPEC) as store:
        store.upsert(["a", "b"], np.eye(4, dtype=np.float32)[:2], {"label": ["x", "y"]})
        knnstore.export_parquet(source, folder)
        knnstore.copy_store(source, full)
        [file] = (folder / "records").iterdir()
        file.write_bytes(b"damaged")
        ask(knnstore.import_parquet, folder, reading)
        ask(knnstore.copy_store, source, reading)  # nothing is missing there
        store.update({"label": "z"}, ids=["a"])
        ask(knnstore.copy_store, source, reading)  # and here is a conflict
        ask(knnstore.copy_store, source, urls("missing", transport)[1])
        assert [report.conflicts for report in knnstore.copy_store(source, reading, dry_run=True)] == [1]


def test_the_collections_are_listed_once(make_bridge, pairs):
    bridge = make_bridge(**KEYS)
    place = bridge.url("listed", "http", api_key=KEYS["api_key"])
    add = ["add", str(pairs / "a.png"), "--mask", str(pairs / "mask.png"), "--label", "noise", "-s", place]
    assert CliRunner().invoke(app, add, catch_exceptions=False).exit_code == 0
    for command in (["concepts", "kind", "noise", "--thing", "-p", "tiny", "-s", place],):
        before = len(bridge.requests())
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
        assert [r["method"] for r in bridge.requests()[before:]].count("GET /collections") == 1
