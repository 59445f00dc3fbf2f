from __future__ import annotations

import itertools
import os
import time

import numpy as np
import pytest

from knnstore.errors import BackendError, KnnStoreError, StoreClosedError, StoreTimeoutError
from knnstore.remote import Patience, PerProcess, record_bytes, row_slices, slices, upload
from knnstore.types import Batch


def always(error: Exception) -> bool:
    return True


def failing(times: int, log: list[float]):
    def attempt(left: float) -> str:
        log.append(left)
        if len(log) <= times:
            raise ConnectionError(len(log))
        return "done"

    return attempt


def test_retries_until_it_succeeds():
    log: list[float] = []
    assert Patience(10, 3, answered=True).call(failing(3, log), always) == "done"
    assert len(log) == 4
    assert log == sorted(log, reverse=True), "each attempt has less time left"
    assert log[0] <= 10


def test_gives_up_after_the_retries():
    log: list[float] = []
    with pytest.raises(ConnectionError, match="3"):
        Patience(10, 2, answered=True).call(failing(9, log), always)
    assert len(log) == 3


def test_time_decides_and_not_three():
    """A server that is away for five seconds is waited for, with the defaults."""
    log: list[float] = []
    started = time.monotonic()

    def attempt(left: float) -> str:
        log.append(left)
        if time.monotonic() - started < 5:
            raise ConnectionError
        return "done"

    patience = Patience()
    assert patience.call(lambda left: "here", always) == "here"
    assert patience.call(attempt, always) == "done"
    assert len(log) < 100, "the pauses grow"


def test_who_never_answered_is_given_up_at_once():
    log: list[float] = []
    started = time.monotonic()
    patience = Patience()
    with pytest.raises(ConnectionError, match="3"):
        patience.call(failing(9, log), always)
    assert len(log) == 3
    assert time.monotonic() - started < 15  # and not the thirty seconds of the timeout
    assert not patience.answered
    patience.call(lambda left: "here", always)
    log.clear()
    assert patience.call(failing(5, log), always) == "done"


def test_no_retry_for_what_will_not_change():
    log: list[float] = []
    with pytest.raises(ConnectionError):
        Patience(10, 5, answered=True).call(failing(9, log), lambda error: False)
    assert len(log) == 1


def test_ends_in_time():
    log: list[float] = []
    start = time.monotonic()
    with pytest.raises(ConnectionError):
        Patience(0.5, answered=True).call(failing(10_000, log), always)
    assert time.monotonic() - start < 20  # ten thousand tries would take minutes
    assert len(log) > 1


def test_one_request_may_have_a_time_of_its_own():
    log: list[float] = []
    assert Patience(0.1).call(failing(0, log), always, timeout=60) == "done"
    assert log[0] > 50


def make_batch(n: int, label: str = "x") -> Batch:
    rows = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
    return Batch([f"r{i}" for i in range(n)], rows, {"label": np.array([label] * n, object), "area": np.arange(n)})


def test_record_bytes_counts_what_a_request_carries():
    plain, long, wide = make_batch(3), make_batch(3, "é" * 1000), make_batch(0)
    assert (record_bytes(long) - record_bytes(plain) == 2 * 1000 - 1).all()
    assert record_bytes(plain)[0] >= 4 * 2 + len("r0") + len("x") + 8
    assert record_bytes(wide).shape == (0,)


@pytest.mark.parametrize("seed", range(20))
def test_slices_cover_everything_within_bounds(seed: int):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, size=rng.integers(0, 200)).astype(np.int64)
    parts = list(slices(sizes, max_bytes=60, max_count=7))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(sizes)))
    for part in parts:
        assert part.stop - part.start <= 7
        assert sizes[part].sum() <= 60
    for one, two in itertools.pairwise(parts):  # greedy: none could have taken the next as well
        assert one.stop - one.start == 7 or sizes[one].sum() + sizes[two.start] > 60


def test_a_record_that_is_too_large_goes_alone():
    assert list(slices(np.array([1, 99, 1]), 10, 10)) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_row_slices():
    assert list(row_slices(5, 4, 8, 100)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert list(row_slices(5, 4, 1, 100)) == [slice(i, i + 1) for i in range(5)]
    assert list(row_slices(5, 4, 10**9, 3)) == [slice(0, 3), slice(3, 5)]
    assert list(row_slices(0, 4, 8, 100)) == []


def test_upload_sends_all_in_order():
    sent: list[str] = []

    def send(part: Batch) -> int:
        assert part.vectors[0].tolist() == [2 * float(part.ids[0][1:]), 2 * float(part.ids[0][1:]) + 1]
        assert part.fields["area"].tolist() == [int(value[1:]) for value in part.ids]
        sent.extend(part.ids)
        return len(part)

    batch = make_batch(10)
    assert upload(batch, send, lambda e: BackendError(str(e)), max_bytes=10**9, max_count=3) == 10
    assert sent == batch.ids


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("at", [0, 6])
def test_an_interrupted_upload_says_how_far_it_came(ours: bool, at: int):
    raised = StoreTimeoutError("too slow", hint="Wait.") if ours else OSError("too slow")

    def send(part: Batch) -> int:
        if part.ids[0] == f"r{at}":
            raise raised
        return len(part)

    with pytest.raises(KnnStoreError) as caught:
        upload(make_batch(10), send, lambda e: StoreTimeoutError(f"mapped {e}"), max_bytes=10**9, max_count=3)
    assert isinstance(caught.value, StoreTimeoutError)
    assert str(caught.value).startswith("too slow. Wait." if ours else "mapped too slow")
    assert (caught.value is raised) == ours
    assert ("The first 6 of 10 records" in str(caught.value)) == (at == 6)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_client_is_made_for_each_process_and_closed_once():
    closed = []

    class Client:
        def __init__(self):
            self.process = os.getpid()

        def close(self):
            closed.append(self.process)

    kept = PerProcess("db://host", Client, Patience(timeout=5), lambda error: isinstance(error, OSError))
    assert kept.call(lambda client, left: (client.process, left <= 5)) == (os.getpid(), True)
    if (child := os.fork()) == 0:
        try:
            fresh = kept.call(lambda client, _: client.process) == os.getpid()
            kept.close()
            os._exit(0 if fresh and closed == [os.getpid()] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    def closing(client, _):
        kept.close()
        raise OSError("broken pipe")  # as a client says it

    with pytest.raises(StoreClosedError, match="db://host was closed while it was in use") as raised:
        kept.call(closing)
    assert isinstance(raised.value.__cause__, OSError) and closed == [os.getpid()]
    with pytest.raises(StoreClosedError):
        kept.call(lambda client, _: None)
