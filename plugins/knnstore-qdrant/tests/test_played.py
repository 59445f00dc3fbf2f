"""What a real server was seen to do, played by the bridge (see ``bridge.py``), and what a store makes of it."""

import io
import itertools
import json
import operator
import sys

import numpy as np
import pytest
from knnstore_qdrant.points import point_ids

import knnstore
from knnstore import EmbeddingSpace, F, StoreSpec
from knnstore.errors import (
    BackendError,
    SpecMismatchError,
    StoreConnectionError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreTimeoutError,
)

SPEC = StoreSpec(8, "cosine", {"label": str, "area": int, "weight": float, "thing": bool})
TRANSPORTS = ("grpc", "http")


def rows(n, seed=0, dim=8):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def write(store, n, prefix="r", **more):
    fields = {"label": [f"label {i % 3}" for i in range(n)], "area": list(range(n)), "weight": [i / 7 for i in range(n)],
              "thing": [i % 2 == 0 for i in range(n)]}  # fmt: skip
    return store.upsert([f"{prefix}{i}" for i in range(n)], rows(n), fields, **more)


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


# -- what a server says ------------------------------------------------------------------------------------------------

CLUSTER = (
    "Service internal error: 1 of 3 read operations failed:\n  Service internal error: peer 2 is currently unavailable",
    "Service internal error: The replica set for shard 1 on peer 3 does not have enough active replicas",
    "1 out of 3 shards failed to apply operation. First error captured: Service internal error: tcp connect error",
    "Service internal error: The replica set for shard 0 on peer 7 has no active replica",
)
CALLS = {
    "Count|count": lambda store: store.count(),
    "UpdateBatch|points/batch": lambda store: write(store, 5),
    "QueryBatch|query": lambda store: store.search(rows(2), 3),
    "UpdateBatch|.*points/batch": lambda store: store.delete(where=F("area") > 2**40),
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
    with knnstore.open_store(bridge.url("c", transport, retries=1), SPEC) as store:
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
        more = {"replication_factor": replicas, "write_consistency_factor": written, "retries": 1}
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
        bridge.play(limits={"condition_max_size": 5})
        assert store.update({"label": "one"}, ids=[f"r{i}" for i in range(52)]) == 52
        assert store.count_by("label") == {"one": 52}
        assert requests_of(bridge, lambda: store.update({"label": "two"}, ids=["r0", "r1"])) == 3
        bridge.play(limits={"max_query_limit": 10, "upsert_max_batchsize": 7, "search_allow_exact": False})
        assert (store.search(rows(3), 10).ids != "").all()
        assert (store.search(rows(3), 10, where=F("area") < 20).ids != "").all()
        assert (store.search(rows(3), 10, where=F("area") < 5).ids != "").sum() == 15
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
