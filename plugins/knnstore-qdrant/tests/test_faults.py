"""What a network does to the client, at the network level: refused, hung and cut connections before the bridge."""

import pytest

from knnstore.testing.faults import NetworkFaultTests, ServerFaultTests


@pytest.mark.slow
class TestGrpc(NetworkFaultTests):
    @pytest.fixture
    def store_url(self, shared_bridge, numbers):
        return shared_bridge.url(f"faults/{next(numbers)}", exact=1)


@pytest.mark.slow
class TestHttp(NetworkFaultTests):
    @pytest.fixture
    def store_url(self, shared_bridge, numbers):
        return shared_bridge.url(f"faults/{next(numbers)}", transport="http", exact=1)


class KeptBridge:
    """A bridge that keeps its collections in a folder, with the face of a server program."""

    def __init__(self, bridge, transport):
        self._bridge = bridge
        self.url = f"qdrant://127.0.0.1:{self._bridge.ports[transport]}"

    @property
    def process_id(self):
        return self._bridge.process.pid if self._bridge.process.poll() is None else None

    def start(self):
        self._bridge.start()

    def kill(self):
        if self.process_id is not None:
            self._bridge.kill()


class KilledTests(ServerFaultTests):
    """Against the bridge; ``test_server.py`` has the same for the real program."""

    transport = "grpc"

    @pytest.fixture(scope="class")
    @classmethod
    def program(cls, new_bridge, tmp_path_factory):
        program = KeptBridge(new_bridge(folder=str(tmp_path_factory.mktemp("kept"))), cls.transport)
        yield program
        program.kill()

    @pytest.fixture
    def store_url(self, program, request):
        return f"{program.url}/{request.node.name}?transport={self.transport}&exact=1"


@pytest.mark.slow
class TestKilledGrpc(KilledTests):
    pass


@pytest.mark.slow
class TestKilledHttp(KilledTests):
    transport = "http"
