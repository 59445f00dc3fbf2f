"""A round trip through every backend ends bit for bit where it began."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

import knnstore
from knnstore import StoreSpec
from knnstore.testing.servers import below, remove

FIELDS = {"label": str, "area": int, "score": float, "thing": bool}
LABELS = ["kettle", "", 'say "1==1" or \\', "a\nb", "猫🦓", "100%", "it's", "\x00"]


@pytest.fixture(params=["memory", "faiss", "qdrant+edge", "milvus+lite",
                        pytest.param("milvus", marks=pytest.mark.server), pytest.param("qdrant", marks=pytest.mark.server)])  # fmt: skip
def url(request, tmp_path):
    name = f"moving_{uuid.uuid4().hex[:8]}"
    match request.param:
        case "milvus":
            place = below(request.getfixturevalue("milvus_url"), f"default/{name}", index="FLAT")
        case "qdrant":
            place = below(request.getfixturevalue("qdrant_url"), name)
        case "milvus+lite":
            place = f"milvus+lite://{tmp_path}/lite.db/{name}"
        case kind:
            place = f"{kind}://{tmp_path}/{name}"
    yield place
    if request.param in ("milvus", "qdrant"):
        remove(place)


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_parquet_in_and_out(url, metric, tmp_path):
    rng = np.random.default_rng(3)
    count = 300
    vectors = rng.standard_normal((count, 7)).astype(np.float32)
    vectors[:40, 0], vectors[:80, 1] = -0.0, np.float32(1e-45)
    area = rng.integers(-(2**63), 2**63 - 1, count)
    area[:2] = [-(2**63), 2**63 - 1]
    score = rng.standard_normal(count)
    score[:4] = [-0.0, 5e-324, 1.7976931348623157e308, -5e-324]
    columns = {
        "label": [LABELS[i % len(LABELS)] for i in range(count)],
        "area": area,
        "score": score,
        "thing": area > 0,
    }
    first = f"memory://{tmp_path}/first"
    with knnstore.open_store(first, StoreSpec(7, metric, FIELDS, knnstore.EmbeddingSpace("e", "sha256:1"))) as store:
        store.upsert([f"img{i}#猫" for i in range(count)], vectors, columns)

    [written] = knnstore.export_parquet(first, tmp_path / "one")
    [imported] = knnstore.import_parquet(tmp_path / "one", url)
    [again] = knnstore.export_parquet(url, tmp_path / "two")
    [home] = knnstore.copy_store(url, f"memory://{tmp_path}/home")
    assert written.checksum == imported.checksum == again.checksum == home.checksum
    with knnstore.open_store(first) as one, knnstore.open_store(f"memory://{tmp_path}/home") as two:
        ids = [f"img{i}#猫" for i in range(count)]
        left, came = one.get(ids), two.get(ids)
        assert one.spec == two.spec and came.ids.tolist() == ids
        assert left.vectors.tobytes() == came.vectors.tobytes()
        for name in FIELDS:
            assert left.fields[name].tolist() == came.fields[name].tolist(), name
