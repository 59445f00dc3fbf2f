"""What our HTTP does other than that of Qdrant's client: whole numbers as integers, and acknowledgements at once.

The client writes every bound as a double, ``4.611686018427388e18``, and the server's JSON reader is off by a bit for
one such double in twenty; an integer literal it reads exactly. All of our bounds are whole numbers (see
:mod:`knnstore_qdrant.filters`), so they can be written as what they are. The client has no setting for that: its model
of a range turns whatever it is given into a double.

The server sends the head of an answer and its body in two packets and, as its sockets are not told TCP_NODELAY, the
second one only when the first is acknowledged. A system that hopes to put the acknowledgement on the next request waits
for 40 ms with it, on every connection but a fresh one: one query took 48 ms instead of 4. A fresh connection for each
request, which is what the client does on loopback, costs a way there and back elsewhere, and three with TLS.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx

__all__ = ["PromptTransport", "whole_bounds"]

_START = b'"range":{'
_RANGE = re.compile(rb'(?<!\\)"range":\{[^{}"]*(?:"[a-z]+":[^{}"]*)*\}')
"""The object of a range; within a text the first quote would come after a backslash."""
_NUMBER = re.compile(rb"(?<=:)-?[0-9][0-9.eE+-]*")


def whole_bounds(body: bytes) -> bytes:
    """The body of a request, with the bounds of its ranges as integers where they are whole.

    >>> whole_bounds(b'{"filter":{"must":[{"key":"area","range":{"gt":4.611686018427388e+18,"lt":0.5}}]}}')
    b'{"filter":{"must":[{"key":"area","range":{"gt":4611686018427387904,"lt":0.5}}]}}'
    """
    if _START not in body:
        return body
    return _RANGE.sub(lambda found: _NUMBER.sub(_whole, found[0]), body)


def _whole(found: re.Match[bytes]) -> bytes:
    value = float(found[0])
    return b"%d" % int(value) if value.is_integer() else found[0]


_QUICK = getattr(socket, "TCP_QUICKACK", None)
"""Linux has it; it is forgotten after some packets, so each read says it again."""


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner
        self._socket = inner.get_extra_info("socket")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if _QUICK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK, 1)
        return self._inner.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(super().connect_tcp(host, port, timeout, local_address, socket_options))


class PromptTransport(httpx.HTTPTransport):
    """httpx's own transport over such connections.

    Args:
        context: for TLS.
        connections: most of them at a time.
        kept: most that are kept for the next request.
    """

    def __init__(self, context: ssl.SSLContext, *, connections: int, kept: int) -> None:
        super().__init__(verify=context, trust_env=False)
        self._pool = httpcore.ConnectionPool(  # httpx has no argument for the backend of its pool
            ssl_context=context,
            max_connections=connections,
            max_keepalive_connections=kept,
            keepalive_expiry=5.0,
            network_backend=_Backend(),
        )
