from __future__ import annotations

import dataclasses
import json
import pathlib
from urllib.parse import quote, quote_plus

import pytest

from knnstore import KnnStoreError, OpenRequest, Secret, StoreURL, open_store
from knnstore._engine import mapped_error, mapped_errors
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
         StoreURL("qdrant", "grpc", "db.example", 6334, "/c", {"tls": "1"}, "me", Secret("p@ss"))),
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
    assert url.password.reveal() == SECRET
    assert str(url) == "qdrant://me:***@h/x"
    assert url.child("y").password.reveal() == SECRET
    assert url.redact(f"cannot log in with {SECRET}!") == "cannot log in with ***!"


HARD = "sw+rd/fi=sh%&\"'\\ ä"


def test_nothing_of_a_url_shows_a_secret() -> None:
    url = StoreURL.parse(f"qdrant://me:{quote(HARD, safe='')}@h/x?api_key={quote_plus(HARD)}&m=8")
    assert url.password.reveal() == HARD and url.secret("api_key") == Secret(HARD)
    request = OpenRequest(url)
    for value in (url, request):
        for shown in (str(value), repr(value), f"{value}", str(dataclasses.asdict(value))):
            assert "fi" not in shown
    assert "fi" not in f"{url.options} {list(url.options.items())} {url.password!r}"
    with pytest.raises(TypeError):
        json.dumps(dataclasses.asdict(url))
    with pytest.raises(TypeError):
        vars(url.password)
    moved = dataclasses.replace(url.child("y"), host="other")
    assert moved.secret("api_key").reveal() == HARD and hash(moved) != hash(url)


@pytest.mark.parametrize(
    "form", [str, quote, quote_plus, lambda t: quote(t, safe="").lower(), lambda t: json.dumps(t)[1:-1], repr]
)
def test_a_secret_is_found_however_it_is_escaped(form) -> None:
    url = StoreURL.parse(f"qdrant://h/x?api_key={quote_plus(HARD)}")
    assert url.redact(f"no {form(HARD)!s} here").strip("'") in ("no *** here", "no '***' here")


def test_a_user_without_a_password_may_be_a_key() -> None:
    assert str(StoreURL.parse(f"qdrant://{SECRET}@h/x")) == "qdrant://***@h/x"
    assert str(StoreURL.parse("milvus://me@h/x?password_env=NO_SUCH")) == "milvus://me@h/x?password_env=NO_SUCH"


def test_an_engine_that_says_a_secret_is_no_cause() -> None:
    url = StoreURL.parse(f"qdrant://h/x?api_key={SECRET}")

    class Wordy(Exception):  # noqa: N818
        def __init__(self, text: str) -> None:
            self.content = text.encode()

    for engine in (OSError(f"I know {SECRET}"), Wordy(f"I know {SECRET}")):
        with pytest.raises(KnnStoreError) as caught, mapped_errors(lambda _: None, "search", url):
            try:
                raise engine
            except Exception as error:
                raise ValueError("says nothing") from error
        assert caught.value.__cause__ is None and caught.value.__context__ is None
        assert SECRET not in str(vars(caught.value))
    with pytest.raises(KnnStoreError) as caught, mapped_errors(lambda _: None, "search", url):
        raise OSError("away")
    assert isinstance(caught.value.__cause__, OSError)
    error = KnnStoreError("what", got=SECRET, hint=SECRET)
    error.add_note(SECRET)
    with pytest.raises(KnnStoreError) as caught, mapped_errors(lambda _: None, "search", url):
        raise error
    assert SECRET not in f"{caught.value} {vars(caught.value)}" and caught.value.got == "***"


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
