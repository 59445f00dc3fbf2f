"""What goes over the wire: sizes, keys, certificates, deadlines, options, races; through the bridge, see ``bridge.py``."""

import json
import re
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import trustme

import knnstore
from knnstore import F, StoreSpec, StoreURL
from knnstore.errors import (
    ConflictError,
    InvalidURLError,
    KnnStoreError,
    SpecMismatchError,
    StoreAuthenticationError,
    StoreClosedError,
    StoreConnectionError,
    StoreNotFoundError,
    StoreTimeoutError,
    UnsupportedOperationError,
)
from knnstore.testing.proxy import FaultProxy
from knnstore.testing.servers import free_port

SPEC = StoreSpec(8, "cosine", {"label": str, "area": int, "weight": float, "thing": bool})
TRANSPORTS = ("grpc", "http")
KEY = "s3cret-k3y"


def rows(n, seed=0, dim=8):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def write(store, n, prefix="r", **more):
    fields = {"label": [f"label {i % 3}" for i in range(n)], "area": list(range(n)), "weight": [i / 7 for i in range(n)],
              "thing": [i % 2 == 0 for i in range(n)]}  # fmt: skip
    return store.upsert([f"{prefix}{i}" for i in range(n)], rows(n), fields, **more)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_of_everything(shared_bridge, numbers, transport):
    """The fast lane's share of the kit, which the slow lane runs whole over both transports."""
    url = shared_bridge.url(f"wire/{next(numbers)}", transport, exact=1)
    with knnstore.open_store(url, SPEC) as store:
        assert write(store, 50) == 50
        assert write(store, 60, on_conflict="skip") == 10
        with pytest.raises(ConflictError, match="r0"):
            write(store, 1, on_conflict="error")
        found = store.search(rows(60)[:4], 3, where=F("label").isin(["label 1", "it's"]), fields=["area", "thing"])
        assert (found.fields["area"] % 3 == 1).all()
        assert found.ids.tolist()[1][0] == "r1"
        assert found.scores[1, 0] == pytest.approx(1)
        assert store.count((F("weight") >= 2 / 7) & ~(F("thing") == True)) == 29  # noqa: E712
        assert store.count_by("thing") == {True: 30, False: 30}
        assert len(store.count_by("weight")) == 60
        assert store.count_by("label", F("label") == "label 1") == {"label 1": 20}, "the server knows other values too"
        assert store.count_by("weight", F("area") < 2) == {0.0: 1, 1 / 7: 1}
        assert store.update({"weight": [0.1 + 0.2, 5e-324], "thing": True}, ids=["r7", "absent"]) == 1
        assert store.update({"weight": 1e-310, "label": "it's"}, where=F("area") == 8) == 1
        assert store.get(["r7", "r8", "absent"]).fields["weight"].tolist() == [0.1 + 0.2, 1e-310]
        assert [store.count(F("weight") == v) for v in (1.0, 8 / 7, 0.1 + 0.2, 1e-310)] == [0, 0, 1, 1]
        assert store.count() == 60
        write(store, 60)
        assert sorted(v for batch in store.scan(batch_size=7) for v in batch.ids) == sorted(f"r{i}" for i in range(60))
        unit = rows(60)[33] / np.linalg.norm(rows(60)[33].astype(np.float64))
        assert store.get(["r33"]).vectors.tobytes() == unit.astype(np.float32).tobytes()
        store.delete(["r0"])
        store.delete(where=F("area") > 2**53)
        store.optimize()
        store.flush()
        assert store.stats().count == 59
        assert store.stats().details["status"] == "green"
    with knnstore.open_store(url) as store:
        assert store.spec == SPEC


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_requests_are_bounded(make_bridge, transport):
    bridge = make_bridge()
    spec = StoreSpec(1024, "dot", {"text": str})
    with knnstore.open_store(bridge.url("large", transport, batch_bytes=1_000_000, timeout=120), spec) as store:
        ids, awkward = [f"r{i}" for i in range(1500)], ["\x01" * 300, "é" * 300, "plain"] * 500
        store.upsert(ids, rows(1500, dim=1024), {"text": awkward})
        assert store.get(ids).fields["text"].tolist() == awkward
        assert store.update({"text": [*awkward[1:], "last"]}, ids=ids) == 1500
        assert store.get(ids).fields["text"].tolist() == [*awkward[1:], "last"]
        store.update({"text": awkward}, ids=ids)
        wanted = [f"{i} {'x' * 2000}" for i in range(200)]  # 400 KB in each query
        hits = store.search(rows(6, dim=1024), 2, where=F("text").isin([*wanted, "plain"]))
        assert (hits.ids != "").all()
    sizes = [request["size"] for request in bridge.requests()]
    assert max(sizes) < 1_100_000
    assert sum(sizes) > 1500 * 4096
    asked = [request for request in bridge.requests() if "Query" in request["method"] or "query" in request["method"]]
    assert len(asked) == (3 if transport == "grpc" else 6), "as many queries in a request as there is room for"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_value_for_many_is_one_change(make_bridge, transport):
    """Not one for each record: what is equal goes together, in a request for every thousand."""
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("changes", transport), SPEC) as store:
        write(store, 1500)
        before = len(bridge.requests())
        assert store.update({"label": "one"}, ids=[f"r{i}" for i in range(1500)]) == 1500
        assert store.update({"label": "two"}, where=F("label") == "one") == 1500
    sent = bridge.requests()[before:]
    changes = [r for r in sent if "UpdateBatch" in r["method"] or "points/batch" in r["method"]]
    assert len(changes) == 3
    assert sum(request["size"] for request in changes) < 1500 * 50 + 3 * 1000


def test_a_batch_of_queries_is_one_request(make_bridge):
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("batch", exact=1), SPEC) as store:
        write(store, 100)
        store.search(rows(250), 16, fields=["label"])
    assert [r["queries"] for r in bridge.requests() if r["method"] == "QueryBatch"] == [250]


def test_indexes_come_before_records(make_bridge):
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("indexed"), SPEC) as store:
        write(store, 3)
    methods = [request["method"] for request in bridge.requests()]
    assert methods.count("CreateFieldIndex") == 4
    assert max(i for i, m in enumerate(methods) if m == "CreateFieldIndex") < methods.index("UpdateBatch")
    knnstore.open_store(bridge.url("indexed")).close()
    assert [r["method"] for r in bridge.requests()].count("CreateFieldIndex") == 4


# -- keys and certificates ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("source", ["api_key", "api_key_env", "api_key_file"])
def test_the_key_is_sent_and_never_shown(make_bridge, transport, source, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_QDRANT_KEY", KEY)
    (tmp_path / "key").write_text(f"{KEY}\n")
    value = {"api_key": KEY, "api_key_env": "TEST_QDRANT_KEY", "api_key_file": tmp_path / "key"}[source]
    bridge = make_bridge(api_key=KEY)
    with knnstore.open_store(bridge.url("kept", transport, **{source: value}), SPEC) as store:
        write(store, 3)
        for text in (repr(store), str(store.url), repr(store._options), repr(store.stats()), repr(vars(store._engine))):
            assert KEY not in text
    with pytest.raises(StoreAuthenticationError, match="Check the API key") as caught:
        knnstore.open_store(bridge.url("kept", transport, api_key="wr0ng-k3y"), SPEC)
    assert "wr0ng-k3y" not in str(caught.value)
    with pytest.raises(StoreAuthenticationError, match="Check the API key"):
        knnstore.open_store(bridge.url("kept", transport), SPEC)


@pytest.mark.parametrize(
    "said", ["refused {}", "no space left " + "x " * 190 + "{} and more", "no space left for {}", "{} is corrupt"]
)
def test_no_error_shows_the_key(shared_bridge, numbers, monkeypatch, said):
    """Whatever call fails, in whatever way, also where the text of the engine is cut."""
    monkeypatch.setenv("TEST_QDRANT_KEY", KEY)
    url = shared_bridge.url(f"secrets/{next(numbers)}", api_key_env="TEST_QDRANT_KEY")

    def fail(_):
        raise RuntimeError(said.format(KEY))

    with knnstore.open_store(url, SPEC) as store:
        monkeypatch.setattr(store._engine, "_call", fail)
        for call in (lambda: write(store, 3), lambda: write(store, 3, on_conflict="skip"), store.count,
                     lambda: store.get(["r0"]), lambda: store.search(rows(1), 1), lambda: store.delete(["r0"]),
                     lambda: list(store.scan()), lambda: store.count_by("label"), store.stats, store.optimize):  # fmt: skip
            with pytest.raises(KnnStoreError) as caught:
                call()
            assert KEY[:6] not in str(caught.value)


def test_a_key_does_not_travel_in_the_open():
    with pytest.raises(InvalidURLError, match=r"unencrypted to db\.example") as caught:
        knnstore.open_store(f"qdrant://db.example/c?api_key={KEY}", SPEC)
    assert KEY not in str(caught.value)
    with pytest.raises(StoreConnectionError):  # allowed to try, where nobody listens
        knnstore.open_store(f"qdrant://localhost:1/c?api_key={KEY}&retries=0&timeout=5", SPEC)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_tls(make_bridge, transport, tmp_path):
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    bridge = make_bridge(cert=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem"), api_key=KEY)
    with knnstore.open_store(bridge.url("c", transport, tls=1, ca=tmp_path / "ca.pem", api_key=KEY), SPEC) as store:
        write(store, 5)
        assert store.count() == 5
    quick = {"retries": 0, "timeout": 5, "api_key": KEY}
    for wrong in ({"tls": 1, "ca": tmp_path / "stranger.pem"}, {"tls": 1}, {}):
        with pytest.raises((StoreConnectionError, StoreTimeoutError)) as caught:
            knnstore.open_store(bridge.url("c", transport, **quick, **wrong), SPEC)
        assert KEY not in str(caught.value)
    with pytest.raises(InvalidURLError, match="PEM"):
        knnstore.open_store(bridge.url("c", transport, tls=1, ca=tmp_path / "absent.pem"), SPEC)


# -- time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_frozen_server_is_given_up_in_time(make_bridge, transport):
    """Accepted and never answered, for real: the process is stopped, the kernel goes on accepting."""
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport, timeout="0.5", exact=1), SPEC) as store:
        write(store, 10)
        bridge.freeze()
        calls = [lambda: write(store, 10), lambda: store.search(rows(2), 3), lambda: store.get(["r0"]), store.count,
                 lambda: store.delete(["r0"]), lambda: store.delete(where=F("area") == 1), lambda: list(store.scan()),
                 store.stats, store.optimize, lambda: store.count_by("label")]  # fmt: skip
        for call in calls:
            started = time.monotonic()
            with pytest.raises(StoreTimeoutError, match=r"127\.0\.0\.1"):
                call()
            assert time.monotonic() - started < 15  # a busy machine is late; the default is 30
        started = time.monotonic()
        with pytest.raises(StoreTimeoutError):
            knnstore.open_store(bridge.url("c", transport, timeout="0.5"))
        assert time.monotonic() - started < 15
        bridge.thaw()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_killed_server_is_reached_again(make_bridge, transport):
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport, timeout=5, retries=5), SPEC) as store:
        write(store, 10)
        bridge.kill()
        started = time.monotonic()
        with pytest.raises(StoreConnectionError):
            store.count()
        assert time.monotonic() - started < 20
        bridge.start()
        until = time.monotonic() + 60
        with pytest.raises(StoreNotFoundError):  # the bridge forgets everything; what matters is that it was reached
            while True:
                try:
                    store.count()
                except StoreConnectionError:  # gRPC waits a while before it connects again, longer on a busy machine
                    assert time.monotonic() < until
                    time.sleep(0.2)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_wrong_port_is_told_at_once(transport):
    """With the defaults: who has never answered is not waited for until the timeout."""
    started = time.monotonic()
    with pytest.raises(StoreConnectionError, match="Check that the server runs"):
        knnstore.open_store(f"qdrant://127.0.0.1:{free_port()}/c?transport={transport}", SPEC)
    assert time.monotonic() - started < 10


def test_a_slow_network_is_no_outage(make_bridge):
    """A connection takes some ways there and back; no attempt may be given up before that."""
    bridge = make_bridge()
    with FaultProxy("127.0.0.1", bridge.ports["grpc"]) as slow:
        slow.delay = 0.4
        with knnstore.open_store(f"qdrant://127.0.0.1:{slow.port}/c", StoreSpec(2)) as store:
            assert store.count() == 0


@pytest.mark.parametrize("tls", [False, True])
def test_an_answer_in_two_packets_is_not_waited_for(make_bridge, tls, tmp_path):
    """The server sends the second one when the first is acknowledged, and Linux takes 40 ms for that if it is let."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    files = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")} if tls else {}
    bridge = make_bridge(nagle=True, **files)
    with knnstore.open_store(
        bridge.url("c", "http", **({"tls": 1, "ca": tmp_path / "ca.pem"} if tls else {})), SPEC
    ) as s:
        took = []
        for _ in range(40):
            started = time.monotonic()
            s.count()
            took.append(time.monotonic() - started)
    assert sorted(took)[10] < 0.03  # a busy machine is late, but not always


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_closing_ends_a_call_in_flight_and_leaves_no_client(make_bridge, transport):
    """Also not one that the other thread makes for its next try, which nobody would close."""
    bridge = make_bridge()
    store = knnstore.open_store(bridge.url("c", transport, timeout=20, retries=20), SPEC)
    store.count()
    bridge.freeze()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(store.count)
        time.sleep(0.3)
        store.close()
        bridge.thaw()
        with pytest.raises(StoreClosedError, match=r"127\.0\.0\.1"):
            call.result()
    with pytest.raises(StoreClosedError):
        store._engine.count(None)
    assert store._engine._connection._client._made is None


# -- opening -----------------------------------------------------------------------------------------------------------


def test_options_reach_the_collection_and_are_compared(make_bridge):
    bridge = make_bridge()
    given = {"shards": 3, "replication_factor": 2, "write_consistency_factor": 2, "m": 8, "quantization": "int8",
             "always_ram": 1, "on_disk": 1, "on_disk_payload": 1, "tenant": "label"}  # fmt: skip
    for transport in TRANSPORTS:
        knnstore.open_store(bridge.url(transport, transport, **given), SPEC).close()
        knnstore.open_store(bridge.url(transport, transport, **given), SPEC).close()
        knnstore.open_store(bridge.url(transport, transport)).close()
        with pytest.raises(SpecMismatchError, match=r"shards=4 .asked for., got shards=3"):
            knnstore.open_store(bridge.url(transport, transport, shards=4))
        with pytest.raises(SpecMismatchError, match=r"quantization=binary .asked for., got quantization=int8"):
            knnstore.open_store(bridge.url(transport, transport, quantization="binary"))
    with pytest.raises(InvalidURLError, match="tenant=area"):
        knnstore.open_store(bridge.url("x", tenant="area"), SPEC)
    assert knnstore.collections(bridge.url("x")) == []


@pytest.mark.parametrize("level", ["strong", "session", "eventual"])
def test_consistency_is_asked_for(shared_bridge, numbers, level):
    from qdrant_client import models

    url = shared_bridge.url(f"levels/{next(numbers)}")
    with knnstore.open_store(url, SPEC, consistency=level) as store:
        write(store, 3)
        assert store.count() == 3
        ordering = {"strong": "strong", "session": "medium", "eventual": "weak"}[level]
        assert store._engine._ordering == models.WriteOrdering(ordering)
        assert store._engine._reads == (
            {"consistency": models.ReadConsistencyType.MAJORITY} if level == "strong" else {}
        )


def test_an_old_server_is_refused(make_bridge):
    with pytest.raises(UnsupportedOperationError, match=r"server 1\.15\.4.*Qdrant 1\.16"):
        knnstore.open_store(make_bridge(version="1.15.4").url("c"), SPEC)


def test_a_collection_of_others_is_left_alone(make_bridge):
    from qdrant_client import QdrantClient, models

    bridge = make_bridge()
    client = QdrantClient(port=bridge.ports["http"], check_compatibility=False)
    client.create_collection("theirs", models.VectorParams(size=8, distance=models.Distance.DOT))
    client.upsert("theirs", [models.PointStruct(id=1, vector=[1.0] * 8)])
    for spec in (SPEC, None):
        with pytest.raises(SpecMismatchError, match="without its metadata"):
            knnstore.open_store(bridge.url("theirs"), spec)
    assert knnstore.collections(bridge.url("")) == []
    assert client.count("theirs").count == 1
    client.close()


def test_two_creators_at_once(make_bridge):
    bridge = make_bridge()

    def create(dim):
        try:
            with knnstore.open_store(bridge.url("raced"), StoreSpec(dim)) as store:
                return store.spec.dim
        except SpecMismatchError:
            return "mismatch"

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(create, [4] * 4 + [5] * 4))
    (dim,) = {value for value in said if value != "mismatch"}
    assert said == [dim if wanted == dim else "mismatch" for wanted in [4] * 4 + [5] * 4]


def test_two_writers_lose_nothing(shared_bridge, numbers):
    url = shared_bridge.url(f"two/{next(numbers)}")
    with knnstore.open_store(url, SPEC) as one, knnstore.open_store(url) as two:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda pair: write(pair[0], 300, pair[1]), [(one, "a"), (two, "b")]))
            list(pool.map(lambda store: write(store, 300, "same"), [one, two]))
        assert one.count() == two.count() == 900


def test_names(make_bridge):
    bridge = make_bridge()
    url = StoreURL.parse(bridge.url("Küche"))
    for name in ("dinov2-b14-reg-1a2b3c4d", "a~b", "a b", "100%", "ü" * 200, "..", "x" * 300):
        if name != "..":
            knnstore.open_store(url.child(name), StoreSpec(2)).close()
    found = knnstore.collections(url)
    names = sorted(("dinov2-b14-reg-1a2b3c4d", "a~b", "a b", "100%", "ü" * 200, "x" * 300))
    assert found == [url.child(name) for name in names]
    knnstore.open_store(url, StoreSpec(3)).close()
    assert knnstore.collections(url)[0] == url
    assert knnstore.collections(replace(url, path="")) == [url]
    with knnstore.open_store(url.child("x" * 300)) as store:
        assert store.spec.dim == 2


def test_a_scan_holds_one_page(shared_bridge, numbers):
    """More records than any page, in bounded memory."""
    spec = StoreSpec(64, "dot")
    with knnstore.open_store(shared_bridge.url(f"scan/{next(numbers)}"), spec) as store:
        vectors = rows(10_500, dim=64)
        store.upsert([f"r{i}" for i in range(10_500)], vectors)
        next(iter(store.scan(with_vectors=True, batch_size=500)))  # what is imported at the first use has been
        tracemalloc.start()
        seen = sum(len(batch) for batch in store.scan(with_vectors=True, batch_size=500))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert seen == 10_500
    assert peak < 10_500 * 64 * 4 * 4, "the whole of it at once, as Python numbers, would take eight times the bytes"


def test_the_metadata_is_readable(make_bridge):
    from qdrant_client import QdrantClient

    bridge = make_bridge()
    knnstore.open_store(bridge.url("a/b", tenant="label"), SPEC).close()
    client = QdrantClient(port=bridge.ports["http"], check_compatibility=False)
    ours = json.loads(client.get_collection("a~b").config.metadata["knnstore"])
    assert ours["path"] == "a/b"
    assert ours["tenant"] == "label"
    assert StoreSpec.from_json(ours["spec"]) == SPEC
    assert re.fullmatch(r"[\w~]+", client.get_collections().collections[0].name)
    client.close()
