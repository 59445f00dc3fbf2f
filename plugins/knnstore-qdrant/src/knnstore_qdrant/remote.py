"""One collection of a Qdrant server, over gRPC or HTTP: a client for each process, deadlines, bounded retries."""

from __future__ import annotations

import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import grpc
import httpx
from qdrant_client import models
from qdrant_client.qdrant_remote import QdrantRemote

from knnstore.abc import OpenRequest
from knnstore.errors import InvalidURLError, SpecMismatchError, StoreClosedError, StoreTimeoutError
from knnstore.remote import Patience
from knnstore.transfer.copying import progress_bar
from knnstore.types import Consistency
from knnstore.url import StoreURL
from knnstore_qdrant.client import ClientEngine
from knnstore_qdrant.engine import Change, Detail, Offset, recall_floor
from knnstore_qdrant.errors import replicas_missing, retriable
from knnstore_qdrant.mark import MARK, REVISION, mark_anew, unmarked
from knnstore_qdrant.numbers import whole_bounds
from knnstore_qdrant.options import PORTS, ServerOptions
from knnstore_qdrant.points import Point
from knnstore_qdrant.prompt import PromptTransport

__all__ = ["METADATA", "Connection", "RemoteEngine", "identity_of"]

T = TypeVar("T")

_LEAST = 0.05
_JSON = 6
"""What JSON makes of a byte at most: four bytes of a number become up to 24 characters, a control character six."""

_deadline: ContextVar[float] = ContextVar("_deadline")


def _seconds_left() -> float:
    return max(_deadline.get(time.monotonic() + 30.0) - time.monotonic(), _LEAST)


@cache
def _keep_grpc_up() -> grpc.Channel:
    """A channel that is never used nor closed.

    After the last one is closed gRPC ends its threads in the background, and a child that is forked at that moment has
    a lock that nobody opens: it would hang in making its own channel, and no timeout could end that.
    """
    return grpc.insecure_channel("localhost:1")


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
        self._patience = Patience(options.timeout, options.retries)
        self._ssl: ssl.SSLContext | None = None
        self._certificates: dict[str, bytes] = {}
        if options.tls:
            self._read_certificates()
        self._gate = threading.Lock()
        self._client: tuple[int, _Client] | None = None
        self._closed = False

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

        def attempt(seconds: float) -> T:
            token = _deadline.set(time.monotonic() + seconds)
            try:
                return send(self._current())
            finally:
                _deadline.reset(token)

        try:
            return self._patience.call(attempt, lambda error: not self._closed and retriable(error))
        except Exception as error:
            if self._closed:  # whatever the client calls it
                raise self._closed_error() from error
            raise

    def _closed_error(self) -> StoreClosedError:
        return StoreClosedError(f"{self.url} was closed while it was in use")

    def _current(self) -> _Client:
        """The client of this process: neither its sockets nor gRPC's threads survive a fork."""
        with self._gate:
            if self._closed:  # a call that was on its way must not open another client, which nobody would close
                raise self._closed_error()
            if self._client is None or self._client[0] != os.getpid():
                self._client = os.getpid(), self._connect()
            return self._client[1]

    def _connect(self) -> _Client:
        url, options = self.url, self.options
        if options.transport == "grpc":
            _keep_grpc_up()
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
        with self._gate:
            self._closed = True
            if self._client is not None and self._client[0] == os.getpid():
                self._client[1].close()
            self._client = None


_LEVELS: dict[Consistency, tuple[models.ReadConsistencyType | None, models.WriteOrdering]] = {
    "strong": (models.ReadConsistencyType.MAJORITY, models.WriteOrdering.STRONG),
    "session": (None, models.WriteOrdering.MEDIUM),
    "eventual": (None, models.WriteOrdering.WEAK),
}


_ORDERINGS = [models.WriteOrdering.WEAK, models.WriteOrdering.MEDIUM, models.WriteOrdering.STRONG]
METADATA = "knnstore"
_DONE = (models.CollectionStatus.GREEN, models.CollectionStatus.GREY)
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 1.0
"""Seconds between two questions whether the optimisers are done."""


def identity_of(info: Any) -> str | None:
    """Our metadata of a collection, as they were written when it was made: a text that no other one has."""
    text = (getattr(info.config, "metadata", None) or {}).get(METADATA)
    return None if text is None else str(text)


_from_fewer: ContextVar[bool] = ContextVar("_from_fewer", default=False)


def _fewer(created: Mapping[str, object]) -> int | None:
    """How many replicas a strong read asks while some are away: they hold what enough others have acknowledged.

    A majority, or fewer where each write has reached so many that any of the rest has it; None where it takes them all.
    """
    replicas, written = (int(str(created[name] or 1)) for name in ("replication_factor", "write_consistency_factor"))
    asked = min(replicas // 2 + 1, replicas - min(written, replicas) + 1)
    return asked if asked < replicas else None


class RemoteEngine(ClientEngine):
    """A collection of a server, as one store sees it.

    Args:
        connection: to the server.
        name: of the collection.
        request: what was asked for.
        created: how the collection is made.
        identity: what its metadata say; see :func:`identity_of`.
    """

    server = True
    repeatable = False

    def __init__(
        self, connection: Connection, name: str, request: OpenRequest, created: Mapping[str, object], identity: str
    ) -> None:
        super().__init__(name)
        self._identity = identity
        options = connection.options
        self._connection = connection
        self.recall_floor = recall_floor(options.exact, created.get("quantization"))
        self.wire = _JSON if options.transport == "http" else 1
        self._read_level, ordering = _LEVELS[request.consistency]
        self._fewer = _fewer(created) if request.consistency == "strong" else None
        self._writes = {"ordering": models.WriteOrdering(options.ordering) if options.ordering else ordering}
        quantization = None
        if options.rescore is not None or options.oversampling is not None:
            quantization = models.QuantizationSearchParams(rescore=options.rescore, oversampling=options.oversampling)
        self._params = {
            exact: models.SearchParams(hnsw_ef=options.ef or None, exact=exact, quantization=quantization)
            for exact in (False, True)
        }

    @property
    def _reads(self) -> dict[str, Any]:
        level = self._fewer if _from_fewer.get() else self._read_level
        return {} if level is None else {"consistency": level}

    def _call(self, send: Callable[[Any], T]) -> T:
        def attempt(client: Any) -> T:
            try:
                return send(client)
            except Exception as error:
                if self._fewer is None or not replicas_missing(error):
                    raise
            token = _from_fewer.set(True)
            try:
                return send(client)
            finally:
                _from_fewer.reset(token)

        return self._connection.call(attempt)

    def check_same(self) -> None:
        if identity_of(self._info()) != self._identity:
            raise SpecMismatchError(
                f"{self._connection.url}: the collection",
                expected="the one that was opened",
                got="another one of that name, made since",
                hint="Nothing was written. Open the store again, with the spec of what you write.",
            )

    def optimize(self) -> None:
        """Wait until the server's optimisers, which work by themselves, have nothing left to do; with a progress bar.

        Raises:
            StoreTimeoutError: they are not done within ``build_timeout``; they go on all the same.
        """
        end = time.monotonic() + self._connection.options.build_timeout
        pause = _FIRST_PAUSE
        with progress_bar(None, "indexing", show=sys.stderr.isatty()) as bar:
            while (info := self._info()).status not in _DONE:
                if time.monotonic() > end:
                    raise StoreTimeoutError(
                        f"{self._connection.url}: the optimisers", expected="status green", got=str(info.status.value),
                        hint="They go on by themselves; raise ?build_timeout= to wait longer.",
                    )  # fmt: skip
                bar.total = max((info.points_count or 0) - 1, 0)  # without the mark
                bar.update((info.indexed_vectors_count or 0) - bar.n)
                time.sleep(pause)
                pause = min(1.5 * pause, _LAST_PAUSE)

    def _info(self) -> Any:
        return self._call(lambda client: client.get_collection(self._name))

    def _write(self, *operations: models.UpdateOperation) -> None:
        if self._writes["ordering"] == models.WriteOrdering.WEAK:
            super()._write(*operations)
            operations = ()
        # Of two weakly ordered marks each replica may keep another one, so a mark goes through the leader.
        ordering = max(self._writes["ordering"], models.WriteOrdering.MEDIUM, key=_ORDERINGS.index)
        marked = [*operations, mark_anew()]
        self._call(lambda client: client.batch_update_points(self._name, marked, wait=True, ordering=ordering))

    def count(self, where: Any, *, exact: bool = True) -> int:
        return super().count(unmarked(where), exact=exact)

    def scroll(
        self, where: Any, payload: list[str], limit: int, offset: Offset, *, vectors: bool
    ) -> tuple[Sequence[Point], Offset]:
        return super().scroll(unmarked(where), payload, limit, offset, vectors=vectors)

    def change(self, changes: Sequence[Change]) -> None:
        super().change([(unmarked(where), payload) for where, payload in changes])

    def delete_where(self, where: Any) -> None:
        super().delete_where(unmarked(where))

    def revision(self) -> str:
        marks = self.retrieve([MARK], [REVISION], vectors=False)
        return str(marks[0].payload[REVISION]) if marks else "unmarked"

    def details(self) -> dict[str, Detail]:
        info = self._info()
        return {
            "collection": self._name,
            "status": str(info.status),
            "optimizer": str(info.optimizer_status),
            "segments": info.segments_count,
            "indexed_vectors": info.indexed_vectors_count,
            "shards": info.config.params.shard_number,
            "replication_factor": info.config.params.replication_factor,
            "version": str(self._call(lambda client: client.info()).version),
        }

    def bytes_on_disk(self) -> None:
        """A server does not tell."""

    def close(self) -> None:
        self._connection.close()
