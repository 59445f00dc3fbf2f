"""Checks of what a network and a server do to a store: for backends of servers, beside :class:`StoreTests`.

Two classes, to be subclassed under names that start with ``Test``. They work with real servers, real sockets and real
kills; nothing is mocked. ``store_url`` is a fresh URL at a real server, with host and port, as in the kit::

    from knnstore.testing.faults import NetworkFaultTests, ServerFaultTests

    class TestMyNetwork(NetworkFaultTests):
        @pytest.fixture
        def store_url(self, my_server_url):
            return f"{my_server_url}/test_{uuid.uuid4().hex}"

    class TestMyServer(ServerFaultTests):
        @pytest.fixture(scope="class")
        @classmethod
        def program(cls, tmp_path_factory):
            with MyServerProgram(tmp_path_factory.mktemp("server")) as program:
                yield program

A call that meets a fault must end within its timeout, either well or in a :class:`StoreConnectionError` or
:class:`StoreTimeoutError` that names the URL, without its secrets. What was acknowledged must be there afterwards, and
the same calls made again must leave the same content as if nothing had happened.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import pytest

from knnstore._plugins import open_store
from knnstore.abc import EmbeddingStore
from knnstore.errors import StoreConnectionError, StoreTimeoutError
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener
from knnstore.testing._data import Sample, make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_content
from knnstore.testing.proxy import Fault, FaultProxy
from knnstore.testing.servers import ServerProgram
from knnstore.types import StoreSpec
from knnstore.url import StoreURL

__all__ = ["NetworkFaultTests", "ServerFaultTests"]

T = TypeVar("T")

_CALLS_BEFORE = 3
"""How many calls a server answers before it is killed in the middle of what follows: counted, since nobody knows how
long they take on another machine."""
_FAULTS: tuple[Fault, ...] = ("refuse", "hang", "cut")

_CALLS: Mapping[str, Callable[[EmbeddingStore], object]] = {
    "search": lambda store: store.search(make_queries(3), 5, fields=["label"]),
    "filtered search": lambda store: store.search(make_queries(3), 5, where=F("area") > 10),
    "upsert": lambda store: make_sample(30).write(store),
    "skip": lambda store: store.upsert(**_arguments(make_sample(30)), on_conflict="skip"),
    "delete": lambda store: store.delete(["no such id"]),
    "delete where": lambda store: store.delete(where=F("label") == "no such label"),
    "update": lambda store: store.update({"label": "x"}, ids=["no such id"]),
    "update where": lambda store: store.update({"label": "x"}, where=F("label") == "no such label"),
    "get": lambda store: store.get(["r0", "r1"]),
    "count": lambda store: store.count(F("thing") == True),  # noqa: E712  # builds an expression
    "scan": lambda store: list(store.scan(with_vectors=True)),
    "stats": lambda store: store.stats(),
}
"""Every kind of call, none of which changes what :func:`make_sample` has stored."""


def _arguments(sample: Sample) -> dict[str, Any]:
    """A sample as the arguments of an upsert."""
    return {"ids": sample.ids, "vectors": sample.vectors, "fields": sample.fields}


class _FaultBase(KitBase):
    """How long a call may take, and how its end is judged."""

    timeout: ClassVar[float] = 3.0
    """Seconds that one request may take, in the option ``timeout`` of the URL."""
    requests: ClassVar[int] = 4
    """The most requests that one of the small calls here makes; each may use its timeout up."""
    slack: ClassVar[float] = 3.0
    """Seconds beyond, for a busy machine."""
    options: ClassVar[Mapping[str, str]] = {"retries": "1"}
    """Further options of the URL."""

    def _impatient(self, url: StoreURL) -> StoreURL:
        return replace(url, options={**url.options, **self.options, "timeout": f"{self.timeout:g}"})

    @contextmanager
    def _ends_in_time(self, url: StoreURL, *, may_succeed: bool = False) -> Iterator[list[Exception]]:
        """A call that must end in time and in one of two errors; what it raised is in the list afterwards."""
        raised: list[Exception] = []
        started = time.monotonic()
        try:
            yield raised
        except (StoreConnectionError, StoreTimeoutError) as error:
            raised.append(error)
        took = time.monotonic() - started
        limit = self.timeout * self.requests + self.slack
        assert took < limit, f"took {took:.1f} s; each request may take {self.timeout} s"
        assert raised or may_succeed, "succeeded without a server"
        for caught in raised:
            text = str(caught)
            assert f"{url.host}:{url.port}" in text, f"does not say where: {text}"
            assert len(text) > 40, f"does not say what to do: {text}"
            assert not any(secret in text for secret in url.secrets()), "shows a secret"


class NetworkFaultTests(_FaultBase):
    """A network that refuses, hangs and cuts, between a store and a server that is well."""

    @pytest.fixture
    def proxy(self, store_url: str) -> Iterator[FaultProxy]:
        """Between the store and its server."""
        url = StoreURL.parse(store_url)
        assert url.port is not None, "the fixture store_url needs a port here"
        with FaultProxy(url.host, url.port) as proxy:
            yield proxy

    @pytest.fixture
    def proxied(self, store_url: str, proxy: FaultProxy) -> StoreURL:
        """The same place, through the proxy."""
        url = self._impatient(StoreURL.parse(store_url))
        return replace(url, host="127.0.0.1", port=proxy.port)

    @pytest.fixture
    def patient(self, store_url: str, proxy: FaultProxy) -> StoreURL:
        """The same, with no other options than the author's: those of a user who has set nothing."""
        return replace(StoreURL.parse(store_url), host="127.0.0.1", port=proxy.port)

    @pytest.fixture
    def opener(self, proxied: StoreURL) -> Iterator[Opener]:
        """Opens stores through the proxy."""
        opener = Opener(proxied)
        yield opener
        opener.close_all()

    @pytest.mark.parametrize("fault", _FAULTS)
    def test_opening(self, proxied: StoreURL, proxy: FaultProxy, fault: Fault) -> None:
        proxy.fault = fault
        with self._ends_in_time(proxied):
            open_store(proxied, make_spec())

    @pytest.mark.parametrize("fault", _FAULTS)
    @pytest.mark.parametrize("call", _CALLS)
    def test_a_call(self, opener: Opener, proxy: FaultProxy, call: str, fault: Fault) -> None:
        """It ends in time; once the network is well, the store works on, and holds what it held."""
        store = opener(make_spec())
        sample = make_sample(30).write(store)
        _CALLS[call](store)  # whatever is made at the first call only has been made
        proxy.fault = fault
        with self._ends_in_time(store.url):
            _CALLS[call](store)
        proxy.fault = "none"
        _eventually(lambda: _CALLS[call](store))
        assert_content(store, sample)

    def test_closing(self, opener: Opener, proxy: FaultProxy) -> None:
        """Closing needs nobody's consent."""
        store = opener(make_spec())
        proxy.fault = "hang"
        with self._ends_in_time(store.url, may_succeed=True):
            store.close()

    def test_a_restart_is_survived(self, patient: StoreURL, proxy: FaultProxy) -> None:
        """With the author's own options, a server that is away for five seconds only makes a call slow."""
        with open_store(patient, make_spec()) as store:
            sample = make_sample(30).write(store)
            expected = store.search(make_queries(3), 5)
            for call in (lambda: store.search(make_queries(3), 5), lambda: sample.write(store)):
                proxy.fault = "refuse"
                recovery = threading.Timer(5, lambda: setattr(proxy, "fault", "none"))
                recovery.start()
                call()
                recovery.join()
            assert store.search(make_queries(3), 5).ids.tolist() == expected.ids.tolist()
            assert_content(store, sample)

    def test_an_idle_store_outlives_a_fault(self, patient: StoreURL, proxy: FaultProxy) -> None:
        """What has happened while nobody asked does not matter to the first call after it."""
        with open_store(patient, make_spec()) as store:
            sample = make_sample(30).write(store)
            proxy.fault = "refuse"
            time.sleep(3)
            proxy.fault = "none"
            started = time.monotonic()
            assert store.count() == len(sample)
            assert time.monotonic() - started < self.slack

    @pytest.mark.parametrize("fault", _FAULTS)
    def test_an_interrupted_upload(self, opener: Opener, proxy: FaultProxy, fault: Fault) -> None:
        """What it says was written is there; written again, everything is there once."""
        store, sample = opener(make_spec(dim=64)), make_sample(4000, dim=64)
        make_sample(10, dim=64).write(store)
        sent = proxy.requests
        watch = threading.Thread(target=_when, args=(lambda: proxy.requests > sent + 200_000, proxy, fault))
        watch.start()
        with self._ends_in_time(store.url, may_succeed=True) as raised:
            for start in range(0, len(sample), 200):  # many calls, one of which meets the fault
                part = sample.take(range(start, start + 200))
                written = start
                part.write(store)
        watch.join()
        assert raised, "the fault came too late"
        proxy.fault = "none"
        inside = re.search(r"first (\d+) of", str(raised[0]))
        acknowledged = sample.ids[: written + (int(inside[1]) if inside else 0)]
        there = _eventually(lambda: store.get(acknowledged, fields=[]))
        assert there.ids.tolist() == acknowledged, "records that were acknowledged are not there"
        sample.write(store, batch=1000)
        assert_content(store, sample)

    def test_an_interrupted_scan(self, opener: Opener, proxy: FaultProxy) -> None:
        """It ends in an error, never as if it had come to its end."""
        store = opener(make_spec())
        sample = make_sample(500).write(store)
        seen = 0
        with self._ends_in_time(store.url):
            for records in store.scan(batch_size=20):
                seen += len(records)
                if seen >= 40:
                    proxy.fault = "refuse"
        assert seen < len(sample)
        proxy.fault = "none"
        _eventually(store.count)
        assert_content(store, sample)


class ServerFaultTests(_FaultBase):
    """A server that is killed and started again."""

    timeout: ClassVar[float] = 5.0

    @pytest.fixture(scope="class")
    @classmethod
    def program(cls) -> ServerProgram:
        """A running server that nobody else uses; it will be killed. An author overrides it."""
        raise NotImplementedError("a subclass of ServerFaultTests needs a fixture `program`")

    @pytest.fixture
    def store_url(self, program: ServerProgram, request: pytest.FixtureRequest) -> str:
        """A fresh URL at that server; an author whose URLs have another form overrides it."""
        return f"{program.url}/{request.node.name.replace('[', '_').rstrip(']')}"

    @pytest.fixture
    def opener(self, store_url: str) -> Iterator[Opener]:
        """Opens stores that have little patience."""
        opener = Opener(self._impatient(StoreURL.parse(store_url)))
        yield opener
        opener.close_all()

    @pytest.fixture(autouse=True)
    def _runs_again(self, program: ServerProgram) -> Iterator[None]:
        """Whatever a check has done to the server, the next one finds it running."""
        yield
        if program.process_id is None:
            program.start()

    def test_killed_while_searching(self, opener: Opener, program: ServerProgram) -> None:
        store = _opened(opener, make_spec())
        sample = make_sample(2000).write(store)
        expected = store.search(make_queries(5), 5)
        with self._ends_in_time(store.url):
            for count in range(10_000):
                if count == _CALLS_BEFORE:
                    _kill_beside(program)
                store.search(make_queries(200), 5, fields=["label"])
        with self._ends_in_time(store.url):
            store.search(make_queries(5), 5)
        program.start()
        assert _eventually(lambda: store.search(make_queries(5), 5)).ids.tolist() == expected.ids.tolist()
        assert_content(store, sample)

    def test_killed_while_uploading(self, opener: Opener, program: ServerProgram) -> None:
        store, sample = _opened(opener, make_spec(dim=64)), make_sample(20_000, dim=64)
        make_sample(10, dim=64).write(store)
        written = 0
        with self._ends_in_time(store.url):
            for written in range(0, len(sample), 1000):
                if written == _CALLS_BEFORE * 1000:
                    killing = _kill_beside(program)
                elif written == len(sample) - 1000:
                    killing.join()  # however fast the server was, it meets its end before the last batch
                sample.take(range(written, written + 1000)).write(store)
        program.start()
        there = _eventually(lambda: store.get(sample.ids[:written], fields=[]))
        assert there.ids.tolist() == sample.ids[:written], "records that were acknowledged are not there"
        sample.write(store, batch=2000)
        assert_content(store, sample)

    def test_killed_while_scanning(self, opener: Opener, program: ServerProgram) -> None:
        store = _opened(opener, make_spec())
        sample = make_sample(2000).write(store)
        seen = 0
        with self._ends_in_time(store.url):
            for records in store.scan(batch_size=50):
                seen += len(records)
                if seen == 200:
                    program.kill()
        assert 200 <= seen < len(sample)
        program.start()
        _eventually(store.count)
        assert_content(store, sample)

    def test_opening_without_a_server(self, opener: Opener, program: ServerProgram) -> None:
        program.kill()
        with self._ends_in_time(opener.url):
            opener(make_spec())
        program.start()
        assert _eventually(lambda: opener(make_spec())).count() == 0

    def test_restarted_between_two_calls(self, opener: Opener, program: ServerProgram) -> None:
        """A store that was open all along goes on with the server that came back."""
        store = _opened(opener, make_spec())
        sample = make_sample(100).write(store)
        program.kill()
        program.start()
        _eventually(store.count)
        assert_content(store, sample)
        more = make_sample(100, prefix="later").write(store)
        assert store.count() == len(sample) + len(more)


def _when(condition: Callable[[], bool], proxy: FaultProxy, fault: Fault) -> None:
    """Set the fault once the condition holds, or after ten seconds."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    proxy.fault = fault


def _opened(opener: Opener, spec: StoreSpec) -> EmbeddingStore:
    """A store of a server that the check before may have started again: healthy, it says, and slow for a while."""
    return _eventually(lambda: opener(spec))


def _kill_beside(program: ServerProgram) -> threading.Thread:
    """Kill the server while the next call is under way."""
    thread = threading.Thread(target=program.kill)
    thread.start()
    return thread


def _eventually(call: Callable[[], T], seconds: float = 60) -> T:
    """Repeat a call while it cannot reach the server: a server that comes back needs some time to be ready."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (StoreConnectionError, StoreTimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
