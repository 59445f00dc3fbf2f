"""Opening, options, awkward text, damaged files: what is particular to this backend."""

import os
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
from filelock import lock_descriptor

import knnstore
from knnstore import F
from knnstore.errors import (
    BackendUnavailableError,
    InvalidURLError,
    StoreCorruptError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedFilterError,
)

SPEC = knnstore.StoreSpec(dim=4, fields={"label": str, "Label": str, "select": int, "share": float, "thing": bool})
TEXTS = [
    "plain",
    "quo'te",
    'dou"ble',
    "back\\slash",
    "nul\0inside",
    "nul\0other",
    "🫖 kettle",
    "x" * 10_000,
    "%_",
    "",
    "ÅÄÖ",
    "a\nb",
]


def fill(store):
    count = len(TEXTS)
    rows = np.random.default_rng(0).standard_normal((count, 4)).astype(np.float32)
    fields = {
        "label": TEXTS, "Label": TEXTS[::-1], "select": list(range(count)),
        "share": [i / 3 for i in range(count)], "thing": [i % 2 == 0 for i in range(count)],
    }  # fmt: skip
    store.upsert([text[:100] or "empty" for text in TEXTS], rows, fields)
    return rows


@pytest.mark.parametrize("name", ["with space", "ünïcode/æ", "per%cent", "ques?tion", "ha#sh", "quo'te"])
def test_folders(tmp_path, name):
    url = f"faiss://{quote(str(tmp_path / name))}"
    with knnstore.open_store(url, SPEC) as store:
        fill(store)
    assert (tmp_path / name / "store.sqlite3").is_file()
    with knnstore.open_store(url, read_only=True) as store:
        assert store.count() == len(TEXTS)
    assert [str(found) for found in knnstore.collections(url)] == [url]


def test_collections_are_the_folder_and_those_below(tmp_path):
    knnstore.open_store(f"faiss://{tmp_path}", SPEC).close()
    for name in ("b", "a", "deep/er"):
        knnstore.open_store(f"faiss://{tmp_path}/{name}?index=HNSW8", SPEC).close()
    (tmp_path / "none").mkdir()
    found = [url.path for url in knnstore.collections(f"faiss://{tmp_path}")]
    assert found == [f"{tmp_path}", f"{tmp_path}/a", f"{tmp_path}/b"]
    assert knnstore.collections(f"faiss://{tmp_path}/nowhere") == []


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_is_data(tmp_path, text):
    with knnstore.open_store(f"faiss://{tmp_path}/s", SPEC) as store:
        rows = fill(store)
        many = [text, *(f"other{i}\0" for i in range(1200))]
        for where in (F("label") == text, F("label").isin([text]), F("label").isin(many), ~(F("label") != text)):
            assert store.count(where) == 1
            hits = store.search(rows[:2], 3, where=where, fields=["label", "Label"])
            assert hits.fields["label"][:, 0].tolist() == [text, text]
        got = store.get([text[:100] or "empty"])
        assert got.fields["label"].tolist() == [text]
        assert store.count(F("label") < text) == sum(other < text for other in TEXTS)


def test_long_filters(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/s", SPEC) as store:
        fill(store)
        assert store.count(F("select").isin(range(100_000))) == len(TEXTS)
        assert store.count(F("share").isin([i / 3 for i in range(3000)])) == len(TEXTS)
        assert store.count(F("label").isin([]) | F("thing").isin([True])) == len(TEXTS) // 2
        either, both = F("select") == 0, F("select") >= 0
        for i in range(1, 300):
            either, both = either | (F("select") == i), both & (F("select") != -i)
        assert store.count(either) == store.count(both) == len(TEXTS)
        assert store.count(F("share") < 10**300) == len(TEXTS)


def test_filters_that_are_too_large_for_sqlite(tmp_path):
    """A refusal that says so, and the store goes on working."""
    with knnstore.open_store(f"faiss://{tmp_path}/s", SPEC) as store:
        fill(store)
        large = F("share") < 0
        for i in range(100):
            large = large | (F("share") < -i)
        with store._database.connection() as connection:  # the one that is used next
            usual = connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 50)
        with pytest.raises(UnsupportedFilterError, match="too large for SQLite"):
            store.count(large)
        with store._database.connection() as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, usual)
        assert store.count(large) == 0
        deep = F("select") < 3
        for i in range(250):
            deep = (deep & (F("share") < 1000 - i)) | (F("select") == i % 7)
        assert store.count(deep) == 7
        wide = F("select") == 0
        for i in range(1_000):
            wide = wide | ((F("select") > i) & (F("select") < i))
        assert store.count(wide) == 1


@pytest.mark.parametrize(
    ("rest", "match"),
    [
        ("/x?indx=Flat", "index"), ("/x?index=Nonsense", "Nonsense"), ("/x?index=Flat;DROP", "factory"),
        ("/x?timeout=soon", "seconds"), ("/x?sync=off", "normal or full"), ("/x?device=tpu", "cuda"),
        ("/x?nprobe=-1", "whole number"), ("/x?refine=0", "at least 1"), ("host/x", "three slashes"), ("/", "a folder"),
        ("/x?index=PQ2", "IVF1"), ("/x?index=LSH", "HNSW32"), ("/x?index=IVF4,Flat,RFlat", "re-scoring"),
        ("/x?index=IVF4,PQ3", "divide the width of the vectors, dim=4"), ("/x?index=Flatt", "Flat .exact."),
    ],
)  # fmt: skip
def test_urls_that_cannot_be_used(tmp_path, rest, match):
    rest = rest.replace("/x", f"{tmp_path}/x") if rest.startswith("/x") else rest
    with pytest.raises(InvalidURLError, match=match) as caught:
        knnstore.open_store(f"faiss://{rest}", SPEC)
    assert not re.search("::|\\.cpp|C[+][+]|failed", str(caught.value))  # what FAISS says stays the cause


def test_slashes_that_are_one_too_many(tmp_path):
    with knnstore.open_store(f"faiss:///{tmp_path}/x", SPEC) as store:  # four with the one of the path
        fill(store)
    with knnstore.open_store(f"faiss://{tmp_path}/x") as store:
        assert store.count() == len(TEXTS)


def test_a_gpu_that_is_not_there(tmp_path):
    with pytest.raises(BackendUnavailableError, match="cuda:7"):
        knnstore.open_store(f"faiss://{tmp_path}/x?device=cuda:7", SPEC)
    with knnstore.open_store(f"faiss://{tmp_path}/x?device=auto", SPEC) as store:
        assert store.stats().details["device"] == "cpu"


def test_without_faiss(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BackendUnavailableError, match="pip install"):
        knnstore.open_store(f"faiss://{tmp_path}/x", SPEC)
    assert not (tmp_path / "x").exists()


def test_importing_the_plugin_imports_no_faiss():
    code = "import sys, knnstore; knnstore.get_backend('faiss'); assert not {'faiss', 'sqlite3'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_there(tmp_path):
    for options in ({}, {"spec": SPEC, "read_only": True}):
        with pytest.raises(StoreNotFoundError):
            knnstore.open_store(f"faiss://{tmp_path}/none", **options)
    assert not (tmp_path / "none").exists()


def test_an_empty_file_is_a_store_that_was_being_created(tmp_path):
    (tmp_path / "store.sqlite3").touch()
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(f"faiss://{tmp_path}")
    with knnstore.open_store(f"faiss://{tmp_path}", SPEC) as store:
        fill(store)


def test_files_that_are_no_store(tmp_path):
    (tmp_path / "store.sqlite3").write_bytes(b"not a database, " * 1000)
    for spec in (None, SPEC):
        with pytest.raises(StoreCorruptError):
            knnstore.open_store(f"faiss://{tmp_path}", spec)
    (tmp_path / "store.sqlite3").unlink()
    connection = sqlite3.connect(tmp_path / "store.sqlite3")
    connection.execute("CREATE TABLE somebody (elses)")
    connection.close()
    with pytest.raises(StoreCorruptError, match="another SQLite file"):
        knnstore.open_store(f"faiss://{tmp_path}", SPEC)


@pytest.fixture
def killed(tmp_path):
    """A store whose writer was killed: its records are in the log."""
    code = (
        "import os, knnstore, numpy as np; "
        f"store = knnstore.open_store('faiss://{tmp_path}/s', knnstore.StoreSpec(dim=4)); "
        "store.upsert(['a'], np.ones((1, 4), np.float32)); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "s" / "store.sqlite3-wal").stat().st_size
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("gone", "match"),
    [("store.sqlite3", "without its records"), ("store.sqlite3-wal", "without its last writes")],
)
@pytest.mark.parametrize("options", [{}, {"spec": knnstore.StoreSpec(dim=4)}, {"read_only": True}])
def test_a_store_of_which_a_part_is_gone(killed, gone, match, options):
    """A new empty store in its place, or an older state of it, would be silently wrong."""
    aside = killed.parent / gone
    (killed / gone).rename(aside)
    left = sorted(path.name for path in killed.iterdir())
    with pytest.raises(StoreCorruptError, match=match):
        knnstore.open_store(f"faiss://{killed}", **options)
    assert sorted(path.name for path in killed.iterdir()) == left
    aside.rename(killed / gone)
    with knnstore.open_store(f"faiss://{killed}") as store:
        assert store.count() == 1


def test_the_index_alone_is_no_store(tmp_path):
    spec = knnstore.StoreSpec(dim=4)
    url = f"faiss://{tmp_path}/s?index=HNSW8"
    with knnstore.open_store(url, spec) as store:
        store.upsert(["a"], np.ones((1, 4), np.float32))
        store.optimize()
    (tmp_path / "s" / "store.sqlite3").unlink()
    with pytest.raises(StoreCorruptError, match=r"beside index\.cache"):
        knnstore.open_store(url, spec)
    (tmp_path / "s" / "index.cache").unlink()
    with knnstore.open_store(url, spec) as store:
        assert store.count() == 0


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_truncated_database_is_reported(tmp_path, share):
    spec = knnstore.StoreSpec(dim=64)
    url = f"faiss://{tmp_path}/s"
    with knnstore.open_store(url, spec) as store:
        store.upsert(
            [f"{i}" for i in range(4000)], np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
        )
    file = tmp_path / "s" / "store.sqlite3"
    with file.open("r+b") as opened:
        opened.truncate(int(file.stat().st_size * share))
    with pytest.raises(StoreCorruptError), knnstore.open_store(url) as store:
        store.search(np.ones((1, 64), np.float32), 5)


def test_a_vector_of_the_wrong_length_is_reported(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/s", SPEC) as store:
        fill(store)
        with store._database.writing() as (connection, _):
            connection.execute("UPDATE vectors SET vector = x'00' WHERE row = 3")
        with pytest.raises(StoreCorruptError, match="16 bytes"):
            store.search(np.ones((1, 4), np.float32), 5)


def test_a_backup_put_back_is_noticed_by_an_open_index(tmp_path):
    """The same generation with another history: followed by its random token, not by its number alone."""
    spec = knnstore.StoreSpec(dim=4, metric="dot")
    with knnstore.open_store(f"faiss://{tmp_path}/s", spec) as store:
        store.upsert(["a"], np.ones((1, 4), np.float32))
        store.search(np.ones((1, 4), np.float32), 1)
        with store._database.writing() as (connection, _):
            connection.execute("UPDATE vectors SET vector = ?", (np.full(4, 2, np.float32).tobytes(),))
            connection.execute("UPDATE commits SET token = randomblob(16)")
        assert store.search(np.ones((1, 4), np.float32), 1).scores[0, 0] == 8


def test_optimize_gives_space_back(tmp_path):
    spec = knnstore.StoreSpec(dim=64)
    with knnstore.open_store(f"faiss://{tmp_path}/s", spec) as store:
        rows = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
        store.upsert([f"{i}" for i in range(4000)], rows)
        store.flush()
        before = store.stats().bytes_on_disk
        store.delete([f"{i}" for i in range(3900)])
        store.optimize()
        assert store.stats().bytes_on_disk < before
        assert store.search(store.get(["3950"]).vectors, 1).ids[0, 0] == "3950"


def test_replacing_for_ever_takes_no_more_space(tmp_path, monkeypatch):
    """An index follows from a short way behind; one that lags further is rebuilt, and both find everything."""
    monkeypatch.setattr("knnstore_faiss.writes._DELETED", 100)
    spec = knnstore.StoreSpec(dim=4, metric="l2")
    url = f"faiss://{tmp_path}/s"
    ids = [f"{i}" for i in range(20)]
    with knnstore.open_store(url, spec) as store, knnstore.open_store(url) as near, knnstore.open_store(url) as far:
        for step in range(1, 400):
            rows = np.full((20, 4), step, np.float32) + np.arange(20, dtype=np.float32)[:, None] / 64
            store.upsert(ids, rows)
            for reader in (near, far) if step == 1 else (near,):
                assert reader.search(rows, 1).ids[:, 0].tolist() == ids
        assert far.search(rows, 1).ids[:, 0].tolist() == ids
        assert far.count() == 20
        with store._database.snapshot() as (connection, _):
            held = [connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in ("deleted", "commits")]
        assert held[0] <= 100 + 64 * 20
        assert held[1] <= 2 * 64


def test_a_folder_that_cannot_be_written_is_read_as_it_is(tmp_path, monkeypatch):
    with knnstore.open_store(f"faiss://{tmp_path}/s", SPEC) as store:
        rows = fill(store)
    monkeypatch.setattr("os.access", lambda *_: False)  # permissions do not stop root
    with knnstore.open_store(f"faiss://{tmp_path}/s", read_only=True) as store:
        assert store.search(rows, 1).ids[:, 0].tolist() == [text[:100] or "empty" for text in TEXTS]


def test_an_index_that_cannot_be_written_is_used_all_the_same(tmp_path, monkeypatch):
    store = knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW8", SPEC)
    rows = fill(store)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("knnstore_faiss.cache.save", full)
    with pytest.raises(StoreFullError):
        store.optimize()
    with pytest.raises(StoreFullError):
        store.flush()
    assert store.search(rows, 1).ids[:, 0].tolist() == [text[:100] or "empty" for text in TEXTS]
    assert store.stats().details["index_file"] == "none"
    store.close()


def test_what_an_interrupted_writer_of_the_index_left_is_removed(tmp_path):
    url = f"faiss://{tmp_path}/s?index=HNSW8"
    knnstore.open_store(url, SPEC).close()
    old, fresh, used = (tmp_path / "s" / f"index.cache.{name}.tmp" for name in ("4711", "fresh", "used"))
    for path in (old, fresh, used):
        path.touch()
    for path in (old, used):
        os.utime(path, (1, 1))
    with used.open() as file:
        assert lock_descriptor(file.fileno(), blocking=False)
        knnstore.open_store(url, read_only=True).close()
        assert old.exists()
        knnstore.open_store(url).close()
        assert (old.exists(), fresh.exists(), used.exists()) == (False, True, True)
    os.utime(fresh, (1, 1))
    assert knnstore.get_backend("faiss").remove_empty(knnstore.StoreURL.parse(url))
    assert not (tmp_path / "s").exists()


def test_two_stores_of_a_process_write_the_index_at_once(tmp_path):
    """Under one name each would take the file of the other away."""
    url = f"faiss://{tmp_path}/s?index=HNSW8"
    with knnstore.open_store(url, SPEC) as one, knnstore.open_store(url) as other:
        rows = fill(one)
        for _ in range(10):
            one.upsert(["new"], rows[:1], {name: column[:1] for name, column in one.get(["plain"]).fields.items()})
            with ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(_searched_and_optimised, store, rows) for store in (one, other)]:
                    done.result()
        assert [path.name for path in (tmp_path / "s").glob("*.tmp")] == []


def _searched_and_optimised(store, rows):
    store.search(rows, 1)
    store.optimize()


def test_counting_by_value_and_the_revision(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/s", SPEC) as store:
        first = store._revision()
        fill(store)
        assert store._count_by("thing", None) == {True: 6, False: 6}
        assert store._count_by("label", F("select") < 4) == dict.fromkeys(TEXTS[:4], 1)
        assert store._revision() == store._revision() != first
