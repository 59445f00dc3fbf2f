"""A server that cannot be talked to may still tell why: HTTP, TLS, or another engine at that port."""

from __future__ import annotations

from knnstore.errors import KnnStoreError, StoreConnectionError, StoreTimeoutError
from knnstore.probe import spoken_at, tls_hint
from knnstore.url import StoreURL
from knnstore_milvus.errors import map_error
from knnstore_milvus.options import PORT, Options

__all__ = ["explained"]

_HTTP = f"This port speaks HTTP: Milvus takes gRPC at port {PORT}. Qdrant (port 6333) is qdrant://…?transport=http."


def explained(error: Exception, url: StoreURL) -> KnnStoreError | None:
    """The error of knnstore for what was raised while opening ``url``; asks the port where that may help."""
    mapped = map_error(error, str(url))
    if url.variant or not isinstance(mapped, StoreConnectionError | StoreTimeoutError):
        return mapped
    spoken = spoken_at(url.host, url.port or PORT)
    if spoken is None:
        return mapped
    encrypted = Options.parse(url).credentials(url).tls
    hint = " ".join(filter(None, [tls_hint(spoken, tls=encrypted), _HTTP if spoken.protocol == "http" else ""]))
    return type(mapped)(mapped.what, hint=hint) if hint else mapped
