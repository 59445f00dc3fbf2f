"""Every collection that a test makes on a server is removed again, whatever becomes of the test."""

import os
import subprocess
import sys

import numpy as np
import pytest

import knnstore
from knnstore.testing.servers import remove

pytestmark = pytest.mark.server

_LEAVES_ONE = """
import knnstore
from knnstore.testing.servers import below

def test_it(milvus_url):
    knnstore.open_store(below(milvus_url, "default/forgotten/deep/down", index="FLAT"), knnstore.StoreSpec(2)).close()
"""


def test_a_run_that_leaves_a_collection_behind_fails(tmp_path):
    (tmp_path / "test_it.py").write_text(_LEAVES_ONE)
    environment = {name: value for name, value in os.environ.items() if name != "KNNSTORE_MILVUS_URL"}
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "knnstore.testing.servers",
            "-p",
            "no:cacheprovider",
            "test_it.py",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 1, ended.stdout
    assert "1 passed, 1 error" in ended.stdout
    assert "1 collections left on milvus://" in ended.stdout and "default/forgotten_deep_down_" in ended.stdout


def test_what_is_at_a_place_and_below_it_is_removed(place, bare):
    for path in ("", "/one", "/two"):
        with knnstore.open_store(place(path, index="FLAT"), knnstore.StoreSpec(2)) as store:
            store.upsert(["a"], np.ones((1, 2), np.float32))
    before = bare.list_collections()
    remove(place())
    assert len(before) - len(bare.list_collections()) == 3
    assert knnstore.collections(place()) == []
