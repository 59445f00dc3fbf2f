"""Filters in the language of Milvus: as text, and on a real server with labels made to break it."""

import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from knnstore_milvus.expressions import LITE, SERVER

import knnstore
from knnstore import F
from knnstore.errors import UnsupportedFilterError
from knnstore.filters import And, Or
from knnstore.testing.servers import below, remove

SMALLEST = -(2**63)
FIELDS = {"label": str, "area": int, "weight": float, "thing": bool}

WRITTEN = [
    (F("label") == "it's", 'f_label == "it\'s"'),
    (F("label") == 'a"b\\', r'f_label == "a\"b\\"'),
    (F("label") != "é\n\0🦓", r'f_label != "\u00e9\n\u0000\U0001f993"'),
    (F("area").isin([1, 2]), "f_area in [1,2]"),
    (~F("area").isin([1, 2]), "f_area not in [1,2]"),
    (F("area").isin([]), '_id == ""'),
    (~F("area").isin([]), '_id != ""'),
    (~((F("area") < 5) & (F("thing") == True)), "(f_area >= 5 or f_thing != true)"),  # noqa: E712
    (~(~(F("area") < 5) | (F("weight") == 1)), "(f_area < 5 and f_weight != 1.0)"),
    (F("area") == SMALLEST, f"f_area < {SMALLEST + 1}"),
    (F("area") > SMALLEST, f"f_area >= {SMALLEST + 1}"),
    (F("area") < SMALLEST, '_id == ""'),
    (F("area").isin([SMALLEST, 3]), f"(f_area in [3] or f_area < {SMALLEST + 1})"),
    (~F("area").isin([SMALLEST]), f"f_area >= {SMALLEST + 1}"),
    (F("weight").isin([0.0, -0.0, 1.5]), "(f_weight in [1.5] or f_weight == 0.0)"),
    (~F("weight").isin([-0.0, 1.5]), "(f_weight not in [1.5] and f_weight != -0.0)"),
    (F("area").isin([0, 1]), "f_area in [0,1]"),
]


@pytest.mark.parametrize(("where", "text"), WRITTEN, ids=[text for _, text in WRITTEN])
def test_expressions(where, text):
    assert SERVER.expression(where.check(FIELDS)) == text


def test_chains_are_balanced_and_depth_is_bounded():
    chain = F("area") == 0
    for i in range(1000):
        chain = chain | (F("area") == i)
    text = SERVER.expression(chain.check(FIELDS))
    assert max(text[:i].count("(") - text[:i].count(")") for i in range(0, len(text), 50)) < 12
    deep = F("area") == 0
    for i in range(32):  # as deep as a filter may be; what a loop builds is balanced before it comes here
        deep = And((F("area") > i, Or((*(F("area") == -j for j in range(8)), deep))))
    with pytest.raises(UnsupportedFilterError, match="levels"):
        SERVER.expression(deep.check(FIELDS))


def test_the_language_of_milvus_lite_has_few_escapes():
    assert LITE.literal('é\n"\\') == '"é\\n\\"\\\\"'


def test_ids_are_quoted_too():
    assert SERVER.ids_in(['"]', "\\"]) == r'_id in ["\"]","\\"]'
    assert SERVER.after('"', '_id != ""') == r'_id > "\""'
    assert SERVER.after("a", "f_area > 1") == '_id > "a" and (f_area > 1)'


# -- on a real server ------------------------------------------------------------------------------------------------

HOSTILE = st.text(
    st.sampled_from("\"'\\%_un0x()[]=|&# \n\t\0é中🦓a1") | st.characters(exclude_categories=["Cs"]), max_size=12
)
PHRASES = st.sampled_from(
    ['" or 1==1', "' or ''=='", '\\" or true or "', '"] or f_label in ["a', "\\u0022 or 1==1", "{x}", "\\", "\\\\", "%", "like",
     "\\x22", "\\N", "a\\", '"', "f_label", "null", "\u2028", "\r\n", "\\134"]
)  # fmt: skip


@pytest.fixture(scope="module")
def store(milvus_url):
    url = below(milvus_url, f"default/test_{uuid.uuid4().hex[:12]}", index="FLAT")
    with knnstore.open_store(url, knnstore.StoreSpec(2, "dot", FIELDS)) as store:
        yield store
    remove(url)


def write(store, labels=None, areas=None, weights=None):
    n = len(labels or areas or weights)
    store.delete([f"r{i}" for i in range(40)])
    columns = {
        "label": labels or [""] * n,
        "area": areas or [0] * n,
        "weight": weights or [0.0] * n,
        "thing": [False] * n,
    }
    store.upsert([f"r{i}" for i in range(n)], np.ones((n, 2), np.float32), columns)


@pytest.mark.server
@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(labels=st.lists(HOSTILE | PHRASES, min_size=2, max_size=8, unique=True), strangers=st.lists(PHRASES, max_size=3))
def test_a_label_finds_itself_and_nothing_else(store, labels, strangers):
    write(store, labels)
    queries = np.ones((1, 2), np.float32)
    for i, label in enumerate(labels):
        found = store.search(queries, 10, where=F("label") == label).ids[0].tolist()
        assert [value for value in found if value] == [f"r{i}"], f"{label!r}"
        assert store.count(F("label") != label) == len(labels) - 1
    assert store.count(F("label").isin(labels)) == len(labels)
    assert store.count(F("label").isin(strangers)) == len(set(strangers) & set(labels))
    for stranger in set(strangers) - set(labels):
        assert store.count(F("label") == stranger) == 0
        store.delete(where=F("label") == stranger)
    assert store.count() == len(labels)


@pytest.mark.server
@settings(max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(
    areas=st.lists(
        st.integers(SMALLEST, -SMALLEST - 1) | st.sampled_from([SMALLEST, 2**53, 2**53 + 1]), min_size=1, max_size=6
    ),
    weights=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6),
)
def test_numbers_compare_as_numbers(store, areas, weights):
    for name, column in (("area", areas), ("weight", weights)):
        write(store, **{f"{name}s": column})
        for value in column:
            for where in (F(name) == value, F(name) < value, F(name) >= value, F(name) != value, F(name).isin([value])):
                checked = where.check(FIELDS)
                expected = int(checked.mask({name: np.array(column)}).sum())
                assert store.count(where) == expected, f"{where!r} on {column}"


@pytest.mark.server
def test_deep_and_long_filters(store):
    write(store, areas=list(range(30)))
    deep = F("area") == 3
    for i in range(90):
        deep = (F("area") >= -i) & deep if i % 2 else (F("area") == -1 - i) | deep
    assert store.count(deep) == 1
    assert store.count(F("area").isin(range(20, 20_000))) == 10
    assert store.count(~F("area").isin(range(20, 20_000))) == 20
