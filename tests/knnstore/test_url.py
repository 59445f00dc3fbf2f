from __future__ import annotations

import pathlib

import pytest

from knnstore import KnnStoreError, OpenRequest, StoreURL, open_store
from knnstore._engine import mapped_error
from knnstore.abc import EmbeddingStore
from knnstore.errors import InvalidURLError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("memory:///a", StoreURL("memory", path="/a")),
        ("memory://", StoreURL("memory")),
        ("faiss:///data/my%20store?index=HNSW32&device=cpu",
         StoreURL("faiss", path="/data/my store", options={"index": "HNSW32", "device": "cpu"})),
        ("qdrant+grpc://me:p%40ss@db.example:6334/c?tls=1",
         StoreURL("qdrant", "grpc", "db.example", 6334, "/c", {"tls": "1"}, "me", "p@ss")),
        ("milvus://[::1]:19530/c", StoreURL("milvus", host="::1", port=19530, path="/c")),
        ("faiss:////two", StoreURL("faiss", path="//two")),
        ("memory:///x?a=1%262&b=", StoreURL("memory", path="/x", options={"a": "1&2", "b": ""})),
        ("memory:///a%23b%3Fc", StoreURL("memory", path="/a#b?c")),
    ],
)  # fmt: skip
def test_parse_and_print(text: str, expected: StoreURL) -> None:
    parsed = StoreURL.parse(text)
    assert parsed == expected
    assert StoreURL.parse(parsed) is parsed
    again = StoreURL.parse(str(parsed))
    assert (again.path, again.host, again.port, again.options) == (
        parsed.path,
        parsed.host,
        parsed.port,
        parsed.options,
    )
    assert StoreURL.parse(str(again)) == again


@pytest.mark.parametrize(
    "text",
    [
        "", "plain", "/a/folder", "C:\\folder", "://x", "Memory:///x", "1x:///x", "a+b+c:///x", "memory:/x", "memory:///x#y",
        "memory:///x?a=1&a=2", "qdrant://host:port/x", "qdrant://host:99999/x", "qdrant://[::1/x", "memory:///a\nb",
        "memory:///x#", "mem ory:///x",
    ],
)  # fmt: skip
def test_not_a_url(text: str) -> None:
    with pytest.raises(InvalidURLError) as caught:
        StoreURL.parse(text)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("port", ["99999", "65536", "geheim", "-1"])
def test_a_port_that_is_none(port: str) -> None:
    with pytest.raises(InvalidURLError, match="a port of at most 65535") as caught:
        StoreURL.parse(f"qdrant://host:{port}/x")
    assert port not in str(caught.value)  # it may be half of a password


@pytest.mark.parametrize("value", [None, 5, pathlib.PurePosixPath("/x"), b"memory:///x"])
def test_not_even_text(value: object) -> None:
    with pytest.raises(InvalidURLError, match="expected text"):
        open_store(value)  # type: ignore[arg-type]


SECRET = "hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"qdrant:/me:{SECRET}@host/x",
        f"me:{SECRET}@host/x",
        f"me:{SECRET}@host://x",
        f"{SECRET}",
        f"Qdrant://me:{SECRET}@host/x",
        f"qdrant://me:{SECRET}/3@host/x",
        f"qdrant://me:12/{SECRET}@host/x",
        f"qdrant://me:{SECRET}#3@host/x",
        f"qdrant://me:3#{SECRET}@host/x",
        f"qdrant://me:{SECRET}?3@host/x",
        f"qdrant://me:3?{SECRET}@host/x",
        f"qdrant://me:{SECRET}@host:port/x",
        f"qdrant://me:{SECRET}@[::1/x",
        f"qdrant://me:{SECRET}@h\u2100ost/x",
        f"qdrant://me:{SECRET}@host/x\n",
        f"qdrant://host/x?token={SECRET}&token={SECRET}",
        f"qdrant://host/x?token={SECRET}#",
        f"nosuch://me:{SECRET}@host/x",
        f"memory://me:{SECRET}@host/x",
        f"memory:///x?api_key={SECRET}",
        f"memory:///x?tokn={SECRET}",
        f"memory:///x?apikey={SECRET}&no_such=1",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(KnnStoreError) as caught:
        open_store(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize(
    "name",
    ["password", "token", "api_key", "secret", "apikey", "access_token", "API_KEY", "client_secret", "credentials"],
)
def test_secret_options_are_masked(name: str) -> None:
    url = StoreURL.parse(f"qdrant://h/x?{name}={SECRET}&index=HNSW")
    assert SECRET not in str(url) + repr(url) + repr(OpenRequest(url)) + f"{url}"
    assert f"{name}=***" in str(url)
    assert "index=HNSW" in str(url)
    assert url.secrets() == [SECRET]


@pytest.mark.parametrize("name", ["api_key_env", "token_file", "partition_key", "tokenizer"])
def test_other_options_are_shown(name: str) -> None:
    assert f"{name}=value" in str(StoreURL.parse(f"qdrant://h/x?{name}=value"))


def test_password_is_kept_for_the_backend_only() -> None:
    url = StoreURL.parse(f"qdrant://me:{SECRET}@h/x")
    assert url.password == SECRET
    assert str(url) == "qdrant://me:***@h/x"
    assert url.child("y").password == SECRET
    assert url.redact(f"cannot log in with {SECRET}!") == "cannot log in with ***!"


def test_engine_errors_are_redacted() -> None:
    url = StoreURL.parse("qdrant://me:p%40ss@h/x")

    def broken(error: Exception) -> KnnStoreError:
        raise RuntimeError("the translation is broken")

    for mapper in (lambda _: None, broken, lambda e: KnnStoreError(f"mapped {e}", hint="p@ss")):
        text = str(mapped_error(OSError("no route to me:p%40ss@h or p@ss"), mapper, "search", url))
        assert "no route" in text
        assert "p@ss" not in text
        assert "p%40ss" not in text
    assert EmbeddingStore.__repr__  # uses str(url), which the checks above cover


def test_child() -> None:
    url = StoreURL.parse("faiss:///data/?index=Flat")
    assert str(url.child("dinov2")) == "faiss:///data/dinov2?index=Flat"
    assert str(StoreURL.parse("memory://").child("a b")) == "memory:///a%20b"
    for name in ("", ".", "..", "a/b", "/"):
        with pytest.raises(InvalidURLError):
            url.child(name)


def test_options() -> None:
    url = StoreURL.parse("faiss:///x?indx=Flat")
    with pytest.raises(InvalidURLError, match="Did you mean 'index'"):
        url.check_options(["index", "device"])
    with pytest.raises(InvalidURLError, match="no options"):
        url.check_options(())
    assert StoreURL.parse("faiss:///x?index=Flat").check_options(["index"]) == {"index": "Flat"}
