"""Checks of several threads, of closing a store while others use it, and of a forked process."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import NoReturn

import numpy as np
import pytest

from knnstore.abc import EmbeddingStore
from knnstore.errors import StoreClosedError
from knnstore.filters import F
from knnstore.testing._base import KitBase, Opener
from knnstore.testing._data import make_queries, make_sample, make_spec
from knnstore.testing._oracle import assert_content, assert_hits
from knnstore.url import Secret

__all__ = ["ClosingChecks", "ConcurrencyChecks"]

_SECONDS = 60
"""How long a forked process may take before it counts as hung."""


_OTHER = """
import json, sys
import numpy as np, knnstore
with knnstore.open_store(knnstore.StoreURL(**json.load(sys.stdin))) as store:
    found = {"count": store.count(), "first": store.get(["r0"]).ids.tolist()}
    row = np.ones((1, store.spec.dim), np.float32)
    store.upsert(["theirs"], row, {"label": [""], "area": [0], "weight": [0.0], "thing": [False]})
print(json.dumps(found))
"""


class ConcurrencyChecks(KitBase):
    """Rule 1: safe for searching from threads, opened lazily in each process."""

    rule = "1, a store may be searched from threads and by several processes"

    def test_searching_from_threads(self, store: EmbeddingStore) -> None:
        sample, queries = make_sample(200).write(store), make_queries(8)
        recall = store.capabilities.recall_floor

        def ask(i: int) -> None:
            part = queries[i % 8 :][:2]
            for _ in range(5):
                assert_hits(store.search(part, 7), part, sample, "cosine", 7, recall=recall)
                assert store.get([sample.ids[i]]).ids.tolist() == [sample.ids[i]]
                assert store.count() == 200

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(ask, range(16)))

    def test_of_two_writers_of_one_new_id_the_first_is_kept(self, opener: Opener) -> None:
        """Who skips what is stored never replaces what another writes at the same moment; where that is declared."""
        if not opener(make_spec()).capabilities.conditional:
            return
        stores = [opener() for _ in range(3)]

        def write(name: str, number: int) -> str:
            row = make_sample(1, prefix=name)
            row.fields["label"] = [f"writer {number}"]
            stores[number].upsert(row.ids, row.vectors, row.fields, on_conflict="skip")
            return str(stores[number].get(row.ids, fields=["label"]).fields["label"][0])

        with ThreadPoolExecutor(3) as pool:
            for i in range(25):
                saw = list(pool.map(write, [f"n{i}-"] * 3, range(3)))
                last = stores[0].get([f"n{i}-0"], fields=["label"]).fields["label"].tolist()
                assert saw == last * 3, "a record was replaced by one that was to be skipped"

    def test_the_revision_changes_with_the_writes_of_others(self, opener: Opener) -> None:
        """A replacement changes no number of records, nor does one more and one less."""
        reader = opener(make_spec())
        if not reader.capabilities.revision:
            return
        other, sample = opener(), make_sample(4)
        another = make_sample(1, prefix="n")
        writes: dict[str, Callable[[], object]] = {
            "an upsert": lambda: sample.write(other),
            "a replacement": lambda: sample.write(other),
            "a deletion by id": lambda: other.delete(["r0"]),
            "one more, as many as before": lambda: another.write(other),
            "a deletion by filter": lambda: other.delete(where=F("area") == sample.fields["area"][1]),
        }
        seen = [reader.revision()]
        for what, write in writes.items():
            write()
            seen.append(reader.revision())
            assert seen[-1] not in seen[:-1], f"{what} by another store does not change revision(): {seen}"
        assert reader.revision() == other.revision() == seen[-1], "two stores see two states where nobody writes"

    def test_what_is_kept_with_a_revision(self, opener: Opener) -> None:
        """Who keeps what was read after a revision, for as long as that stays, has every write acknowledged before."""
        reader = opener(make_spec())
        if not reader.capabilities.revision:
            return
        writers, done = [opener() for _ in range(2)], [-1, -1]

        def write(number: int) -> None:
            for i in range(12):
                row = make_sample(1, prefix=f"w{number}-")
                row.fields["area"] = [i]
                row.write(writers[number])
                done[number] = i

        kept: dict[str, dict[str, int]] = {}

        def look() -> None:
            before = dict(zip(["w0-0", "w1-0"], done, strict=True))
            revision = reader.revision()
            if revision not in kept:
                read = reader.get(list(before), fields=["area"], with_vectors=False)
                kept[revision] = dict(zip(read.ids.tolist(), read.fields["area"].tolist(), strict=True))
            for name, area in before.items():
                assert kept[revision].get(name, -1) >= area, f"{name} is {area}, and revision() still {revision}"

        with ThreadPoolExecutor(2) as pool:
            writing = [pool.submit(write, number) for number in range(2)]
            while not all(future.done() for future in writing):
                look()
            for future in writing:
                future.result()
        look()

    def test_searching_while_writing(self, store: EmbeddingStore) -> None:
        """A hit is always a whole record: its area belongs to its id, whatever is written meanwhile."""

        def write(generation: int) -> None:
            sample = make_sample(50, seed=generation)
            sample.fields["area"] = list(range(50))
            store.upsert(sample.ids, sample.vectors, sample.fields)

        write(0)

        def ask(i: int) -> None:
            for _ in range(10):
                hits = store.search(make_queries(2, seed=i), 5, fields=["area"])
                got = [(v, int(a)) for v, a in zip(hits.ids.ravel(), hits.fields["area"].ravel(), strict=True) if v]
                assert all(value == f"r{area}" for value, area in got), f"torn records: {got}"

        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(ask, i) for i in range(6)]
            for generation in range(1, 9):
                write(generation)
            for future in asked:
                future.result()
        assert store.count() == 50

    def test_writing_from_threads(self, store: EmbeddingStore) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: make_sample(10, prefix=f"t{i}-").write(store), range(8)))
        assert store.count() == 80

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_searching_in_a_forked_process(self, store: EmbeddingStore) -> None:
        """A store opened before a fork answers in the child, and goes on answering in the parent."""
        sample, queries = make_sample(100).write(store), make_queries(4)
        expected = store.search(queries, 5)
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about: just what is checked
            child = os.fork()
        if not child:
            _answer_and_exit(store, queries, writer)
        os.close(writer)
        answer = _read(reader, child)
        assert answer == "\n".join(expected.ids.ravel()), f"the child answered {answer[:500]}"
        recall = store.capabilities.recall_floor
        assert_hits(store.search(queries, 5), queries, sample, "cosine", 5, recall=recall)

    def test_another_process(self, opener: Opener) -> None:
        """What is written is there for a process that starts afterwards; at the same time, where that is declared."""
        store = opener(make_spec("dot"))
        sample = make_sample(20).write(store)
        can = store.capabilities
        if not can.persistent:  # says itself that there is nothing to find; reopening is checked elsewhere
            return
        if not can.multi_process:
            opener.close_all()
        assert _in_another_process(opener) == {"count": 20, "first": sample.ids[:1]}
        now = opener(consistency="strong" if "strong" in can.consistency else "session", read_only=True)
        assert sorted(now.get(["r0", "theirs"]).ids) == ["r0", "theirs"], "what the other process wrote is not there"
        if can.multi_process and "strong" in can.consistency:
            assert store.count() == 21, "a store that was open all along does not see what another process wrote"


def _in_another_process(opener: Opener) -> dict[str, object]:
    """Open the same URL in a fresh interpreter, look, and write one record. The URL goes through the standard input."""
    done = subprocess.run(  # noqa: S603  # our own interpreter and script
        [sys.executable, "-c", _OTHER],
        input=json.dumps(asdict(opener.url), default=Secret.reveal), capture_output=True, text=True,
        timeout=_SECONDS, check=False,
    )  # fmt: skip
    said = opener.url.redact(done.stderr[-1500:])
    assert done.returncode == 0, f"a fresh process cannot use the store (is the entry point installed?): {said}"
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def _answer_and_exit(store: EmbeddingStore, queries: np.ndarray, writer: int) -> NoReturn:
    """In the child: search, write the ids, leave without running anything that belongs to the parent."""
    try:
        text = "\n".join(store.search(queries, 5).ids.ravel())
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    os.write(writer, text.encode())
    os._exit(0)


def _read(reader: int, child: int) -> str:
    """In the parent: what the child wrote, or that it hung."""
    ready, _, _ = select.select([reader], [], [], _SECONDS)
    if not ready:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(child, 0)
    return text if ready else f"nothing within {_SECONDS} s; it was killed"


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
