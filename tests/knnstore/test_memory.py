"""The memory backend against the kit, and what is its own."""

from __future__ import annotations

import itertools

import pytest

from knnstore.testing import StoreTests

_numbers = itertools.count()


class TestMemory(StoreTests):
    @pytest.fixture
    def store_url(self) -> str:
        return f"memory:///kit/{next(_numbers)}"
