"""Checks of vectors in half precision: rounded once on their way in, and exact from there on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from knnstore._plugins import open_store
from knnstore._validation import check_vectors
from knnstore.errors import InvalidVectorError, SpecMismatchError
from knnstore.testing._base import KitBase, Opener, refused
from knnstore.testing._data import Sample, make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_content, assert_hits, assert_same_answer, assert_same_bits
from knnstore.testing._search import METRICS, repeatable
from knnstore.types import Hits, Metric, StoreSpec

__all__ = ["PrecisionChecks"]


def _half(metric: Metric, dim: int = 8) -> StoreSpec:
    return replace(make_spec(metric, dim), dtype="float16")


class PrecisionChecks(KitBase):
    """Rules 3, 4 and 6 where the spec says ``dtype="float16"``."""

    rule = "4, a vector read back is the vector stored, to the dtype that the spec declares"

    @pytest.mark.parametrize("metric", METRICS)
    def test_halves_come_back(self, opener: Opener, metric: Metric) -> None:
        """Every bit of the rounded vector, after reopening too; and written back it is the same again."""
        store = opener(_half(metric, 24))
        sample = make_sample(200, dim=24).write(store)
        assert_content(store, sample)
        store.optimize()
        store = opener.reopen()
        assert store.spec == _half(metric, 24), f"the spec is now {store.spec}"
        assert_content(store, sample)
        first = store.get(sample.ids).vectors
        store.upsert(sample.ids, first, sample.fields)
        assert_same_bits(store.get(sample.ids).vectors, first, "halves written back")

    @pytest.mark.parametrize("metric", METRICS)
    def test_halves_are_scored_as_they_are_kept(self, opener: Opener, metric: Metric) -> None:
        """A score is that of the two rounded vectors, summed in float32 or better; so it is the same on each engine."""
        spec = _half(metric, 24)
        store, queries = opener(spec), make_queries(9, dim=24)
        sample = make_sample(150, dim=24).write(store)
        kept = Sample(sample.ids, sample.stored(metric, spec.dtype), sample.fields)
        asked = check_vectors(queries, 24, metric, dtype=spec.dtype)
        by: Metric = "l2" if metric == "l2" else "dot"  # rounding has moved lengths, so not by the cosine
        recall = store.capabilities.recall_floor
        batch = store.search(queries, 12)
        assert_hits(batch, asked, kept, by, 12, recall=recall)
        for q in range(len(queries)) if repeatable(store) else ():
            row = Hits(batch.ids[q : q + 1], batch.scores[q : q + 1], {})
            assert_same_answer(store.search(queries[q : q + 1], 12), row, f"asking query {q} alone")

    def test_another_dtype_is_refused(self, opener: Opener) -> None:
        """Asked for in the spec or by the URL; who says nothing of it gets what is stored."""
        sample = make_sample(4).write(opener(_half("dot")))
        opener.close_all()
        with refused(SpecMismatchError, "opening as float32 what is kept as float16", match="float16"):
            opener(make_spec("dot"))
        for asked in ("float32", "float16"):
            url = replace(opener.url, options={**opener.url.options, "dtype": asked})
            if asked == "float16":
                with open_store(url) as store:
                    assert_content(store, sample)
                continue
            with refused(SpecMismatchError, f"opening it with ?dtype={asked}", match="float16"):
                open_store(url)
        assert opener().spec.dtype == "float16"

    def test_what_no_half_can_hold_is_refused(self, opener: Opener) -> None:
        store = opener(replace(make_spec("dot", dim=2, fields={}), dtype="float16"))
        with refused(InvalidVectorError, "storing 70000 as float16", match="65504"):
            store.upsert(["a"], np.array([[1, 70_000]], np.float32))
        assert store.count() == 0
        store.upsert(["a", "b"], np.array([[65_504, 0], [2.0**-24, -0.0]], np.float32))
        assert store.get(["b", "a"]).vectors.tolist() == [[2.0**-24, 0], [65_504, 0]]
