"""A real server, where one can be had: the kit over gRPC, and what a network and a killed server do.

Skipped, visibly, where there is none; ``KNNSTORE_REQUIRE=qdrant`` makes that a failure.
"""

import uuid

import pytest

from knnstore.testing import StoreTests
from knnstore.testing.faults import NetworkFaultTests, ServerFaultTests
from knnstore.testing.servers import QdrantProgram, ServerNotFound, below


@pytest.mark.server
class TestServer(StoreTests):
    @pytest.fixture
    def store_url(self, qdrant_url):
        return below(qdrant_url, f"kit/störe {uuid.uuid4().hex}", exact=1)


@pytest.mark.server
class TestNetwork(NetworkFaultTests):
    @pytest.fixture
    def store_url(self, qdrant_url):
        return below(qdrant_url, f"faults/{uuid.uuid4().hex}", exact=1)


@pytest.mark.server
class TestKilled(ServerFaultTests):
    @pytest.fixture(scope="class")
    def program(self, tmp_path_factory, qdrant_url):  # qdrant_url skips or fails where there is no server at all
        try:
            program = QdrantProgram(tmp_path_factory.mktemp("killed"))
        except ServerNotFound as reason:
            pytest.skip(f"killing a server needs its program: {reason}")
        with program:
            yield program
