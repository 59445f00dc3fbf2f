"""What Milvus and gRPC raise, as errors of knnstore. Codes are those of Milvus's ``merr`` package since 2.3."""

from __future__ import annotations

import re

import grpc
from pymilvus.exceptions import MilvusException

from knnstore.errors import (
    BackendError,
    KnnStoreError,
    StoreAuthenticationError,
    StoreClosedError,
    StoreConnectionError,
    StoreFullError,
    StoreNotFoundError,
    StoreTimeoutError,
)
from knnstore.remote import may_not_write

__all__ = ["is_missing", "is_too_large", "map_error", "retriable"]

_NOT_READY = {1, 2, 4, 101, 103, 106, 201, 202, 400, 401, 500, 501, 503, 600, 601, 602, 901, 902, 903}
"""Starting, too busy, or just being loaded: service, collection, replica, node, channel, segment not ready."""
_LOST_A_PART = ("InvalidateCollectionMetaCache failed", "empty grpc client")
_OUT_OF_TIME = ("context Done", "context deadline exceeded")
"""The server noticed the deadline of a request before the client did; there is no code for it either."""
_RATE_LIMIT = {8}
_FULL = {3, 7, 9, 12}
"""Memory or disk of the server exhausted, or its quota; writes are denied until there is room."""
_MISSING_COLLECTION = {100}
_MISSING_DATABASE = {800}
_NO_DATABASE = re.compile(r"database:? ?\S* not found")
_DENIED = {1400, 1401, 1402}
_PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED}
_LATE = {grpc.StatusCode.DEADLINE_EXCEEDED}
_WRITING = re.compile(r"Privilege(Insert|Upsert|Delete|Create\w*|Alter\w*)\b")
"""What a user lacks, in the server's words, who may read and not write."""
_RIGHTS = "Upsert, Delete and, for revision(), the right to alter a collection (CreateCollection on 2.3)"
_WHO = "user and password_env=, or token_env="
_UNASKED = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
_TOO_LARGE = ("larger than max", "exceeds the maximum", "max output size", "maxoutputsize", "exceed the limit size")
_UNKNOWN = (
    "Is this the gRPC port of a Milvus server (19530), of 2.3 or later? Qdrant (port 6334) is qdrant://host/name."
)
_SLOW = "The server did not answer in time; raise ?timeout= (seconds) or check it."
_AGAIN = "Check that the server runs and is reachable, then repeat the call; repeating an upsert does no harm."


def retriable(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, MilvusException):
        return _not_ready(error) or error.code in _RATE_LIMIT or (bool(error.retriable) and error.code not in _FULL)
    return isinstance(error, grpc.RpcError) and _code(error) in _PASSING


def _not_ready(error: MilvusException) -> bool:
    """Starting or ending, or still looking for a part of itself that was killed: for some of that there is no code."""
    return error.code in _NOT_READY or any(words in error.message for words in _LOST_A_PART)


def is_missing(error: Exception) -> bool:
    """Whether there is no such collection."""
    return isinstance(error, MilvusException) and (
        error.code in _MISSING_COLLECTION or "collection not found" in error.message
    )


def is_too_large(error: Exception) -> bool:
    """Whether the answer or the request was larger than the server or the client takes; half of it may fit."""
    if isinstance(error, grpc.RpcError):
        return _code(error) == grpc.StatusCode.RESOURCE_EXHAUSTED
    return isinstance(error, MilvusException) and any(words in error.message.lower() for words in _TOO_LARGE)


def map_error(error: Exception, where: str) -> KnnStoreError | None:
    """The error of knnstore that says what ``error`` means for a caller; None where nothing better is known.

    Args:
        error: what was raised.
        where: the store, for the message.
    """
    if isinstance(error, grpc.RpcError):
        return _grpc_error(error, where)
    if isinstance(error, MilvusException):
        return _milvus_error(error, where)
    if isinstance(error, ValueError) and "closed channel" in str(error):
        return StoreClosedError(f"{where} was closed while it was in use")
    return None


def _code(error: grpc.RpcError) -> grpc.StatusCode | None:
    code = getattr(error, "code", None)
    return code() if callable(code) else None


def _details(error: grpc.RpcError) -> str:
    details = getattr(error, "details", None)
    return (details() if callable(details) else "") or type(error).__name__


def _grpc_error(error: grpc.RpcError, where: str) -> KnnStoreError:
    code, text = _code(error), f"{where}: {_details(error)}"
    if code in _LATE:
        return StoreTimeoutError(text, hint=_SLOW)
    if code in _UNASKED:
        return _denied(text)
    if code == grpc.StatusCode.CANCELLED:
        return StoreClosedError(f"{where} was closed while it was in use")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return BackendError(
            text, hint="Is this the gRPC port of a Milvus server (19530), of 2.3 or later? Qdrant (6334) is qdrant://…."
        )
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return BackendError(
            text, hint="The message is too large; lower ?batch_bytes= or ask for fewer records at once."
        )
    if code in _PASSING or (code == grpc.StatusCode.UNKNOWN and "Socket closed" in text):
        return StoreConnectionError(text, hint=_AGAIN)
    return BackendError(f"{text} ({code.name if code else 'gRPC'})")


def _milvus_error(error: MilvusException, where: str) -> KnnStoreError:
    text = f"{where}: {error.message} (code {error.code})"
    if error.code in _MISSING_DATABASE or _NO_DATABASE.search(error.message):
        return StoreNotFoundError(
            text, hint="Create the database first; an administrator can, with MilvusClient.create_database."
        )
    if error.code in _DENIED or "auth check failure" in error.message or "permission deny" in error.message:
        return _denied(text)
    if is_missing(error):
        return StoreNotFoundError(text, hint="It may have been dropped by someone else.")
    if error.code in _FULL or "no space left" in error.message:
        return StoreFullError(text, hint="The server is out of memory, disk or quota; make room and repeat the call.")
    if error.code in _RATE_LIMIT:
        return StoreTimeoutError(text, hint="The server limits the rate; wait, or raise ?timeout= and ?retries=.")
    if any(words in error.message for words in _OUT_OF_TIME):
        return StoreTimeoutError(text, hint=_SLOW)
    if _not_ready(error):
        return StoreConnectionError(text, hint="The server is starting, or a node of it is down. " + _AGAIN)
    return BackendError(text)


def _denied(text: str) -> KnnStoreError:
    if lacks := _WRITING.search(text):
        return may_not_write(text, _WHO, f"one that may not, without {lacks[0]}; writing takes {_RIGHTS}")
    return StoreAuthenticationError(
        f"access denied: {text}", hint="Check user and password or token (?password_env=, ?token_env=) and its rights."
    )
