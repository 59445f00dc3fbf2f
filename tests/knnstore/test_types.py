from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest

import knnstore
from knnstore.abc import OpenRequest
from knnstore.errors import InvalidFieldError, InvalidInputError, SpecMismatchError, StoreCorruptError
from knnstore.types import Batch, Capabilities, EmbeddingSpace, Hits, Records, StoreSpec, StoreStats, empty_column

SPACE = EmbeddingSpace("enc", "sha256:1", "note with 'quotes' and \u00e9")
FULL = StoreSpec(768, "dot", {"b": str, "a": int, "c": float, "d": bool}, SPACE)


@pytest.mark.parametrize("spec", [FULL, StoreSpec(1), StoreSpec(2, "l2", {}, None), StoreSpec(2, dtype="float16")])
def test_json_round_trip(spec: StoreSpec) -> None:
    assert StoreSpec.from_json(spec.to_json()) == spec
    assert StoreSpec.from_json(spec.to_json()).to_json() == spec.to_json()


def test_a_spec_from_before_there_was_a_choice_of_dtype_is_float32() -> None:
    old = '{"dim": 2, "metric": "l2", "fields": {}, "space": null}'
    assert StoreSpec.from_json(old) == StoreSpec(2, "l2", dtype="float32") != StoreSpec(2, "l2", dtype="float16")
    with pytest.raises(SpecMismatchError, match=r"dtype float16 \(asked for\), got dtype float32 \(stored\)"):
        StoreSpec(2, "l2", dtype="float16").check_against(StoreSpec.from_json(old), "here")
    with pytest.raises(InvalidInputError, match="float32 or float16"):
        StoreSpec(2, dtype="bfloat16")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "{}", '{"dim": 0, "metric": "l2", "fields": {}, "space": null}',
     '{"dim": 2, "metric": "l2", "fields": {"a": "date"}, "space": null}',
     '{"dim": 2, "metric": "l2", "fields": {}, "space": {"encoder": "x"}}',
     '{"dim": 2, "metric": "l2", "fields": [], "space": null}',
     '{"dim": 2, "metric": [], "fields": {}, "space": null}'],
)  # fmt: skip
def test_damaged_json(text: str) -> None:
    with pytest.raises(StoreCorruptError):
        StoreSpec.from_json(text)


@pytest.mark.parametrize("dim", [0, -1, 1.0, "3", True, None])
def test_dim(dim: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"spec\.dim"):
        StoreSpec(dim)


def test_dim_of_numpy() -> None:
    assert type(StoreSpec(np.int64(3)).dim) is int  # type: ignore[arg-type]


@pytest.mark.parametrize("metric", ["euclid", "COSINE", None, 1, ["l2"]])
def test_metric(metric: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"spec\.metric"):
        StoreSpec(2, metric)


@pytest.mark.parametrize(
    "fields",
    [{"": str}, {"a b": str}, {"1a": str}, {"_a": str}, {"id": str}, {"vector": str}, {"\u00e9": str}, {1: str},
     {"a": list}, {"a": "str"}, {"a": None}, {"a": [str]}, [("a", str)], "abc"],
)  # fmt: skip
def test_fields(fields: Any) -> None:
    with pytest.raises(InvalidFieldError):
        StoreSpec(2, "l2", fields)


def test_space() -> None:
    for parts in (("", "x"), ("x", "")):
        with pytest.raises(InvalidInputError):
            EmbeddingSpace(*parts)
    with pytest.raises(InvalidInputError, match=r"spec\.space"):
        StoreSpec(2, space="sha256:1")  # type: ignore[arg-type]


def test_a_spec_keeps_its_own_fields() -> None:
    fields = {"a": str}
    spec = StoreSpec(2, fields=fields)
    fields["b"] = str
    assert dict(spec.fields) == {"a": str}
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.dim = 3  # type: ignore[misc]


def test_check_against_names_both_sides() -> None:
    stored = dataclasses.replace(FULL, dim=512, metric="l2", space=EmbeddingSpace("enc", "sha256:2"))
    with pytest.raises(SpecMismatchError) as caught:
        FULL.check_against(stored, "faiss:///x")
    for part in ("faiss:///x", "dim 768", "dim 512", "metric dot", "metric l2", "sha256:1", "sha256:2", "Nothing was"):
        assert part in str(caught.value)
    assert "fields" not in str(caught.value)
    assert caught.value.expected == "dim 768; metric dot; space sha256:1 (asked for)"
    assert caught.value.got == "dim 512; metric l2; space sha256:2 (stored)"


def test_what_counts_as_the_same() -> None:
    FULL.check_against(FULL, "x")
    dataclasses.replace(FULL, space=None).check_against(FULL, "x")
    dataclasses.replace(FULL, space=EmbeddingSpace("other name", "sha256:1")).check_against(FULL, "x")
    dataclasses.replace(FULL, fields=dict(sorted(FULL.fields.items()))).check_against(FULL, "x")
    with pytest.raises(SpecMismatchError, match="space none"):
        FULL.check_against(dataclasses.replace(FULL, space=None), "x")


def test_empty_columns() -> None:
    assert empty_column(str, 2).tolist() == ["", ""]
    assert empty_column(int, (1, 2)).tolist() == [[0, 0]]
    assert np.isnan(empty_column(float, 1)).all()
    assert empty_column(bool, 1).tolist() == [False]
    assert [empty_column(kind, 0).dtype for kind in (str, int, float, bool)] == [object, np.int64, np.float64, np.bool_]


def test_lengths() -> None:
    assert len(Batch(["a"], np.ones((1, 2), np.float32), {})) == 1
    assert len(Records(np.array(["a", "b"], object), None, {})) == 2
    assert Capabilities().recall_floor == 1


def test_everything_frozen_can_be_a_key() -> None:
    """What is equal has the same hash, whatever the order in which fields were given."""
    space = EmbeddingSpace("e", "sha256:1")
    spec = StoreSpec(3, "l2", {"a": int, "b": str}, space)
    same = StoreSpec(3, "l2", {"b": str, "a": int}, space)
    url = knnstore.StoreURL.parse("memory:///x?a=1&b=2")
    assert spec == same
    assert hash(spec) == hash(same)
    assert {spec: 1}[same] == 1
    assert hash(url) == hash(knnstore.StoreURL.parse("memory:///x?b=2&a=1"))
    request = [OpenRequest(knnstore.StoreURL.parse("memory:///x"), each) for each in (spec, same)]
    stats = [StoreStats("x", 1, details={"a": 1, "b": 2}), StoreStats("x", 1, details={"b": 2, "a": 1})]
    report = knnstore.CopyReport("a", "b", 1, 1, 0, 0, 0, "sum", created=True, dry_run=False)
    assert len({*request}) == len({*stats}) == 1
    for value in (Capabilities(), space, report, *knnstore.backends()):
        assert hash(value) == hash(copy.copy(value))


def test_records_are_taken_and_joined() -> None:
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    records = Records(np.array(["a", "b", "c"], object), vectors, {"n": np.array([1, 2, 3])})
    part = records.take(np.array([True, False, True]))
    assert part.ids.tolist() == ["a", "c"] and part.fields["n"].tolist() == [1, 3]
    joined = Records.concatenate([part, records.take(np.array([1]))])
    assert joined.ids.tolist() == ["a", "c", "b"] and joined.vectors is not None
    assert joined.vectors.tolist() == [[0, 1], [4, 5], [2, 3]]
    bare = Records(records.ids, None, records.fields)
    assert bare.take(np.array([0])).vectors is None and Records.concatenate([bare, bare]).vectors is None


def test_hits_begin_empty_and_are_put() -> None:
    hits = Hits.empty(2, 2, FULL, ["b", "c"])
    assert hits.ids.tolist() == [["", ""]] * 2 and np.isneginf(hits.scores).all() and np.isnan(hits.fields["c"]).all()
    one = Hits(np.array([["x", ""]], object), np.array([[1, -np.inf]], np.float32),
               {"b": np.array([["y", ""]], object), "c": np.array([[2.0, np.nan]])})  # fmt: skip
    hits.put(np.array([1]), one)
    assert hits.ids.tolist() == [["", ""], ["x", ""]] and hits.fields["b"][1, 0] == "y" and hits.scores[1, 0] == 1
