"""Killed at any moment, a store loses nothing acknowledged, holds nothing half written, and opens by itself."""

import os
import resource
import signal
import time

import numpy as np
import pytest

import knnstore
from knnstore import F
from knnstore.errors import StoreFullError

# The children are forked, which is fast enough for many kills; Python 3.12 warns because OpenMP has threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

SPEC = knnstore.StoreSpec(dim=16, metric="dot", fields={"batch": int, "label": str})
SIZE = 25


def vectors_of(step, count=SIZE):
    return np.random.default_rng(step).standard_normal((count, SPEC.dim)).astype(np.float32)


def batch_of(step, ids):
    return ids, vectors_of(step, len(ids)), {"batch": [step] * len(ids), "label": [f"l{step}"] * len(ids)}


def operation(step):
    """What the writer does at a step, as (kind, arguments); a function of the step alone."""
    if step % 4 == 1:
        return "upsert", batch_of(step, [f"{step - 1}-{i}" for i in range(0, SIZE, 2)])  # replaces half
    if step % 4 == 2 and step > 8:
        return "delete", step - 8
    if step % 8 == 3:
        return "flush", None
    if step % 8 == 7:
        return "update", step  # everything that is there: its batch, and the label that must agree
    return "upsert", batch_of(step, [f"{step}-{i}" for i in range(SIZE)])


def perform(store, step):
    kind, arguments = operation(step)
    if kind == "upsert":
        store.upsert(*arguments)
    elif kind == "delete":
        store.delete(where=F("batch") <= arguments)
    elif kind == "update":
        store.update({"batch": arguments, "label": f"l{arguments}"}, where=F("batch") < arguments)
    else:
        store.search(vectors_of(step, 2), 3)
        store.flush()


def remember(model, step):
    """The same on a dictionary id → (vector, step)."""
    kind, arguments = operation(step)
    if kind == "upsert":
        model.update({value: (row.tobytes(), step) for value, row in zip(arguments[0], arguments[1], strict=True)})
    elif kind == "delete":
        for value in [value for value, (_, batch) in model.items() if batch <= arguments]:
            del model[value]
    elif kind == "update":
        model.update({value: (row, arguments) for value, (row, _) in model.items()})
    return model


def contents(store):
    found = {}
    for records in store.scan(with_vectors=True):
        assert [f"l{batch}" for batch in records.fields["batch"]] == records.fields["label"].tolist()
        for value, row, batch in zip(records.ids, records.vectors, records.fields["batch"].tolist(), strict=True):
            found[value] = (row.tobytes(), batch)
    return found


def in_child(work):
    """Run ``work(report)`` in a forked process; returns its id and a file that its reports can be read from."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, os.fdopen(reading)
    try:
        os.close(reading)
        work(lambda value: os.write(writing, f"{value}\n".encode()))
        os._exit(0)
    except BaseException as error:
        os.write(writing, f"error {type(error).__name__} {error}\n".encode())
        os._exit(1)


def kill_after(pid, reports, seconds, count=1):
    """Kill a child some time after its first reports, however slow the machine; returns all its reports."""
    first = [reports.readline() for _ in range(count)]
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    lines = [*first, *reports.read().splitlines()]
    reports.close()
    assert not any(line.startswith("error") for line in lines), lines
    return [line.strip() for line in lines if line.strip()]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("index", ["Flat", "HNSW8"])
def test_killed_while_writing(tmp_path, index):
    url = f"faiss://{tmp_path}/store?index={index}&sync=normal"
    knnstore.open_store(url, SPEC).close()
    rng = np.random.default_rng(7)
    step, model = 0, {}
    for _ in range(22):

        def work(report, start=step):
            with knnstore.open_store(url) as store:
                report("open")
                for now in range(start, start + 100_000):
                    perform(store, now)
                    report(now)

        pid, reports = in_child(work)
        acknowledged = kill_after(pid, reports, rng.uniform(0, 0.03), int(rng.integers(2, 7)))[1:]
        for now in map(int, acknowledged):
            assert now == step
            model, step = remember(model, now), step + 1
        with knnstore.open_store(url) as store:
            there = contents(store)
            if there != model:  # the call that was cut off may have been finished, but never by half
                model, step = remember(model, step), step + 1
                assert there == model
            assert store.count() == len(model)
            assert_searchable(store, model)
    assert step >= 22


def assert_searchable(store, model):
    for value in list(model)[-3:]:
        query = np.frombuffer(model[value][0], np.float32)[None]
        wanted = max(float(query[0] @ np.frombuffer(row, np.float32)) for row, _ in model.values())
        assert store.search(query, 1).scores[0, 0] == pytest.approx(wanted, rel=1e-5)


def test_killed_while_creating(tmp_path):
    rng = np.random.default_rng(1)
    for attempt in range(12):
        folder = tmp_path / str(attempt)

        def work(report, folder=folder):
            report("go")
            for i in range(1000):
                knnstore.open_store(f"faiss://{folder}/{i}", SPEC).close()

        kill_after(*in_child(work), rng.uniform(0, 0.03))
        for name in sorted(child.name for child in folder.iterdir()) if folder.exists() else ():
            with knnstore.open_store(f"faiss://{folder}/{name}", SPEC) as store:
                store.upsert(*batch_of(0, ["a"]))
                assert store.count() == 1
            with knnstore.open_store(f"faiss://{folder}/{name}") as store:
                assert store.spec == SPEC


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("index", ["Flat", "HNSW8"])
def test_a_full_disk_leaves_nothing_of_the_call(tmp_path, index):
    """A limit on the size of files makes real writes fail, on every system and for every user."""
    url = f"faiss://{tmp_path}/store?index={index}"

    def work(report):
        store = knnstore.open_store(url, SPEC)
        store.upsert(*batch_of(0, [f"0-{i}" for i in range(SIZE)]))
        before = contents(store)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        with pytest.raises(StoreFullError, match="nothing of the call was written"):
            store.upsert(*batch_of(1, [f"1-{i}" for i in range(60_000)]))
        with pytest.raises(StoreFullError, match="nothing of the call was written"):
            store.update({"label": "x" * 60_000}, ids=[f"0-{i}" for i in range(SIZE)])
        assert contents(store) == before
        assert_searchable(store, before)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store.upsert(*batch_of(2, ["later"]))
        assert store.count() == SIZE + 1
        store.close()
        report("fine")

    pid, reports = in_child(work)
    assert reports.read() == "fine\n"
    reports.close()
    os.waitpid(pid, 0)
    with knnstore.open_store(url) as store:
        assert store.count() == SIZE + 1


def test_a_full_disk_while_the_index_is_written(tmp_path):
    url = f"faiss://{tmp_path}/store?index=HNSW8"

    def work(report):
        store = knnstore.open_store(url, SPEC)
        store.upsert(*batch_of(0, [f"0-{i}" for i in range(3000)]))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(StoreFullError):
            store.optimize()
        assert store.search(vectors_of(0, 1), 1).ids[0, 0] != ""
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        store.close()
        report("fine")

    pid, reports = in_child(work)
    assert reports.read() == "fine\n"
    reports.close()
    os.waitpid(pid, 0)
    assert not list((tmp_path / "store").glob("*.tmp"))
