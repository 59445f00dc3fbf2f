"""The connection: one gRPC channel for each store and process, and every request with a deadline.

The requests are the messages of Milvus's published protocol, which pymilvus ships as generated code. Its client classes
are not used: they share connections between callers through a process-wide cache, retry on their own terms, and take
results apart into an object for each hit. ``docs/design/milvus.md`` has the figures.
"""

from __future__ import annotations

import base64
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Read by gRPC when it is first imported: a store opened before a fork must work in the child.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "1")

import grpc
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2, milvus_pb2_grpc

from knnstore.errors import InvalidURLError
from knnstore.remote import Patience, PerProcess, is_loopback, keep_grpc_up
from knnstore.url import Secret
from knnstore_milvus.errors import retriable
from knnstore_milvus.expressions import SERVER

__all__ = ["Connection", "Credentials"]

_CHANNEL_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # ours are the only ones
    ("grpc.use_local_subchannel_pool", 1),  # no connection shared with other stores, or with a parent process
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # what one attempt may take, on a busy machine or far away
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are and whom we trust.

    Args:
        token: ``user:password`` or an API key; an empty one for none.
        tls: whether the connection is encrypted.
        ca: file of the certificate authorities to trust, "" for those that gRPC brings.
        cert: file of the client's certificate chain, "" for none.
        key: file of the client's private key.
        server_name: the name that the server's certificate must have, "" for the host of the URL.
    """

    token: Secret = field(default_factory=Secret)
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""

    def channel(self, address: str) -> grpc.Channel:
        """A channel; connects at the first request.

        Raises:
            InvalidURLError: a file that cannot be read.
        """
        if not self.tls:
            return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        name = [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []
        secrets = grpc.ssl_channel_credentials(
            root_certificates=_content("ca", self.ca),
            private_key=_content("key", self.key),
            certificate_chain=_content("cert", self.cert),
        )
        return grpc.secure_channel(address, secrets, options=[*_CHANNEL_OPTIONS, *name])

    def metadata(self) -> list[tuple[str, str]]:
        """What goes with every request."""
        token = base64.b64encode(self.token.reveal().encode()).decode()
        return [("authorization", token)] if self.token else []


def _content(option: str, file: str) -> bytes | None:
    if not file:
        return None
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidURLError(f"option {option}", expected="a readable file in PEM format", got=str(error)) from error


class _Client:
    """A channel and its calls."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub, self.close = milvus_pb2_grpc.MilvusServiceStub(channel), channel.close


class Connection:
    """Sends requests and looks at the status of the answers.

    Args:
        address: ``host:port``.
        credentials: for TLS and authentication.
        database: which one on the server.
        patience: for each request.
    """

    lite = False
    """Whether it is milvus-lite, which has another filter language, no descriptions and no numbered moments."""
    language = SERVER
    """What filters are written in."""

    def __init__(self, address: str, credentials: Credentials, database: str, patience: Patience) -> None:
        self.address, self.database, self.patience = address, database, patience
        self._credentials = credentials
        self._client = PerProcess(f"milvus://{address}", self._connect, patience, retriable)
        if credentials.token and not credentials.tls and not is_loopback(address.rpartition(":")[0].strip("[]")):
            warnings.warn(
                f"milvus://{address}: the token or password goes over the network in plain text; add ?tls=1",
                stacklevel=2,
            )

    def call(self, method: str, request: Any, *, timeout: float | None = None) -> Any:
        """Send one request, again after an error that may pass; never for longer than the patience allows.

        Args:
            method: of the Milvus service.
            request: its message, with ``db_name`` filled in here where it has one.
            timeout: seconds for this request, where it may take longer than others.

        Raises:
            MilvusException: the server has refused.
            grpc.RpcError: it could not be asked, or did not answer in time.
            StoreClosedError: the connection has been closed, before or meanwhile.
        """
        if "db_name" in request.DESCRIPTOR.fields_by_name:
            request.db_name = self.database
        metadata = [*self._credentials.metadata(), ("dbname", self.database)]
        return self._client.call(
            lambda client, left: _checked(getattr(client.stub, method), request, left, metadata),
            timeout=None if timeout is None else max(timeout, 0.001),
        )

    def _connect(self) -> _Client:
        keep_grpc_up()
        return _Client(self._credentials.channel(self.address))

    def close(self) -> None:
        """Hang up; a request in another thread ends with an error."""
        self._client.close()


def _checked(send: Callable[..., Any], request: Any, timeout: float, metadata: list[tuple[str, str]]) -> Any:
    reply = send(request, timeout=timeout, metadata=metadata)
    status = reply if isinstance(reply, common_pb2.Status) else reply.status
    if status.code or status.error_code:
        raise MilvusException(status.code, status.reason, status.error_code, retriable=status.retriable)
    return reply
