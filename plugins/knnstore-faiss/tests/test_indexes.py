"""Approximate indexes: every kind adds, finds, deletes, replaces, filters, comes back; its file is only a cache."""

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest
from knnstore_faiss import cache
from knnstore_faiss.database import Database
from knnstore_faiss.factory import make_index

import knnstore
from knnstore import F

DIM = 32
FAST = [
    ("HNSW16", "cosine"),
    ("IVF8,Flat", "l2"),
    ("IVF8,PQ16x4fs", "cosine"),
    ("SQ8", "dot"),
    ("PCA16,IVF8,Flat", "l2"),
]
SLOW = ["HNSW16,SQ8", "IVF8,SQ8", "IVF8,PQ16x4", "SQfp16", "PCA16,HNSW16", "OPQ8_16,IVF8,PQ8x4", "IVF8_HNSW8,Flat"]
KINDS = FAST + [pytest.param(kind, metric, marks=pytest.mark.slow) for kind in SLOW for metric in ("cosine", "l2")]


def rows_of(count, seed):
    """Clusters, as embeddings have: float32 (count, DIM)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((20, DIM))
    return (centres[rng.integers(0, 20, count)] + 0.5 * rng.standard_normal((count, DIM))).astype(np.float32)


def spec_of(metric="cosine"):
    return knnstore.StoreSpec(dim=DIM, metric=metric, fields={"n": int})


def fill(store, count, seed=0, prefix="", batch=0):
    store.upsert([f"{prefix}{i}" for i in range(count)], rows_of(count, seed), {"n": [batch] * count})


def recall(store, exact, queries, where=None):
    found, true = (each.search(queries, 10, where=where).ids for each in (store, exact))
    return np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in zip(found.tolist(), true.tolist(), strict=True)])


@pytest.mark.parametrize(("index", "metric"), KINDS)
def test_a_life(tmp_path, index, metric):
    url = f"faiss://{tmp_path}/s?index={index}&train_at=400"
    exact = knnstore.open_store(f"memory:///{tmp_path}", spec_of(metric))
    queries = rows_of(20, 77)
    with knnstore.open_store(url, spec_of(metric)) as store:
        assert store.capabilities.approximate
        for each in (store, exact):
            fill(each, 1500)
        assert recall(store, exact, queries) == 1  # nothing is built yet
        assert store.stats().details["trained"] is False
        store.optimize()
        assert recall(store, exact, queries) >= 0.85
        assert store.stats().details["trained"] is True
        assert store.stats().recall >= 0.85
        hits, true = store.search(queries, 1), exact.search(queries, 1)
        same = hits.ids == true.ids
        assert hits.scores[same].tobytes() == true.scores[same].tobytes()  # exact, however coarse the index
        for each in (store, exact):
            each.delete([f"{i}" for i in range(200)])
            each.upsert([f"{i}" for i in range(300, 400)], rows_of(100, 9), {"n": [1] * 100})
            fill(each, 50, 4, "more", 2)
        details = store.stats().details
        assert (details["entries"], details["dead"], details["unindexed"]) == (1500, 300, 150)
        assert recall(store, exact, queries) >= 0.85
        for where in (F("n") == 0, F("n") >= 1, F("n") == 2, F("n") == 3):
            assert set(store.search(queries, 60, where=where).ids.ravel()) <= set(
                exact.search(queries, 1400, where=where).ids.ravel()
            )
            assert (store.search(queries, 60, where=where).ids != "").sum() == (
                exact.search(queries, 60, where=where).ids != ""
            ).sum()
    with knnstore.open_store(url) as store:
        assert recall(store, exact, queries) >= 0.85
        assert store.stats().details["index_file"] == "used"
        assert store.count() == exact.count()
        assert sorted(store.search(queries[:1], 2000).ids[0]) == sorted(exact.search(queries[:1], 2000).ids[0])


def test_too_few_to_train_is_searched_exactly(tmp_path):
    url = f"faiss://{tmp_path}/s?index=IVF8,Flat"
    exact = knnstore.open_store(f"memory:///{tmp_path}", spec_of())
    with knnstore.open_store(url, spec_of()) as store:
        assert store.stats().details["train_at"] == 8 * 39
        for count, trained in ((311, False), (312, True)):
            for each in (store, exact):
                fill(each, count)
            store.optimize()
            assert recall(store, exact, rows_of(9, 3)) >= (0.9 if trained else 1)
            assert store.stats().details["trained"] is trained
        store.delete(where=F("n") >= 0)
        assert store.search(rows_of(1, 0), 3).ids.tolist() == [["", "", ""]]
        fill(store, 5)
        assert store.search(rows_of(5, 0), 1).ids[:, 0].tolist() == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("index", ["IVF4,Flat", "SQ8", "PCA8,IVF4,Flat"])
def test_optimize_with_too_few_left_to_train(tmp_path, index):
    """They are searched exactly from then on, all of them, and trained again once there are enough."""
    url = f"faiss://{tmp_path}/s?index={index}&train_at=100"
    exact = knnstore.open_store(f"memory:///{tmp_path}", spec_of())
    with knnstore.open_store(url, spec_of()) as store:
        fill(store, 120)
        fill(exact, 120)
        store.optimize()
        assert store.stats().details["trained"] is True
        for each in (store, exact):
            each.delete([f"{i}" for i in range(90, 120)])
        store.optimize()
        assert store.stats().details["trained"] is False
        assert recall(store, exact, rows_of(9, 3)) == 1
        for each in (store, exact):
            fill(each, 1, 4, "more")
        assert recall(store, exact, rows_of(9, 3)) == 1
        assert (store.search(rows_of(1, 0), 91).ids != "").all()
        for each in (store, exact):
            fill(each, 120)
        store.optimize()
        assert recall(store, exact, rows_of(9, 3)) >= 0.8
        assert store.stats().details["trained"] is True


def test_what_optimize_has_rebuilt_is_what_comes_back(tmp_path):
    url = f"faiss://{tmp_path}/s?index=HNSW8"
    with knnstore.open_store(url, spec_of()) as store:
        fill(store, 300)
        store.delete(["7"])
        store.optimize()
        store.delete(["8"])
        store.optimize()
    with knnstore.open_store(url) as store:
        store.search(rows_of(1, 0), 1)
        assert (store.stats().details["entries"], store.stats().details["dead"]) == (298, 0)


def test_dead_entries_are_cleared_away(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW8", spec_of()) as store:
        fill(store, 500)
        store.optimize()
        store.delete([f"{i}" for i in range(100)])
        assert store.stats().details["dead"] == 100
        store.optimize()
        assert store.stats().details["dead"] == 0
        assert store.stats().details["entries"] == 400


def test_a_filter_that_leaves_little_of_much(tmp_path, monkeypatch):
    monkeypatch.setattr("knnstore_faiss.searching._COPYING", 1e9)  # never the exact search first
    exact = knnstore.open_store(f"memory:///{tmp_path}", spec_of())
    with knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW16", spec_of()) as store:
        for each in (store, exact):
            each.upsert([f"{i}" for i in range(2000)], rows_of(2000, 0), {"n": [i % 20 for i in range(2000)]})
        store.optimize()
        assert recall(store, exact, rows_of(20, 1), F("n") == 3) >= 0.8
        assert (store.search(rows_of(20, 1), 100, where=F("n") == 3).ids != "").all()


@pytest.mark.parametrize("text", ["IVF8,PQ4", "IVF8,PQ4x4", "OPQ4_8,IVF8,PQ4", "PCA8,IVF8,PQ4"])
def test_nothing_is_trained_that_no_search_uses(text):
    """Polysemous codes: 27 s of 27 for PQ of 8 bits."""
    whole = make_index(text, DIM, "cosine")  # owns its parts
    index = faiss.downcast_index(whole)
    if isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    assert index.do_polysemous_training is False


def test_two_trainings_give_the_same_index(tmp_path):
    answers = []
    for name in "ab":
        with knnstore.open_store(
            f"faiss://{tmp_path}/{name}?index=IVF8,SQ8&nprobe=1&refine=1&seed=3", spec_of()
        ) as store:
            fill(store, 900)
            store.optimize()
            answers.append(store.search(rows_of(30, 1), 10).ids.tolist())
            assert store.capabilities.recall_floor < 0.8
    assert answers[0] == answers[1]


# -- behind filters ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """6,000 records in 200 clusters, and as many queries from every one: in an exact store and in approximate ones."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("clustered")
    centres = rng.standard_normal((200, DIM))
    cluster = np.arange(6000) % 200
    rows = (centres[cluster] + 0.3 * rng.standard_normal((6000, DIM))).astype(np.float32)
    queries = (centres + 0.3 * rng.standard_normal((200, DIM))).astype(np.float32)
    spec = knnstore.StoreSpec(dim=DIM, fields={"c": int})
    stores = {"exact": knnstore.open_store(f"memory:///{folder}", spec)}
    for index in CLUSTERED:
        stores[index] = knnstore.open_store(f"faiss://{folder}/{index}?index={index}", spec)
    for store in stores.values():
        store.upsert([f"{i}" for i in range(6000)], rows, {"c": cluster})
        store.optimize()
    yield stores, queries
    for store in stores.values():
        store.close()


CLUSTERED = ["HNSW16", "IVF64,Flat", "IVF64,SQ8", "HNSW16,SQ8", "IVF64,PQ16x4"]


@pytest.mark.parametrize("index", CLUSTERED)
@pytest.mark.parametrize("shortcut", [True, False], ids=["as it is", "without the shortcut"])
def test_recall_behind_a_filter_that_goes_with_the_vectors(clustered, index, shortcut, monkeypatch):
    """Half of the queries lie where everything near is filtered out. A walk under the filter found half of the hits."""
    stores, queries = clustered
    if not shortcut:
        monkeypatch.setattr("knnstore_faiss.searching._COPYING", 1e9)
    for clusters in (180, 100, 40, 10, 2):
        where = F("c") < clusters
        found = recall(stores[index], stores["exact"], queries, where)
        assert found >= (0.95 if shortcut else 0.9), f"{clusters} of 200 clusters: {found}"
        assert (stores[index].search(queries, 64, where=where).ids[:, : min(64, 30 * clusters)] != "").all()
    assert stores[index].stats().recall >= 0.9


def test_what_is_deleted_is_a_filter_too(tmp_path):
    """Three quarters of the clusters, gone from the graph's sight and not from the graph."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((40, DIM))
    rows = (centres[np.arange(4000) % 40] + 0.3 * rng.standard_normal((4000, DIM))).astype(np.float32)
    exact = knnstore.open_store(f"memory:///{tmp_path}", spec_of())
    with knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW16", spec_of()) as store:
        for each in (store, exact):
            each.upsert([f"{i}" for i in range(4000)], rows, {"n": np.arange(4000) % 40})
        store.optimize()
        for each in (store, exact):
            each.delete(where=F("n") >= 10)
        assert store.stats().details["dead"] == 3000
        assert recall(store, exact, centres.astype(np.float32)) >= 0.95


# -- built by optimize(), and by nothing else -------------------------------------------------------------------------


def test_no_search_builds_an_index(tmp_path, monkeypatch):
    def build(*_):
        raise AssertionError("built in a search")

    with knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW16", spec_of()) as store:
        fill(store, 3000)
        store.optimize()
        monkeypatch.setattr("knnstore_faiss.synced.build", build)
        fill(store, 9000, 3, "more")
        store.delete([f"{i}" for i in range(2900)])
        exact = knnstore.open_store(f"memory:///{tmp_path}", spec_of())
        fill(exact, 9000, 3, "more")
        exact.upsert([f"{i}" for i in range(2900, 3000)], rows_of(3000, 0)[2900:], {"n": [0] * 100})
        assert recall(store, exact, rows_of(20, 4)) >= 0.95


def test_little_that_is_new_goes_into_the_index_that_is_there(tmp_path, monkeypatch):
    with knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW16", spec_of()) as store:
        fill(store, 3000)
        store.optimize()
        monkeypatch.delattr("knnstore_faiss.synced.build")
        fill(store, 2500, 3, "more")
        store.optimize()
        details = store.stats().details
        assert (details["entries"], details["unindexed"], details["index_file"]) == (5500, 0, "written")
        assert store.search(rows_of(2500, 3), 1).ids[:, 0].tolist() == [f"more{i}" for i in range(2500)]
    with knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW16") as store:
        assert store.search(rows_of(2500, 3), 1).ids[:, 0].tolist() == [f"more{i}" for i in range(2500)]
        assert store.stats().details["entries"] == 5500


def test_a_change_of_fields_leaves_the_index_alone(tmp_path, monkeypatch):
    """No vector is read again and no entry dies, here or where another has the store open; filters see the change."""
    url = f"faiss://{tmp_path}/s?index=HNSW16"
    with knnstore.open_store(url, spec_of()) as store, knnstore.open_store(url) as other:
        fill(store, 2000)
        store.optimize()
        fill(store, 10, 3, "more")
        for each in (store, other):
            assert (each.search(rows_of(10, 3)[:1], 1, where=F("n") == 7).ids == "").all()
        file, version = cache.identity(tmp_path / "s"), store._index._flat.version
        read, after = [], Database.vectors_after
        monkeypatch.setattr(
            Database, "vectors_after", lambda *a: (read.append(len(part[0])) or part for part in after(*a))
        )
        assert store.update({"n": 7}, ids=[f"{i}" for i in range(500)]) == 500
        assert store.update({"n": 7}, where=F("n") == 0) == 1510
        for each in (store, other):
            hits = each.search(rows_of(10, 3)[:1], 1, where=F("n") == 7, fields=["n"])
            assert (hits.ids[0, 0], hits.fields["n"][0, 0]) == ("more0", 7)
            details = each.stats().details
            assert (details["entries"], details["dead"], details["unindexed"]) == (2000, 0, 10)
        assert not read
        assert store._index._flat.version == version, "a GPU would be given its copy again"
        store.optimize()
        assert store.stats().details["unindexed"] == 0
        store.update({"n": 8}, where=F("n") == 7)
        written = cache.identity(tmp_path / "s")
        assert written != file, "the ten that were new are in it"
        store.optimize()
        assert cache.identity(tmp_path / "s") == written, "written again, with nothing new in it"
    with knnstore.open_store(url) as store:
        assert store.search(rows_of(10, 3)[:1], 1, where=F("n") == 8).ids.tolist() == [["more0"]]
        assert store.stats().details["index_file"] == "used"


def test_a_store_that_is_open_takes_the_index_that_another_has_built(tmp_path):
    url = f"faiss://{tmp_path}/s?index=HNSW16"
    with knnstore.open_store(url, spec_of()) as store, knnstore.open_store(url) as other:
        fill(store, 1000)
        assert (other.search(rows_of(5, 0), 1).ids != "").all()
        assert other.stats().details["entries"] == 0
        store.optimize()
        assert other.search(rows_of(1000, 0), 1).ids[:, 0].tolist() == [f"{i}" for i in range(1000)]
        assert (other.stats().details["entries"], other.stats().details["index_file"]) == (1000, "used")


def test_searching_and_writing_while_another_thread_optimises(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/s?index=HNSW32", spec_of()) as store, ThreadPoolExecutor(1) as pool:
        fill(store, 12_000)
        building = pool.submit(store.optimize)
        searched = 0
        while not building.done():
            fill(store, 1, 7 + searched, f"meanwhile{searched}-")
            ids = store.search(rows_of(1, 7 + searched), 1).ids
            assert ids.tolist() == [[f"meanwhile{searched}-0"]]
            searched += 1
        building.result()
        assert searched > 1
        assert store.count() == 12_000 + searched
        for number in range(searched):
            assert store.search(rows_of(1, 7 + number), 1).ids.tolist() == [[f"meanwhile{number}-0"]]


# -- the index on disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """A store with an index on disk, closed: its folder and URL."""
    url = f"faiss://{tmp_path}/s?index=HNSW8"
    with knnstore.open_store(url, spec_of()) as store:
        fill(store, 300)
        store.optimize()
    return tmp_path / "s", url


def state_of(url, caplog, *, warns=True):
    with caplog.at_level(logging.WARNING, "knnstore_faiss"), knnstore.open_store(url) as store:
        assert store.search(rows_of(300, 0), 1).ids[:, 0].tolist() == [f"{i}" for i in range(300)]
        state = store.stats().details["index_file"]
    assert bool(caplog.records) is warns
    return state


def test_the_index_on_disk_is_used(written, caplog):
    assert state_of(written[1], caplog, warns=False) == "used"
    assert not list(written[0].glob("*.tmp"))


@pytest.mark.parametrize("keep", [0, 5, 100, 0.5, 0.99])
def test_truncated(written, caplog, keep):
    file = written[0] / cache.FILE
    file.write_bytes(file.read_bytes()[: keep if isinstance(keep, int) else int(keep * file.stat().st_size)])
    assert "truncated" in state_of(written[1], caplog)
    caplog.clear()
    with knnstore.open_store(written[1]) as store:
        store.optimize()
    caplog.clear()
    assert state_of(written[1], caplog, warns=False) == "used"


@pytest.mark.parametrize("at", [0, 9, 60, 0.3, 0.7, -1])
def test_one_flipped_bit(written, caplog, at):
    file = written[0] / cache.FILE
    data = bytearray(file.read_bytes())
    data[at if isinstance(at, int) else int(at * len(data))] ^= 4
    file.write_bytes(data)
    assert "checksum" in state_of(written[1], caplog)


def test_removed(written, caplog):
    (written[0] / cache.FILE).unlink()
    assert state_of(written[1], caplog, warns=False) == "none"


def test_of_another_store_or_setting(written, caplog, tmp_path):
    other = f"faiss://{tmp_path}/other?index=HNSW8"
    with knnstore.open_store(other, spec_of()) as store:
        fill(store, 300, seed=8)
        store.optimize()
    shutil.copy(tmp_path / "other" / cache.FILE, written[0] / cache.FILE)
    assert "another store" in state_of(written[1], caplog)
    with knnstore.open_store(written[1]) as store:
        store.optimize()
    caplog.clear()
    assert "other settings" in state_of(written[1].replace("HNSW8", "HNSW12"), caplog)


def test_an_older_index_catches_up(written, caplog, tmp_path):
    old = (written[0] / cache.FILE).read_bytes()
    with knnstore.open_store(written[1]) as store:
        fill(store, 10, seed=3, prefix="new")
        store.delete(["5"])
        store.upsert(["5"], rows_of(300, 0)[5:6], {"n": [7]})
        store.optimize()
    (written[0] / cache.FILE).write_bytes(old)
    assert state_of(written[1], caplog, warns=False) == "used"
    with knnstore.open_store(written[1]) as store:
        assert store.search(rows_of(10, 3), 1).ids[:, 0].tolist() == [f"new{i}" for i in range(10)]


def test_newer_than_a_restored_database(written, caplog, tmp_path):
    shutil.copytree(written[0], tmp_path / "backup")
    with knnstore.open_store(written[1]) as store:
        fill(store, 40, seed=3, prefix="lost")
        store.optimize()
    newer = (written[0] / cache.FILE).read_bytes()
    shutil.rmtree(written[0])
    shutil.copytree(tmp_path / "backup", written[0])
    with knnstore.open_store(written[1].partition("?")[0]) as store:  # as many writes, of something else
        fill(store, 40, seed=4, prefix="other")
    (written[0] / cache.FILE).write_bytes(newer)
    assert "another history" in state_of(written[1], caplog)


def test_the_header_holds_no_pickle(written):
    data = (written[0] / cache.FILE).read_bytes()
    size = int.from_bytes(data[8:16], "little")
    assert json.loads(data[16 : 16 + size])["key"]["index"] == "HNSW8"
