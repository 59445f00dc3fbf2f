"""A real server, where one can be had: the kit over gRPC, and what a network and a killed server do.

Skipped, visibly, where there is none; ``KNNSTORE_REQUIRE=qdrant`` makes that a failure.
"""

import pytest

from knnstore.testing import StoreTests
from knnstore.testing.faults import NetworkFaultTests, ServerFaultTests
from knnstore.testing.servers import QdrantProgram, ServerNotFound


@pytest.mark.server
class TestServer(StoreTests):
    @pytest.fixture
    def store_url(self, place):
        return place("/störe one", exact=1)


@pytest.mark.server
class TestNetwork(NetworkFaultTests):
    @pytest.fixture
    def store_url(self, place):
        return place("/faults", exact=1)


@pytest.mark.server
class TestKilled(ServerFaultTests):
    @pytest.fixture(scope="class")
    @classmethod
    def program(cls, tmp_path_factory, qdrant_url):  # qdrant_url skips or fails where there is no server at all
        try:
            program = QdrantProgram(tmp_path_factory.mktemp("killed"))
        except ServerNotFound as reason:
            pytest.skip(f"killing a server needs its program: {reason}")
        with program:
            yield program
