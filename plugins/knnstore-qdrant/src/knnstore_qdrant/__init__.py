"""knnstore-qdrant: Qdrant as a server, in process, or for trying out. Importing it does not import Qdrant's client."""

from __future__ import annotations

from collections.abc import Mapping

from knnstore.abc import Backend, EmbeddingStore, OpenRequest
from knnstore.errors import KnnStoreError
from knnstore.hookspecs import Register, hookimpl
from knnstore.url import StoreURL

__all__ = ["QdrantBackend", "knnstore_register"]

_GAPS: dict[str, dict[str, str]] = {
    "edge": {
        "test_searching_in_a_forked_process": "the engine's threads do not survive a fork: StoreBusyError",
    },
    "local": {
        "test_order_of_writing_changes_nothing": "the local mode chooses among equal scores by the order of writing",
        "test_norms_whose_square_overflows[dot]": "the client computes in float32, and NumPy warns of the overflow",
    },
}


class QdrantBackend(Backend):
    """Collections of a Qdrant server, or folders on this machine (``qdrant+edge``, ``qdrant+local``)."""

    name = "qdrant"
    summary = "a Qdrant server or cluster, or Qdrant's engine in process (qdrant+edge)"

    def open(self, request: OpenRequest) -> EmbeddingStore:
        from knnstore_qdrant.opening import open_collection

        return open_collection(request)

    def collections(self, url: StoreURL) -> list[StoreURL]:
        from knnstore_qdrant.opening import collections_at

        return collections_at(url)

    def remove_empty(self, url: StoreURL) -> bool:
        from knnstore_qdrant.opening import remove_at

        return remove_at(url, full=False)

    def drop(self, url: StoreURL) -> bool:
        from knnstore_qdrant.opening import remove_at

        return remove_at(url, full=True)

    def gaps(self, url: StoreURL) -> Mapping[str, str]:
        return _GAPS.get(url.variant, {})

    def map_error(self, error: Exception, url: StoreURL) -> KnnStoreError | None:
        from knnstore_qdrant.wrong_port import explained

        return explained(error, url)


@hookimpl
def knnstore_register(register: Register) -> None:
    """Register the Qdrant backend."""
    register(QdrantBackend())
