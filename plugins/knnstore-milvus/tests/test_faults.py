"""Networks that fail and servers that are killed; the checks are those of every backend of a server."""

import uuid

import pytest

from knnstore.testing.faults import NetworkFaultTests, ServerFaultTests
from knnstore.testing.servers import MilvusProgram, below

pytestmark = pytest.mark.server


class TestNetwork(NetworkFaultTests):
    @pytest.fixture
    def store_url(self, place):
        return place(index="FLAT")


class TestServer(ServerFaultTests):
    @pytest.fixture(scope="class")
    @classmethod
    def program(cls, tmp_path_factory):
        with MilvusProgram(tmp_path_factory.mktemp("milvus")) as program:
            yield program

    @pytest.fixture
    def store_url(self, program):
        return below(program.url, f"default/fault_{uuid.uuid4().hex[:8]}", index="FLAT")
