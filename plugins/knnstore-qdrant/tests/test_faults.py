"""What a network does to the client, at the network level: refused, hung and cut connections before the bridge."""

import pytest

from knnstore.testing.faults import NetworkFaultTests
from knnstore.testing.proxy import FaultProxy


class Cutting(NetworkFaultTests):
    """An answer over gRPC may be shorter than the 100 bytes after which the proxy cuts."""

    @pytest.fixture
    def proxy(self, shared_bridge, store_url):
        with FaultProxy("127.0.0.1", shared_bridge.ports["http" if "transport=http" in store_url else "grpc"]) as proxy:
            proxy.cut_after = 20
            yield proxy


@pytest.mark.slow
class TestGrpc(Cutting):
    @pytest.fixture
    def store_url(self, shared_bridge, numbers):
        return shared_bridge.url(f"faults/{next(numbers)}", exact=1)


@pytest.mark.slow
class TestHttp(Cutting):
    @pytest.fixture
    def store_url(self, shared_bridge, numbers):
        return shared_bridge.url(f"faults/{next(numbers)}", transport="http", exact=1)
