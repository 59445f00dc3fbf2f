"""Qdrant's own engine in process: the conformance kit, exact and through its graph."""

from urllib.parse import quote

import pytest
from knnstore.testing import StoreTests

NO_TEXT_ORDER = {
    "test_filter[str-lt]": "Qdrant does not order text",
    "test_filter[str-ge]": "Qdrant does not order text",
}


class TestExact(StoreTests):
    expected_failures = NO_TEXT_ORDER

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"qdrant+edge://{quote(str(tmp_path))}/störe one?exact=1"
