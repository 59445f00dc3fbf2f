"""Checks of upsert and delete: conflicts, atomicity, ids, read-your-writes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.errors import ConflictError
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener, refused
from knnstore.testing._data import TEXTS, Sample, make_sample, make_spec
from knnstore.testing._oracle import assert_content, assert_hits, assert_records, scan_all

__all__ = ["WriteChecks"]

LONG_IDS = ("i" * 512, "i" * 511, "\u00e9" * 256, "\N{ZEBRA FACE}" * 128, "'" * 512, "a/b\\c", "../../x", "-1", "0")


def _overlapping() -> tuple[Sample, Sample]:
    """Ten records, and ten others of which five have ids of the first."""
    old, new = make_sample(10), make_sample(10, seed=5)
    return old, Sample([f"r{i}" for i in range(5, 15)], new.vectors, new.fields)


def _joined(*parts: Sample) -> Sample:
    fields: dict[str, list[Any]] = {name: [v for p in parts for v in p.fields[name]] for name in parts[0].fields}
    return Sample([v for p in parts for v in p.ids], np.concatenate([p.vectors for p in parts]), fields)


class WriteChecks(KitBase):
    """Rules 5 and 8."""

    rule = "5 and 8, writing twice is writing once, and you read what you wrote"

    def test_upsert_replaces(self, store: EmbeddingStore) -> None:
        old, new = _overlapping()
        old.write(store)
        assert store.upsert(new.ids, new.vectors, new.fields) == 10
        assert_content(store, _joined(old.take(range(5)), new))
        query = new.vectors[:1]
        hits = store.search(query, 15)
        recall = store.capabilities.recall_floor
        assert_hits(hits, query, _joined(old.take(range(5)), new), "cosine", 15, recall=recall)

    def test_upsert_twice_is_once(self, store: EmbeddingStore) -> None:
        sample = make_sample(10)
        for _ in range(3):
            assert store.upsert(sample.ids, sample.vectors, sample.fields) == 10
        assert_content(store, sample)

    def test_skip_keeps_what_is_there(self, store: EmbeddingStore) -> None:
        old, new = _overlapping()
        old.write(store)
        assert store.upsert(new.ids, new.vectors, new.fields, on_conflict="skip") == 5
        assert store.upsert(new.ids, new.vectors, new.fields, on_conflict="skip") == 0
        assert_content(store, _joined(old, new.take(range(5, 10))))

    def test_error_writes_nothing(self, store: EmbeddingStore) -> None:
        old, new = _overlapping()
        old.write(store)
        late = new.take([*range(5, 10), 0])  # the conflict is the last record of the call
        for batch in (new, late):
            with refused(ConflictError, 'upsert with on_conflict="error" of an id that is stored', match="r5"):
                store.upsert(batch.ids, batch.vectors, batch.fields, on_conflict="error")
            assert_content(store, old)
        fresh = new.take(range(5, 10))
        assert store.upsert(fresh.ids, fresh.vectors, fresh.fields, on_conflict="error") == 5
        assert_content(store, _joined(old, fresh))

    def test_search_sees_every_write(self, store: EmbeddingStore) -> None:
        """Search between writes, so that an index is there to go stale."""
        sample, recall = make_sample(12), store.capabilities.recall_floor
        for i in range(len(sample)):
            one = sample.take([i])
            store.upsert(one.ids, one.vectors, one.fields)
            query, written = one.vectors, sample.take(range(i + 1))
            assert_hits(store.search(query, 3), query, written, "cosine", 3, recall=recall)
            assert store.count() == i + 1
        moved = Sample(sample.ids, -sample.vectors, sample.fields)
        for i in range(len(sample)):
            one = moved.take([i])
            store.upsert(one.ids, one.vectors, one.fields)
            now = _joined(moved.take(range(i + 1)), sample.take(range(i + 1, len(sample))))
            assert_hits(store.search(one.vectors, 12), one.vectors, now, "cosine", 12, recall=recall)

    def test_filters_see_changed_fields(self, store: EmbeddingStore) -> None:
        sample = make_sample(6).write(store)
        changed = Sample(sample.ids, sample.vectors, {**sample.fields, "label": ["changed"] * 6})
        store.upsert(changed.ids[:3], changed.vectors[:3], {n: c[:3] for n, c in changed.fields.items()})
        assert store.count(F("label") == "changed") == 3
        assert set(store.search(sample.vectors[:1], 6, where=F("label") == "changed").ids[0]) == {"r0", "r1", "r2", ""}

    @pytest.mark.parametrize("kind", [*TEXTS, "long"])
    def test_any_text_is_an_id(self, store: EmbeddingStore, kind: str) -> None:
        ids = list(dict.fromkeys([*TEXTS.get(kind, LONG_IDS), "plain"]))
        sample = make_sample(len(ids))
        sample = Sample(ids, sample.vectors, sample.fields).write(store)
        assert_content(store, sample)
        for i, value in enumerate(ids):
            assert_records(store.get([value]), sample.take([i]), store.spec)
            assert value in store.search(sample.vectors[i : i + 1], len(ids)).ids[0].tolist()
        store.delete(ids[:1])
        assert_content(store, sample.take(range(1, len(ids))))

    def test_delete_by_id(self, store: EmbeddingStore) -> None:
        sample = make_sample(10).write(store)
        store.search(sample.vectors[:1], 1)
        gone = store.delete(["r2", "r5", "absent", "r2"])
        assert gone == 2, f"delete of two stored ids, one of them twice, and one that is not stored returned {gone!r}"
        kept = sample.take([0, 1, 3, 4, 6, 7, 8, 9])
        assert_content(store, kept)
        assert len(store.get(["r2", "r5"])) == 0
        query, recall = sample.vectors[2:3], store.capabilities.recall_floor
        assert_hits(store.search(query, 10), query, kept, "cosine", 10, recall=recall)

    def test_optimize_after_deletions(self, store: EmbeddingStore) -> None:
        """An index that was built for many records is still whole when few of them are left."""
        sample, recall = make_sample(40).write(store), store.capabilities.recall_floor
        query = sample.vectors[:3]
        assert_hits(store.search(query, 10), query, sample, "cosine", 10, recall=recall)
        for left in (30, 23, 18, 14, 11, 9):  # so few at a time that an engine need not tidy up by itself
            store.delete(sample.ids[left:])
            kept = sample.take(range(left))
            assert_hits(store.search(query, 10), query, kept, "cosine", 10, recall=recall)
            store.optimize()
            assert_hits(store.search(query, left), query, kept, "cosine", left, recall=recall)
        again = make_sample(1, seed=4, prefix="again").write(store)
        now = _joined(kept, again)
        assert_hits(store.search(query, 10), query, now, "cosine", 10, recall=recall)

    def test_delete_what_is_not_there(self, store: EmbeddingStore) -> None:
        assert store.delete(["absent"]) == 0, "delete of what is not stored says that it has removed something"
        sample = make_sample(3).write(store)
        assert store.delete(["absent"]) == 0, "delete of what is not stored says that it has removed something"
        assert store.delete([]) == 0
        gone = store.delete(where=F("label") == "absent")
        assert gone == 0, f"delete where nothing matches returned {gone!r}"
        assert_content(store, sample)

    def test_delete_everything_and_start_again(self, store: EmbeddingStore) -> None:
        sample = make_sample(20).write(store)
        store.delete(sample.ids)
        assert_content(store, sample.take([]))
        assert (store.search(sample.vectors[:2], 3).ids == "").all()
        again = make_sample(20, seed=2).write(store)
        assert_content(store, again)

    def test_delete_takes_ids_or_a_filter(self, store: EmbeddingStore) -> None:
        sample = make_sample(3).write(store)
        with pytest.raises(ValueError, match="neither"):
            store.delete()
        with pytest.raises(ValueError, match="both"):
            store.delete(["r0"], where=F("area") > 0)
        assert_content(store, sample)

    def test_an_empty_batch_is_nothing(self, store: EmbeddingStore) -> None:
        assert store.upsert([], np.empty((0, 8), np.float32), {name: [] for name in store.spec.fields}) == 0
        assert store.upsert([], np.empty((0, 8), np.float32)) == 0
        assert store.count() == 0
        assert scan_all(store).ids == []

    def test_a_store_without_fields(self, opener: Opener) -> None:
        store = opener(make_spec("dot", dim=3, fields={}))
        store.upsert(["a", "b"], np.eye(2, 3, dtype=np.float32))
        assert store.search(np.eye(1, 3, dtype=np.float32), 1).ids.tolist() == [["a"]]
        assert store.get(["b"]).fields == {}
        assert store.count() == 2

    def test_one_dimension(self, opener: Opener) -> None:
        store = opener(make_spec("l2", dim=1, fields={}))
        store.upsert(["a", "b"], np.array([[1], [5]], np.float32))
        assert store.search(np.array([[4]], np.float32), 2).ids.tolist() == [["b", "a"]]

    def test_field_names_are_not_words_of_the_engine(self, opener: Opener) -> None:
        names = ["order", "select", "rowid", "oid", "group", "index", "key", "score", "distance", "payload", "pk",
                 "ids", "vectors", "dim", "Order", "limit", "exists", "like", "true", "meta", "data"]  # fmt: skip
        store = opener(make_spec(dim=2, fields=dict.fromkeys(names, str)))
        fields = {name: [f"{name} 0", f"{name} 1"] for name in names}
        store.upsert(["a", "b"], np.eye(2, dtype=np.float32), fields)
        assert {name: column.tolist() for name, column in store.get(["a", "b"]).fields.items()} == fields
        for name in names:
            hits = store.search(np.eye(1, 2, dtype=np.float32), 2, where=F(name) == f"{name} 1", fields=[name])
            assert hits.ids.tolist() == [["b", ""]], name
            assert hits.fields[name].tolist() == [[f"{name} 1", ""]]
