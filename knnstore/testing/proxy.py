"""A TCP proxy that breaks the connection between a client and a server in the ways a network does.

    with FaultProxy("127.0.0.1", server_port) as proxy:
        store = knnstore.open_store(f"mine://127.0.0.1:{proxy.port}/collection")
        proxy.fault = "hang"            # from now on nothing is answered any more

It copies bytes and knows no protocol, so what arrives is what the real server has sent.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Literal, Self, TypeAlias

__all__ = ["Fault", "FaultProxy"]

Fault: TypeAlias = Literal["none", "refuse", "hang", "cut"]


class FaultProxy:
    """Listens on a free port of the loopback interface and forwards to a server; a context manager.

    ``fault`` says what happens to connections, open ones and new ones, from the moment it is set:

    ``"none"``
        all is forwarded.
    ``"refuse"``
        open connections are reset, new ones refused.
    ``"hang"``
        connections are accepted and what they send is forwarded; answers are held back, and come in order when the
        fault ends.
    ``"cut"``
        the next ``cut_after`` bytes of answers come back, then the connection is reset, in the middle of a message.

    Args:
        host: of the server.
        port: of the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Condition()
        self._fault: Fault = "none"
        self._left = 0
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener: socket.socket | None = None
        self.cut_after = 20  # less than the shortest answer of any server
        self.delay = 0.0
        """Seconds by which each part of an answer is late, as on a long way."""
        self.requests = 0
        """Bytes forwarded to the server so far."""
        self._listen(0)

    @property
    def fault(self) -> Fault:
        """What is done to the connections."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        with self._lock:
            self._fault, self._left = fault, self.cut_after
            self._lock.notify_all()
        if fault == "refuse":
            self._stop_listening()
            self.reset()
        elif self._listener is None:
            self._listen(self.port)

    def reset(self) -> None:
        """Reset every open connection, once."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            for end in pair:
                _reset(end)

    def close(self) -> None:
        """Stop listening and reset every connection."""
        self.fault = "refuse"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- connections ---------------------------------------------------------------------------------------------------

    def _listen(self, port: int) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts; close alone would not
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            pair = (client, server)
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._forward, args=(pair,), daemon=True).start()
            threading.Thread(target=self._answer, args=(pair,), daemon=True).start()

    def _forward(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with contextlib.suppress(OSError):
            while data := client.recv(65_536):
                self.requests += len(data)  # before the answer can come
                server.sendall(data)
        self._end(pair)

    def _answer(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        with contextlib.suppress(OSError):
            while data := server.recv(65_536):
                time.sleep(self.delay)
                passed = self._passed(data)
                client.sendall(passed)
                if self._fault == "cut" and len(passed) < len(data):
                    break
        self._end(pair)

    def _passed(self, data: bytes) -> bytes:
        """The part of an answer that the fault lets through; waits while it lets nothing through."""
        with self._lock:
            self._lock.wait_for(lambda: self._fault != "hang")
            if self._fault == "refuse":
                return b""  # about to be reset
            if self._fault == "cut":
                passed = data[: self._left]
                self._left -= len(passed)
                return passed
            return data

    def _end(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            _reset(end)


def _reset(connection: socket.socket) -> None:
    """Close with a reset, as a killed peer or a firewall would, and wake whoever waits on it."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
