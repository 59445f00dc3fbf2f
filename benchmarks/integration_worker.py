"""One contestant of benchmarks/integrations.py: a store of LangChain or LlamaIndex, in an environment without knnseg.

    python integration_worker.py langchain|llamaindex milvus|qdrant|faiss DATA.npz ADDRESS

Loads the data, prints a line, and for every line it reads searches all queries and prints the seconds that it took and
a hash of the labels it got.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NAME = "integrations"


def langchain(
    backend: str, vectors: np.ndarray, labels: list[str], address: str
) -> Callable[[list[float], int], list[str]]:
    from langchain_core.embeddings import Embeddings

    class Known(Embeddings):
        """The embeddings are there already; texts are the numbers of rows."""

        width = vectors.shape[1]

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return vectors[[int(text) for text in texts]].tolist()

        def embed_query(self, text: str) -> list[float]:
            return vectors[int(text)].tolist()

    texts = [str(i) for i in range(len(vectors))]
    metadata = [{"label": label} for label in labels]
    make = {"milvus": langchain_milvus, "qdrant": langchain_qdrant, "faiss": langchain_faiss}[backend]
    store = make(Known(), texts, metadata, address)

    def search(query: list[float], k: int) -> list[str]:
        return [found.metadata["label"] for found, _ in store.similarity_search_with_score_by_vector(query, k=k)]

    return search


def langchain_milvus(known: Any, texts: list[str], metadata: list[dict[str, str]], address: str) -> Any:
    from langchain_milvus import Milvus
    from pymilvus import MilvusClient, connections

    own = MilvusClient.__init__

    def connected(self: MilvusClient, *args: object, **kwargs: object) -> None:
        """langchain-milvus 0.3.3 looks for its client's connection in a list that pymilvus 2.6.17 keeps no more."""
        own(self, *args, **kwargs)
        connections.connect(alias=self._using, uri=f"http://{address}")

    MilvusClient.__init__ = connected
    store = Milvus(
        known, collection_name=f"langchain_{NAME}", connection_args={"uri": f"http://{address}"}, drop_old=True,
        index_params={"index_type": "FLAT", "metric_type": "IP"},
    )  # fmt: skip
    store.add_texts(texts, metadata, ids=texts)
    return store


def langchain_qdrant(known: Any, texts: list[str], metadata: list[dict[str, str]], address: str) -> Any:
    from langchain_qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient, models

    client = qdrant_client(QdrantClient, address)
    client.create_collection(f"langchain_{NAME}", vectors_config=models.VectorParams(size=known.width, distance="Dot"))
    store = QdrantVectorStore(client, f"langchain_{NAME}", known, distance=models.Distance.DOT)
    store.add_texts(texts, metadata, batch_size=1000)
    return store


def langchain_faiss(known: Any, texts: list[str], metadata: list[dict[str, str]], _: str) -> Any:
    from langchain_community.vectorstores import FAISS
    from langchain_community.vectorstores.utils import DistanceStrategy

    return FAISS.from_embeddings(
        list(zip(texts, known.embed_documents(texts), strict=True)), known, metadata,
        distance_strategy=DistanceStrategy.MAX_INNER_PRODUCT,
    )  # fmt: skip


def llamaindex(
    backend: str, vectors: np.ndarray, labels: list[str], address: str
) -> Callable[[list[float], int], list[str]]:
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores.types import VectorStoreQuery

    nodes = [
        TextNode(
            id_=f"00000000-0000-0000-0000-{i:012d}", text=str(i), embedding=row.tolist(), metadata={"label": label}
        )
        for i, (row, label) in enumerate(zip(vectors, labels, strict=True))
    ]
    if backend == "milvus":
        from llama_index.vector_stores.milvus import MilvusVectorStore

        store = MilvusVectorStore(
            uri=f"http://{address}", collection_name=f"llamaindex_{NAME}", dim=vectors.shape[1], overwrite=True,
            similarity_metric="IP", index_config={"index_type": "FLAT"}, use_async_client=False, batch_size=1000,
        )  # fmt: skip
    elif backend == "qdrant":
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from qdrant_client import QdrantClient, models

        client = qdrant_client(QdrantClient, address)
        config = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
        store = QdrantVectorStore(f"llamaindex_{NAME}", client=client, dense_config=config, batch_size=1000)
    else:
        import faiss
        from llama_index.vector_stores.faiss import FaissVectorStore

        store = FaissVectorStore(faiss.IndexFlatIP(vectors.shape[1]))
    store.add(nodes)

    def search(query: list[float], k: int) -> list[str]:
        found = store.query(VectorStoreQuery(query_embedding=query, similarity_top_k=k))
        if found.nodes:
            return [node.metadata["label"] for node in found.nodes]
        return [labels[int(i)] for i in found.ids]  # this one keeps no metadata: the caller has to

    return search


def qdrant_client(kind: type, address: str) -> object:
    return kind(path=address) if address.startswith("/") else kind(url=f"http://{address}", prefer_grpc=True)


def main(library: str, backend: str, data: Path, address: str) -> None:
    file = np.load(data)
    search = {"langchain": langchain, "llamaindex": llamaindex}[library](
        backend, file["vectors"], file["labels"].tolist(), address
    )
    queries = file["queries"].tolist()
    k = int(file["k"])
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        answers = [search(query, k) for query in queries]
        seconds = time.perf_counter() - started
        print(seconds, hashlib.sha256(repr(answers).encode()).hexdigest(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
