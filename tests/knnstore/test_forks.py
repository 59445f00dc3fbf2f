"""A process that has used a store forks: no child ever hangs, on any backend, and each can open and use stores.

A fork that hangs may be one in a hundred: KNNSTORE_FORKS=1002 has so many over gRPC instead of two hundred (four minutes).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from knnstore import drop_store
from knnstore.testing.servers import below

HERE = Path(__file__).parent
BRIDGE = HERE.parents[1] / "plugins" / "knnstore-qdrant" / "tests" / "bridge.py"
PLACES = ["memory", "faiss", "qdrant-grpc", "qdrant-http"]
HOW = ["closed", "open", "threads"]
MANY = int(os.environ.get("KNNSTORE_FORKS", "201"))  # over gRPC, of all three kinds


@pytest.fixture(scope="module")
def bridge():
    """The ports of a stand-in for a server of Qdrant, in a process of its own."""
    with subprocess.Popen([sys.executable, str(BRIDGE), "{}"], stdout=subprocess.PIPE, text=True) as process:
        yield json.loads(process.stdout.readline())
        process.kill()


@pytest.fixture(params=PLACES)
def url(request, tmp_path):
    backend, _, transport = request.param.partition("-")
    if backend == "qdrant":
        port = request.getfixturevalue("bridge")[transport]
        return f"qdrant://127.0.0.1:{port}/f{tmp_path.name[-8:]}?transport={transport}&timeout=15"
    return "memory:///forks" if backend == "memory" else f"faiss://{tmp_path}/store"


def fork_many(url, forks, how):
    """In a fresh process, which has no threads but those that the store makes."""
    command = [sys.executable, str(HERE / "forking.py"), url, str(forks), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120 + forks, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


@pytest.mark.parametrize("how", HOW)
def test_no_child_hangs(url, how):
    fork_many(url, 10, how)


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_no_child_of_many_hangs(url, how):
    fork_many(url, MANY // len(HOW) if "transport=grpc" in url else 20, how)


@pytest.mark.server
@pytest.mark.parametrize("how", HOW)
def test_no_child_hangs_on_milvus(milvus_url, how):
    url = below(milvus_url, f"default/forks-{how}", index="FLAT")
    try:
        fork_many(url, 30, how)
    finally:
        drop_store(url)
