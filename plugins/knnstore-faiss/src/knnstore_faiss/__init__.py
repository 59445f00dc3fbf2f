"""knnstore-faiss: the embedded store. Importing it imports neither FAISS nor SQLite; opening a store does."""

from __future__ import annotations

from knnstore.abc import Backend, EmbeddingStore, OpenRequest
from knnstore.errors import KnnStoreError
from knnstore.hookspecs import Register, hookimpl
from knnstore.url import StoreURL

__all__ = ["FaissBackend", "knnstore_register"]


class FaissBackend(Backend):
    """Collections as folders on this machine."""

    name = "faiss"
    summary = "a folder on this machine, no server; exact or any FAISS index, safe against crashes"

    def open(self, request: OpenRequest) -> EmbeddingStore:
        from knnstore_faiss.opening import open_folder

        return open_folder(request)

    def collections(self, url: StoreURL) -> list[StoreURL]:
        from knnstore_faiss.opening import collections_in

        return collections_in(url)

    def remove_empty(self, url: StoreURL) -> bool:
        from knnstore_faiss.opening import remove

        return remove(url, full=False)

    def drop(self, url: StoreURL) -> bool:
        from knnstore_faiss.opening import remove

        return remove(url, full=True)

    def map_error(self, error: Exception, url: StoreURL) -> KnnStoreError | None:
        from knnstore_faiss.errors import map_error

        return map_error(error, str(url))


@hookimpl
def knnstore_register(register: Register) -> None:
    """Register the embedded store."""
    register(FaissBackend())
