"""The mark of a collection on a server: it changes with each write, and nothing but `revision()` sees it."""

from urllib.parse import parse_qs

import numpy as np
import pytest
from knnstore_qdrant.mark import MARK

import knnstore
from knnstore import F, StoreSpec
from knnstore.errors import StoreNotFoundError
from knnstore.testing.servers import remove

TRANSPORTS = ("grpc", "http")
SPEC = StoreSpec(dim=4, metric="cosine", fields={"label": str, "area": int})


def write(store, count=10):
    rows = np.eye(4, dtype=np.float32)[np.arange(count) % 4]
    ids, labels = [f"r{i}" for i in range(count)], ["cat", "dog"] * (count // 2)
    return store.upsert(ids, rows, {"label": labels, "area": list(range(count))})


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_write_is_one_request_and_so_is_the_revision(make_bridge, transport):
    bridge = make_bridge()
    with knnstore.open_store(bridge.url("c", transport), SPEC) as store:
        assert store.capabilities.revision
        other = knnstore.open_store(bridge.url("c", transport))
        seen = []
        for write_it in (lambda: write(store), lambda: write(store), lambda: store.delete(["r1"]),
                         lambda: store.delete(where=F("area") > 5),
                         lambda: store.update({"label": "cow"}, ids=["r0", "r2"])):  # fmt: skip
            write_it()
            before = len(bridge.requests())
            seen.append(other.revision())
            assert len(bridge.requests()) == before + 1
        other.close()
    assert len(set(seen)) == 5
    writes = [r for r in bridge.requests() if r["method"] in ("UpdateBatch", "POST /collections/c/points/batch")]
    assert len(writes) == 5


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_nothing_but_the_revision_sees_it(make_bridge, transport):
    url = make_bridge().url("c", transport)
    with knnstore.open_store(url, SPEC) as store:
        write(store)
        everything = ~(F("label") == "bird")
        assert store.count() == store.count(everything) == store.stats().count == 10
        assert store.count_by("label") == {"cat": 5, "dog": 5}
        for where in (None, everything):
            assert sum(len(part) for part in store.scan(where, with_vectors=True, batch_size=3)) == 10
            hits = store.search(np.ones((1, 4), np.float32), 20, where=where, fields=["label"])
            assert np.isfinite(hits.scores).sum() == 10
        assert [report.records for report in knnstore.copy_store(url, "memory://copied-without-the-mark")] == [10]
        revision = store.revision()
        assert store.update({"label": "cow"}, where=everything) == 10
        assert store.count_by("label") == {"cow": 10}, "the mark has been given a label"
        assert store.revision() != revision
        revision = store.revision()
        assert store.delete(where=everything) == 10
        assert store.revision() not in (revision, "unmarked"), "a deletion of everything has left the mark"
        assert store.count() == 0
    remove(url)
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(url)


@pytest.mark.parametrize("ordering", ["weak", "medium", "strong"])
def test_the_mark_is_never_weakly_ordered(make_bridge, ordering):
    """Else each replica may keep the mark of another one of two writers, and one of them the mark of before."""
    bridge = make_bridge(bodies=True)
    with knnstore.open_store(bridge.url("c", "http", ordering=ordering), SPEC) as store:
        write(store)
    sent = [(parse_qs(r["query"])["ordering"], MARK in r["body"]) for r in bridge.requests() if "batch" in r["method"]]
    assert sent == ([(["weak"], False), (["medium"], True)] if ordering == "weak" else [([ordering], True)])
