"""knnstore-faiss: the embedded store. Importing it imports neither FAISS nor SQLite; opening a store does."""

from __future__ import annotations

from knnstore.abc import LateBackend
from knnstore.errors import KnnStoreError
from knnstore.hookspecs import Register, hookimpl
from knnstore.url import StoreURL

__all__ = ["FaissBackend", "knnstore_register"]


class FaissBackend(LateBackend):
    """Collections as folders on this machine."""

    name = "faiss"
    summary = "a folder on this machine, no server; exact or any FAISS index, safe against crashes"
    module = "knnstore_faiss.opening"

    def map_error(self, error: Exception, url: StoreURL) -> KnnStoreError | None:
        from knnstore_faiss.errors import map_error

        return map_error(error, str(url))


@hookimpl
def knnstore_register(register: Register) -> None:
    """Register the embedded store."""
    register(FaissBackend())
