"""What a port speaks, for the error of a client that could not talk to it. Asked only after a connection has failed.

A backend of a server puts the answer into the error of its ``map_error``::

    spoken = spoken_at(url.host, url.port)
    if spoken is not None and spoken.protocol == "http":
        hint = "This port speaks HTTP: use 6334, or transport=http."
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Spoken", "spoken_at", "tls_hint"]

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client of HTTP/2 begins, with an empty SETTINGS frame (RFC 9113, 3.4)."""
_HEAD = b"HEAD / HTTP/1.0\r\n\r\n"
_SETTINGS = 4
_FRAME = 9


@dataclass(frozen=True, slots=True)
class Spoken:
    """What was heard at a port.

    Args:
        protocol: ``http`` for HTTP/1.1, ``grpc`` for HTTP/2, which is what gRPC is spoken over; "" where TLS hides it.
        tls: whether it is encrypted.
    """

    protocol: Literal["http", "grpc", ""]
    tls: bool


def spoken_at(host: str, port: int, *, seconds: float = 1.0) -> Spoken | None:
    """Greet a port in several ways; None where nobody answers, or with something else.

    Args:
        host: name or address.
        port: number.
        seconds: to wait for each answer.
    """

    def plain() -> socket.socket:
        return socket.create_connection((host, port), timeout=seconds)

    def secured() -> socket.socket:
        return _indifferent().wrap_socket(plain(), server_hostname=host)

    # TLS in the middle: some servers of it answer a request of HTTP/1.1, to say that it should have been encrypted.
    try:
        if _hears_http2(plain):
            return Spoken("grpc", tls=False)
        if (protocol := _under_tls(secured)) is not None:
            return Spoken(protocol, tls=True)
        return Spoken("http", tls=False) if _hears_http1(plain) else None
    except OSError:
        return None


def _indifferent() -> ssl.SSLContext:
    """Nothing is told to whoever answers, and nothing that they say is believed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _under_tls(connect: Callable[[], socket.socket]) -> Literal["http", "grpc", ""] | None:
    try:
        connect().close()
    except ssl.SSLError as error:
        return "" if "ALERT" in (error.reason or "") else None  # it speaks TLS, and not with strangers
    if _hears_http2(connect):
        return "grpc"
    return "http" if _hears_http1(connect) else ""


def _hears_http2(connect: Callable[[], socket.socket]) -> bool:
    heard = _answer(connect, _HELLO)
    return len(heard) >= _FRAME and heard[3] == _SETTINGS


def _hears_http1(connect: Callable[[], socket.socket]) -> bool:
    return _answer(connect, _HEAD).startswith(b"HTTP/")


def _answer(connect: Callable[[], socket.socket], greeting: bytes) -> bytes:
    """The first bytes that come back; those before an error count. Raises TimeoutError where there are none in time."""
    heard = b""
    with connect() as connection:
        try:
            connection.sendall(greeting)
            while len(heard) < _FRAME and (more := connection.recv(64)):
                heard += more
        except TimeoutError:
            if not heard:
                raise
        except OSError:
            pass
    return heard


def tls_hint(spoken: Spoken, *, tls: bool) -> str:
    """What to change in a URL that is encrypted (``tls``) or not, and should be the other; "" where it is right."""
    if spoken.tls == tls:
        return ""
    return "This port speaks TLS: add tls=1." if spoken.tls else "This port speaks no TLS: leave tls=1 out."
