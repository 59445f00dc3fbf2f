"""Qdrant's own engine in process: the conformance kit, exact and through its graph."""

from urllib.parse import quote

import pytest
from knnstore_qdrant import QdrantBackend

import knnstore
from knnstore.testing import StoreTests

DECLARED = QdrantBackend().gaps(knnstore.StoreURL.parse("qdrant+edge:///x"))


class TestExact(StoreTests):
    expected_failures = DECLARED

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"qdrant+edge://{quote(str(tmp_path))}/störe one?exact=1"


@pytest.mark.slow
class TestGraph(StoreTests):
    """Through the HNSW graph as soon as the optimiser builds one, with quantised vectors beside it."""

    expected_failures = DECLARED

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"qdrant+edge://{quote(str(tmp_path))}/store?m=8&full_scan_threshold=10&quantization=int8&ef=64"
