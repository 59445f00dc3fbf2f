"""The kit over real gRPC and HTTP, against the bridge; see ``bridge.py`` for what that proves."""

import pytest

from knnstore.testing import StoreTests


@pytest.mark.slow
class TestGrpc(StoreTests):
    machine_examples = 10

    @pytest.fixture
    def store_url(self, shared_bridge, numbers):
        return shared_bridge.url(f"kit/störe one {next(numbers)}", exact=1)


@pytest.mark.slow
class TestHttp(StoreTests):
    machine_examples = 10

    @pytest.fixture
    def store_url(self, shared_bridge, numbers):
        return shared_bridge.url(f"kit/störe one {next(numbers)}", transport="http", exact=1)
