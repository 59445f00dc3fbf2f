"""Collections in a real server are dropped after each test, or it would drown in them."""

import os

import pytest


@pytest.fixture(scope="session")
def milvus_url():
    return os.environ["KNNSTORE_MILVUS_URL"]
