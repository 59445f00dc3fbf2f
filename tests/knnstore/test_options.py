from __future__ import annotations

from dataclasses import dataclass

import pytest

from knnstore import Secret, StoreURL
from knnstore.errors import InvalidURLError, SpecMismatchError
from knnstore.options import (
    check_created,
    flag,
    integer,
    matching,
    number,
    one_of,
    option,
    read_options,
    seconds,
    secret,
)


@dataclass(frozen=True, slots=True)
class Options:
    shards: int = option(1, integer(1, 64))
    rows: int = option(0, integer())
    timeout: float = option(30.0, seconds())
    share: float = option(0.5, number(0, 1))
    sync: str = option("normal", one_of("normal", "full"))
    index: str = option("Flat", matching(r"[A-Z]\w*", "an index"))
    tls: bool = option(False, flag())
    api_key: Secret = secret()


def read(query: str) -> Options:
    return read_options(Options, StoreURL.parse(f"mine://db/x?{query}"))


def test_defaults_and_values():
    assert read("") == Options()
    assert read("shards=4&timeout=0.5&sync=full&index=HNSW&tls=Yes&api_key=k&share=1&rows=7") == Options(
        4, 7, 0.5, 1.0, "full", "HNSW", True, Secret("k")
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("shards=0", "from 1 to 64"), ("shards=65", "from 1 to 64"), ("shards=x", "whole number"), ("shards=-1", "whole number"),
        ("rows=1.5", "a whole number,"), ("shards=٣", "whole number"), ("timeout=nan", "seconds"), ("timeout=-1", "seconds"), ("timeout=1e9", "seconds"),
        ("share=2", "from 0 to 1"), ("sync=never", "normal or full"), ("index=9", "an index"), ("tls=2", "1 or 0"), ("shards=", "whole number"),
        ("nope=1", "expected one of"), ("shard=1", "Did you mean 'shards'"),
    ],
)  # fmt: skip
def test_refused(query: str, expected: str):
    with pytest.raises(InvalidURLError, match=expected):
        read(query)


def test_a_secret_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "hunter2")
    (tmp_path / "key").write_text("swordfish\n")
    url = StoreURL.parse("mine://db/x?api_key_env=MY_KEY")
    assert read_options(Options, url).api_key == Secret("hunter2")
    assert url.redact("denied: hunter2") == "denied: ***"
    assert "api_key_env=MY_KEY" in str(url)
    assert "hunter2" not in repr(read_options(Options, url))
    filed = StoreURL.parse(f"mine://db/x?api_key_file={tmp_path}/key")
    assert read_options(Options, filed).api_key == Secret("swordfish")
    assert filed.secrets() == ["swordfish"]


@pytest.mark.parametrize("source", ["api_key_env=NO_SUCH_VARIABLE", "api_key_file=/no/such/file", "api_key="])
def test_a_secret_that_is_not_there(source: str):
    with pytest.raises(InvalidURLError, match="with the secret"):
        read(source)
    assert StoreURL.parse(f"mine://db/x?{source}").secrets() == []


def test_a_secret_twice():
    with pytest.raises(InvalidURLError, match="one of api_key, api_key_env") as caught:
        read("api_key=hunter2&api_key_env=HOME")
    assert "hunter2" not in str(caught.value)


def test_creation_options_that_differ_say_which_side_is_stored():
    check_created({"shards": 4}, {"shards": 4, "m": 8}, "mine://db/x")
    with pytest.raises(
        SpecMismatchError, match=r"expected m=16, shards=4 \(asked for\), got m=default, shards=3 \(stored\)"
    ):
        check_created({"m": 16, "shards": 4}, {"shards": 3}, "mine://db/x")
