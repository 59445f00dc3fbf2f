"""knnstore: one embedding store in front of several engines.

>>> import numpy as np, knnstore
>>> spec = knnstore.StoreSpec(dim=3, fields={"label": str})
>>> store = knnstore.open_store("memory:///doc", spec=spec)
>>> store.upsert(["a", "b"], np.eye(2, 3, dtype=np.float32), {"label": ["kettle", "zebra"]})
2
>>> hits = store.search(np.array([[0.9, 0.1, 0]], np.float32), k=1, fields=["label"])
>>> hits.ids[0, 0], hits.fields["label"][0, 0]
('a', 'kettle')
"""

from knnstore._plugins import BackendInfo, backends, collections, drop_store, get_backend, open_store, ping, register
from knnstore.abc import Backend, EmbeddingStore, OpenRequest
from knnstore.errors import KnnStoreError
from knnstore.filter_text import parse_filter
from knnstore.filters import F, Filter
from knnstore.hookspecs import hookimpl
from knnstore.transfer import CopyReport, ExportReport, content_checksum, copy_store, export_parquet, import_parquet
from knnstore.types import Capabilities, EmbeddingSpace, Hits, Records, StoreSpec, StoreStats, VectorRecords
from knnstore.url import Secret, StoreURL

__all__ = [
    "Backend",
    "BackendInfo",
    "Capabilities",
    "CopyReport",
    "EmbeddingSpace",
    "EmbeddingStore",
    "ExportReport",
    "F",
    "Filter",
    "Hits",
    "KnnStoreError",
    "OpenRequest",
    "Records",
    "Secret",
    "StoreSpec",
    "StoreStats",
    "StoreURL",
    "VectorRecords",
    "backends",
    "collections",
    "content_checksum",
    "copy_store",
    "drop_store",
    "export_parquet",
    "get_backend",
    "hookimpl",
    "import_parquet",
    "open_store",
    "parse_filter",
    "ping",
    "register",
]
