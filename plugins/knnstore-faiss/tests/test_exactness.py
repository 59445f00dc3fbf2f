"""The exact index: the same bits as the memory store, whatever is stored, in whatever order, by whatever path."""

import faiss
import numpy as np
import pytest
from knnstore_faiss import flat, gpu
from knnstore_faiss.flat import FlatIndex
from knnstore_faiss.gpu import GpuSearcher
from knnstore_faiss.nominate import ranked

import knnstore
from knnstore import F

FIELDS = {"label": str, "area": int}


def same(left, right):
    assert left.ids.tolist() == right.ids.tolist()
    assert left.scores.tobytes() == right.scores.tobytes()
    for name in left.fields:
        assert left.fields[name].tolist() == right.fields[name].tolist()


def awkward(count, dim, seed):
    """Many ties, duplicates and near-duplicates, of very different lengths."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (count, dim)).astype(np.float32)
    rows[:, 0] += 0.5
    rows[: count // 3] = rows[0]
    rows[count // 2 :] *= rng.choice([1e-3, 1, 1 + 1e-7, 50], (count - count // 2, 1)).astype(np.float32)
    return rows


def pair(tmp_path, metric, dim):
    spec = knnstore.StoreSpec(dim=dim, metric=metric, fields=FIELDS)
    return knnstore.open_store(f"faiss://{tmp_path}/s", spec), knnstore.open_store(
        f"memory:///{tmp_path}{metric}", spec
    )


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
@pytest.mark.parametrize(("dim", "count"), [(1, 50), (7, 400), (64, 900)])
@pytest.mark.parametrize("small_blocks", [False, True])
def test_bit_for_bit_the_memory_store(tmp_path, monkeypatch, metric, dim, count, small_blocks):
    if small_blocks:
        monkeypatch.setattr(flat, "_ROUGH_BYTES", 1)
        monkeypatch.setattr(flat, "_PAIR_BYTES", 1000)
        monkeypatch.setattr(flat, "_MOST_QUERIES", 4)
    store, memory = pair(tmp_path, metric, dim)
    rows = awkward(count, dim, count)
    order = np.random.default_rng(1).permutation(count)
    ids = [f"{i}" for i in order]
    fields = {"label": [f"l{i % 5}" for i in range(count)], "area": list(range(count))}
    for each in (store, memory):
        each.upsert(ids, rows, fields)
    queries = np.concatenate([rows[:3], awkward(20, dim, 9)])
    filters = (
        None,
        F("area") < count // 2,
        F("area") >= count - 20,
        F("label") == "l2",
        F("area") < 0,
        ~(F("area") == 3),
    )
    for k in (1, 5, count + 3):
        for where in filters:
            for part in (queries, queries[:1]):
                answers = [each.search(part, k, where=where, fields=["label", "area"]) for each in (store, memory)]
                same(*answers)
    store.close()


def test_a_thousand_identical_vectors_are_ordered_by_id(tmp_path):
    store, _ = pair(tmp_path, "cosine", 32)
    row = np.random.default_rng(0).standard_normal((1, 32)).astype(np.float32)
    ids = [f"{i:04d}" for i in np.random.default_rng(0).permutation(1000)]
    store.upsert(ids, np.repeat(row, 1000, axis=0), {"label": ["x"] * 1000, "area": [1] * 1000})
    assert store.search(row, 16).ids[0].tolist() == [f"{i:04d}" for i in range(16)]
    store.close()


def test_history_leaves_no_trace(tmp_path):
    spec = knnstore.StoreSpec(dim=24, fields={"n": int})
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((500, 24)).astype(np.float32)
    queries = rng.standard_normal((9, 24)).astype(np.float32)
    ids = [f"id{i}" for i in range(500)]
    with knnstore.open_store(f"faiss://{tmp_path}/plain", spec) as plain:
        plain.upsert(ids, rows, {"n": [0] * 500})
        wanted = plain.search(queries, 20)
    with knnstore.open_store(f"faiss://{tmp_path}/eventful", spec) as eventful:
        for part in np.array_split(rng.permutation(500), 7):
            eventful.upsert(
                [f"id{i}" for i in part], rng.standard_normal((len(part), 24)).astype(np.float32), {"n": part}
            )
            eventful.search(queries, 3)
            eventful.upsert([f"x{i}" for i in part], rows[part], {"n": part})
            eventful.upsert([f"id{i}" for i in part], rows[part], {"n": part})
            eventful.delete([f"x{i}" for i in part[::2]])
            eventful.search(queries, 3)
        eventful.delete([f"x{i}" for i in range(500)])
        same(eventful.search(queries, 20), wanted)
        eventful.optimize()
        same(eventful.search(queries, 20), wanted)
    with knnstore.open_store(f"faiss://{tmp_path}/eventful") as again:
        same(again.search(queries, 20), wanted)


def test_numbers_near_the_end_of_float32(tmp_path):
    store, _ = pair(tmp_path, "dot", 4)
    rows = np.array([[3e38, 0, 0, 0], [1e30, 1, 1, 1], [-3e38, 1, 0, 0]], np.float32)
    store.upsert(["a", "b", "c"], rows, {"label": ["x"] * 3, "area": [1] * 3})
    hits = store.search(np.array([[100, 0, 0, 0]], np.float32), 3)
    assert hits.ids[0].tolist() == ["a", "b", "c"]
    assert store.get(["a"]).vectors.tobytes() == rows[:1].tobytes()
    store.close()


@pytest.mark.parametrize("index", ["Flat", "HNSW8", "IVF4,Flat", "OPQ4_8,IVF4,PQ4x4", "SQ8"])
@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_what_overflows_is_found_too(tmp_path, metric, index):
    """Norms from 1 to 1e38 in one store, against the memory store; and as before once the large ones are gone."""
    spec = knnstore.StoreSpec(dim=8, metric=metric, fields={"size": int})
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((400, 8)).astype(np.float32)
    sizes = np.repeat([0, 17, 19, 20, 37], 80)
    rows *= (10.0 ** sizes[:, None]).astype(np.float32)
    memory = knnstore.open_store(f"memory:///{tmp_path}", spec)
    with knnstore.open_store(f"faiss://{tmp_path}/s?index={index}&train_at=50", spec) as store:
        for each in (store, memory):
            each.upsert([f"{i}" for i in range(400)], rows, {"size": sizes})
            each.optimize()
        queries = rows[::9] * np.float32(1.001)
        for where in (None, F("size") >= 19, F("size") != 20):
            for k in (1, 7):
                same(store.search(queries, k, where=where), memory.search(queries, k, where=where))
        for each in (store, memory):
            each.delete(where=F("size") > 0)
        if index == "Flat":
            assert store._index._flat.largest > 1e18  # until the next search
            same(store.search(queries[:8], 3), memory.search(queries[:8], 3))
            assert store._index._flat.largest < 10


@pytest.mark.parametrize("metric", ["dot", "l2"])
def test_the_path_of_the_gpu_with_another_nominator(metric):
    """No GPU here: the same code with a nominator that is as rough as a float32 product may be."""
    rng = np.random.default_rng(0)
    index = FlatIndex(16, metric)
    rows = np.concatenate([awkward(300, 16, 2), rng.standard_normal((2000, 16)).astype(np.float32)])
    index.add(np.arange(len(rows)), rows)
    queries = rng.standard_normal((30, 16)).astype(np.float32)
    asked = []

    def nominate(queries, vectors, k, version):
        asked.append(k)
        exact = queries @ vectors.T if metric == "dot" else -((queries[:, None] - vectors) ** 2).sum(axis=2)
        order = np.argsort(-exact, axis=1)[:, :k]
        return np.take_along_axis(exact, order, axis=1), order

    def names(rows):
        return np.array([f"{row}" for row in rows], object)

    for chosen in (None, np.arange(0, len(rows), 3), np.arange(5)):
        for k in (1, 10, 400, 2500):
            expected = ranked(index.search(queries, k, chosen), (30, k), names)
            found = ranked(GpuSearcher(index, nominate).search(queries, k, chosen), (30, k), names)
            assert found[0].tolist() == expected[0].tolist()
            assert found[1].tobytes() == expected[1].tobytes()
    assert max(asked) <= gpu._MOST
    index.add(np.array([10_000]), np.full((1, 16), 1e30, np.float32))
    asked.clear()
    GpuSearcher(index, nominate).search(np.full((1, 16), 1e30, np.float32), 1, None)
    assert not asked, "what overflows is searched on the CPU"


class FakeGpu:
    """The parts of faiss-gpu that are used, on the CPU."""

    METRIC_L2, METRIC_INNER_PRODUCT = 1, 0
    StandardGpuResources = object

    class GpuIndexFlatConfig:
        device = -1

    class _Flat:
        def __init__(self, resources, dim, config, metric):
            self.metric, self.adds, self.reset = metric, 0, lambda: None

        def add(self, vectors):
            self.vectors, self.adds = vectors.copy(), self.adds + 1

        def search(self, queries, k):
            return FakeGpu.knn_gpu(None, queries, self.vectors, k, self.metric, 0)

    GpuIndexFlatIP = staticmethod(lambda *arguments: FakeGpu._Flat(*arguments, 0))
    GpuIndexFlatL2 = staticmethod(lambda *arguments: FakeGpu._Flat(*arguments, 1))

    @staticmethod
    def knn_gpu(resources, queries, vectors, k, metric, device):
        return faiss.knn(queries, np.ascontiguousarray(vectors), k, metric)

    @staticmethod
    def get_num_gpus():
        return 2


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_store_on_a_stand_in_for_a_gpu(tmp_path, monkeypatch, metric):
    for module in ("gpu", "opening"):
        monkeypatch.setattr(f"knnstore_faiss.{module}.load_faiss", lambda: FakeGpu)
    spec = knnstore.StoreSpec(dim=16, metric=metric, fields=FIELDS)
    memory = knnstore.open_store(f"memory:///{tmp_path}", spec)
    with knnstore.open_store(f"faiss://{tmp_path}/s?device=cuda:1", spec) as store:
        assert store.stats().details["device"] == "cuda:1"
        for round_ in range(3):
            fields = {"label": ["x"] * 300, "area": list(range(300))}
            for each in (store, memory):
                each.upsert([f"{i}" for i in range(300)], awkward(300, 16, round_), fields)
                each.delete([f"{i}" for i in range(round_)])
            queries = awkward(10, 16, 5)
            for where in (None, F("area") < 100):
                for k in (1, 7, 400):
                    same(store.search(queries, k, where=where), memory.search(queries, k, where=where))
        assert store._index._nominate._index.adds == 3
    with knnstore.open_store(f"faiss://{tmp_path}/a?device=auto", spec) as store:
        assert store.stats().details["device"] == "cpu"
    with pytest.raises(knnstore.KnnStoreError, match="index=Flat"):
        knnstore.open_store(f"faiss://{tmp_path}/h?device=cuda&index=HNSW8", spec)
