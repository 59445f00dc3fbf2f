"""A server that cannot be talked to may still tell why: another transport, TLS, or another engine at that port."""

from __future__ import annotations

from typing import Any

from knnstore.errors import BackendError, KnnStoreError, StoreConnectionError, StoreTimeoutError
from knnstore.probe import spoken_at, tls_hint
from knnstore.url import StoreURL
from knnstore_qdrant.errors import map_error
from knnstore_qdrant.options import PORTS, ServerOptions, read

__all__ = ["explained"]

_TRANSPORT = {
    "http": f"This port speaks HTTP: use port {PORTS['grpc']}, or transport=http.",
    "grpc": f"This port speaks gRPC: leave transport=http out, or use port {PORTS['http']}.",
}
_ENGINE = "is no Qdrant of 1.16 or later. Milvus (port 19530) is milvus://host:19530/default/name."


def explained(error: Exception, url: StoreURL) -> KnnStoreError | None:
    """The error of knnstore for what the client has raised while opening ``url``; asks the port where that may help."""
    mapped = map_error(error, str(url))
    options = read(url)
    if not isinstance(options, ServerOptions):
        return mapped
    if isinstance(mapped, StoreConnectionError | StoreTimeoutError):
        hint = _heard(url, options)
        return type(mapped)(mapped.what, hint=hint) if hint else mapped
    if _is_foreign(error):
        return BackendError(f"{url}: {type(error).__name__}", hint=f"What answers at this port {_ENGINE}")
    return mapped


def _heard(url: StoreURL, options: ServerOptions) -> str:
    spoken = spoken_at(url.host, url.port or PORTS[options.transport])
    if spoken is None:
        return ""
    other = spoken.protocol and spoken.protocol != options.transport
    return " ".join(filter(None, [tls_hint(spoken, tls=options.tls), _TRANSPORT[spoken.protocol] if other else ""]))


def _is_foreign(error: Any) -> bool:
    """Whether another server has answered: without Qdrant's calls, or with something that Qdrant never says."""
    code = error.code() if callable(getattr(error, "code", None)) else None
    if getattr(code, "name", "") == "UNIMPLEMENTED" or getattr(error, "status_code", None) in (404, 405):
        return True
    return type(error).__name__ == "ResponseHandlingException" and isinstance(
        getattr(error, "source", None), ValueError
    )
