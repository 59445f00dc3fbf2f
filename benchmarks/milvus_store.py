"""What knnstore costs on Milvus: the same work through it and through the bare client, in turns, on one real server.

The bare client is used as its documentation shows: ``MilvusClient.upsert`` with a list of rows, ``MilvusClient.search``
with the whole batch, and the hits read. Both work on collections of one schema; both are searched in one of them.

    python benchmarks/milvus_store.py [--records 30000] [--dim 256] [--rounds 15]
"""

import argparse
import statistics
import time
import uuid
from contextlib import nullcontext
from os import environ
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from pymilvus import MilvusClient

import knnstore
from knnstore.testing.servers import MilvusProgram, below

K = 16
STEP = 5_000
EF = {"params": {"ef": 64}}  # what knnstore asks for by default


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=30_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    given = environ.get("KNNSTORE_MILVUS_URL")
    with TemporaryDirectory() as folder, nullcontext() if given else MilvusProgram(Path(folder)) as program:
        measure(given or program.url, arguments)


def measure(url, arguments):
    rng, name = np.random.default_rng(0), f"bench_{uuid.uuid4().hex[:8]}"
    vectors = rng.normal(size=(arguments.records, arguments.dim)).astype(np.float32)
    labels = [f"label {i % 150}" for i in range(arguments.records)]
    spec = knnstore.StoreSpec(arguments.dim, "dot", {"label": str})
    client = MilvusClient(url.replace("milvus://", "http://"))
    print(f"Milvus {client.get_server_version()}: {arguments.records} × {arguments.dim}, k={K}, label returned")
    ours, bare = (
        knnstore.open_store(below(url, f"default/{name}_{end}", index="HNSW"), spec) for end in ("ours", "bare")
    )
    try:
        report(
            "upload",
            [one_upload(ours, client, f"{name}_bare", vectors, labels, i) for i in range(0, len(labels), STEP)],
        )
        ours.optimize()
        time.sleep(3)  # the server says that it uses the new index somewhat before it does
        for q in (1, 250):
            rounds = arguments.rounds * (4 if q == 1 else 1)
            queries = rng.normal(size=(q, arguments.dim)).astype(np.float32)
            report(f"search Q={q}", searches(ours, client, f"{name}_ours", queries, rounds))
    finally:
        ours.close()
        bare.close()
        for end in ("ours", "bare"):
            client.drop_collection(f"{name}_{end}")
        client.close()


def one_upload(store, client, collection, vectors, labels, start):
    part = slice(start, start + STEP)
    ids, rows, words = [f"r{i}" for i in range(start, start + len(labels[part]))], vectors[part], labels[part]

    def through_knnstore():
        store.upsert(ids, rows, {"label": words})

    def through_the_client():
        records = [{"_id": i, "_vector": row, "f_label": word} for i, row, word in zip(ids, rows, words, strict=True)]
        client.upsert(collection, records)

    return in_turns(through_knnstore, through_the_client, start // STEP)


def searches(store, client, collection, queries, rounds):
    def through_knnstore():
        hits = store.search(queries, K, fields=["label"])
        return hits.ids.tolist(), hits.scores, hits.fields["label"].tolist()

    def through_the_client():
        found = client.search(collection, data=queries, limit=K, output_fields=["f_label"], search_params=EF)
        return (
            [[hit["id"] for hit in hits] for hits in found],
            np.array([[hit["distance"] for hit in hits] for hits in found], np.float32),
            [[hit["entity"]["f_label"] for hit in hits] for hits in found],
        )

    for _ in range(4):  # the server's HNSW remembers where a query has ended, and begins there when it comes again
        one, two = through_knnstore(), through_the_client()
    assert one[0] == two[0] and one[2] == two[2], "not the same work"
    return [in_turns(through_knnstore, through_the_client, turn) for turn in range(rounds)]


def in_turns(ours, bare, turn):
    """Seconds of each, whoever comes first."""
    taken = {}
    for call in (ours, bare) if turn % 2 else (bare, ours):
        start = time.perf_counter()
        call()
        taken[call] = time.perf_counter() - start
    return taken[ours], taken[bare]


def report(what, times):
    ratio = statistics.median(ours / bare for ours, bare in times)
    ours, bare = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{what:12} knnstore {ours:8.1f} ms   pymilvus {bare:8.1f} ms   median ratio {ratio:.2f}   ({len(times)} pairs)"
    )


if __name__ == "__main__":
    main()
