"""The conformance kit, for the exact index and for approximate ones."""

from urllib.parse import quote

import pytest

from knnstore.testing import StoreTests


class TestFlat(StoreTests):
    @pytest.fixture
    def store_url(self, tmp_path):
        return f"faiss://{quote(str(tmp_path))}/störe one"


@pytest.mark.slow
@pytest.mark.usefixtures("eager")
class TestHNSW(StoreTests):
    @pytest.fixture
    def store_url(self, tmp_path):
        return f"faiss://{quote(str(tmp_path))}/store?index=HNSW16"


@pytest.mark.usefixtures("eager")
class TestTrained(StoreTests):
    """Trained early, so that most checks run against the trained index."""

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"faiss://{quote(str(tmp_path))}/store?index=IVF4,SQ8&train_at=20"
