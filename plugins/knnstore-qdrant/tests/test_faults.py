"""What a network does to the client, at the network level: refused, hung and cut connections before the bridge."""

import pytest

from knnstore.testing.faults import NetworkFaultTests


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
