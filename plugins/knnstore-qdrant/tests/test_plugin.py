"""The plugin without a server: importing, names, options, messages."""

import subprocess
import sys
import uuid

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from knnstore_qdrant.errors import map_error, retriable
from knnstore_qdrant.names import collection_name
from knnstore_qdrant.options import read
from knnstore_qdrant.points import point_ids
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

import knnstore
from knnstore import StoreURL
from knnstore.errors import (
    BackendError,
    InvalidURLError,
    StoreAuthenticationError,
    StoreConnectionError,
    StoreFullError,
    StoreNotFoundError,
    StoreTimeoutError,
)

paths = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300).filter(
    lambda p: p.strip("/") == p and p
)


def test_importing_and_listing_load_no_client():
    code = (
        "import sys, knnstore_qdrant, knnstore; knnstore.backends(); print([m for m in sys.modules if 'qdrant_' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_edge_loads_no_client(tmp_path):
    code = f"""
import sys, knnstore
knnstore.open_store("qdrant+edge://{tmp_path}/store", knnstore.StoreSpec(2)).close()
print([m for m in ("qdrant_client", "grpc", "httpx") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("variant", "module", "command"),
    [("+edge", "qdrant_edge", "'knnstore-qdrant[edge]'"), ("", "qdrant_client", "knnstore-qdrant")],
)
def test_a_missing_client_is_said(tmp_path, variant, module, command):
    code = f"""
import sys, knnstore
sys.modules["{module}"] = None
try:
    knnstore.open_store("qdrant{variant}://{"" if variant else "localhost"}{tmp_path}/store", knnstore.StoreSpec(2))
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("BackendUnavailableError")
    assert done.stdout.strip().endswith(f"pip install {command}")
    assert not (tmp_path / "store").exists()


@settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(paths, min_size=2, max_size=5, unique=True))
def test_names_are_valid_and_never_shared(given_paths):
    names = [collection_name(path) for path in given_paths]
    assert len(set(names)) == len(names)
    for name in names:
        assert 1 <= len(name.encode()) <= 255
        assert not set(name) & set('<>:"/\\|?*\0\x1f')
        assert name not in (".", "..")


def test_readable_names():
    assert collection_name("concepts") == "concepts"
    assert collection_name("my_concepts/dinov2-b14-reg-1a2b3c4d") == "my_concepts~dinov2-b14-reg-1a2b3c4d"


def test_ids_are_uuids_of_version_five():
    ids = [*(f"r{i}" for i in range(500)), "é", "🦓", "a/b"]
    made = [uuid.UUID(text) for text in point_ids(ids)]
    assert len(set(made)) == len(ids)
    assert {u.version for u in made} == {5}
    assert {u.variant for u in made} == {uuid.RFC_4122}
    assert point_ids(["r0"]) == point_ids(["r0"]) == ["6678a8c0-333b-5670-a01c-a3b6d386b81a"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("qdrant://h/c?transport=udp", "grpc or http"),
        ("qdrant://h/c?compression=x8", "quantization=product"),
        ("qdrant://h/c?always_ram=1", "quantization"),
        ("qdrant://h/c?ca=/x", "tls=1"),
        ("qdrant://h/c?tls=1&cert=/x", "cert_key together"),
        ("qdrant://me:pw@h/c", "no users"),
        ("qdrant://h/c?batch_bytes=99999999", "batch_bytes"),
        ("qdrant+cloud://h/c", "qdrant[+]edge"),
    ],
)
def test_options_that_make_no_sense(url, said):
    with pytest.raises(InvalidURLError, match=said):
        read(StoreURL.parse(url))


def test_urls_without_a_place(tmp_path):
    for url in ("qdrant:///c", "qdrant://host", "qdrant://host/a//b", "qdrant+edge://host/c", "qdrant+edge:///"):
        with pytest.raises(InvalidURLError):
            knnstore.open_store(url, knnstore.StoreSpec(2))


def response(status, text=b"{}"):
    return UnexpectedResponse(status, "", text, httpx.Headers())


@pytest.mark.parametrize(
    ("error", "ours", "again"),
    [
        (response(503), StoreConnectionError, True),
        (response(429), StoreConnectionError, True),
        (response(504), StoreTimeoutError, True),
        (response(401), StoreAuthenticationError, False),
        (response(403), StoreAuthenticationError, False),
        (response(404), StoreNotFoundError, False),
        (response(413), BackendError, False),
        (response(500, b"Service internal error: No space left on device"), StoreFullError, False),
        (ResponseHandlingException(httpx.ConnectError("refused")), StoreConnectionError, True),
        (ResponseHandlingException(httpx.ReadTimeout("slow")), StoreTimeoutError, False),
        (ResponseHandlingException(httpx.RemoteProtocolError("cut")), StoreConnectionError, True),
    ],
)
def test_errors_are_ours(error, ours, again):
    mapped = map_error(error, "qdrant://h/c")
    assert type(mapped) is ours
    assert "qdrant://h/c" in str(mapped)
    assert retriable(error) is again
