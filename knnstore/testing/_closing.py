"""Checks of closing a store while other threads use it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import pytest

from knnstore.abc import EmbeddingStore
from knnstore.errors import StoreClosedError
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener
from knnstore.testing._data import make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_content

__all__ = ["ClosingChecks"]

_SECONDS = 60

_CALLS: Mapping[str, Callable[[EmbeddingStore], object]] = {
    "search": lambda store: store.search(make_queries(20), 5, fields=["label"]),
    "scan": lambda store: list(store.scan(with_vectors=True, batch_size=100)),
    "get": lambda store: store.get([f"r{i}" for i in range(300)]),
    "count": lambda store: (store.count(F("area") > 10), store.count_by("label")),
    "upsert": lambda store: make_sample(300).write(store),
    "optimize": lambda store: store.optimize(),
}


class ClosingChecks(KitBase):
    """``close()`` succeeds whatever else is going on, and every other thread hears that the store is closed."""

    rule = "6, close() succeeds whatever else is going on, and ends it"

    @pytest.mark.parametrize("call", _CALLS)
    def test_closing_while_in_use(self, opener: Opener, call: str) -> None:
        store = opener(make_spec())
        sample = make_sample(300).write(store)
        ended: list[BaseException] = []
        ready = threading.Semaphore(0)

        def use() -> None:
            try:
                while True:
                    _CALLS[call](store)
                    ready.release()
            except BaseException as error:
                ended.append(error)
                ready.release()

        threads = [threading.Thread(target=use, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in threads:
            assert ready.acquire(timeout=_SECONDS), f"{call} does not end"
        assert not ended, f"before the store was closed: {ended[0]!r}"
        store.close()
        for thread in threads:
            thread.join(_SECONDS)
            assert not thread.is_alive(), f"{call} goes on after close()"
        wrong = [error for error in ended if not isinstance(error, StoreClosedError)]
        assert not wrong, f"{call} while the store is closed: expected a StoreClosedError, got {wrong[0]!r}"
        assert_content(opener.reopen(), sample)
