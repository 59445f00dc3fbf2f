"""The connection to a Qdrant server, over gRPC or HTTP: a client for each process, deadlines, bounded retries."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

import httpx
from qdrant_client.qdrant_remote import QdrantRemote

from knnstore.errors import InvalidURLError
from knnstore.remote import Patience, PerProcess, keep_grpc_up
from knnstore.url import StoreURL
from knnstore_qdrant.errors import retriable
from knnstore_qdrant.http import PromptTransport, whole_bounds
from knnstore_qdrant.options import PORTS, ServerOptions

__all__ = ["Connection"]

T = TypeVar("T")

_LEAST = 0.05

_deadline: ContextVar[float] = ContextVar("_deadline")


def _seconds_left() -> float:
    return max(_deadline.get(time.monotonic() + 30.0) - time.monotonic(), _LEAST)


class _Client(QdrantRemote):
    """The client, with one deadline for a call instead of whole seconds for each phase of it."""

    @property  # type: ignore[override]  # what every gRPC call gets; whole seconds in the base class
    def _timeout(self) -> float:
        return _seconds_left()

    @_timeout.setter
    def _timeout(self, value: float) -> None:
        """The base class sets it once, for all calls."""


def _as_we_send(request: httpx.Request, call_next: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
    """A request of the client within our deadline, with integers where they matter."""
    body = request.content
    if (ours := whole_bounds(body)) is not body:
        headers = {name: value for name, value in request.headers.items() if name != "content-length"}
        request = httpx.Request(request.method, request.url, headers=headers, content=ours)
    request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), _seconds_left())
    return call_next(request)


class Connection:
    """A server, as the URL names it. The client is made at the first call of each process.

    Args:
        url: where.
        options: how.

    Raises:
        InvalidURLError: a certificate that cannot be read.
    """

    def __init__(self, url: StoreURL, options: ServerOptions) -> None:
        self.url, self.options = url, options
        self._ssl: ssl.SSLContext | None = None
        self._certificates: dict[str, bytes] = {}
        if options.tls:
            self._read_certificates()
        patience = Patience(options.timeout, options.retries)
        self._client = PerProcess(str(url), self._connect, patience, retriable)

    def _read_certificates(self) -> None:
        options = self.options
        files = {"root_certificates": options.ca, "certificate_chain": options.cert, "private_key": options.cert_key}
        try:
            self._certificates = {name: Path(file).read_bytes() for name, file in files.items() if file}
            self._ssl = ssl.create_default_context(cafile=options.ca or None)
            if options.cert:
                self._ssl.load_cert_chain(options.cert, options.cert_key)
        except OSError as error:  # an ssl.SSLError is one
            raise InvalidURLError(f"{self.url}: ca, cert or cert_key", expected="a PEM file", got=str(error)) from error

    def call(self, send: Callable[[Any], T]) -> T:
        """Make a call, within the timeout, again where that may help.

        Raises:
            StoreClosedError: the connection has been closed, before or meanwhile.
        """

        def attempt(client: _Client, seconds: float) -> T:
            token = _deadline.set(time.monotonic() + seconds)
            try:
                return send(client)
            finally:
                _deadline.reset(token)

        return self._client.call(attempt)

    def _connect(self) -> _Client:
        url, options = self.url, self.options
        if options.transport == "grpc":
            keep_grpc_up()
        port = url.port or PORTS[options.transport]
        host = f"[{url.host}]" if ":" in url.host else url.host
        client = _Client(
            host=host,
            port=port,
            grpc_port=port,
            prefer_grpc=options.transport == "grpc",
            https=options.tls,
            # As a header and not as api_key, which would warn where we have decided already; see options.
            headers={"api-key": options.api_key.reveal()} if options.api_key else None,
            check_compatibility=False,  # a thread of its own, over HTTP, which need not be reachable; we look ourselves
            grpc_options={
                "grpc.keepalive_time_ms": 20_000,
                "grpc.keepalive_timeout_ms": 10_000,
                "grpc.enable_retries": 0,  # ours are counted and timed
                # It connects again half a second after a server came back at the latest; by itself, after two minutes.
                "grpc.initial_reconnect_backoff_ms": 100,
                "grpc.max_reconnect_backoff_ms": 500,
                "grpc.min_reconnect_backoff_ms": 5_000,  # what one attempt may take: more than one way round the world
                **self._certificates,
            },
            transport=PromptTransport(self._ssl or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), connections=32, kept=16),
            trust_env=False,
        )
        client.http.client.add_middleware(_as_we_send)
        return client

    def close(self) -> None:
        """Close the client of this process; a call in another thread ends with an error."""
        self._client.close()
