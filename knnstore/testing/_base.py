"""What every group of checks shares: the one fixture that an author gives, opening, and declared gaps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from knnstore._plugins import open_store
from knnstore.abc import EmbeddingStore
from knnstore.testing._data import make_spec
from knnstore.types import StoreSpec
from knnstore.url import StoreURL

__all__ = ["KitBase", "Opener", "refused"]

E = TypeVar("E", bound=BaseException)

_CONTRACT = "docs/store/contract.md"
_GUIDE = "docs/store/writing-a-backend.md, What the methods may rely on"


@contextmanager
def refused(error: type[E], doing: str, *, match: str = "") -> Iterator[pytest.ExceptionInfo[E]]:
    """``pytest.raises`` that says what was done, whether nothing was raised or something else.

    Args:
        error: what must be raised.
        doing: what is done, for the message.
        match: of the message, as in ``pytest.raises``.
    """
    __tracebackhide__ = True
    try:
        with pytest.raises(error, match=match or None) as caught:
            yield caught
    except pytest.fail.Exception as missing:
        if not str(missing).startswith("DID NOT RAISE"):
            raise
        raise AssertionError(f"{doing}: expected {error.__name__}, and nothing was raised") from None
    except Exception as other:
        other.add_note(f"{doing}: expected {error.__name__}")
        raise


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


def _explained(check: Callable[..., Any], rule: str) -> Callable[..., Any]:
    """The same check; its failure ends with the rule, what was done, and where to look."""
    done = (inspect.getdoc(check) or check.__name__.removeprefix("test_").replace("_", " ")).partition("\n\n")[0]
    place = f"{Path(inspect.getfile(check)).name}, line {check.__code__.co_firstlineno}"

    @functools.wraps(check)
    def explained(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        try:
            return check(*args, **kwargs)
        except (Exception, pytest.fail.Exception) as error:
            error.add_note(
                f"Rule: {rule} ({_CONTRACT})\nChecked: {' '.join(done.split())}\n"
                f"Look at: {_GUIDE}; the check is in knnstore/testing/{place}"
            )
            raise

    return explained


class KitBase:
    """Fixtures. See :class:`knnstore.testing.StoreTests`."""

    rule: ClassVar[str] = ""
    """What a group of checks of the kit proves; every failure in it says so."""

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Known gaps: the name of a check, or of one of its cases (``"test_x[case]"``), and the reason."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        unknown = [name for name in cls.expected_failures if not hasattr(cls, name.partition("[")[0])]
        if unknown:
            raise TypeError(f"{cls.__name__}.expected_failures names no check of the kit: {unknown}")
        if "rule" in vars(cls):
            for name, check in list(vars(cls).items()):
                if name.startswith("test_"):
                    setattr(cls, name, _explained(check, cls.rule))

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
