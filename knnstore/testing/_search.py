"""Checks of searching: scores, order, padding, limits."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.errors import DimensionMismatchError, InvalidLimitError
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener
from knnstore.testing._data import Sample, make_clusters, make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_column, assert_hits, assert_same_answer
from knnstore.types import Hits, Metric, empty_column

__all__ = ["SearchChecks", "repeatable"]

METRICS: tuple[Metric, ...] = ("cosine", "dot", "l2")


def repeatable(store: EmbeddingStore) -> bool:
    """Whether a score must not depend, in any bit, on what else is stored or asked: exact engines in this process."""
    return not store.capabilities.server and not store.capabilities.approximate


class SearchChecks(KitBase):
    """Rules 1, 3 and 15: batches, one score contract, padding, recall."""

    clustered: ClassVar[int] = 6000
    """Records in the check of filters that go with the vectors; where an engine scans so few, set more."""

    rule = "1, 3 and 15, a call takes a batch, higher scores are better, and a search keeps its recall"

    @pytest.mark.parametrize("metric", METRICS)
    def test_scores_and_order(self, opener: Opener, metric: Metric) -> None:
        store = opener(make_spec(metric))
        sample, queries = make_sample(60).write(store), make_queries(7)
        recall = store.capabilities.recall_floor
        for k in (1, 2, 10, 59, 60):
            assert_hits(store.search(queries, k), queries, sample, metric, k, recall=recall)

    def test_l2_is_the_negative_square(self, opener: Opener) -> None:
        store = opener(make_spec("l2", dim=2, fields={}))
        store.upsert(["near", "far"], np.array([[3, 0], [0, 5]], np.float32))
        hits = store.search(np.zeros((1, 2), np.float32), k=2)
        assert hits.ids.tolist() == [["near", "far"]]
        assert hits.scores.tolist() == [[-9, -25]]

    def test_dot_depends_on_length(self, opener: Opener) -> None:
        store = opener(make_spec("dot", dim=2, fields={}))
        store.upsert(["short", "long", "away"], np.array([[1, 0], [8, 6], [-2, 0]], np.float32))
        hits = store.search(np.array([[2, 0]], np.float32), k=3)
        assert hits.ids.tolist() == [["long", "short", "away"]]
        assert hits.scores.tolist() == [[16, 2, -4]]

    def test_cosine_does_not_depend_on_length(self, opener: Opener) -> None:
        store = opener(make_spec("cosine", dim=2, fields={}))
        store.upsert(["same", "right", "back"], np.array([[50, 0], [0, 0.5], [-3, 0]], np.float32))
        hits = store.search(np.array([[0.01, 0]], np.float32), k=3)
        assert hits.ids.tolist() == [["same", "right", "back"]]
        np.testing.assert_allclose(hits.scores, [[1, 0, -1]], atol=1e-6)

    @pytest.mark.parametrize("metric", METRICS)
    def test_fewer_records_than_k(self, opener: Opener, metric: Metric) -> None:
        store = opener(make_spec(metric))
        sample, queries = make_sample(5).write(store), make_queries(3)
        hits = store.search(queries, 9, fields=["label", "area", "weight", "thing"])
        assert_hits(hits, queries, sample, metric, 9, recall=store.capabilities.recall_floor)
        empty = hits.ids == ""
        for name, column in hits.fields.items():
            kind = store.spec.fields[name]
            padding = empty_column(kind, int(empty.sum()))
            same = np.array_equal(column[empty], padding, equal_nan=kind is float)
            made = f"knnstore.types.empty_column({kind.__name__}, shape)"
            assert same, (
                f"field {name!r} of the slots without a hit: got {column[empty][:4].tolist()}, "
                f"expected {padding.tolist()[0]!r} for a {kind.__name__}; {made} begins with it"
            )

    def test_empty_store(self, store: EmbeddingStore) -> None:
        hits = store.search(make_queries(2), 3, fields=["label"])
        assert hits.ids.tolist() == [["", "", ""]] * 2
        assert (hits.scores == -np.inf).all()
        assert hits.fields["label"].tolist() == [["", "", ""]] * 2

    def test_fields_come_with_the_hits(self, store: EmbeddingStore) -> None:
        sample = make_sample(20).write(store)
        hits = store.search(make_queries(4), 5, fields=["area", "label", "thing", "weight"])
        assert set(hits.fields) == {"label", "area", "weight", "thing"}
        for name, column in hits.fields.items():
            assert_column(column, store.spec.fields[name], f"field {name!r} of the hits")
        for place in np.ndindex(*hits.ids.shape):
            if hits.ids[place]:
                row = sample.row(sample.ids.index(str(hits.ids[place])))
                assert {name: column[place] for name, column in hits.fields.items()} == row
        assert store.search(make_queries(1), 1).fields == {}, "fields that nobody asked for"

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    def test_norms_whose_square_overflows(self, opener: Opener, metric: Metric) -> None:
        """Beyond 1.8e19 the square of a norm does not fit float32. An exact engine here ranks such vectors too."""
        store = opener(make_spec(metric, dim=4, fields={}))
        if not repeatable(store):
            return
        rows = np.array([[1e20, 0, 0, 0], [1e20, 3, 0, 0], [2e19, 0, 0, 0], [-1e20, 0, 0, 0], [5, 0, 0, 0]], np.float32)
        ids = ["same", "twin", "nearer zero", "opposite", "small"]
        store.upsert(ids, rows)
        assert store.search(rows[3:4], 1).ids.tolist() == [["opposite"]]
        assert store.search(rows[4:], 1).ids.tolist() == [["small" if metric == "l2" else "same"]]
        if metric == "l2":
            hits = store.search(rows[:1], 2)
            assert hits.ids.tolist() == [["same", "twin"]]
            assert hits.scores.tolist() == [[0, -9]]
            assert store.search(rows[2:3], 1).ids.tolist() == [["nearer zero"]]

    @pytest.mark.parametrize("metric", METRICS)
    def test_a_batch_is_its_single_queries(self, opener: Opener, metric: Metric) -> None:
        store = opener(make_spec(metric))
        sample, queries = make_sample(50).write(store), make_queries(20)
        batch = store.search(queries, 6)
        assert_hits(batch, queries, sample, metric, 6, recall=store.capabilities.recall_floor)
        for q in range(len(queries)):
            single = store.search(queries[q : q + 1], 6)
            assert_hits(single, queries[q : q + 1], sample, metric, 6, recall=store.capabilities.recall_floor)
            if repeatable(store):
                row = Hits(batch.ids[q : q + 1], batch.scores[q : q + 1], {})
                assert_same_answer(single, row, f"asking query {q} alone instead of among {len(queries)}")

    @pytest.mark.parametrize("metric", METRICS)
    def test_order_of_writing_changes_nothing(self, opener: Opener, metric: Metric) -> None:
        """Exact engines in this process answer the same bits; others the same scores, as far as rounding goes."""
        sample, queries = _with_twins(40), make_queries(5)
        forwards = opener(make_spec(metric), at="forwards")
        backwards = opener(make_spec(metric), at="backwards")
        sample.write(forwards)
        sample.take(range(len(sample) - 1, -1, -1)).write(backwards, batch=7)
        make_sample(100, seed=9, prefix="other").write(backwards)
        backwards.delete([f"other{i}" for i in range(100)])
        one, two = forwards.search(queries, 15), backwards.search(queries, 15)
        for hits in (one, two):
            assert_hits(hits, queries, sample, metric, 15, recall=forwards.capabilities.recall_floor)
        if repeatable(forwards):
            assert_same_answer(two, one, "writing in another order, with others that were deleted again,")

    def test_k_limits(self, store: EmbeddingStore) -> None:
        sample = make_sample(3).write(store)
        for k in (0, -1, True, 1.0, "3", None):
            with pytest.raises(InvalidLimitError):
                store.search(make_queries(1), k)  # type: ignore[arg-type]  # on purpose
        most = store.capabilities.max_k
        query, recall = make_queries(1), store.capabilities.recall_floor
        assert_hits(store.search(query, most or 20_000), query, sample, "cosine", most or 20_000, recall=recall)
        if most is not None:
            with pytest.raises(InvalidLimitError, match=str(most)):
                store.search(make_queries(1), most + 1)

    def test_no_queries(self, store: EmbeddingStore) -> None:
        make_sample(3).write(store)
        hits = store.search(np.empty((0, 8), np.float32), 4, fields=["label"])
        assert hits.ids.shape == hits.scores.shape == hits.fields["label"].shape == (0, 4)

    def test_queries_of_another_width(self, store: EmbeddingStore) -> None:
        make_sample(3).write(store)
        for queries in (make_queries(2, dim=7), make_queries(2, dim=9), make_queries(1)[0]):
            with pytest.raises(DimensionMismatchError):
                store.search(queries, 1)

    @pytest.mark.parametrize("metric", METRICS)
    def test_many_records(self, opener: Opener, metric: Metric) -> None:
        """Enough for engines that switch from a plain scan to an index, written in uneven batches."""
        store = opener(make_spec(metric, dim=16))
        sample, queries = make_sample(3000, dim=16).write(store, batch=700), make_queries(30, dim=16)
        store.optimize()
        assert_hits(store.search(queries, 10), queries, sample, metric, 10, recall=store.capabilities.recall_floor)

    @pytest.mark.parametrize("when", ["before optimize", "after optimize"])
    def test_a_filter_that_goes_with_the_vectors(self, opener: Opener, when: str) -> None:
        """Whole clusters match and the rest do not, so that nothing near some of the queries does.

        An active vocabulary is such a filter. An index that is walked under it stops in the wrong place, or comes back
        with fewer hits than match; the recall that is declared holds all the same.
        """
        store = opener(make_spec(dim=16))
        sample = make_clusters(self.clustered, 100).write(store, batch=2000)
        if when == "after optimize":
            store.optimize()
        queries, floor = make_clusters(100, 100, seed=1).vectors, store.capabilities.recall_floor
        for clusters in (90, 50, 20, 2):
            rows = [i for i, number in enumerate(sample.fields["area"]) if number < clusters]
            hits = store.search(queries, 20, where=F("area") < clusters)
            assert_hits(hits, queries, sample, "cosine", 20, rows=rows, recall=floor)


def _with_twins(n: int) -> Sample:
    """A sample in which every vector is stored twice, under two ids: exact ties."""
    sample = make_sample(n)
    half = n // 2
    return Sample(sample.ids, np.concatenate([sample.vectors[:half], sample.vectors[:half]]), sample.fields)
