"""What a real server does with what we ask of it."""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from knnstore_milvus.connection import Connection
from knnstore_milvus.names import collection_name
from pymilvus import DataType, MilvusClient

import knnstore
from knnstore import F
from knnstore.errors import (
    InvalidURLError,
    SpecMismatchError,
    StoreCorruptError,
    StoreNotFoundError,
    UnsupportedOperationError,
)

pytestmark = pytest.mark.server

SPEC = knnstore.StoreSpec(8, "cosine", {"label": str, "area": int})


def rows(n, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def fields(n, label="x"):
    return {"label": [label] * n, "area": list(range(n))}


def collection(url):
    return collection_name(knnstore.StoreURL.parse(url).path.split("/", 2)[2])


# -- reading ----------------------------------------------------------------------------------------------------------


def test_scan_beyond_the_window_while_others_write(place):
    """20,000 records, in memory and on disk, rewritten and added to while they are read: each comes exactly once."""
    url, n = place(index="FLAT"), 20_000
    vectors, ids = rows(n, 4), [f"r{i:05d}" for i in range(n)]
    with knnstore.open_store(url, knnstore.StoreSpec(4, "dot", {"area": int})) as store:
        store.upsert(ids[:12_000], vectors[:12_000], {"area": list(range(12_000))})
        store.flush()
        store.upsert(ids[12_000:], vectors[12_000:], {"area": list(range(12_000, n))})
        seen = []
        for i, records in enumerate(store.scan(batch_size=700, fields=["area"])):
            seen += records.ids.tolist()
            chosen = slice(i * 500 % n, i * 500 % n + 300)
            with knnstore.open_store(url) as other:
                other.upsert(ids[chosen], vectors[chosen], {"area": [-1] * len(ids[chosen])})
                other.upsert([f"new{i}"], vectors[:1], {"area": [0]})
                other.delete([f"new{i - 1}"])
        assert sorted(value for value in seen if not value.startswith("new")) == ids
        assert len(set(seen)) == len(seen)


def test_a_search_right_after_an_upsert_sees_every_record_once(place):
    with knnstore.open_store(place(index="FLAT"), SPEC) as store:
        vectors, n = rows(3000), 3000
        ids = [f"r{i}" for i in range(n)]
        for turn in range(6):
            store.upsert(ids, np.roll(vectors, turn, axis=0), fields(n, f"turn {turn}"))
            hits = store.search(np.roll(vectors, turn, axis=0)[:50], 3, fields=["label"])
            assert hits.ids[:, 0].tolist() == ids[:50], turn
            assert set(hits.fields["label"].ravel()) == {f"turn {turn}"}
            assert store.count() == n
            assert store.count(F("label") == f"turn {turn - 1}") == 0


def test_other_openers_see_what_was_acknowledged(place):
    url = place(index="FLAT")
    with knnstore.open_store(url, SPEC) as writer, knnstore.open_store(url, consistency="strong") as strong:
        for i in range(5):
            writer.upsert([f"r{i}"], rows(1), fields(1))
            assert strong.count() == i + 1
            with knnstore.open_store(url, read_only=True) as later:
                assert later.count() == i + 1
        writer.delete(["r0"])
        assert strong.count() == 4


def test_an_answer_that_is_too_large_is_asked_for_in_parts(place, monkeypatch):
    """6 × 300 labels of 60,000 bytes are more than the 100 MiB that the server answers with."""
    asked = []
    call = Connection.call

    def noted(self, method, request, **options):
        if method == "Search":
            asked.append(request.nq)
        return call(self, method, request, **options)

    monkeypatch.setattr(Connection, "call", noted)
    with knnstore.open_store(place(index="FLAT"), SPEC) as store:
        label = "é" * 30_000
        assert store.upsert([f"r{i}" for i in range(300)], rows(300), fields(300, label)) == 300
        hits = store.search(rows(6), 300, fields=["label"])
        assert set(hits.fields["label"].ravel()) == {label}
        assert (hits.ids != "").all()
    assert asked == [6, 3, 3]


def test_a_page_of_a_scan_that_is_too_large_is_halved(place):
    """2,000 labels of 60,000 bytes, asked for at once."""
    with knnstore.open_store(place(index="FLAT"), SPEC) as store:
        store.upsert([f"r{i}" for i in range(2000)], rows(2000), fields(2000, "é" * 30_000))
        sizes = [len(records) for records in store.scan(batch_size=5000)]
        assert sum(sizes) == 2000
        assert len(sizes) > 1


def test_requests_stay_within_their_bounds(place, monkeypatch):
    sent = []
    call = Connection.call

    def counted(self, method, request, **options):
        if method in ("Upsert", "Search"):
            sent.append(
                (method, request.ByteSize(), getattr(request, "num_rows", None) if method == "Upsert" else request.nq)
            )
        return call(self, method, request, **options)

    monkeypatch.setattr(Connection, "call", counted)
    with knnstore.open_store(place(index="FLAT", batch_bytes=100_000, batch_rows=700), SPEC) as store:
        store.upsert([f"r{i}" for i in range(2000)], rows(2000), fields(2000))
        store.upsert([f"long{i}" for i in range(20)], rows(20), fields(20, "x" * 30_000))
        store.search(rows(5000), 1)
        assert store.count() == 2020
    assert all(size < 150_000 for _, size, _ in sent), sent
    assert max(count for method, _, count in sent if method == "Upsert") <= 700
    assert len([1 for method, *_ in sent if method == "Search"]) > 1


def test_a_batch_of_queries_is_one_request(place, monkeypatch):
    sent = []
    call = Connection.call
    monkeypatch.setattr(
        Connection,
        "call",
        lambda self, method, request, **o: (sent.append(method), call(self, method, request, **o))[1],
    )
    with knnstore.open_store(place(index="FLAT"), SPEC) as store:
        store.upsert([f"r{i}" for i in range(50)], rows(50), fields(50))
        store.search(rows(1), 3)
        sent.clear()
        store.search(rows(250), 16, fields=["label"], where=F("area") > 3)
        assert sent == ["Search"]


def test_a_scan_of_much_rewritten_records(place):
    """The same ids in many segments, some sealed, some growing, rewritten and deleted over and over."""
    rng, n = np.random.default_rng(0), 4000
    ids, vectors, stored = [f"r{i:05d}" for i in range(n)], rows(n, 4), set()
    with knnstore.open_store(place(index="FLAT"), knnstore.StoreSpec(4, "dot", {"area": int})) as store:
        for turn in range(10):
            written, gone = rng.choice(n, 1500, replace=False), rng.choice(n, 500, replace=False)
            store.upsert([ids[i] for i in written], vectors[written], {"area": [turn] * 1500})
            store.delete([ids[i] for i in gone])
            stored = (stored | {ids[i] for i in written}) - {ids[i] for i in gone}
            if turn % 4 == 1:
                store.flush()
            for size in (100, 2000):
                seen = [value for records in store.scan(fields=[], batch_size=size) for value in records.ids]
                assert len(seen) == len(set(seen)) == store.count()
                assert set(seen) == stored


# -- creating ---------------------------------------------------------------------------------------------------------


def test_a_collection_of_something_else_is_left_alone(place, bare):
    url = place()
    schema = bare.create_schema(description="mine")
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("v", DataType.FLOAT_VECTOR, dim=8)
    bare.create_collection(collection(url), schema=schema)
    for spec in (None, SPEC):
        with pytest.raises(StoreCorruptError, match="something else"):
            knnstore.open_store(url, spec)
    assert knnstore.collections(url) == []
    with pytest.raises(StoreCorruptError):
        knnstore.get_backend("milvus").remove_empty(knnstore.StoreURL.parse(url))
    assert [f["name"] for f in bare.describe_collection(collection(url))["fields"]] == ["id", "v"]


def test_what_a_collection_was_created_with_stays(place):
    with knnstore.open_store(place(index="HNSW", m=8, shards=2), SPEC) as store:
        details = store.stats().details
        assert (details["index_type"], details["shards"]) == ("HNSW", 2)
        assert json.loads(details["params"])["M"] == 8
    for options, said in (
        ({"index": "FLAT"}, "index=HNSW"),
        ({"shards": 3}, r"=2 \(stored\)"),
        ({"index": "HNSW", "m": 16}, "m=8"),
    ):
        with pytest.raises(SpecMismatchError, match=said):
            knnstore.open_store(place(**options), SPEC)
    for options in ({}, {"ef": 50}, {"shards": 2}):
        with knnstore.open_store(place(**options), SPEC) as store:
            assert store.capabilities.approximate
            assert store.stats().details["index_type"] == "HNSW"


@pytest.mark.parametrize(
    "options",
    [{"index": "HNSW_SQ", "sq_type": "SQ8"}, {"index": "IVF_RABITQ"}, {"mmap": 1}, {"partition_key": "label"}],
)
def test_what_this_server_lacks_is_refused_before_anything_is_created(place, bare, options):
    if not bare.get_server_version().startswith("v2.3"):
        pytest.skip("the server is newer than the options")
    url = place(**options)
    with pytest.raises(UnsupportedOperationError, match=r"Milvus 2\.\d or later, got v2\.3"):
        knnstore.open_store(url, SPEC)
    assert not bare.has_collection(collection(url))


def clustered(n, dim, seed):
    """Around 50 centres, as embeddings are."""
    centres = np.random.default_rng(7).normal(size=(50, dim)) * 2
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(50, size=n)] + rng.normal(size=(n, dim))).astype(np.float32)


@pytest.mark.parametrize(
    ("index", "options", "least"),
    [
        ("FLAT", {}, 1),
        ("AUTOINDEX", {}, 0.95),
        ("HNSW", {"m": 16, "ef_construction": 128, "ef": 128}, 0.95),
        ("IVF_FLAT", {"nlist": 64, "nprobe": 16}, 0.9),
        ("IVF_SQ8", {"nlist": 64, "nprobe": 16}, 0.9),
        ("IVF_PQ", {"nlist": 64, "nprobe": 16, "pq_m": 16}, 0.4),
        ("SCANN", {"nlist": 64, "nprobe": 16}, 0.9),
    ],
)
def test_indexes_of_this_server(place, index, options, least):
    """Built, searched, and as good as one may expect on vectors with some structure."""
    vectors, queries = clustered(6000, 32, 0), clustered(40, 32, 1)
    with knnstore.open_store(place(index=index, **options), knnstore.StoreSpec(32, "l2")) as store:
        store.upsert([f"r{i}" for i in range(6000)], vectors)
        store.optimize()
        details = store.stats().details
        assert (details["indexed_rows"], details["index_type"]) == (6000, index)
        hits = store.search(queries, 10)
        distances = ((queries[:, None, :].astype(np.float64) - vectors[None]) ** 2).sum(axis=2)
        true = np.argsort(distances, axis=1)[:, :10]
        found = np.mean([len({f"r{j}" for j in true[q]} & set(hits.ids[q])) / 10 for q in range(40)])
        assert found >= least, found
        assert store.capabilities.approximate == (index != "FLAT")
        assert store.capabilities.recall_floor <= least


def test_a_tenant_key(place, bare):
    if bare.get_server_version().startswith("v2.3"):
        pytest.skip("2.3 puts upserted records into the wrong partition, so a tenant key is refused")
    url = place(index="FLAT", partition_key="label", num_partitions=16)
    with knnstore.open_store(url, SPEC) as store:
        n = 400
        labels = [f"tenant {i % 20}" for i in range(n)]
        store.upsert([f"r{i}" for i in range(n)], rows(n), {"label": labels, "area": list(range(n))})
        assert len(bare.list_partitions(collection(url))) == 16
        assert store.count(F("label") == "tenant 3") == 20
        hits = store.search(rows(3), 50, where=F("label") == "tenant 3", fields=["label"])
        assert set(hits.fields["label"][hits.ids != ""]) == {"tenant 3"}
        store.upsert(["r3"], rows(1), {"label": ["tenant 4"], "area": [3]})  # moves to another partition
        assert store.count() == n
        assert store.get(["r3"]).fields["label"].tolist() == ["tenant 4"]
        store.delete(where=F("label") == "tenant 4")
        assert store.count() == n - 21


def test_a_tenant_key_must_be_a_field(place, bare, monkeypatch):
    monkeypatch.setattr("knnstore_milvus.opening.check_options", lambda *_: None)
    for key in ("nothing", "weight"):
        with pytest.raises(InvalidURLError, match="partition_key"):
            knnstore.open_store(place(partition_key=key), knnstore.StoreSpec(2, "dot", {"weight": float}))
    assert not bare.has_collection(collection(place()))


def test_replicas_that_the_server_cannot_hold(place):
    """The error is the server's; once there are nodes, or fewer replicas are asked for, the collection is there."""
    with pytest.raises(knnstore.KnnStoreError, match="not enough"):
        knnstore.open_store(place(replicas=3, timeout=3, retries=0), SPEC)
    with knnstore.open_store(place(), SPEC) as store:
        assert store.count() == 0


def test_a_database_that_is_not_there(milvus_url):
    for spec in (None, SPEC):
        with pytest.raises(StoreNotFoundError):
            knnstore.open_store(f"{milvus_url}/no_such_database/x", spec)


def test_a_database(milvus_url, bare):
    name = f"db_{time.time_ns()}"
    bare.create_database(name)
    url = f"{milvus_url}/{name}/concepts"
    try:
        with knnstore.open_store(url, SPEC) as store:
            store.upsert(["a"], rows(1), fields(1))
            assert store.count() == 1
        assert [str(found) for found in knnstore.collections(f"{milvus_url}/{name}")] == [url]
        assert name not in bare.list_collections()
    finally:
        client = MilvusClient(milvus_url.replace("milvus://", "http://").partition("?")[0], db_name=name)
        for found in client.list_collections():
            client.drop_collection(found)
        client.close()
        bare.drop_database(name)


def test_a_collection_that_was_left_half_made_or_released(place, bare):
    """Created and then nothing: whoever opens it next finishes it. A released one is loaded again."""
    url = place(index="FLAT")
    with knnstore.open_store(url, SPEC) as store:
        store.upsert(["a"], rows(1), fields(1))
    bare.release_collection(collection(url))
    bare.drop_index(collection(url), "_vector")
    with knnstore.open_store(url, SPEC) as store:
        assert store.count() == 1
        assert store.search(rows(1), 1).ids.tolist() == [["a"]]


def test_a_collection_that_is_dropped_under_an_open_store(place, bare):
    with knnstore.open_store(place(retries=0), SPEC) as store:
        bare.drop_collection(collection(str(store.url)))
        with pytest.raises(StoreNotFoundError, match="dropped"):
            store.count()


def test_a_collection_that_is_made_again_under_an_open_store(place, bare):
    """For another encoder of the same width: nothing of the old one gets in."""
    old, new = (
        knnstore.StoreSpec(
            8, "cosine", {"label": str, "area": int}, space=knnstore.EmbeddingSpace(name, fingerprint=name)
        )
        for name in ("one", "two")
    )
    url = place(index="FLAT")
    with knnstore.open_store(url, old) as store:
        store.upsert(["a"], rows(1), fields(1))
        bare.drop_collection(collection(url))
        with pytest.raises(StoreNotFoundError, match="dropped"):
            store.upsert(["a"], rows(1), fields(1))
        with knnstore.open_store(url, new) as other:
            other.upsert(["b"], rows(1), fields(1))
            for write in (
                lambda: store.upsert(["c"], rows(1), fields(1)),
                lambda: store.delete(["b"]),
                lambda: store.delete(where=F("area") >= 0),
            ):
                with pytest.raises(SpecMismatchError, match=r"made since.*Open the store again"):
                    write()
            assert [value for records in other.scan() for value in records.ids] == ["b"]


# -- several at a time ------------------------------------------------------------------------------------------------

_WRITER = """
import sys
import numpy as np, knnstore
url, prefix = sys.argv[1:]
rows = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
with knnstore.open_store(url, knnstore.StoreSpec(8, "cosine", {"label": str, "area": int})) as store:
    for start in range(0, 3000, 500):
        ids = [f"{prefix}{i}" for i in range(start, start + 500)]
        store.upsert(ids, rows[start : start + 500], {"label": ["x"] * 500, "area": list(range(start, start + 500))})
"""


@pytest.mark.parametrize(("prefixes", "count"), [(["a", "b"], 6000), (["a", "a"], 3000)], ids=["different", "same"])
def test_two_processes_create_and_write_one_collection(place, prefixes, count):
    url = place(index="FLAT")
    running = [
        subprocess.Popen([sys.executable, "-c", _WRITER, url, prefix], stderr=subprocess.PIPE) for prefix in prefixes
    ]
    for process in running:
        _, said = process.communicate(timeout=100)
        assert process.returncode == 0, said.decode()
    with knnstore.open_store(url) as store:
        assert store.count() == count
        assert len({value for records in store.scan(fields=[]) for value in records.ids}) == count
        assert (
            len(store.get([f"{p}{i}" for p in set(prefixes) for i in range(3000)], fields=[], with_vectors=False))
            == count
        )


def test_creating_at_the_same_time(place):
    """Eight openers with two specs: each ends with a collection of its own spec, or is told of the other."""
    url, specs = place(index="FLAT"), [SPEC, knnstore.StoreSpec(8, "l2", {"label": str})]
    barrier = threading.Barrier(8)

    def attempt(i):
        barrier.wait()
        try:
            with knnstore.open_store(url, specs[i % 2]) as store:
                return store.spec
        except SpecMismatchError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(attempt, range(8)))
    with knnstore.open_store(url) as store:
        winner = store.spec
    for i, result in enumerate(ended):
        assert result == winner if specs[i % 2] == winner else isinstance(result, SpecMismatchError), (i, result)


def test_closing_one_store_leaves_the_others(place):
    url = place(index="FLAT")
    one, two = knnstore.open_store(url, SPEC), knnstore.open_store(url, SPEC, consistency="strong")
    one.upsert(["a"], rows(1), fields(1))
    one.close()
    assert two.get(["a"]).ids.tolist() == ["a"]
    two.close()


# -- keeping ----------------------------------------------------------------------------------------------------------


def test_optimize_seals_and_indexes(place):
    with knnstore.open_store(place(index="HNSW"), SPEC) as store:
        store.upsert([f"r{i}" for i in range(3000)], rows(3000), fields(3000))
        assert store.stats().details["indexed_rows"] == 0
        store.optimize()
        details = store.stats().details
        assert (details["indexed_rows"], details["pending_index_rows"], details["index_state"]) == (3000, 0, "Finished")
        assert details["loaded_percent"] == 100
        assert details["server"].startswith("v")
        assert store.search(rows(3000)[:20], 1).ids[:, 0].tolist() == [f"r{i}" for i in range(20)]


def test_revision_of_a_replacement(place):
    with knnstore.open_store(place(index="FLAT"), SPEC) as store:
        store.upsert(["a"], rows(1), fields(1))
        before = store.revision()
        store.upsert(["a"], rows(1, seed=1), fields(1))
        assert store.revision() != before


# -- changing fields --------------------------------------------------------------------------------------------------


def test_an_update_puts_back_what_is_there_now(place):
    """Whatever the consistency of the store: what another has deleted or written is not read from an older moment."""
    url = place(index="FLAT")
    with knnstore.open_store(url, SPEC) as other:
        other.upsert([f"r{i}" for i in range(100)], rows(100), fields(100))
        with knnstore.open_store(url, consistency="eventual") as store:
            for i in range(0, 100, 5):
                store.count()
                other.delete([f"r{i}"])
                other.upsert([f"r{i + 1}"], rows(1, seed=1), {"label": ["moved"], "area": [-1]})
                assert store.update({"area": 7}, ids=[f"r{i}", f"r{i + 1}", f"r{i + 2}"]) == 2
        left = other.get([f"r{i}" for i in range(100)])
        assert len(left) == other.count() == 80
        assert sum(left.fields["label"] == "moved") == 20


def test_threads_of_one_store_take_turns(place):
    """What one thread deletes or replaces while another updates through the same store stays so."""
    with knnstore.open_store(place(index="FLAT"), SPEC) as store:
        store.upsert([f"r{i}" for i in range(200)], rows(200), fields(200))
        done, rounds = threading.Event(), []

        def change():
            while not done.is_set():
                rounds.append(store.update({"label": "changed"}, where=F("area") >= 0))

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(change)
            for i in range(0, 180, 20):
                store.delete([f"r{j}" for j in range(i, i + 10)])
                store.upsert([f"r{i + 15}"], rows(1, seed=1), fields(1))
            done.set()
            running.result()
        assert len(rounds) > 1
        moved = [f"r{i + 15}" for i in range(0, 180, 20)]
        assert store.count() == 200 - 90
        assert len(np.unique(store.get(moved).vectors, axis=0)) == 1, "an older vector has been put back"
