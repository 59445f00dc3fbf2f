"""Paths as collections: any Unicode, readable, and never two for one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from knnstore_milvus.names import Place, collection_name, field_name, may_hold, place_of

import knnstore
from knnstore.errors import InvalidURLError
from knnstore.url import StoreURL

PATHS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("ab_-/0é"), min_size=1, max_size=300)


@given(PATHS, PATHS)
def test_every_path_has_a_name_of_its_own(one, two):
    for name in map(collection_name, (one, two)):
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name)
    assert (collection_name(one) == collection_name(two)) == (one == two)


@given(PATHS)
def test_the_name_of_another_is_not_its_own(path):
    """A path that looks like the name of a hashed one gets another."""
    name = collection_name(path)
    if name != path:
        assert collection_name(name) != name


def test_plain_names_stay():
    for name in ("concepts", "_a", "A9", "x" * 255):
        assert collection_name(name) == name
    assert collection_name("dinov2-b14-reg-1a2b3c4d").startswith("dinov2_b14_reg_1a2b3c4d__")
    assert collection_name("9lives").startswith("_9lives__")
    assert field_name("label") == "f_label"


@given(PATHS, st.text(st.sampled_from("ab-é"), min_size=1, max_size=9))
def test_what_is_below_a_path_is_looked_at(path, child):
    assert may_hold(collection_name(path), path)
    assert may_hold(collection_name(f"{path}/{child}"), path)
    assert may_hold(collection_name(child), "")


def test_not_everything_is_looked_at():
    assert not may_hold("zebras", "concepts")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("milvus://db/default/concepts", Place("", "default", "concepts")),
        ("milvus://db:1/other/a/b%20c?index=FLAT", Place("", "other", "a/b c")),
        ("milvus://db/default", Place("", "default", "")),
        ("milvus+lite:///data/my.db/concepts", Place("/data/my.db", "default", "concepts")),
        ("milvus+lite:///data/my.db/a/b.db", Place("/data/my.db", "default", "a/b.db")),
        ("milvus+lite:///my.db", Place("/my.db", "default", "")),
    ],
)
def test_places(url, place):
    assert place_of(StoreURL.parse(url)) == place


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("milvus://db", "database of a new server is 'default'"),
        ("milvus:///default/x", "a host"),
        ("milvus+cloud://db/default/x", "milvus\\+lite"),
        ("milvus+lite:///data/concepts", "ends with .db"),
        ("milvus+lite://host/data/my.db/x", "three slashes"),
    ],
)
def test_urls_that_lead_nowhere(url, said):
    with pytest.raises(InvalidURLError, match=said):
        place_of(StoreURL.parse(url))


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("milvus://db:1/cat", "milvus://db:1/default/cat"),
        ("milvus://db:1/cat/?index=HNSW", "milvus://db:1/default/cat?index=HNSW"),
        ("milvus://db:1/default", "milvus://db:1/default/concepts"),
        ("milvus+lite:///data/my.db", "milvus+lite:///data/my.db/concepts"),
    ],
)
def test_a_url_without_a_collection_is_told_what_it_may_have_meant(url, meant):
    with pytest.raises(InvalidURLError) as caught:
        knnstore.open_store(url)
    assert f"Such as {meant}." in str(caught.value)
