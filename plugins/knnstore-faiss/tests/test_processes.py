"""Several processes and threads on one folder: writers take turns, readers see whole batches."""

import os
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import faiss
import numpy as np
import pytest

import knnstore
from knnseg.cli.options import ask_to_write
from knnstore import F
from knnstore.errors import InvalidInputError, StoreAuthenticationError, StoreBusyError

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

SPEC = knnstore.StoreSpec(dim=8, metric="l2", fields={"batch": int})
SIZE = 30


def write(store, step):
    ids = [f"{i}" for i in range(SIZE)]  # the same ids each time: every write replaces all of them
    vectors = np.full((SIZE, 8), step, np.float32) + np.arange(SIZE, dtype=np.float32)[:, None] / 1024
    store.upsert(ids, vectors, {"batch": [step] * SIZE})


def forked(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def join(pid):
    assert os.waitpid(pid, 0)[1] == 0


def watching(look, enough=20):
    """What is seen until it has changed often enough, however slow the machine."""
    seen, end = [look()], time.monotonic() + 60
    while len(set(seen)) < enough:
        assert time.monotonic() < end, f"the same for a minute: {seen[-1]}"
        seen.append(look())
    return seen


def consistent(store):
    """One search sees one state: all the hits are of one batch, complete, and scored against its vectors."""
    hits = store.search(np.zeros((2, 8), np.float32), SIZE, fields=["batch"])
    batches = set(hits.fields["batch"].ravel().tolist())
    assert len(batches) == 1, batches
    assert sorted(hits.ids[0].tolist()) == sorted(f"{i}" for i in range(SIZE))
    step = batches.pop()
    assert hits.scores[0, 0] == pytest.approx(-8 * step**2)
    half = store.search(np.zeros((1, 8), np.float32), SIZE, where=F("batch") >= 0, fields=["batch"])
    assert len(set(half.fields["batch"].ravel().tolist())) == 1
    return step


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("index", ["Flat", "HNSW8"])
def test_readers_see_whole_batches_while_another_process_writes(tmp_path, index):
    url, over = f"faiss://{tmp_path}/store?index={index}", tmp_path / "over"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)

    def writer():
        with knnstore.open_store(url) as store:
            step = 1
            while not over.exists():
                step += 1
                write(store, step)

    def reader():
        with knnstore.open_store(url, read_only=True) as store:
            seen = watching(lambda: consistent(store))
            assert seen == sorted(seen)

    writing, readers = forked(writer), [forked(reader), forked(reader)]
    try:
        for pid in readers:
            join(pid)
    finally:
        over.touch()
    join(writing)


@pytest.mark.usefixtures("eager")
def test_an_update_is_whole_for_readers_in_other_processes(tmp_path):
    url, over = f"faiss://{tmp_path}/store", tmp_path / "over"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)

    def writer():
        with knnstore.open_store(url) as store:
            step = 1
            while not over.exists():
                step += 1
                chosen = {"where": F("batch") > 0} if step % 2 else {"ids": [f"{i}" for i in range(SIZE)]}
                assert store.update({"batch": step}, **chosen) == SIZE

    def batch(store):
        batches = store.search(np.zeros((1, 8), np.float32), SIZE, where=F("batch") > 0, fields=["batch"])
        assert len(set(batches.fields["batch"].ravel().tolist())) == 1
        return int(batches.fields["batch"][0, 0])

    pid = forked(writer)
    try:
        with knnstore.open_store(url, read_only=True) as store:
            revision = store.revision()
            watching(lambda: batch(store))
            assert store.revision() != revision
    finally:
        over.touch()
    join(pid)


def test_a_store_used_before_a_fork_works_on_both_sides(tmp_path):
    faiss.omp_set_num_threads(2)  # a child that waited for its parent's threads would never end
    url = f"faiss://{tmp_path}/store"
    other = f"faiss://{tmp_path}/hnsw?index=HNSW8"
    with knnstore.open_store(url, SPEC) as store, knnstore.open_store(other, SPEC) as approximate:
        write(store, 1)
        write(approximate, 1)
        for each in (store, approximate):
            consistent(each)
        scan = store.scan(batch_size=7)
        next(scan)  # lends a connection out across the fork

        def child():
            for each in (store, approximate):
                assert consistent(each) == 1
                write(each, 2)
                assert consistent(each) == 2

        join(forked(child))
        assert sum(len(records) for records in scan) == SIZE - 7
        for each in (store, approximate):
            assert consistent(each) == 2
            write(each, 3)
            assert consistent(each) == 3
    faiss.omp_set_num_threads(1)


def test_a_second_writer_waits_and_then_gives_up(tmp_path):
    url = f"faiss://{tmp_path}/store"
    with (
        knnstore.open_store(url, SPEC) as first,
        knnstore.open_store(url + "?timeout=0.2") as hasty,
        knnstore.open_store(url + "?timeout=30") as patient,
    ):
        write(first, 1)
        with first._database.writing():
            started = time.monotonic()
            with pytest.raises(StoreBusyError, match="timeout"):
                write(hasty, 2)
            assert 0.15 < time.monotonic() - started < 15  # a busy machine is late; the default is 30
            assert consistent(hasty) == 1  # reading goes on
            waiting = threading.Thread(target=write, args=(patient, 3))
            waiting.start()
            time.sleep(0.1)
            assert waiting.is_alive()
        waiting.join(30)
        assert consistent(first) == 3


def test_a_second_thread_waits_and_then_gives_up(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/store?timeout=0.1", SPEC) as store:
        errors = []

        def attempt():
            try:
                write(store, 1)
            except StoreBusyError as error:
                errors.append(error)

        with store._database.writing():
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join(10)
        assert len(errors) == 1


def test_optimizing_waits_for_another_writer(tmp_path):
    """Another process writes without a pause; each call waits for its turn, as a write does."""
    url, over = f"faiss://{tmp_path}/store", tmp_path / "over"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)

    def writer():
        with knnstore.open_store(url + "?timeout=30") as other:
            while not over.exists():
                write(other, 2)
                other.delete(["1"])
                write(other, 2)

    child = forked(writer)
    try:
        with knnstore.open_store(url + "?timeout=30") as store:
            for _ in range(30):
                store.optimize()
    finally:
        over.touch()
    join(child)


def test_optimizing_gives_up_after_the_timeout(tmp_path):
    url = f"faiss://{tmp_path}/store"
    with knnstore.open_store(url, SPEC) as first, knnstore.open_store(url + "?timeout=0.2") as hasty:
        write(first, 1)
        for deleted in (False, True):
            with first._database.writing() as (connection, _):
                connection.execute("DELETE FROM vectors WHERE ?", (deleted,))
                started = time.monotonic()
                with pytest.raises(StoreBusyError, match="timeout"):
                    hasty.optimize()
                assert 0.15 < time.monotonic() - started < 15


def test_threads_search_while_one_writes(tmp_path):
    with knnstore.open_store(f"faiss://{tmp_path}/store", SPEC) as store:
        write(store, 1)
        failures = []
        until = time.monotonic() + 1

        def search():
            try:
                while time.monotonic() < until:
                    consistent(store)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        step = 1
        while time.monotonic() < until:
            step += 1
            write(store, step)
        for thread in threads:
            thread.join()
        assert not failures
        assert consistent(store) == step


def test_read_only(tmp_path):
    url = f"faiss://{tmp_path}/store"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)
        with knnstore.open_store(url, read_only=True) as reader:
            assert consistent(reader) == 1
            write(store, 2)
            assert consistent(reader) == 2
            with pytest.raises(InvalidInputError, match="read_only"):
                write(reader, 3)


def test_processes_that_create_at_once(tmp_path):
    url = f"faiss://{tmp_path}/store"

    def create(step):
        with knnstore.open_store(url, SPEC) as store:
            write(store, step)

    for pid in [forked(lambda step=step: create(step)) for step in range(1, 6)]:
        join(pid)
    with knnstore.open_store(url) as store:
        assert consistent(store) in range(1, 6)
        assert store.stats().details["generation"] == 5


# -- a reader who may not write the folder ----------------------------------------------------------------------------

NOBODY = 65534


@pytest.fixture
def shared():
    """A folder that everybody may read and only its owner write; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(work):
    """Run in a child that has given up every right to the folder."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    def child():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        work()

    return forked(child)


class Turn:
    """Two processes take turns."""

    def __init__(self):
        self.pipes = [os.pipe(), os.pipe()]

    def over(self, side):
        os.write(self.pipes[side][1], b".")

    def wait(self, side):
        os.read(self.pipes[side][0], 1)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("index", ["Flat", "HNSW8"])
@pytest.mark.parametrize("stays_open", [False, True])
def test_a_reader_without_rights_sees_every_write(shared, index, stays_open):
    """Of an owner who opens and closes for each write, and of one who stays open."""
    url = f"faiss://{shared}/store?index={index}"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)
    turn = Turn()

    def reader():
        with knnstore.open_store(url, read_only=True) as store:
            assert "strong" in store.capabilities.consistency
            revisions = set()
            for step in range(1, 6):
                assert store.count() == SIZE
                assert consistent(store) == step
                assert store.count(F("batch") == step) == SIZE
                revisions.add(store.revision())
                turn.over(0)
                turn.wait(1)
            assert len(revisions) == 5

    child = as_nobody(reader)
    owner = knnstore.open_store(url) if stays_open else None
    for step in range(2, 7):
        turn.wait(0)
        with knnstore.open_store(url) as store:
            write(owner or store, step)
        turn.over(1)
    join(child)
    if owner:
        owner.close()
    assert [path.name for path in (shared / "store").iterdir() if path.stat().st_uid == NOBODY] == []


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("index", ["Flat", "HNSW8"])
def test_a_reader_without_rights_while_the_owner_comes_and_goes(shared, index):
    url = f"faiss://{shared}/store?index={index}"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)

    def look(store):
        with suppress(StoreBusyError):  # what a scan has handed out cannot be read again
            (records,) = store.scan(batch_size=SIZE)
            assert len(set(records.fields["batch"].tolist())) == 1
        return consistent(store)

    def reader():
        with knnstore.open_store(url, read_only=True) as store:
            seen = watching(lambda: look(store))
            assert seen == sorted(seen)

    children = [as_nobody(reader), as_nobody(reader)]
    step = 1
    while children:
        step += 1
        with knnstore.open_store(url) as store:
            write(store, step)
        ended = [(pid, os.waitpid(pid, os.WNOHANG)) for pid in children]
        children = [pid for pid, (over, _) in ended if not over]
        assert not any(status for _, (_, status) in ended)


def test_a_reader_without_rights_after_the_owner_was_killed(shared):
    """What was acknowledged is in the log; it is read from there, and left to its owner."""
    url = f"faiss://{shared}/store"

    def owner():
        store = knnstore.open_store(url, SPEC)
        write(store, 1)
        os.kill(os.getpid(), 9)

    pid = forked(owner)
    os.waitpid(pid, 0)
    assert (shared / "store" / "store.sqlite3-wal").stat().st_size

    def reader():
        with knnstore.open_store(url, read_only=True) as store:
            assert consistent(store) == 1

    join(as_nobody(reader))
    (shared / "store" / "store.sqlite3-shm").unlink()

    def refused():
        with pytest.raises(StoreBusyError, match="may write"):
            knnstore.open_store(url, read_only=True)

    join(as_nobody(refused))
    with knnstore.open_store(url) as store:
        assert consistent(store) == 1


def test_a_writer_without_rights_is_refused(shared):
    url = f"faiss://{shared}/store"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)

        def writer():
            with pytest.raises(StoreAuthenticationError, match="read_only=True"), knnstore.open_store(url) as other:
                write(other, 2)

        join(as_nobody(writer))
    join(as_nobody(writer))
    with knnstore.open_store(url) as store:
        assert consistent(store) == 1


def test_a_scan_of_a_file_that_changes_says_so(shared):
    url = f"faiss://{shared}/store"
    with knnstore.open_store(url, SPEC) as store:
        write(store, 1)
    turn = Turn()

    def reader():
        with knnstore.open_store(url, read_only=True) as store:
            scan = store.scan(batch_size=7)
            next(scan)
            turn.over(0)
            turn.wait(1)
            with pytest.raises(StoreBusyError, match="written to while"):
                list(scan)
            assert consistent(store) == 2

    child = as_nobody(reader)
    turn.wait(0)
    with knnstore.open_store(url) as store:
        write(store, 2)
    turn.over(1)
    join(child)


def test_a_writing_command_asks_before_a_model_is_loaded(shared):
    """Also where nothing is stored yet."""
    ask_to_write(f"faiss://{shared}/there")

    def writer():
        for name in ("there", "not-there"):
            with pytest.raises(StoreAuthenticationError, match="expected a folder that this user may write to"):
                ask_to_write(f"faiss://{shared}/{name}")

    join(as_nobody(writer))
    ask_to_write(f"faiss://{shared}/there")
