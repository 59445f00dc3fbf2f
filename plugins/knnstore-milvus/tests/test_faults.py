"""Networks that fail and servers that are killed; the checks are those of every backend of a server."""

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import knnstore
from knnstore.testing.faults import NetworkFaultTests, ServerFaultTests
from knnstore.testing.servers import MilvusProgram, below, free_port

pytestmark = pytest.mark.server


class TestNetwork(NetworkFaultTests):
    @pytest.fixture
    def store_url(self, place):
        return place(index="FLAT")


class TestServer(ServerFaultTests):
    @pytest.fixture(scope="class")
    @classmethod
    def program(cls, tmp_path_factory):
        with MilvusProgram(tmp_path_factory.mktemp("milvus")) as program:
            yield program

    @pytest.fixture
    def store_url(self, program):
        return below(program.url, f"default/fault_{uuid.uuid4().hex[:8]}", index="FLAT")


def test_a_restart_of_five_seconds_only_makes_calls_slow(tmp_path):
    """With default options: what is on its way, what begins meanwhile, and a store that sat idle all the time."""
    rows, spec = np.eye(8, dtype=np.float32), knnstore.StoreSpec(8, "dot", {"n": int})
    with MilvusProgram(tmp_path) as program:
        url = below(program.url, "default/restart", index="FLAT")
        upserting, searching, scanning, idle = (knnstore.open_store(url, spec) for _ in range(4))
        upserting.upsert([f"r{i}" for i in range(8)], rows, {"n": list(range(8))})
        down = threading.Event()

        def restart():
            program.kill()
            down.set()
            time.sleep(5)
            program.start()

        with ThreadPoolExecutor(4) as pool:
            restarted = pool.submit(restart)
            down.wait()
            upserted = pool.submit(upserting.upsert, ["new"], rows[:1], {"n": [8]})
            found = pool.submit(searching.search, rows, 1)
            scanned = pool.submit(lambda: sum(len(records) for records in scanning.scan()))
            restarted.result()
            assert upserted.result() == 1
            assert found.result().scores.tolist() == [[1.0]] * 8
            assert scanned.result() in (8, 9)
        assert idle.count() == 9
        for store in (upserting, searching, scanning, idle):
            store.close()


def test_a_server_that_was_never_there_fails_fast():
    began = time.monotonic()
    with pytest.raises(knnstore.errors.StoreConnectionError):
        knnstore.open_store(f"milvus://127.0.0.1:{free_port()}/default/x", knnstore.StoreSpec(8))
    assert time.monotonic() - began < 15  # a busy machine is late; the default is 60
