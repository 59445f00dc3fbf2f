"""Places on the real server, whose collections are dropped after each test, or it would drown in them."""

import uuid

import pytest
from pymilvus import MilvusClient

from knnstore.testing.servers import below
from knnstore.url import StoreURL


@pytest.fixture
def place(milvus_url):
    """Makes the URL of a place where nothing is stored, with options; what is stored there is dropped in the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield lambda path="", **options: below(milvus_url, f"default/{name}{path}", **options)
    drop(milvus_url, name)


@pytest.fixture
def bare(milvus_url):
    """The official client on the same server."""
    client = MilvusClient(_http(milvus_url))
    yield client
    client.close()


def _http(url):
    parsed = StoreURL.parse(url)
    return f"http://{parsed.host}:{parsed.port}"


def drop(url, prefix):
    client = MilvusClient(_http(url))
    for name in client.list_collections():
        if name.startswith(prefix):
            client.drop_collection(name)
    client.close()
