"""What every group of checks shares: the one fixture that an author gives, opening, and declared gaps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from knnstore._plugins import open_store
from knnstore.abc import EmbeddingStore
from knnstore.testing._data import make_spec
from knnstore.types import StoreSpec
from knnstore.url import StoreURL

__all__ = ["KitBase", "Opener"]


class Opener:
    """Opens stores at the author's URL and closes them when the check ends."""

    def __init__(self, url: str | StoreURL) -> None:
        self.url = StoreURL.parse(url)
        self._stores: list[EmbeddingStore] = []

    def __call__(self, spec: StoreSpec | None = None, *, at: str = "", **options: Any) -> EmbeddingStore:
        """Open the URL, or its child ``at``; ``options`` go to :func:`knnstore.open_store`."""
        store = open_store(self.url.child(at) if at else self.url, spec, **options)
        self._stores.append(store)
        return store

    def close_all(self) -> None:
        """Close everything opened so far."""
        while self._stores:
            self._stores.pop().close()

    def reopen(self, spec: StoreSpec | None = None, **options: Any) -> EmbeddingStore:
        """Close everything, then open the URL again: what is seen now has been stored."""
        self.close_all()
        return self(spec, **options)


class KitBase:
    """Fixtures. See :class:`knnstore.testing.StoreTests`."""

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Known gaps: the name of a check, or of one of its cases (``"test_x[case]"``), and the reason."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = [name for name in cls.expected_failures if not hasattr(cls, name.partition("[")[0])]
        if unknown:
            raise TypeError(f"{cls.__name__}.expected_failures names no check of the kit: {unknown}")

    @pytest.fixture(autouse=True)
    def _declared_gap(self, request: pytest.FixtureRequest) -> None:
        """Turn a declared gap into a strict xfail: it runs, and it is an error if it passes after all."""
        name = request.node.name
        reason = self.expected_failures.get(name) or self.expected_failures.get(name.partition("[")[0])
        if reason:
            request.node.add_marker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def store_url(self) -> str:
        """A fresh URL where nothing is stored, for each check. An author overrides it."""
        raise NotImplementedError("a subclass of StoreTests needs a fixture `store_url` that returns a fresh URL")

    @pytest.fixture
    def opener(self, store_url: str) -> Iterator[Opener]:
        """Opens stores at ``store_url``."""
        opener = Opener(store_url)
        yield opener
        opener.close_all()

    @pytest.fixture
    def store(self, opener: Opener) -> EmbeddingStore:
        """An empty store under cosine with a field of each type."""
        return opener(make_spec())
