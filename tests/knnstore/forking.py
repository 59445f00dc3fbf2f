"""A program: forks many times, and every child must open a store, write, search and close it in time.

python forking.py URL FORKS (closed | open | threads)

``closed``: the parent has opened a store, used it and closed it; ``open``: it is still open, and the child uses it too;
``threads``: other threads of the parent are there, and have used it a moment ago.
"""

import faulthandler
import os
import signal
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import knnstore

SPEC, ROW = knnstore.StoreSpec(4, "dot"), np.ones((1, 4), np.float32)
SECONDS = 30


def use(store, name):
    store.upsert([name], ROW)
    assert store.search(ROW, 1).ids[0, 0]


def child(url, name, still_open):
    faulthandler.dump_traceback_later(SECONDS - 5)
    with knnstore.open_store(url, SPEC) as store:
        use(store, name)
    if still_open is not None:
        use(still_open, f"{name} again")
        still_open.close()


def forked(url, name, still_open):
    """What came of a child: "done", "failed" or "hung"."""
    pid = os.fork()
    if not pid:
        try:
            child(url, name, still_open)
            os._exit(0)
        finally:
            faulthandler.dump_traceback()
            os._exit(1)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        over, status = os.waitpid(pid, os.WNOHANG)
        if over:
            return "failed" if status else "done"
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hung"


def main(url, forks, how):
    warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about: just what is checked
    wrong = 0
    with ThreadPoolExecutor(3) as pool:
        for number in range(forks):
            store = knnstore.open_store(url, SPEC)
            use(store, f"p{number % 50}")
            if how == "threads":
                list(pool.map(lambda _, store=store: store.search(ROW, 1), range(3)))
            if how == "closed":
                store.close()
            result = forked(url, f"c{number % 50}", None if how == "closed" else store)
            if how != "closed":
                use(store, "after")
            store.close()
            wrong += result != "done"
            if result != "done":
                print(f"fork {number}: {result}", flush=True)
    print(f"{forks} forks, {wrong} wrong")
    os._exit(wrong > 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
