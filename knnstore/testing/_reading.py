"""Checks of get, count, scan, stats and capabilities."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.errors import StoreClosedError, UnknownFieldError
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener, refused
from knnstore.testing._data import make_sample, make_spec
from knnstore.testing._oracle import assert_content, assert_records, scan_all

__all__ = ["ReadChecks"]


class ReadChecks(KitBase):
    """What is stored can be read, all of it, and figures about it are true."""

    rule = "9 and 14, all that is stored can be read, and figures about it are true"

    def test_get_keeps_the_order_asked_for(self, store: EmbeddingStore) -> None:
        sample = make_sample(10).write(store)
        assert_records(store.get(["r7", "absent", "r1", "r7", "r3"]), sample.take([7, 1, 3]), store.spec)
        records = store.get(iter(["r3", "r0"]), with_vectors=False)
        assert_records(records, sample.take([3, 0]), store.spec, with_vectors=False)

    def test_get_many(self, store: EmbeddingStore) -> None:
        sample = make_sample(5_000).write(store)
        backwards = sample.take(range(len(sample) - 1, -1, -1))
        assert_records(store.get([*backwards.ids, *(f"absent{i}" for i in range(40_000))]), backwards, store.spec)

    def test_get_nothing(self, store: EmbeddingStore) -> None:
        make_sample(2).write(store)
        for ids in ([], ["absent"]):
            records = store.get(ids)
            assert len(records) == 0
            assert records.vectors is not None
            assert records.vectors.shape == (0, 8)
            assert records.vectors.dtype == np.float32
            assert {name: len(column) for name, column in records.fields.items()} == dict.fromkeys(store.spec.fields, 0)
        assert store.get(["absent"], with_vectors=False).vectors is None

    def test_get_some_fields(self, store: EmbeddingStore) -> None:
        sample = make_sample(3).write(store)
        records = store.get(["r1"], fields=["area", "label"])
        assert {name: column.tolist() for name, column in records.fields.items()} == {
            "area": [sample.fields["area"][1]],
            "label": [sample.fields["label"][1]],
        }
        assert store.get(["r1"], fields=[]).fields == {}

    def test_unknown_fields(self, store: EmbeddingStore) -> None:
        make_sample(2).write(store)
        query = np.ones((1, 8), np.float32)
        for call in (
            lambda: store.get(["r0"], fields=["no_such"]),
            lambda: store.scan(fields=["no_such"]),
            lambda: store.search(query, 1, fields=["no_such"]),
            lambda: store.count(F("no_such") == 1),
            lambda: store.search(query, 1, where=~(F("no_such") == 1)),
            lambda: store.delete(where=F("no_such").isin([])),
        ):
            with pytest.raises(UnknownFieldError, match="no_such"):
                call()

    @pytest.mark.parametrize("batch_size", [1, 3, 7, 50, 1000])
    def test_scan_to_the_end(self, store: EmbeddingStore, batch_size: int) -> None:
        sample = make_sample(50).write(store)
        found = scan_all(store, batch_size)
        assert sorted(found.ids) == sorted(sample.ids)
        some = [value for r in store.scan(F("area") > 300, fields=[], batch_size=batch_size) for value in r.ids]
        wanted = [v for v, area in zip(sample.ids, sample.fields["area"], strict=True) if area > 300]
        assert sorted(some) == sorted(wanted)

    def test_scan_beyond_the_limits_of_servers(self, opener: Opener) -> None:
        """More records than any page or window that an engine answers with by default (10; 16,384)."""
        store = opener(make_spec("dot", dim=2, fields={"area": int}))
        count = 17_000
        vectors = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
        ids = [f"r{i}" for i in range(count)]
        for start in range(0, count, 4_250):
            part = slice(start, start + 4_250)
            store.upsert(ids[part], vectors[part], {"area": list(range(count))[part]})
        assert store.count() == count
        assert store.count(F("area") >= 0) == count
        found = scan_all(store, batch_size=999)
        order = np.argsort(found.fields["area"])
        assert [found.ids[i] for i in order] == ids
        assert (found.vectors[order] == vectors).all()

    def test_scan_columns(self, store: EmbeddingStore) -> None:
        make_sample(3).write(store)
        (plain,) = store.scan()
        assert plain.vectors is None
        assert set(plain.fields) == set(store.spec.fields)
        (bare,) = store.scan(fields=["area"], with_vectors=True)
        assert set(bare.fields) == {"area"}
        assert bare.vectors is not None

    def test_scan_while_writing(self, store: EmbeddingStore) -> None:
        """Records that are there all along come exactly once, whatever else is written or deleted meanwhile."""
        sample = make_sample(40).write(store)
        found: list[str] = []
        for i, records in enumerate(store.scan(batch_size=5)):
            found += records.ids.tolist()
            extra = make_sample(2, prefix=f"extra{i}-")
            store.upsert(extra.ids, extra.vectors, extra.fields)
            store.delete(extra.ids[:1])
            assert i < 100, "the scan does not end"
        assert sorted(value for value in found if not value.startswith("extra")) == sorted(sample.ids)
        assert len(set(found)) == len(found)

    def test_a_scan_left_early_holds_nothing(self, store: EmbeddingStore) -> None:
        sample = make_sample(40).write(store)
        next(iter(store.scan(batch_size=3)))
        part = make_sample(4, seed=8)
        store.upsert(part.ids, part.vectors, part.fields)
        store.delete(sample.ids[4:])
        assert_content(store, part)

    def test_a_scan_ends_when_the_store_is_closed(self, store: EmbeddingStore) -> None:
        make_sample(10).write(store)
        scan = store.scan(batch_size=2)
        next(scan)
        store.close()
        with refused(StoreClosedError, "going on with a scan after close()"):
            list(scan)

    def test_count_by(self, store: EmbeddingStore) -> None:
        sample = make_sample(40).write(store)
        for name, column in sample.fields.items():
            assert store.count_by(name) == Counter(column)
            some = [value for value, area in zip(column, sample.fields["area"], strict=True) if area > 300]
            assert store.count_by(name, F("area") > 300) == Counter(some)
        assert store.count_by("label", F("label") == "absent") == {}
        with pytest.raises(UnknownFieldError, match="no_such"):
            store.count_by("no_such")

    def test_revision(self, store: EmbeddingStore) -> None:
        """Another one when records come or go, the same while nothing is written."""
        seen = [store.revision()]
        sample = make_sample(3).write(store)
        seen.append(store.revision())
        store.search(sample.vectors, 2)
        list(store.scan())
        assert store.revision() == seen[-1], "reading changes the revision"
        store.delete(["r0"])
        seen.append(store.revision())
        assert len(set(seen)) == 3, f"revisions {seen}"

    def test_stats(self, store: EmbeddingStore) -> None:
        make_sample(30).write(store)
        store.delete(["r0"])
        stats = store.stats()
        assert stats.backend == store.url.backend
        assert stats.count == 29
        for size in (stats.bytes_on_disk, stats.bytes_in_memory):
            assert size is None or (isinstance(size, int) and size >= 0)
        assert stats.recall is None or 0 <= stats.recall <= 1
        json.dumps(dict(stats.details))

    def test_capabilities(self, store: EmbeddingStore) -> None:
        can = store.capabilities
        assert can == store.capabilities, "capabilities change from one look to the next"
        assert can.max_k is None or can.max_k >= 1
        assert can.filters <= {"==", "!=", "<", "<=", ">", ">=", "isin", "&", "|", "~"}
        assert 0 < can.recall_floor <= 1
        assert can.approximate or can.recall_floor == 1, "an exact search finds everything"
        assert set(can.consistency) <= {"strong", "session", "eventual"}
        assert can.consistency

    def test_flush_and_optimize_change_nothing(self, store: EmbeddingStore) -> None:
        store.optimize()
        sample = make_sample(300).write(store)
        store.delete(["r0"])
        store.flush()
        store.optimize()
        store.flush()
        assert_content(store, sample.take(range(1, 300)))
