"""Vectors in half precision: what they take, what they are searched with, and stores from before there was a choice."""

import json
import sqlite3

import numpy as np
import pytest
from knnstore_faiss import cache
from knnstore_faiss.database import Database
from knnstore_faiss.flat import FlatIndex
from knnstore_faiss.gpu import GpuSearcher

import knnstore
from knnstore.errors import StoreCorruptError

DIM = 32
WHOLE = ["SQfp16", "IVF8,SQfp16", "HNSW16_SQfp16", "HNSW16"]


def spec_of(metric="cosine", dtype="float16"):
    return knnstore.StoreSpec(DIM, metric, {"n": int}, dtype=dtype)


def fill(store, count=1500, seed=0):
    rows = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    store.upsert([f"{i}" for i in range(count)], rows, {"n": [i % 3 for i in range(count)]})
    return rows


def test_they_take_half_the_space(tmp_path):
    sizes = {}
    for dtype in ("float32", "float16"):
        with knnstore.open_store(f"faiss://{tmp_path}/{dtype}", spec_of(dtype=dtype)) as store:
            fill(store)
            sizes[dtype] = store.stats().bytes_in_memory
        (size,) = sqlite3.connect(tmp_path / dtype / "store.sqlite3").execute(
            "SELECT sum(length(vector)) FROM vectors"
        ).fetchone()  # fmt: skip
        assert size == 1500 * DIM * np.dtype(dtype).itemsize
    assert sizes["float32"] - sizes["float16"] == 1500 * DIM * 2


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_they_are_searched_exactly(tmp_path, metric):
    """The same bits as the memory store's, also once some are gone and the others have been moved."""
    queries = np.random.default_rng(7).standard_normal((30, DIM)).astype(np.float32)
    answers = []
    for url in (f"memory://{tmp_path}", f"faiss://{tmp_path}/s"):
        with knnstore.open_store(url, spec_of(metric)) as store:
            fill(store)
            store.search(queries, 3)
            store.delete([f"{i}" for i in range(0, 1500, 3)])
            one, all_ = store.search(queries[:1], 12), store.search(queries, 12, where=knnstore.F("n") >= 1)
            answers.append((one.ids.tolist(), one.scores.tobytes(), all_.ids.tolist(), all_.scores.tobytes()))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("index", WHOLE)
def test_an_index_of_halves_holds_the_very_vectors(tmp_path, index, monkeypatch):
    """So nothing is read from the database to score what it has found; and a file of it comes back."""
    url = f"faiss://{tmp_path}/s?index={index}&train_at=300"
    queries = np.random.default_rng(7).standard_normal((20, DIM)).astype(np.float32)
    with knnstore.open_store(url, spec_of()) as store:
        fill(store)
        true = store.search(queries, 5)
        store.optimize()
    with knnstore.open_store(url) as store:
        monkeypatch.setattr(Database, "vectors_of", lambda *arguments: pytest.fail("vectors are read from SQLite"))
        found = store.search(queries, 5)
    same = found.ids == true.ids
    assert same.mean() > 0.8
    assert found.scores[same].tobytes() == true.scores[same].tobytes()


def test_codes_of_float32_are_not_the_very_vectors(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/s?index=SQfp16", spec_of(dtype="float32")) as store:
        rows = fill(store)
        store.optimize()
        true = knnstore.open_store(f"memory://{tmp_path}", spec_of(dtype="float32"))
        fill(true)
        assert store.search(rows[:9], 1).scores.tobytes() == true.search(rows[:9], 1).scores.tobytes()


def test_stores_and_indexes_of_before_are_float32(tmp_path):
    """Neither their spec nor the file of their index says what vectors are kept as."""
    url = f"faiss://{tmp_path}/s?index=HNSW16"
    with knnstore.open_store(url, spec_of(dtype="float32")) as store:
        rows = fill(store)
        store.optimize()
    connection = sqlite3.connect(tmp_path / "s" / "store.sqlite3")
    (text,) = connection.execute("SELECT value FROM meta WHERE key = 'spec'").fetchone()
    old = {name: value for name, value in json.loads(text).items() if name != "dtype"}
    connection.execute("UPDATE meta SET value = ? WHERE key = 'spec'", (json.dumps(old),))
    connection.commit()
    connection.close()
    with knnstore.open_store(url, spec_of(dtype="float32")) as store:
        assert store.spec.dtype == "float32"
        assert store.search(rows[:3], 1).ids.ravel().tolist() == ["0", "1", "2"]
    key = cache.CacheKey("u", "HNSW16", DIM, "cosine", 0, "float32")
    said = {name: value for name, value in key.as_json().items() if name != "dtype"}
    assert cache.of_key(said, key)
    assert not cache.of_key(said, cache.CacheKey("u", "HNSW16", DIM, "cosine", 0, "float16"))


def test_an_earlier_version_is_told_to_be_updated(tmp_path):
    """The format of a store of halves is another number, which earlier versions do not know."""
    knnstore.open_store(f"faiss://{tmp_path}/s", spec_of()).close()
    connection = sqlite3.connect(tmp_path / "s" / "store.sqlite3")
    assert connection.execute("SELECT value FROM meta WHERE key = 'format'").fetchone() == ("2",)
    connection.execute("UPDATE meta SET value = '3' WHERE key = 'format'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreCorruptError, match="Update knnstore-faiss"):
        knnstore.open_store(f"faiss://{tmp_path}/s")


def test_a_gpu_is_given_float32():
    """What nominates there is a stand-in: no GPU has been at hand."""
    flat = FlatIndex(DIM, "dot", dtype="float16")
    rows = np.random.default_rng(0).standard_normal((200, DIM)).astype(np.float16).astype(np.float32)
    flat.add(np.arange(200), rows)

    def nominate(queries, vectors, k, version):
        scores = queries @ vectors.astype(np.float32).T
        order = np.argsort(-scores, axis=1)[:, :k]
        return np.take_along_axis(scores, order, 1), order

    found = GpuSearcher(flat, nominate).search(rows[:4], 1, None)
    assert set(zip(found.queries.tolist(), found.rows.tolist(), strict=True)) >= {
        (q, int((rows[q] @ rows.T).argmax())) for q in range(4)
    }
