"""Labels and numbers made to be mistaken for something else are data, on the edge engine."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import knnstore
from knnstore import F, StoreSpec

SPEC = StoreSpec(2, "dot", {"label": str, "area": int, "weight": float})
AWKWARD = [
    '" or 1==1',
    "'; DROP TABLE x; --",
    "\\",
    "%",
    "a\nb",
    "\x00",
    "é",
    "é",
    "🦓",
    "*",
    "null",
    "",
    " ",
    '{"must":[]}',
]
EDGES = [0, 1, -1, 2**53, 2**53 + 1, 2**53 - 1, 2**62 + 1, 2**63 - 1, 2**63 - 512, 2**63 - 513, -(2**63), -(2**53) - 1]
texts = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integers = st.sampled_from(EDGES) | st.integers(-(2**63), 2**63 - 1)
floats = st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1.7976931348623157e308, 0.1]) | st.floats(
    allow_nan=False, allow_infinity=False
)
record = st.tuples(texts, integers, floats)
operators = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])


def compared(field, op, value):
    return {"==": F(field).__eq__, "!=": F(field).__ne__, "<": F(field).__lt__, "<=": F(field).__le__, ">": F(field).__gt__,
            ">=": F(field).__ge__}[op](value)  # fmt: skip


leaf = st.one_of(
    st.tuples(texts, st.booleans()).map(lambda p: (F("label") == p[0]) if p[1] else (F("label") != p[0])),
    st.lists(texts, max_size=4).map(lambda v: F("label").isin(v)),
    st.tuples(operators, integers).map(lambda p: compared("area", *p)),
    st.tuples(operators, floats).map(lambda p: compared("weight", *p)),
    st.lists(integers, max_size=4).map(lambda v: F("area").isin(v)),
    st.lists(floats, max_size=4).map(lambda v: F("weight").isin(v)),
)
filters = st.recursive(
    leaf,
    lambda f: st.one_of(f.map(lambda x: ~x), st.tuples(f, f).map(lambda p: p[0] & p[1]), st.tuples(f, f).map(lambda p: p[0] | p[1])),
    max_leaves=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    url = f"qdrant+edge://{tmp_path_factory.mktemp('labels')}/store"
    with knnstore.open_store(url, SPEC) as store:
        yield store


@settings(max_examples=120, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(records=st.lists(record, min_size=1, max_size=6), where=filters)
def test_a_filter_matches_what_it_says_and_nothing_more(store, records, where):
    store.delete([f"r{i}" for i in range(6)])
    columns = [list(column) for column in zip(*records, strict=True)]
    ids = [f"r{i}" for i in range(len(records))]
    fields = dict(zip(("label", "area", "weight"), columns, strict=True))
    store.upsert(ids, np.ones((len(ids), 2), np.float32), fields)
    arrays = {"label": np.array([*columns[0], None], object)[:-1], "area": np.array(columns[1], np.int64),
              "weight": np.array(columns[2], np.float64)}  # fmt: skip
    wanted = {value for value, holds in zip(ids, where.mask(arrays), strict=True) if holds}
    assert {value for batch in store.scan(where) for value in batch.ids} == wanted
    assert store.count(where) == len(wanted)
    assert set(store.search(np.ones((1, 2), np.float32), 6, where=where).ids[0]) - {""} == wanted
