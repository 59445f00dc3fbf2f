"""Answers that are larger than the server lets out: every way of reading asks for less, and gets all of it."""

import numpy as np
import pytest
from knnstore_milvus.connection import Connection
from pymilvus.exceptions import MilvusException

import knnstore
from knnstore import StoreSpec
from knnstore.errors import BackendError

SPEC = StoreSpec(4, "l2", {"text": str, "area": int})
IDS = [f"r{i}" for i in range(200)]
TEXTS = [f"{i} {'x' * 1000}" for i in range(200)]


@pytest.fixture(params=["lite", pytest.param("server", marks=pytest.mark.server)])
def store(request, tmp_path):
    """Two hundred records of a kilobyte."""
    url = f"milvus+lite://{tmp_path}/lite.db/c" if request.param == "lite" else request.getfixturevalue("place")()
    with knnstore.open_store(url, SPEC) as store:
        store.upsert(IDS, np.arange(800, dtype=np.float32).reshape(200, 4), {"text": TEXTS, "area": list(range(200))})
        yield store


@pytest.fixture
def limit(monkeypatch):
    """Refuses, in the words of a server, what is larger than this; counts what it has refused."""
    plain, refused = Connection.call, []

    def call(self, method, request, **options):
        reply = plain(self, method, request, **options)
        if method in ("Query", "Search") and reply.ByteSize() > limit.bytes:
            refused.append(method)
            raise MilvusException(65535, "query results exceed the limit size 104857600: unexpected error")
        return reply

    def limit(size):
        limit.bytes = size

    limit.refused = refused
    limit(20_000)
    monkeypatch.setattr(Connection, "call", call)
    return limit


def test_get(store, limit):
    found = store.get([*reversed(IDS), "absent"])
    assert found.ids.tolist() == IDS[::-1]
    assert found.fields["text"].tolist() == TEXTS[::-1]
    assert len(limit.refused) == 4, "a size that was too large once is not tried again"


def test_scan_and_count_by(store, limit):
    found = [pair for part in store.scan() for pair in zip(part.ids, part.fields["text"], strict=True)]
    assert sorted(found) == sorted(zip(IDS, TEXTS, strict=True))
    assert store.count_by("text") == dict.fromkeys(TEXTS, 1)
    assert limit.refused


def test_search_of_a_batch_and_of_one_query(store, limit):
    queries = np.array([[0, 0, 0, 0], [1000, 1000, 1000, 1000]], np.float32)
    plain = store.search(queries, 50)
    assert not limit.refused
    for rows in (slice(0, 2), slice(0, 1), slice(1, 2)):
        hits = store.search(queries[rows], 50, fields=["text", "area"])
        assert hits.ids.tolist() == plain.ids[rows].tolist()
        assert hits.scores.tolist() == plain.scores[rows].tolist()
        wanted = [[int(value[1:]) for value in row] for row in hits.ids]
        assert hits.fields["area"].tolist() == wanted
        assert hits.fields["text"].tolist() == [[TEXTS[i] for i in row] for row in wanted]
    assert limit.refused


def test_a_hit_that_is_deleted_meanwhile_is_none(store, limit, monkeypatch):
    plain = store._reader.by_ids

    def delete_first(ids, *arguments):
        monkeypatch.setattr(store._reader, "by_ids", plain)  # deleting looks, too
        store._delete_ids([ids[1]])
        return plain(ids, *arguments)

    monkeypatch.setattr(store._reader, "by_ids", delete_first)
    hits = store.search(np.zeros((1, 4), np.float32), 30, fields=["text"])
    assert hits.ids[0].tolist() == ["r0", *IDS[2:30], ""]
    assert hits.scores[0, -1] == -np.inf
    assert hits.fields["text"][0].tolist() == ["0 " + "x" * 1000, *TEXTS[2:30], ""]


def test_conflicts_are_seen(store, limit):
    row = np.zeros((201, 4), np.float32)
    fields = {"text": [""] * 201, "area": [0] * 201}
    assert store.upsert([*IDS, "new"], row, fields, on_conflict="skip") == 1


def test_one_record_that_is_too_large_alone_is_an_error(store, limit):
    limit(500)
    for call in (lambda: store.get(["r0"]), lambda: list(store.scan()),
                 lambda: store.search(np.zeros((1, 4), np.float32), 1, fields=["text"])):  # fmt: skip
        with pytest.raises(BackendError, match="exceed the limit size"):
            call()


@pytest.mark.server
def test_as_a_real_server_says_it(place):
    """Its limit is 100 MB; 2,500 records of 60 kB are more."""
    with knnstore.open_store(place(index="FLAT", timeout=120), SPEC) as store:
        texts = [f"{i} {'x' * 60_000}" for i in range(2_500)]
        ids = [f"r{i}" for i in range(2_500)]
        store.upsert(ids, np.arange(10_000, dtype=np.float32).reshape(-1, 4), {"text": texts, "area": [0] * 2_500})
        assert store.get(ids).fields["text"].tolist() == texts
        hits = store.search(np.zeros((1, 4), np.float32), 2_500, fields=["text"])
        assert hits.ids[0].tolist() == ids
        assert hits.fields["text"][0].tolist() == texts
