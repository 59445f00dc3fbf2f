"""knnstore on Qdrant Edge against bare ``qdrant-edge-py`` doing the same work.

    python benchmarks/qdrant_store.py [--records 20000] [--dim 256] [--rounds 15]

The bare program does what its documentation recommends: points with UUIDs in batches of 1000, one ``query_batch`` for a
batch of queries, the payload restricted to the field that is wanted, results read into Python lists. The two take
turns, round by round, and the median of the ratios is reported, so that whatever else the machine does meets both.
"""

import argparse
import shutil
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import qdrant_edge as edge

import knnstore

K = 16
BATCH = 1000


def clock(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(ours, bare, rounds):
    """The median of ours/bare, the two in turns, and the median time of each."""
    pairs = []
    for i in range(rounds):
        first, second = (ours, bare) if i % 2 else (bare, ours)
        one, two = clock(first), clock(second)
        pairs.append((one, two) if i % 2 else (two, one))
    return (
        statistics.median(a / b for a, b in pairs),
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
    )


class Bare:
    """The engine without us."""

    def __init__(self, folder, dim):
        folder.mkdir()
        vectors = edge.EdgeVectorParams(dim, edge.Distance.Dot)
        config = edge.EdgeConfig(vectors=vectors, hnsw_config=edge.HnswIndexConfig(16, 100, 10_000))
        self.shard = edge.EdgeShard.create(str(folder), config)
        self.shard.update(edge.UpdateOperation.create_field_index("label", edge.PayloadSchemaType.Keyword))

    def upload(self, ids, vectors, labels):
        for start in range(0, len(ids), BATCH):
            part = slice(start, start + BATCH)
            points = [
                edge.Point(str(uuid.uuid5(uuid.NAMESPACE_URL, name)), vector, {"label": label, "name": name})
                for name, vector, label in zip(ids[part], vectors[part].tolist(), labels[part], strict=True)
            ]
            self.shard.update(edge.UpdateOperation.upsert_points(points))

    def search(self, queries, exact):
        params = edge.SearchParams(exact=exact)
        requests = [
            edge.QueryRequest(K, query=edge.Query.Nearest(q), params=params, with_payload=["name", "label"])
            for q in queries.tolist()
        ]
        answers = self.shard.query_batch(edge.QueryBatchRequest(requests))
        return [[(hit.payload["name"], hit.score, hit.payload["label"]) for hit in answer] for answer in answers]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, args.dim))
    rows = (centres[rng.integers(200, size=args.records)] + 0.7 * rng.normal(size=(args.records, args.dim))).astype(
        "f4"
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows.astype(np.float32)
    ids, labels = [f"image {i}#{i % 9}" for i in range(args.records)], [f"label {i % 150}" for i in range(args.records)]
    root = Path(tempfile.mkdtemp())
    spec = knnstore.StoreSpec(args.dim, "cosine", {"label": str})
    print(f"{args.records} records of {args.dim}, k={K}, one field returned; median of {args.rounds} ratios")
    measure_upload(args, root, spec, ids, rows, labels)
    measure_search(args, root, spec, ids, rows, labels, rng)
    shutil.rmtree(root)


def measure_upload(args, root, spec, ids, rows, labels):
    count = iter(range(10_000))
    times = {"bare": [], "ours": []}

    def upload_bare():
        folder = root / f"bare{next(count)}"
        bare = Bare(folder, args.dim)
        times["bare"].append(clock(lambda: bare.upload(ids, rows, labels)))
        bare.shard.close()
        shutil.rmtree(folder)

    def upload_ours():
        folder = root / f"ours{next(count)}"
        with knnstore.open_store(f"qdrant+edge://{folder}", spec) as store:
            times["ours"].append(clock(lambda: store.upsert(ids, rows, {"label": labels})))
        shutil.rmtree(folder)

    uploads = max(5, args.rounds // 2)
    ratio(upload_ours, upload_bare, uploads)
    pairs = list(zip(times["ours"], times["bare"], strict=True))
    print(
        f"upload               {statistics.median(a / b for a, b in pairs):5.2f}   "
        f"knnstore {statistics.median(times['ours']):.3f} s, bare {statistics.median(times['bare']):.3f} s"
    )


def measure_search(args, root, spec, ids, rows, labels, rng):
    bare = Bare(root / "bare", args.dim)
    bare.upload(ids, rows, labels)
    url = f"qdrant+edge://{root}/ours"
    with knnstore.open_store(url, spec) as store, knnstore.open_store(f"{url}?exact=1") as exact:
        store.upsert(ids, rows, {"label": labels})
        bare.shard.optimize()
        store.optimize()
        for name, opened, flag in (("exact", exact, True), ("graph", store, False)):
            for q in (1, 250):
                queries = rows[rng.integers(args.records, size=q)] + 0.01
                repeats = 20 if q == 1 else 1
                middle, ours, theirs = ratio(
                    lambda o=opened, x=queries, n=repeats: [o.search(x, K, fields=["label"]) for _ in range(n)],
                    lambda f=flag, x=queries, n=repeats: [bare.search(x, f) for _ in range(n)],
                    args.rounds,
                )
                print(
                    f"search {name}, Q={q:<4}  {middle:5.2f}   "
                    f"knnstore {ours / repeats * 1000:.2f} ms, bare {theirs / repeats * 1000:.2f} ms"
                )
        print("indexed vectors:", store.stats().details["indexed_vectors"], "of", args.records)
    bare.shard.close()


if __name__ == "__main__":
    main()
