"""What goes over the wire: sizes, keys, certificates, deadlines, options, races; through the bridge, see ``bridge.py``."""

import io
import itertools
import json
import operator
import re
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import trustme
from knnstore_qdrant.points import point_ids

import knnstore
from knnstore import EmbeddingSpace, F, StoreSpec, StoreURL
from knnstore.errors import (
    BackendError,
    ConflictError,
    InvalidURLError,
    KnnStoreError,
    SpecMismatchError,
    StoreClosedError,
    StoreConnectionError,
    StoreCorruptError,
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
        wanted = [f"{i} {'x' * 2000}" for i in range(200)]  # 400 KB in each query
        hits = store.search(rows(6, dim=1024), 2, where=F("text").isin([*wanted, "plain"]))
        assert (hits.ids != "").all()
    sizes = [request["size"] for request in bridge.requests()]
    assert max(sizes) < 1_100_000
    assert sum(sizes) > 1500 * 4096
    asked = [request for request in bridge.requests() if "Query" in request["method"] or "query" in request["method"]]
    assert len(asked) == (3 if transport == "grpc" else 6), "as many queries in a request as there is room for"


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
    assert max(i for i, m in enumerate(methods) if m == "CreateFieldIndex") < methods.index("Upsert")
    knnstore.open_store(bridge.url("indexed")).close()
    assert [r["method"] for r in bridge.requests()].count("CreateFieldIndex") == 4


# -- numbers -----------------------------------------------------------------------------------------------------------

OPERATORS = (operator.lt, operator.ge, operator.eq)


class Double(str):
    """A literal that is no integer."""


def doubles(body):
    """Those in a body whose last bit matters: a float32 survives the reader, and ``weight`` is there for people."""
    if isinstance(body, Double):
        yield body
    elif isinstance(body, list):
        for item in body:
            yield from doubles(item)
    elif isinstance(body, dict):
        for key, value in body.items():
            if key not in ("vectors", "nearest", "weight"):
                yield from doubles(value)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_bound_arrives_exactly(shared_bridge, numbers, transport):
    """The server's JSON reader is off by a bit on one double in twenty. Then ``delete(where=…)`` removes a neighbour."""
    rng = np.random.default_rng(7)
    floats = np.concatenate([rng.normal(size=30), rng.normal(size=30) * 10.0 ** rng.integers(-300, 300, 30)])
    ints = [*(int(v) for v in rng.integers(-(2**63), 2**63 - 1, 40)), 2**63 - 1, -(2**63), 2**53 + 1, 2**62 - 1]
    ints += [int(v) for v in rng.integers(-1000, 1000, len(floats) - len(ints))]
    values = {"weight": floats.tolist(), "area": ints}
    fields = {"weight": float, "area": int}
    ids = [f"r{i}" for i in range(len(floats))]
    url = shared_bridge.url(f"bounds/{next(numbers)}", transport)
    with knnstore.open_store(url, StoreSpec(2, "dot", fields)) as store:
        store.upsert(ids, rows(len(ids), dim=2), values)
        asked = [(name, compare, bound) for name in fields for compare in OPERATORS for bound in values[name]]
        wrong = [
            (name, compare.__name__, bound)
            for name, compare, bound in asked
            if store.count(compare(F(name), bound)) != sum(compare(value, bound) for value in values[name])
        ]
        assert not wrong
        light, large = sorted(values["weight"])[40], sorted(ints)[15]
        where = (F("weight") < light) & (F("area") >= large)
        keep = [i for i, w, a in zip(ids, floats, ints, strict=True) if not (w < light and a >= large)]
        assert sorted(i for batch in store.scan(~where) for i in batch.ids) == sorted(keep)
        assert sum(store.count_by("area", where).values()) == len(ids) - len(keep)
        assert set(store.search(rows(3, dim=2), 200, where=where).ids.ravel()) - {""} == set(ids) - set(keep)
        store.delete(where=where)
        there = store.get(ids)
        assert there.ids.tolist() == keep
        assert there.fields["weight"].tolist() == [values["weight"][ids.index(i)] for i in keep]


def test_no_request_over_http_needs_a_double_to_be_read_exactly(make_bridge):
    """Whatever is sent: doubles are in vectors (float32 survives the reader) and in what is for people to read."""
    bridge = make_bridge(bodies=True)
    with knnstore.open_store(bridge.url("doubles", "http", exact=1, m=8, quantization="int8"), SPEC) as store:
        write(store, 30)
        text = F("label") == '{"range":{"gt":4.5e18}}'
        for where in (F("weight") > 2 / 7, ~(F("area") <= 2**62 + 1) | (F("weight") == 1e300), text):
            store.search(rows(2), 3, where=where)
            store.count(where)
            store.count_by("weight", where)
            list(store.scan(where))
            store.delete(where=where)
    for request in bridge.requests():
        assert not list(doubles(json.loads(request["body"] or "{}", parse_float=Double)))
    assert any(r"\"gt\":4.5e18" in r["body"] for r in bridge.requests()), "texts are left alone"


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
    with pytest.raises(BackendError, match="Check the API key") as caught:
        knnstore.open_store(bridge.url("kept", transport, api_key="wr0ng-k3y"), SPEC)
    assert "wr0ng-k3y" not in str(caught.value)
    with pytest.raises(BackendError, match="Check the API key"):
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
    assert store._engine._connection._client is None


# -- what a server says ------------------------------------------------------------------------------------------------

CLUSTER = (
    "Service internal error: 1 of 3 read operations failed:\n  Service internal error: peer 2 is currently unavailable",
    "Service internal error: The replica set for shard 1 on peer 3 does not have enough active replicas",
    "1 out of 3 shards failed to apply operation. First error captured: Service internal error: tcp connect error",
    "Service internal error: The replica set for shard 0 on peer 7 has no active replica",
)
CALLS = {
    "Count|count": lambda store: store.count(),
    "Upsert|PUT .*/points": lambda store: write(store, 5),
    "QueryBatch|query": lambda store: store.search(rows(2), 3),
    "Delete|delete": lambda store: store.delete(where=F("area") > 2**40),
    "Scroll|scroll": lambda store: list(store.scan()),
}


def said(text, calls=".", times=10_000, code="INTERNAL", status=500):
    return {"calls": calls, "text": text, "times": times, "code": code, "status": status}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_lost_node_is_waited_for(make_bridge, transport):
    """A cluster calls it an internal error. Reads may be repeated, and so may our writes."""
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport, timeout=20), SPEC) as store:
        write(store, 5)
        for text, (calls, call) in itertools.product(CLUSTER, CALLS.items()):
            bridge.play(said(text, calls, times=2))
            call(store)
    with knnstore.open_store(bridge.url("c", transport, timeout="0.4"), SPEC) as store:
        for text, (calls, call) in zip(itertools.cycle(CLUSTER), CALLS.items(), strict=False):
            bridge.play(said(text, calls))
            with pytest.raises(StoreConnectionError, match="node of the cluster") as caught:
                call(store)
            assert " ".join(text.split()) in str(caught.value)


def test_a_broken_stream_is_tried_again(make_bridge):
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c"), SPEC) as store:
        for code, text in (("INTERNAL", "Stream removed"), ("UNKNOWN", "Stream removed"),
                           ("INTERNAL", "Received RST_STREAM with error code 2")):  # fmt: skip
            bridge.play(said(text, times=2, code=code))
            assert store.count() == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_other_errors_are_told_once_and_in_the_words_of_the_server(make_bridge, transport):
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport), SPEC) as store:
        before = len(bridge.requests())
        bridge.play(said("Service internal error: a segment is – wedged"))
        with pytest.raises(BackendError, match="Service internal error: a segment is – wedged") as caught:
            store.count()
        assert len(bridge.requests()) == before + 1
        assert not isinstance(caught.value, (StoreConnectionError, StoreTimeoutError))
        assert "Raw response" not in str(caught.value)
        assert "b'" not in str(caught.value)


READS = (
    lambda store: store.search(rows(2), 3),
    lambda store: store.count(F("area") >= 0),
    lambda store: store.count_by("label"),
    lambda store: store.get(["r1"]),
    lambda store: list(store.scan()),
)


def requests_of(bridge, call):
    before = len(bridge.requests())
    call()
    return len(bridge.requests()) - before


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_strong_reads_go_on_without_one_replica(make_bridge, transport):
    """Qdrant's MAJORITY asks every replica and needs every one."""
    bridge = make_bridge()
    for replicas, written in ((3, 2), (3, 1), (2, 2), (3, 3), (5, 3)):
        more = {"replication_factor": replicas, "write_consistency_factor": written, "timeout": 5}
        with knnstore.open_store(
            bridge.url(f"{replicas}{written}", transport, **more), SPEC, consistency="strong"
        ) as s:
            write(s, 5)
            for noticed, read in itertools.product((False, True), READS):
                bridge.play(away=1, noticed=noticed)
                assert requests_of(bridge, lambda: read(s)) == 2, "at once, and not after some tries"  # noqa: B023
                bridge.play()
                assert requests_of(bridge, lambda: read(s)) == 1, "a majority again as soon as there is one"  # noqa: B023


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_strong_reads_do_not_ask_too_few(make_bridge, transport):
    """What is left may not have what has been acknowledged."""
    bridge = make_bridge()
    for replicas, written, away in ((3, 2, 2), (2, 1, 1), (1, 1, 1)):
        more = {"replication_factor": replicas, "write_consistency_factor": written, "timeout": "0.3"}
        bridge.play()
        with knnstore.open_store(
            bridge.url(f"{replicas}{written}", transport, **more), SPEC, consistency="strong"
        ) as s:
            bridge.play(away=away)
            for read in READS:
                with pytest.raises(StoreConnectionError, match="read operations failed"):
                    read(s)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_strict_mode_makes_steps_smaller(make_bridge, transport):
    """Managed clusters have such limits, and say which."""
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport), SPEC) as store:
        bridge.play(limits={"max_query_limit": 10, "upsert_max_batchsize": 7, "search_allow_exact": False})
        assert write(store, 50) == 50
        assert write(store, 52, on_conflict="skip") == 2
        assert requests_of(bridge, lambda: write(store, 49)) <= 9, "the limit is remembered"
        assert sorted(v for batch in store.scan() for v in batch.ids) == sorted(f"r{i}" for i in range(52))
        assert store.count(F("area") < 30) == 30
        assert store.count_by("thing") == {True: 26, False: 26}
        assert store.search(rows(3), 10).ids.shape == (3, 10)
        with pytest.raises(BackendError, match="Limit exceeded 11 > 10"):
            store.search(rows(3), 11)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_optimising_has_a_time_of_its_own_and_shows_progress(make_bridge, transport, monkeypatch):
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport, timeout=2), SPEC) as store:
        write(store, 10)
        bridge.play(indexing=5)
        monkeypatch.setattr(sys, "stderr", Terminal())
        store.optimize()
        assert "indexing" in sys.stderr.getvalue()
        assert "5.00/10.0" in sys.stderr.getvalue()
        monkeypatch.setattr(sys, "stderr", Terminal())
        store.optimize()
        assert "%" not in sys.stderr.getvalue(), "nothing for what takes no time"
        bridge.play(indexing=60)
        monkeypatch.setattr(sys, "stderr", io.StringIO())
    with knnstore.open_store(bridge.url("c", transport, build_timeout="0.5")) as store:
        with pytest.raises(StoreTimeoutError, match=r"got yellow.*build_timeout"):
            store.optimize()
        assert not sys.stderr.getvalue(), "not into a pipe"


# -- opening -----------------------------------------------------------------------------------------------------------


CREATIONS = (
    {}, {"shards": 3}, {"replication_factor": 2}, {"write_consistency_factor": 2}, {"m": 8}, {"m": 0}, {"ef_construct": 50},
    {"full_scan_threshold": 77}, {"on_disk": 1}, {"on_disk": 0}, {"on_disk_payload": 1}, {"on_disk_payload": 0},
    {"tenant": "label"}, {"quantization": "int8"}, {"quantization": "int8", "always_ram": 1},
    {"quantization": "binary", "always_ram": 0}, {"quantization": "product"}, {"quantization": "product", "always_ram": 1},
    *({"quantization": "product", "compression": f"x{ratio}"} for ratio in (4, 8, 16, 32, 64)),
)  # fmt: skip


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("given", CREATIONS, ids=lambda given: "-".join(f"{k}-{v}" for k, v in given.items()) or "none")
def test_what_an_option_makes_is_what_it_asks_for(shared_bridge, numbers, transport, given):
    """Created, read back in the form that a server gives it, compared; by the other transport as well."""
    path = f"created/{next(numbers)}"
    knnstore.open_store(shared_bridge.url(path, transport, **given), SPEC).close()
    for again in TRANSPORTS:
        knnstore.open_store(shared_bridge.url(path, again, **given), SPEC).close()
        with pytest.raises(SpecMismatchError, match="m=99"):
            knnstore.open_store(shared_bridge.url(path, again, m=99))


def test_options_reach_the_collection_and_are_compared(make_bridge):
    bridge = make_bridge()
    given = {"shards": 3, "replication_factor": 2, "write_consistency_factor": 2, "m": 8, "quantization": "int8",
             "always_ram": 1, "on_disk": 1, "on_disk_payload": 1, "tenant": "label"}  # fmt: skip
    for transport in TRANSPORTS:
        knnstore.open_store(bridge.url(transport, transport, **given), SPEC).close()
        knnstore.open_store(bridge.url(transport, transport, **given), SPEC).close()
        knnstore.open_store(bridge.url(transport, transport)).close()
        with pytest.raises(SpecMismatchError, match="shards=4, got shards=3"):
            knnstore.open_store(bridge.url(transport, transport, shards=4))
        with pytest.raises(SpecMismatchError, match="quantization=binary, got quantization=int8"):
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
        assert store._engine._writes == {"ordering": models.WriteOrdering(ordering)}
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


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize(
    "payload", [None, {"label": "x", "area": 1}, {"_id": "r1"}, {"_id": 7, "area": 1}, {"_id": "r1", "area": "much"}]
)
def test_a_point_of_others_is_called_what_it_is(shared_bridge, numbers, transport, payload):
    from qdrant_client import QdrantClient, models

    bridge, name = shared_bridge, f"foreign{next(numbers)}"
    with knnstore.open_store(bridge.url(name, transport), SPEC) as store:
        write(store, 3)
        client = QdrantClient(port=bridge.ports["http"], check_compatibility=False)
        theirs = models.PointStruct(id=point_ids(["r1"])[0], vector=[1.0] * 8, payload=payload)
        client.upsert(name, [theirs])
        calls = (lambda: store.search(rows(2), 3, fields=["area"]), lambda: list(store.scan(fields=["area"])),
                 lambda: store.get(["r1"], fields=["area"]))  # fmt: skip
        for call in calls:
            with pytest.raises(StoreCorruptError, match=r"was not written by knnstore.*points/delete") as caught:
                call()
            assert theirs.id in str(caught.value)
        client.delete(name, [theirs.id])
        client.close()
        for call in calls:
            call()


WRITES = (
    lambda store: write(store, 3),
    lambda store: write(store, 3, on_conflict="skip"),
    lambda store: store.delete(["r0"]),
    lambda store: store.delete(where=F("area") >= 0),
)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("spec", [SPEC, StoreSpec(8, "cosine", SPEC.fields, space=EmbeddingSpace("other", "sha256:1"))])
def test_a_collection_that_was_made_again_is_noticed(make_bridge, transport, spec):
    """Vectors of one encoder among those of another would be found ever after, and nobody would know."""
    from qdrant_client import QdrantClient

    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport), SPEC) as old:
        write(old, 3)
        client = QdrantClient(port=bridge.ports["http"], check_compatibility=False)
        client.delete_collection("c")
        client.close()
        for call in WRITES:
            with pytest.raises(StoreNotFoundError, match="has been deleted"):
                call(old)
        with knnstore.open_store(bridge.url("c", transport), spec) as new:
            write(new, 2, "new")
            for call in WRITES:
                with pytest.raises(SpecMismatchError, match=r"made since.*Open the store again"):
                    call(old)
            assert new.count() == 2
            write(new, 3)
    with knnstore.open_store(bridge.url("c", transport)) as again:
        assert write(again, 3) == 3


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
