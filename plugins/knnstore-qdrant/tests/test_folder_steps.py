"""A process is killed before each step on the disk that makes or removes a collection; and one folder holds no other up."""

import json
import subprocess
import sys
import threading
import time

import pytest
from filelock import FileLock

import knnstore
from knnstore import StoreSpec
from knnstore.errors import StoreBusyError, StoreNotFoundError

SPEC = StoreSpec(4, "dot", {"label": str})

# The engine does not survive a fork, so that this process never starts it: its children do.
STEPS = """
import json, os, signal, sys
import numpy as np, knnstore, qdrant_edge
from knnstore import StoreSpec
from knnstore._plugins import remove_empty
from knnstore.errors import StoreNotFoundError
from knnstore.url import StoreURL

SPEC = StoreSpec(4, "dot", {"label": str})
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "open"}
task, base = sys.argv[1:]

def killed_at(step, folder):
    left = [step]
    def watch(event, args):
        if event not in CHANGES or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        # What is removed piece by piece is named by its last part only.
        if folder not in os.fspath(args[0]) and event not in ("os.remove", "os.rmdir"):
            return
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
    sys.addaudithook(watch)

def in_child(work):
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    return "killed" if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

def make(url):
    knnstore.open_store(url, SPEC).close()

def look(url):
    with knnstore.open_store(url, SPEC) as store:
        assert store.count() == 0
        store.upsert(["a"], np.ones((1, 4), np.float32), {"label": ["x"]})
    with knnstore.open_store(url) as store:
        assert store.count() == 1

said = []
for step in range(200):
    folder = f"{base}/step{step}"
    url = StoreURL.parse(f"qdrant+edge://{folder}")
    if task == "remove":
        assert in_child(lambda: make(url)) == 0
    def work():
        killed_at(step, folder)
        make(url) if task == "make" else remove_empty(url)
    end = in_child(work)
    said.append([end, in_child(lambda: look(url))])
    if end != "killed":
        break
print(json.dumps(said))
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["make", "remove"])
def test_a_process_killed_at_any_step_blocks_nobody(tmp_path, task):
    done = subprocess.run(
        [sys.executable, "-c", STEPS, task, str(tmp_path)], capture_output=True, text=True, check=True
    )
    said = json.loads(done.stdout)
    assert said[-1][0] == 0, done.stderr
    assert len(said) > 5
    assert all(end == "killed" for end, _ in said[:-1])
    assert [step for step, (_, looked) in enumerate(said) if looked] == [], done.stderr


def test_a_folder_that_an_older_version_left_behind_is_made_again(tmp_path):
    """It made the folders first and the mark afterwards."""
    (tmp_path / "store" / "qdrant-edge" / "data").mkdir(parents=True)
    with pytest.raises(StoreNotFoundError):
        knnstore.open_store(f"qdrant+edge://{tmp_path}/store")
    with knnstore.open_store(f"qdrant+edge://{tmp_path}/store", SPEC) as store:
        assert store.count() == 0


def test_waiting_for_one_folder_holds_up_no_other(tmp_path):
    """One is locked by another process; stores at other folders open and close meanwhile."""
    (tmp_path / "locked").mkdir()
    ended = []

    def wait():
        try:
            knnstore.open_store(f"qdrant+edge://{tmp_path}/locked?timeout=20", SPEC).close()
        except StoreBusyError as error:
            ended.append(error)

    with FileLock(tmp_path / "locked" / "qdrant-edge.lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        started = time.monotonic()
        knnstore.open_store(f"qdrant+edge://{tmp_path}/free", SPEC).close()
        assert time.monotonic() - started < 10
        assert thread.is_alive()
        with pytest.raises(StoreBusyError, match="another thread"):
            knnstore.open_store(f"qdrant+edge://{tmp_path}/locked?timeout=0.2", SPEC)
    thread.join()
    assert not ended


def test_the_lock_of_a_removed_folder_is_no_lock(tmp_path):
    """Whoever waited while the lock file was removed must not believe that it has what the next one gets."""
    from knnstore_qdrant.folder import Layout, _locked

    layout = Layout(tmp_path)
    first = _locked(layout, 1)
    got = []
    waiting = threading.Thread(target=lambda: got.append(_locked(layout, 10)))
    waiting.start()
    time.sleep(0.3)
    layout.lock.unlink()
    first.close()
    waiting.join()
    with pytest.raises(StoreBusyError):
        _locked(layout, 0.2)
    got[0].close()
