"""The client's local mode, only for trying the API: the kit, and the warning."""

import os
from urllib.parse import quote

import numpy as np
import pytest
from knnstore_qdrant import QdrantBackend, local

import knnstore
from knnstore import F
from knnstore.errors import InvalidURLError, StoreBusyError
from knnstore.testing import StoreTests

DECLARED = QdrantBackend().gaps(knnstore.StoreURL.parse("qdrant+local:///x"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::knnstore_qdrant.local.SlowLocalModeWarning")
class TestLocal(StoreTests):
    expected_failures = DECLARED

    @pytest.fixture
    def store_url(self, tmp_path):
        return f"qdrant+local://{quote(str(tmp_path))}/störe one"


def test_what_it_is_for(tmp_path):
    """The same program as on a server, small; the whole kit is in the slow lane."""
    url, spec = f"qdrant+local://{tmp_path}/try", knnstore.StoreSpec(3, "l2", {"label": str, "thing": bool})
    with knnstore.open_store(url, spec) as store:
        fields = {"label": ["it's", 'say "hi"'], "thing": [True, False]}
        store.upsert(["a", "b"], np.array([[1, 0, 0], [0, 3, -0.0]], np.float32), fields)
        assert store.search(np.zeros((1, 3), np.float32), 3, where=F("thing").isin([False])).scores.tolist() == [
            [-9, -np.inf, -np.inf]
        ]
    with knnstore.open_store(url) as store:
        assert store.spec == spec
        assert store.count_by("label") == {"it's": 1, 'say "hi"': 1}
        assert store.get(["b"]).vectors.tobytes() == np.array([0, 3, -0.0], np.float32).tobytes()
    assert knnstore.collections(f"qdrant+local://{tmp_path}") == [knnstore.StoreURL.parse(url)]


def test_many_records_are_warned_of(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_MANY", 100)  # 10,000 would take a minute
    url = f"qdrant+local://{tmp_path}/try"
    rows = np.random.default_rng(0).normal(size=(101, 2)).astype(np.float32)
    with knnstore.open_store(url, knnstore.StoreSpec(2)) as store:
        store.upsert([f"r{i}" for i in range(100)], rows[:100])
        with pytest.warns(local.SlowLocalModeWarning, match=r"101 records.*qdrant\+edge"):
            store.upsert(["last"], rows[:1])
    with pytest.warns(local.SlowLocalModeWarning):
        knnstore.open_store(url).close()
    assert issubclass(local.SlowLocalModeWarning, UserWarning)


def test_the_warning_comes_at_ten_thousand():
    assert local._MANY == 10_000


def test_options_that_mean_nothing_here_are_refused(tmp_path):
    with pytest.raises(InvalidURLError, match="exact"):
        knnstore.open_store(f"qdrant+local://{tmp_path}/try?exact=1", knnstore.StoreSpec(2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_reads_and_does_not_write(tmp_path):
    """It has a copy of the points; the file belongs to its parent."""
    with knnstore.open_store(f"qdrant+local://{tmp_path}/try", knnstore.StoreSpec(2, "l2")) as store:
        store.upsert(["a"], np.ones((1, 2), np.float32))
        refused = 0
        if (child := os.fork()) == 0:
            try:
                seen = store.count() == 1
                for write in (lambda: store.upsert(["b"], np.ones((1, 2), np.float32)), lambda: store.delete(["a"])):
                    try:
                        write()
                    except StoreBusyError:
                        refused += 1
                os._exit(0 if seen and refused == 2 else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.get(["a", "b"]).ids.tolist() == ["a"]
