"""The client's local mode, only for trying the API: the kit, and the warning."""

from urllib.parse import quote

import pytest
from knnstore.testing import StoreTests

from knnstore_qdrant.local import SlowLocalModeWarning


class TestLocal(StoreTests):
    expected_failures = {
        "test_filter[str-lt]": "Qdrant does not order text",
        "test_filter[str-ge]": "Qdrant does not order text",
    }

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"qdrant+local://{quote(str(tmp_path))}/störe one"
