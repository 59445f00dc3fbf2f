"""The kit over real gRPC and HTTP, against the bridge; see ``bridge.py`` for what that proves."""

import pytest

import knnstore
from knnstore import StoreSpec
from knnstore.testing import StoreTests


@pytest.fixture(scope="module")
def bridge(new_bridge, collections_on):
    """In the end nothing is on it: a real server drowns in what checks leave behind, also those that fail."""
    bridge = new_bridge()
    yield bridge
    left = collections_on(bridge.server())
    bridge.kill()
    assert left == []


@pytest.fixture
def place(bridge, places_on):
    with places_on(bridge.server()) as make:
        yield make


def test_what_a_check_makes_is_removed_also_if_it_fails(bridge, places_on, collections_on):
    with pytest.raises(ZeroDivisionError), places_on(bridge.server("http")) as make:
        for path in ("", "/störe one", "/deeper/down", "/" + "x" * 300):
            knnstore.open_store(make(path), StoreSpec(2)).close()
        assert len(collections_on(bridge.server())) == 4
        raise ZeroDivisionError
    assert collections_on(bridge.server()) == []


@pytest.mark.slow
class TestGrpc(StoreTests):
    machine_examples = 10

    @pytest.fixture
    def store_url(self, place):
        return place("/störe one", exact=1)


# Closed while it connects, httpx leaves that one socket to the garbage collector, and there is no way to reach it.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
class TestHttp(StoreTests):
    machine_examples = 10

    @pytest.fixture
    def store_url(self, bridge, places_on):
        with places_on(bridge.server("http")) as make:
            yield make("/störe one", exact=1)
