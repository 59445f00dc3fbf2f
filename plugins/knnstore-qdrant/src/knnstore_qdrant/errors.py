"""What Qdrant's clients raise, as errors of knnstore, and which of it may pass."""

from __future__ import annotations

import errno
import json
import re
import sys
from typing import Any

from knnstore.errors import (
    BackendError,
    KnnStoreError,
    StoreAuthenticationError,
    StoreBusyError,
    StoreConnectionError,
    StoreCorruptError,
    StoreFullError,
    StoreNotFoundError,
    StoreTimeoutError,
)
from knnstore.remote import may_not_write

__all__ = ["fewer", "map_error", "refused_by_limits", "replicas_missing", "retriable"]

_PASSING = {429, 502, 503, 504, "connection", "away"}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL = re.compile(
    r"no space left|not enough space|out of disk|disk (is )?full|available disk space|quota exceeded", re.IGNORECASE
)
_CORRUPT = re.compile(r"corrupt|checksum|failed to (load|read|deserialize)|cannot deserialize", re.IGNORECASE)
_AWAY = re.compile(
    r"read operations? failed|(enough|no) active replica|no leader could be selected|via leader peer"
    r"|shards failed to apply|(currently|temporarily) unavailable",
    re.IGNORECASE,
)
"""What a cluster says, as an internal error, while one of its nodes is away."""
_FEWER = re.compile(r"read operations? failed|enough active replicas", re.IGNORECASE)
_BROKEN = re.compile(r"stream removed|rst_stream|goaway|connection (reset|closed)", re.IGNORECASE)
"""What gRPC says, as an internal or unknown error, where a connection broke in the middle of an answer."""
_READ_ONLY = re.compile(r"(write|manage) access .*required", re.IGNORECASE)
_MOST = 400

_NODE = "A node of the cluster is away or starting; try again, or look at its state: GET /cluster on the server."
_REACH = "Check that the server runs, and the host, the port (6334 for gRPC, 6333 for HTTP) and tls of the URL."
_SLOW = "Raise ?timeout= (seconds), ask for less at once, or look at the server's load."
_KEY = "Check the API key (api_key_env= or api_key_file= in the URL) and what it may do."
_LARGE = "Lower ?batch_bytes=, or raise max_request_size_mb on the server."
_SPACE = "Free some space; nothing of this request was written."


def map_error(error: Exception, where: str) -> KnnStoreError | None:
    """The error of knnstore that says what ``error`` means for a caller; None where nothing better is known.

    Args:
        error: what was raised.
        where: the store, for the message.
    """
    status, text = _status(error), _text(error)
    what = f"{where}: {text}"
    if _FULL.search(text) or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        return StoreFullError(what, hint=_SPACE)
    if status is not None:
        return _by_status(status, what)
    if isinstance(error, OSError):
        return BackendError(what, hint="Check the folder and its permissions.")
    if "WouldBlock" in text:
        return StoreBusyError(what, hint="Another process has this folder open.")
    if type(error) is Exception and _CORRUPT.search(text):  # the class of everything that the edge engine raises
        return StoreCorruptError(what, hint="Restore the folder from a backup.")
    return None


def _by_status(status: int | str, what: str) -> KnnStoreError:
    if status == "away":
        return StoreConnectionError(what, hint=_NODE)
    if status in ("connection", 502, 503, 429):
        return StoreConnectionError(what, hint=_REACH if status == "connection" else "The server is busy; try later.")
    if status in ("timeout", 408, 504):
        return StoreTimeoutError(what, hint=_SLOW)
    if status == 403 and _READ_ONLY.search(what):
        return may_not_write(what, "api_key_env= or api_key_file=")
    if status in (401, 403):
        return StoreAuthenticationError(what, hint=_KEY)
    if status == 404:
        return StoreNotFoundError(what, hint="The collection has been deleted, or the alias points elsewhere.")
    if status == 413:
        return BackendError(what, hint=_LARGE)
    return BackendError(what)


def retriable(error: Exception) -> bool:
    """Whether another try may succeed: the server or a node was not there, hung up, or said that it is busy."""
    return _status(error) in _PASSING


def replicas_missing(error: Exception) -> bool:
    """Whether a read failed since fewer replicas are there than it asked for."""
    return _status(error) == "away" and _FEWER.search(_text(error)) is not None


_LIMIT = re.compile(r"(?:Limit exceeded |Condition size limit reached \()\d+ > (\d+)")
_DISABLED = re.compile(r"Limit exceeded|Exact search disabled", re.IGNORECASE)


def fewer(error: Exception, count: int) -> int:
    """How many things to ask for, or to send, where ``count`` were too many for a server in strict mode.

    Raises:
        Exception: ``error`` itself, where it says nothing of the kind.
    """
    told = _LIMIT.search(_text(error)) if _status(error) == 400 else None
    if told is None or not 0 < int(told[1]) < count:
        raise error
    return int(told[1])


def refused_by_limits(error: Exception) -> bool:
    """Whether a server in strict mode does not answer such questions, which a scan can answer too."""
    return _status(error) == 400 and _DISABLED.search(_text(error)) is not None


# The client's modules are asked for only if they are loaded: an error of theirs cannot come from anywhere else.


def _status(error: Exception) -> int | str | None:
    """An HTTP status, "connection", "away" or "timeout"; None for everything else."""
    name = type(error).__name__
    if name == "ResourceExhaustedResponse":
        return 429
    if name == "UnexpectedResponse":
        status = getattr(error, "status_code", None)
        return "away" if status == 500 and _AWAY.search(_text(error)) else status
    if name == "ResponseHandlingException":
        source = getattr(error, "source", None)
        return _status(source) if isinstance(source, Exception) else None
    if (grpc := sys.modules.get("grpc")) is not None and isinstance(error, grpc.RpcError):
        return _grpc_status(error)
    if (httpx := sys.modules.get("httpx")) is not None:
        if isinstance(error, httpx.TimeoutException):
            return "timeout"
        if isinstance(error, httpx.TransportError):
            return "connection"
    return None


_GRPC: dict[str, int | str] = {
    "UNAVAILABLE": "connection",
    "DEADLINE_EXCEEDED": "timeout",
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "CANCELLED": "connection",
}


def _grpc_status(error: Any) -> int | str:
    code = error.code() if callable(getattr(error, "code", None)) else None
    name = getattr(code, "name", "")
    if name in ("INTERNAL", "UNKNOWN"):
        text = _text(error)
        return "connection" if _BROKEN.search(text) else "away" if _AWAY.search(text) else 500
    return _GRPC.get(name, 400)


def _text(error: Exception) -> str:
    """The message in a line, without the megabytes that some carry."""
    source = getattr(error, "source", None)
    if isinstance(source, Exception):
        return _text(source)
    details = getattr(error, "details", None)
    if callable(details) and callable(getattr(error, "code", None)):
        text = f"{getattr(error.code(), 'name', '')}: {details()}"  # type: ignore[attr-defined]  # a grpc.RpcError
    elif isinstance(content := getattr(error, "content", None), bytes):
        text = f"HTTP {getattr(error, 'status_code', '')}: {_sentence(content)}"
    else:
        text = str(error) or type(error).__name__
    text = " ".join(text.split())
    if len(text) <= _MOST:
        return text
    return f"{text[:_MOST].rpartition(' ')[0]}…"  # between words: half of a key would not be known for one


def _sentence(content: bytes) -> str:
    """What the server says in the body of an error; the body itself, where a proxy has answered in its place."""
    text = content[: 64 * _MOST].decode(errors="replace")
    try:
        status = json.loads(text)["status"]
        return str(status["error"] if isinstance(status, dict) else status)
    except (ValueError, LookupError, TypeError):
        return text or "no text"
