"""Checks of what is stored: every bit of a vector, every field, and nothing that the caller still holds."""

from __future__ import annotations

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.testing._base import KitBase, Opener
from knnstore.testing._data import make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_content, assert_same_bits
from knnstore.testing._search import METRICS
from knnstore.types import Metric

__all__ = ["VectorChecks"]

ODD_ROWS = np.array(
    [
        [1e-45, -1e-45, 1e-40, 1.1754944e-38],  # denormals, and the smallest normal number
        [-0.0, 0.0, -0.0, 1.0],
        [0.0, 0.0, 0.0, 0.0],
        [3.4028235e38, -1e30, 1e-30, 1.0],
        [1 + 2**-23, 1 - 2**-24, 1 / 3, 0.1],
        [16777217, 1e10, -7, 255],
    ],
    np.float32,
)


class VectorChecks(KitBase):
    """Rule 4, and arrays that belong to one side only."""

    rule = "4, a vector read back is the vector stored, bit for bit"

    @pytest.mark.parametrize("metric", METRICS)
    def test_every_bit_comes_back(self, opener: Opener, metric: Metric) -> None:
        store = opener(make_spec(metric))
        sample = make_sample(200).write(store)
        assert_content(store, sample)
        store.optimize()
        assert_content(opener.reopen() if store.capabilities.persistent else store, sample)

    @pytest.mark.parametrize("metric", ["dot", "l2"])
    def test_odd_numbers_come_back(self, opener: Opener, metric: Metric) -> None:
        """Denormals, negative zero, the zero vector, the largest numbers."""
        store = opener(make_spec(metric, dim=4, fields={}))
        ids = [f"r{i}" for i in range(len(ODD_ROWS))]
        store.upsert(ids, ODD_ROWS)
        vectors = store.get(ids).vectors
        assert vectors is not None
        assert_same_bits(vectors, ODD_ROWS, "odd vectors")

    def test_unit_rows_are_left_alone_under_cosine(self, opener: Opener) -> None:
        store = opener(make_spec("cosine", dim=64, fields={}))
        rows = np.random.default_rng(3).normal(size=(500, 64))
        unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        ids = [f"r{i}" for i in range(len(unit))]
        store.upsert(ids, unit)
        vectors = store.get(ids).vectors
        assert vectors is not None
        assert_same_bits(vectors, unit, "unit rows")

    def test_rows_are_normalised_once_under_cosine(self, opener: Opener) -> None:
        """What is read can be written back, and is then the same again."""
        store = opener(make_spec("cosine", dim=33, fields={}))
        rows = (np.random.default_rng(4).normal(size=(300, 33)) * 17).astype(np.float32)
        ids = [f"r{i}" for i in range(len(rows))]
        store.upsert(ids, rows)
        first = store.get(ids).vectors
        assert first is not None
        exact = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        assert np.abs(first - exact).max() <= 2.0**-24, "not the float32 nearest to the unit row"
        store.upsert(ids, first)
        second = store.get(ids).vectors
        assert second is not None
        assert_same_bits(second, first, "rows written back")

    def test_other_layouts_store_the_same(self, opener: Opener) -> None:
        """Fortran order, strides, read-only and float16 input are all just numbers."""
        store = opener(make_spec("l2"))
        sample = make_sample(12)
        half = sample.vectors.astype(np.float16)
        strided = np.zeros((24, 16), np.float32)
        strided[::2, ::2] = sample.vectors
        locked = sample.vectors.copy()
        locked.flags.writeable = False
        for given in (np.asfortranarray(sample.vectors), strided[::2, ::2], sample.vectors[::-1][::-1], locked, half):
            store.upsert(sample.ids, given, sample.fields)
            vectors = store.get(sample.ids).vectors
            assert vectors is not None
            assert_same_bits(vectors, np.asarray(given, np.float32), f"{given.dtype} with strides {given.strides}")

    def test_tensors_are_their_values(self, opener: Opener) -> None:
        """One that wants gradients, and one that lies on a device, as a batch or as rows; asked for and stored."""
        store = opener(make_spec("l2"))
        sample = make_sample(6)
        for given in (_Tensor(sample.vectors), [_Tensor(row) for row in sample.vectors]):
            store.upsert(sample.ids, given, sample.fields)  # type: ignore[arg-type]  # what users pass
            assert_content(store, sample)
            hits = store.search(given, 1)  # type: ignore[arg-type]  # the same
            assert hits.ids[:, 0].tolist() == sample.ids
        whole = np.ma.array(sample.vectors)
        store.upsert(sample.ids, whole, sample.fields)
        assert_content(store, sample)

    def test_arrays_written_stay_the_callers(self, opener: Opener) -> None:
        store = opener(make_spec("dot"))
        sample = make_sample(10)
        vectors, ids = sample.vectors.copy(), list(sample.ids)
        fields = {name: np.array(column) for name, column in sample.fields.items()}
        labels = list(sample.fields["label"])
        store.upsert(ids, vectors, {**fields, "label": labels})
        vectors[:] = 7
        ids[:] = ["other"] * 10
        labels[:] = ["other"] * 10
        for column in fields.values():
            column[:] = column[0]
        assert_content(store, sample)

    def test_queries_are_not_changed(self, store: EmbeddingStore) -> None:
        make_sample(10).write(store)
        queries = make_queries(4) * 3
        before = queries.copy()
        store.search(queries, 3)
        assert_same_bits(queries, before, "the caller's queries")

    def test_arrays_read_are_the_callers(self, opener: Opener) -> None:
        """Scribbling on an answer changes neither the store nor the next answer."""
        store = opener(make_spec("dot"))
        sample = make_sample(10).write(store)
        for _ in range(2):
            hits = store.search(make_queries(2), 3, fields=["label", "area"])
            records = store.get(sample.ids)
            scanned = list(store.scan(with_vectors=True, batch_size=4))
            for answer in (records, *scanned):
                assert answer.vectors is not None
                for array in (answer.ids, answer.vectors, *answer.fields.values()):
                    _scribble(array)
            for array in (hits.ids, hits.scores, *hits.fields.values()):
                _scribble(array)
        assert_content(store, sample)
        assert "scribble" not in store.search(make_queries(2), 3).ids.ravel()


class _Tensor:
    """What a tensor on a device that wants gradients looks like from here."""

    def __init__(self, values: np.ndarray, *, free: bool = False, near: bool = False) -> None:
        self.values, self.free, self.near = values, free, near

    def __len__(self) -> int:
        return len(self.values)

    def detach(self) -> _Tensor:
        return _Tensor(self.values, free=True, near=self.near)

    def cpu(self) -> _Tensor:
        return _Tensor(self.values, free=self.free, near=True)

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        if not self.free:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if not self.near:
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        return self.values


def _scribble(array: np.ndarray) -> None:
    """Overwrite an array; one that cannot be written is not the caller's."""
    assert array.flags.writeable, "an array that was read cannot be written to"
    if array.size:
        array[...] = "scribble" if array.dtype == object else array.dtype.type(1)
