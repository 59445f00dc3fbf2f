"""The memory backend against the kit, and what is its own."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

import knnstore
from knnstore import F
from knnstore.errors import InvalidURLError
from knnstore.testing import StoreTests

_numbers = itertools.count()


class TestMemory(StoreTests):
    @pytest.fixture
    def store_url(self) -> str:
        return f"memory:///kit/{next(_numbers)}"


def fresh(dim: int = 4, fields: dict[str, type] | None = None) -> knnstore.EmbeddingStore:
    spec = knnstore.StoreSpec(dim, "dot", fields or {})  # type: ignore[arg-type]
    return knnstore.open_store(f"memory:///own/{next(_numbers)}", spec)


def test_a_slash_at_the_end_changes_nothing() -> None:
    knnstore.open_store("memory:///slash/", knnstore.StoreSpec(2)).upsert(["a"], np.ones((1, 2), np.float32))
    assert knnstore.open_store("memory:///slash").count() == 1
    assert [str(url) for url in knnstore.collections("memory:///slash/")] == ["memory:///slash/"]


def test_grandchildren_are_not_listed() -> None:
    for name in ("family", "family/a", "family/a/b", "family2"):
        knnstore.open_store(f"memory:///{name}", knnstore.StoreSpec(2))
    assert [url.path for url in knnstore.collections("memory:///family")] == ["/family", "/family/a"]


def test_it_has_no_options() -> None:
    with pytest.raises(InvalidURLError, match="no options"):
        knnstore.open_store("memory:///x?index=Flat", knnstore.StoreSpec(2))


def test_writing_costs_what_it_writes() -> None:
    """Small upserts do not copy the store: they go into room that was made before."""
    store = fresh(4)
    store.upsert([f"r{i}" for i in range(1_000)], np.ones((1_000, 4), np.float32))
    store.upsert(["more"], np.ones((1, 4), np.float32))
    room = store._data._columns.vectors  # type: ignore[attr-defined]
    for i in range(200):
        store.upsert([f"r{i}"], np.full((1, 4), 2, np.float32))
    assert store._data._columns.vectors is room  # type: ignore[attr-defined]
    assert store.count() == 1_001


def test_reading_copies_only_what_it_returns() -> None:
    store = fresh(256)
    store.upsert([f"r{i}" for i in range(20_000)], np.ones((20_000, 256), np.float32))
    query = np.ones((1, 256), np.float32)
    store.get(["r0"])
    tracemalloc.start()
    try:
        next(store.scan(batch_size=10, with_vectors=True))
        store.count()
        _, scanned = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert scanned < 2_000_000  # the vectors are 20 MB
    assert store.search(query, 1).ids.tolist() == [["r0"]]


def test_a_scan_keeps_what_it_began_with() -> None:
    store = fresh(2, {"area": int})
    store.upsert(list("abcdef"), np.ones((6, 2), np.float32), {"area": [0] * 6})
    scan = store.scan(batch_size=2)
    seen = next(scan).ids.tolist()
    store.delete(where=F("area") == 0)
    store.upsert(list("abc"), np.ones((3, 2), np.float32), {"area": [1] * 3})
    store.search(np.ones((1, 2), np.float32), 1)
    for records in scan:
        seen += records.ids.tolist()
        assert not records.fields["area"].any()
    assert seen == list("abcdef")


def test_an_update_copies_no_vectors_and_disturbs_no_reader() -> None:
    store = fresh(256, {"area": int})
    store.upsert([f"r{i}" for i in range(20_000)], np.ones((20_000, 256), np.float32), {"area": [0] * 20_000})
    scan = store.scan(batch_size=10_000)
    assert not next(scan).fields["area"].any()
    tracemalloc.start()
    try:
        assert store.update({"area": 1}, where=F("area") == 0) == 20_000
        _, taken = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken < 2_000_000  # the vectors are 20 MB
    assert not next(scan).fields["area"].any()
    assert store.count(F("area") == 1) == 20_000


def test_a_column_that_does_not_fit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = fresh(2)
    store.upsert(["a", "b"], np.eye(2, dtype=np.float32))

    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr("knnstore.memory._grown", fail)
    with pytest.raises(knnstore.KnnStoreError, match="no room"):
        store.upsert([f"r{i}" for i in range(100)] + ["a"], np.ones((101, 2), np.float32))
    assert store.count() == 2
    assert store.get(["a"]).vectors.tolist() == [[1, 0]]
    assert store.search(np.eye(1, 2, dtype=np.float32), 5).ids.tolist() == [["a", "b", "", "", ""]]
