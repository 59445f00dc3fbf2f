"""Folders of the edge engine: killed processes, locks, leftovers, options; and its graph."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import knnstore
from knnstore import F, StoreSpec, StoreURL
from knnstore._plugins import remove_empty
from knnstore.errors import (
    ConflictError,
    InvalidInputError,
    InvalidURLError,
    SpecMismatchError,
    StoreBusyError,
    StoreCorruptError,
    StoreFullError,
    StoreNotFoundError,
    UnsupportedFilterError,
)

SPEC = StoreSpec(16, "dot", {"label": str, "area": int})


def url(tmp_path, **options):
    given = "&".join(f"{name}={value}" for name, value in options.items())
    return f"qdrant+edge://{tmp_path}/store?{given}"


def rows(n, seed=0, dim=16):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def write(store, start, count):
    ids = [f"r{i}" for i in range(start, start + count)]
    fields = {"label": [f"label {i % 7}" for i in range(count)], "area": list(range(start, start + count))}
    return store.upsert(ids, rows(count, start), fields)


def in_another(code, *arguments, **options):
    """Run code in a fresh interpreter."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        **options,
    )


WRITER = """
import sys
sys.path.insert(0, ".")
import knnstore
from knnstore import StoreSpec
from test_folders import SPEC, write
store = knnstore.open_store(sys.argv[1], SPEC)
start = 0
while True:
    start += write(store, start, 50)
    print(start, flush=True)
"""


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.2])
def test_what_was_acknowledged_survives_a_kill(tmp_path, seconds):
    process = in_another(WRITER, url(tmp_path))
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    acknowledged = int(process.stdout.read().split()[-1])
    process.wait()
    process.stdout.close()
    with knnstore.open_store(url(tmp_path, exact=1)) as store:
        found = store.get([f"r{i}" for i in range(acknowledged)])
        assert len(found) == acknowledged
        for start in range(0, acknowledged, 50):
            assert found.vectors[start : start + 50].tobytes() == rows(50, start).tobytes()
        extra = store.count() - acknowledged
        assert extra in (0, 50), "a call is written whole or not at all"
        assert store.count(F("area") >= 0) == acknowledged + extra
        write(store, 0, 50)
        assert store.count() == acknowledged + extra


HOLDER = """
import sys, knnstore
sys.path.insert(0, ".")
from test_folders import SPEC
store = knnstore.open_store(sys.argv[1], SPEC)
print("open", flush=True)
sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path):
    holder = in_another(HOLDER, url(tmp_path), stdin=subprocess.PIPE)
    assert holder.stdout.readline() == "open\n"
    started = time.monotonic()
    with pytest.raises(StoreBusyError, match="another process"):
        knnstore.open_store(url(tmp_path, timeout="0.5"), SPEC)
    assert time.monotonic() - started < 15  # a busy machine is late; the default is 30
    holder.kill()
    holder.communicate()
    knnstore.open_store(url(tmp_path), SPEC).close()


CREATOR = """
import sys, knnstore
from knnstore import StoreSpec
from knnstore.errors import SpecMismatchError
try:
    store = knnstore.open_store(sys.argv[1], StoreSpec(int(sys.argv[2]), "l2"))
    print(store.spec.dim, flush=True)
except SpecMismatchError:
    print("mismatch", flush=True)
"""


def test_two_processes_creating_at_once(tmp_path):
    processes = [in_another(CREATOR, url(tmp_path), str(dim)) for dim in (3, 4)]
    said = [process.communicate()[0].strip() for process in processes]
    with knnstore.open_store(url(tmp_path)) as store:
        assert sorted(said) == sorted([str(store.spec.dim), "mismatch"])


def test_two_stores_in_one_process_share_the_engine(tmp_path):
    with knnstore.open_store(url(tmp_path), SPEC) as one, knnstore.open_store(url(tmp_path, exact=1)) as two:
        before = two.revision()
        write(one, 0, 10)
        assert two.count() == 10
        assert two.revision() != before
        one.close()
        assert two.count() == 10


def test_a_folder_that_was_removed_is_noticed(tmp_path):
    """By whoever cleared it away, and may have made another collection there."""
    place = f"qdrant+edge://{tmp_path}/store"
    store = knnstore.open_store(place, SPEC)
    write(store, 0, 3)
    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "qdrant-edge.lock").touch()  # another process has the place
    for call in (lambda: write(store, 0, 3), lambda: store.delete(["r0"]), lambda: store.delete(where=F("area") == 1)):
        with pytest.raises(StoreNotFoundError, match="removed while it was open"):
            call()
    store.close()
    with knnstore.open_store(place, SPEC) as again:
        assert write(again, 0, 3) == 3
        assert again.count() == 3


def test_what_is_open_here_is_not_waited_for_to_be_removed(tmp_path):
    started = time.monotonic()
    with knnstore.open_store(url(tmp_path), SPEC), pytest.raises(StoreBusyError, match="open in this process"):
        remove_empty(StoreURL.parse(url(tmp_path)))
    assert time.monotonic() - started < 15  # and not the thirty seconds of the timeout


def test_a_half_made_collection_is_made_again(tmp_path):
    knnstore.open_store(url(tmp_path), SPEC).close()
    home = tmp_path / "store" / "qdrant-edge"
    (home / "collection.json").unlink()
    (home / "unfinished").touch()  # as a process leaves it that is killed before the last step
    assert knnstore.collections(url(tmp_path)) == []
    with knnstore.open_store(url(tmp_path), SPEC) as store:
        assert store.count() == 0


def test_what_others_made_is_left_alone(tmp_path):
    import qdrant_edge

    folder = tmp_path / "store"
    folder.mkdir()
    config = qdrant_edge.EdgeConfig(vectors=qdrant_edge.EdgeVectorParams(16, qdrant_edge.Distance.Dot))
    qdrant_edge.EdgeShard.create(str(folder), config).close()
    before = sorted(p.relative_to(folder) for p in folder.rglob("*"))
    with pytest.raises(SpecMismatchError, match=r"edge_config\.json"):
        knnstore.open_store(url(tmp_path), SPEC)
    assert sorted(p.relative_to(folder) for p in folder.rglob("*")) == before


def test_a_damaged_description_is_said(tmp_path):
    knnstore.open_store(url(tmp_path), SPEC).close()
    (tmp_path / "store" / "qdrant-edge" / "collection.json").write_text("{")
    with pytest.raises(StoreCorruptError, match=r"collection\.json"):
        knnstore.open_store(url(tmp_path))


def test_creation_options_must_be_those_of_the_collection(tmp_path):
    knnstore.open_store(url(tmp_path, m=8, tenant="label"), SPEC).close()
    knnstore.open_store(url(tmp_path)).close()
    knnstore.open_store(url(tmp_path, m=8)).close()
    with pytest.raises(SpecMismatchError, match=r"m=32.*got m=8"):
        knnstore.open_store(url(tmp_path, m=32))
    with pytest.raises(SpecMismatchError, match=r"quantization=int8 .asked for., got quantization=default"):
        knnstore.open_store(url(tmp_path, quantization="int8"))


@pytest.mark.parametrize("options", [{"quantization": "int8", "always_ram": 1}, {"quantization": "product", "compression": "x8"},
                                     {"quantization": "binary", "rescore": 1, "oversampling": 4}, {"on_disk": 1, "on_disk_payload": 1},
                                     {"m": 8, "ef_construct": 32, "ef": 64, "tenant": "label"}])  # fmt: skip
def test_ways_of_making_a_collection(tmp_path, options):
    with knnstore.open_store(url(tmp_path, full_scan_threshold=10, **options), SPEC) as store:
        for start in range(0, 3000, 1000):
            write(store, start, 1000)
        store.optimize()
        assert store.get(["r7"]).vectors.tobytes() == rows(1000)[7].tobytes()
        queries = rows(20, 99)
        found, floor = store.search(queries, 10).ids, store.capabilities.recall_floor
    with knnstore.open_store(url(tmp_path, exact=1)) as store:
        best = store.search(queries, 10).ids
        stored = np.concatenate([rows(1000, start) for start in range(0, 3000, 1000)])
        truth = np.argsort(-(queries @ stored.T), axis=1)[:, :10]
        assert best.tolist() == [[f"r{i}" for i in row] for row in truth], "exact=1 is exact, whatever is quantised"
    recall = np.mean([len(set(f) & set(b)) / 10 for f, b in zip(found, best, strict=True)])
    assert recall >= floor


@pytest.mark.slow
def test_the_graph_is_used(tmp_path):
    """So that the checks of an approximate store are not all answered by a plain scan."""
    with knnstore.open_store(url(tmp_path, full_scan_threshold=10, ef_construct=16), StoreSpec(256, "dot")) as store:
        store.upsert([f"r{i}" for i in range(22_000)], rows(22_000, dim=256))
        assert store.stats().details["indexed_vectors"] == 0
        store.optimize()
        assert store.stats().details["indexed_vectors"] == 22_000
        assert store.stats().bytes_on_disk > 22_000 * 256 * 4


def test_a_long_upload_empties_the_log(tmp_path, monkeypatch):
    from knnstore_qdrant import edge

    monkeypatch.setattr(edge, "_UNFLUSHED", 100_000)
    with knnstore.open_store(url(tmp_path), SPEC) as store:
        write(store, 0, 1000)
        held = store._engine._held
        assert held.unflushed == 64_000
        write(store, 1000, 1000)
        assert held.unflushed == 0


def test_the_second_writer_of_an_id_is_told(tmp_path):
    with knnstore.open_store(url(tmp_path, batch_rows=10), SPEC) as store:
        write(store, 30, 10)
        with pytest.raises(ConflictError, match="r30"):
            store.upsert(
                [f"r{i}" for i in range(40)], rows(40), {"label": [""] * 40, "area": [0] * 40}, on_conflict="error"
            )
        assert store.count() == 10
        skipped = store.upsert(
            [f"r{i}" for i in range(40)], rows(40), {"label": [""] * 40, "area": [0] * 40}, on_conflict="skip"
        )
        assert (skipped, store.count()) == (30, 40)
        assert store.get(["r30"]).fields["area"].tolist() == [30]


def test_a_forked_child_is_refused_and_the_parent_goes_on(tmp_path):
    with knnstore.open_store(url(tmp_path), SPEC) as store:
        write(store, 0, 10)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                store.count()
                said = b"answered"
            except StoreBusyError as error:
                said = b"busy" if str(os.getppid()) in str(error) else str(error).encode()
            store.close()
            os.write(writer, said)
            os._exit(0)
        os.close(writer)
        assert os.read(reader, 1000) == b"busy"
        os.close(reader)
        os.waitpid(child, 0)
        assert store.count() == 10


def test_limits(tmp_path):
    with pytest.raises(InvalidInputError, match="65536"):
        knnstore.open_store(url(tmp_path), StoreSpec(65_537))
    assert not (tmp_path / "store").exists()
    with knnstore.open_store(url(tmp_path), StoreSpec(65_536, "dot")) as store:
        store.upsert(["a"], rows(1, dim=65_536))
        assert store.get(["a"]).vectors.tobytes() == rows(1, dim=65_536).tobytes()
        assert store.search(rows(1, dim=65_536), 1).ids.tolist() == [["a"]]


def test_text_is_not_ordered_and_trees_may_be_deep(tmp_path):
    with knnstore.open_store(url(tmp_path), SPEC) as store:
        write(store, 0, 10)
        with pytest.raises(UnsupportedFilterError, match="does not order text"):
            store.count(F("label") < "x")
        deep = F("area") > 3
        for _ in range(10):
            deep = (~(deep & (F("area") < 100))) | (F("area") == -1)
        assert store.count(deep) == store.count(_simple(deep))
        for _ in range(40):
            deep = (~(deep & (F("area") < 100))) | (F("area") == -1)
        assert store.count(deep) == store.count(_simple(deep))


def _simple(where):
    """The ids for which a filter holds, by its own definition."""
    columns = {"label": np.array([f"label {i % 7}" for i in range(10)], object), "area": np.arange(10)}
    return F("area").isin(np.flatnonzero(where.mask(columns)).tolist())


def test_a_distance_beyond_float32_is_left_out_by_the_engine(tmp_path):
    """Not in the contract's spirit, but Qdrant's: it drops what has no finite score. Reading still finds the record."""
    with knnstore.open_store(url(tmp_path, exact=1), StoreSpec(2, "l2")) as store:
        store.upsert(["near", "far"], np.array([[1e15, 0], [3e38, 0]], np.float32))
        hits = store.search(np.zeros((1, 2), np.float32), 3)
        assert hits.ids.tolist() == [["near", "", ""]]
        assert store.count() == 2


def test_options_of_a_server_are_refused(tmp_path):
    with pytest.raises(InvalidURLError, match="api_key"):
        knnstore.open_store(url(tmp_path, api_key="hunter2"), SPEC)


def test_the_description_is_readable(tmp_path):
    knnstore.open_store(url(tmp_path, m=8), SPEC).close()
    text = json.loads((tmp_path / "store" / "qdrant-edge" / "collection.json").read_text())
    assert text["created"] == {"m": 8}
    assert StoreSpec.from_json(text["spec"]) == SPEC


def test_a_disk_that_is_nearly_full_is_said_before_it_is_written_to(tmp_path, monkeypatch):
    """The system would end the process, without a word: the engine writes through memory maps."""
    import shutil

    with knnstore.open_store(url(tmp_path), SPEC) as store:
        write(store, 0, 10)
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 * 2**20))
        with pytest.raises(StoreFullError, match=r"at least 64 MiB, got 20 MiB.*nothing of this request"):
            write(store, 10, 10)
        assert store.count() == 10
        store.delete(["r0"])  # which makes room, sooner or later
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
        for call in (lambda: store.delete(["r1"]), lambda: store.delete(where=F("area") == 1)):
            with pytest.raises(StoreFullError, match="at least 8 MiB"):
                call()
        assert store.count() == 9
        assert store.search(rows(1), 3).ids.shape == (1, 3)


@pytest.mark.parametrize("text", [
    "Service runtime error: Not enough space available for optimization, needed: 127.18 MiB, available: 23.21 MiB",
])  # fmt: skip
def test_what_the_engine_says_of_a_full_disk(text):
    from knnstore_qdrant.errors import map_error

    assert isinstance(map_error(Exception(text), "here"), StoreFullError)


# -- the revision ------------------------------------------------------------------------------------------------------


KILLED = """
import os, sys, knnstore, numpy as np
store = knnstore.open_store(sys.argv[1])
if sys.argv[2] == "writes":
    store.upsert(["new"], np.ones((1, 16), np.float32), {"label": ["x"], "area": [1]})
print(store.revision(), flush=True)
os._exit(1)
"""


@pytest.mark.parametrize("what", ["reads", "writes"])
def test_the_revision_after_a_kill(tmp_path, what):
    """Who was killed reading leaves it as it was; who was killed writing leaves a new one, which nobody has seen."""
    place = url(tmp_path)
    with knnstore.open_store(place, SPEC) as store:
        write(store, 0, 3)
        before = store.revision()
    with in_another(KILLED, place, what) as process:
        seen = process.communicate(timeout=60)[0].strip()
    assert (seen == before) == (what == "reads")
    found = []
    for _ in range(2):
        with knnstore.open_store(place) as store:
            found.append(store.revision())
    assert found[0] == found[1]
    assert (found[0] == before) == (what == "reads")
