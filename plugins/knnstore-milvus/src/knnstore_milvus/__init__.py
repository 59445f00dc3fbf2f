"""knnstore-milvus: collections on a Milvus server. Importing it does not import pymilvus; opening a store does."""

from __future__ import annotations

from knnstore.abc import LateBackend
from knnstore.errors import KnnStoreError
from knnstore.hookspecs import Register, hookimpl
from knnstore.url import StoreURL

__all__ = ["MilvusBackend", "knnstore_register"]


class MilvusBackend(LateBackend):
    """Collections on a Milvus server, or in a file of milvus-lite."""

    name = "milvus"
    summary = "a Milvus server, standalone or cluster; milvus+lite: a folder of milvus-lite, to try it out"
    module = "knnstore_milvus.opening"

    def map_error(self, error: Exception, url: StoreURL) -> KnnStoreError | None:
        if isinstance(error, ImportError):
            return None  # the client is missing, which the next line would only find out again

        from knnstore_milvus.wrong_port import explained

        return explained(error, url)


@hookimpl
def knnstore_register(register: Register) -> None:
    """Register Milvus."""
    register(MilvusBackend())
