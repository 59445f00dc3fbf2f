from __future__ import annotations

import socket
import socketserver
import threading
import time

import pytest

from knnstore.testing.proxy import FaultProxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65_536):
            self.request.sendall(data)


@pytest.fixture
def proxy():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with FaultProxy(*server.server_address) as proxy:
            yield proxy
        server.shutdown()


@pytest.fixture
def client(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        yield connection


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    received = b""
    while len(received) < len(data) and (part := connection.recv(65_536)):
        received += part
    return received


def test_forwards(proxy, client):
    assert ask(client, b"hello") == b"hello"
    big = bytes(300_000)
    threading.Thread(target=client.sendall, args=(big,)).start()
    received = 0
    while received < len(big):
        received += len(client.recv(65_536))
    assert proxy.requests == len(big) + 5


def test_refuse_ends_open_connections_and_new_ones(proxy, client):
    assert ask(client, b"a") == b"a"
    proxy.fault = "refuse"
    with pytest.raises(OSError):
        for _ in range(3):
            if not ask(client, b"b"):
                raise ConnectionResetError
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    proxy.fault = "none"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert ask(again, b"c") == b"c"


def test_hang_accepts_and_never_answers(proxy, client):
    proxy.fault = "hang"
    client.settimeout(0.3)
    client.sendall(b"a")
    with pytest.raises(TimeoutError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3) as new, pytest.raises(TimeoutError):
        ask(new, b"b")
    assert proxy.requests == 2, "what was sent has reached the server"


def test_hang_holds_answers_back_and_loses_none(proxy, client):
    """No network drops the bytes in the middle of a connection and delivers the next ones."""
    proxy.fault = "hang"
    client.sendall(b"first")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(5)
    proxy.fault = "none"
    client.sendall(b"second")
    received = b""
    while len(received) < 11:
        received += client.recv(100)
    assert received == b"firstsecond"


def test_what_was_held_back_does_not_outlive_a_reset(proxy, client):
    proxy.fault = "hang"
    client.sendall(b"a")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.fault = "refuse"
    client.settimeout(5)
    with pytest.raises(OSError):
        if not client.recv(1):
            raise ConnectionResetError


def test_delay_makes_answers_late(proxy, client):
    proxy.delay = 0.3
    started = time.monotonic()
    assert ask(client, b"a") == b"a"
    assert time.monotonic() - started >= 0.3


def test_cut_ends_in_the_middle_of_an_answer(proxy, client):
    assert ask(client, b"a" * 50) == b"a" * 50
    proxy.cut_after = 7
    proxy.fault = "cut"
    client.sendall(b"0123456789")
    received = b""
    try:
        while part := client.recv(100):
            received += part
    except ConnectionError:
        pass
    assert received == b"0123456"
    proxy.fault = "none"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as again:
        assert ask(again, b"c") == b"c"


def test_close_ends_everything(proxy, client):
    assert ask(client, b"a") == b"a"
    proxy.close()
    with pytest.raises(OSError):
        if not ask(client, b"b"):
            raise ConnectionResetError
