"""The conformance kit, on a real server and on milvus-lite."""

import uuid

import pytest
from pymilvus import MilvusClient

from knnstore.testing import StoreTests


@pytest.fixture
def place(milvus_url):
    name = f"kit_{uuid.uuid4().hex[:10]}"
    yield f"{milvus_url}/default/{name}"
    client = MilvusClient(milvus_url.replace("milvus://", "http://"))
    for collection in client.list_collections():
        if collection.startswith(name):
            client.drop_collection(collection)
    client.close()


class TestMilvusFlat(StoreTests):
    machine_examples = 5

    @pytest.fixture
    def store_url(self, place):
        return f"{place}?index=FLAT"
