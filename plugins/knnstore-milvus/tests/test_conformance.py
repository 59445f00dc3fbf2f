"""The conformance kit, on a real server and on milvus-lite."""

import pytest

from knnstore.testing import StoreTests


@pytest.mark.server
class TestMilvusFlat(StoreTests):
    machine_examples = 5

    @pytest.fixture
    def store_url(self, place):
        return place(index="FLAT")


@pytest.mark.server
class TestMilvusIndexed(StoreTests):
    """An approximate index, two shards and a path that is no identifier: the checks that these may change."""

    machine_examples = 3

    @pytest.fixture
    def store_url(self, place):
        return place("/a place/ünd more", index="HNSW", m=8, ef_construction=64, ef=100, shards=2)


for _name in dir(StoreTests):
    _kept = ("test_scores", "test_many", "test_any_sequence", "test_reopen", "test_children", "test_collections",
             "test_fewer", "test_consistency", "test_every_bit", "test_search", "test_scan_beyond", "test_the_filter")  # fmt: skip
    if _name.startswith("test_") and not _name.startswith(_kept):
        setattr(TestMilvusIndexed, _name, None)


class TestMilvusLite(StoreTests):
    machine_examples = 5

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"milvus+lite://{tmp_path}/lite.db/kit"
