"""What a URL is told that points to a port with something else: real listeners that speak HTTP/1.1, gRPC, TLS or nothing."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import pytest
import trustme

import knnstore
from knnstore.errors import BackendError, KnnStoreError, StoreConnectionError, StoreTimeoutError
from knnstore.probe import Spoken, spoken_at, tls_hint

SPEC = knnstore.StoreSpec(2)
Listen = Callable[[str], int]


class Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root, folder = trustme.CA(), tmp_path_factory.mktemp("authority")
    issued = root.issue_cert("127.0.0.1")
    root.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    chain = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    return {"ca": folder / "ca.pem", "server": folder / "server.pem", "pair": (issued.private_key_pem.bytes(), chain)}


@pytest.fixture
def listen(authority: dict[str, Any]) -> Iterator[Listen]:
    with contextlib.ExitStack() as stack:

        def start(kind: str) -> int:
            make = {"http": http, "grpc": grpc_server}.get(kind.removesuffix("+tls"), silent)
            return stack.enter_context(make(authority if kind.endswith("+tls") else None))

        yield start


@contextlib.contextmanager
def http(authority: dict[str, Any] | None) -> Iterator[int]:
    class Server(ThreadingHTTPServer):
        def handle_error(self, *args: Any) -> None:
            """A client that breaks off is what this is about."""

    with Server(("127.0.0.1", 0), Page) as server:
        if authority:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(authority["server"])
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def grpc_server(authority: dict[str, Any] | None) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    if authority:
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([authority["pair"]]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(0).wait()


@contextlib.contextmanager
def silent(_: object) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("kind", ["http", "grpc", "http+tls", "grpc+tls"])
def test_what_a_port_speaks(listen: Listen, kind: str) -> None:
    assert spoken_at("127.0.0.1", listen(kind)) == Spoken(kind.removesuffix("+tls"), tls=kind.endswith("+tls"))  # type: ignore[arg-type]


def test_nobody_and_someone_who_says_nothing(listen: Listen) -> None:
    start = time.monotonic()
    assert spoken_at("127.0.0.1", listen("silent"), seconds=0.2) is None
    assert spoken_at("no-such-host.invalid", 1, seconds=0.2) is None
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert spoken_at("127.0.0.1", port) is None
    assert time.monotonic() - start < 10


def test_tls_that_is_missing_or_too_much() -> None:
    assert "add tls=1" in tls_hint(Spoken("http", tls=True), tls=False)
    assert "leave tls=1 out" in tls_hint(Spoken("grpc", tls=False), tls=True)
    assert tls_hint(Spoken("grpc", tls=True), tls=True) == ""


def told(url: str) -> KnnStoreError:
    with pytest.raises((StoreConnectionError, StoreTimeoutError, BackendError)) as caught:
        knnstore.open_store(url, SPEC)
    with pytest.raises(type(caught.value)):
        knnstore.collections(url)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("http", "", "speaks HTTP: use port 6334, or transport=http"),
        ("http+tls", "", "speaks TLS: add tls=1. This port speaks HTTP"),
        ("http+tls", "&tls=1&ca={ca}", "speaks HTTP: use port 6334"),
        ("http", "&tls=1", "no TLS: leave tls=1 out. This port speaks HTTP"),
        ("grpc+tls", "", "speaks TLS: add tls=1."),
        ("grpc", "&tls=1", "no TLS: leave tls=1 out."),
        ("grpc", "&transport=http", "speaks gRPC: leave transport=http out"),
        ("grpc+tls", "&transport=http&tls=1&ca={ca}", "speaks gRPC: leave transport=http out"),
        ("http+tls", "&transport=http", "speaks TLS: add tls=1."),
        ("grpc", "", "milvus://host:19530"),  # another engine
        ("http", "&transport=http", "milvus://host:19530"),
    ],
)
def test_qdrant(listen: Listen, authority: dict[str, Any], kind: str, options: str, said: str) -> None:
    url = f"qdrant://127.0.0.1:{listen(kind)}/c?timeout=3&retries=0{options.format(**authority)}"
    error = told(url)
    assert said in str(error)
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("http", "", "speaks HTTP: Milvus takes gRPC at port 19530"),
        ("http+tls", "", "speaks TLS: add tls=1. This port speaks HTTP"),
        ("grpc+tls", "", "speaks TLS: add tls=1."),
        ("grpc", "&tls=1", "no TLS: leave tls=1 out."),
        ("grpc", "", "qdrant://"),
    ],
)
def test_milvus(listen: Listen, authority: dict[str, Any], kind: str, options: str, said: str) -> None:
    error = told(f"milvus://127.0.0.1:{listen(kind)}/default/c?timeout=3&retries=0{options.format(**authority)}")
    assert said in str(error)


@pytest.mark.parametrize(
    "url", ["qdrant://127.0.0.1:{}/c?timeout=1&retries=0", "milvus://127.0.0.1:{}/default/c?timeout=1&retries=0"]
)
def test_without_an_answer_the_usual_hint_stays(listen: Listen, url: str) -> None:
    assert "speaks" not in str(told(url.format(listen("silent"))))
