"""knnstore-qdrant: Qdrant as a server, or in process. Importing it does not import Qdrant's client."""

from __future__ import annotations

from collections.abc import Mapping

from knnstore.abc import LateBackend
from knnstore.errors import KnnStoreError
from knnstore.hookspecs import Register, hookimpl
from knnstore.url import StoreURL

__all__ = ["QdrantBackend", "knnstore_register"]

_EDGE_GAPS = {"test_searching_in_a_forked_process": "the engine's threads do not survive a fork: StoreBusyError"}


class QdrantBackend(LateBackend):
    """Collections of a Qdrant server, or folders on this machine (``qdrant+edge``)."""

    name = "qdrant"
    summary = "a Qdrant server or cluster, or Qdrant's engine in process (qdrant+edge)"
    module = "knnstore_qdrant.opening"

    def gaps(self, url: StoreURL) -> Mapping[str, str]:
        return _EDGE_GAPS if url.variant == "edge" else {}

    def map_error(self, error: Exception, url: StoreURL) -> KnnStoreError | None:
        from knnstore_qdrant.wrong_port import explained

        return explained(error, url)


@hookimpl
def knnstore_register(register: Register) -> None:
    """Register the Qdrant backend."""
    register(QdrantBackend())
