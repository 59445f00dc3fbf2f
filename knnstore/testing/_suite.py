"""What :func:`knnstore.testing.live.check_store` runs: the kit, at the place that its plugin hands out."""

from __future__ import annotations

from typing import cast

import pytest

from knnstore.testing import StoreTests
from knnstore.url import StoreURL

__all__ = ["TestStore"]


class TestStore(StoreTests):
    """Every check of the kit."""

    @pytest.fixture
    def store_url(self, live_location: StoreURL) -> str:
        # Not as text, which would lose the password; whoever opens stores takes both.
        return cast("str", live_location)
