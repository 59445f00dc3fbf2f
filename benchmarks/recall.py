"""How many true neighbours an approximate search finds behind a filter that goes with the vectors, and what it costs.

    python benchmarks/recall.py [URL ...] [--rows 40000] [--dim 256] [--queries 200] [--rounds 5] [--filters both]

An active vocabulary is such a filter: the classes asked for lie in some clusters and the rest in others, and queries
come from everywhere. A field ``c`` has the number of the cluster, of 200; ``c < m`` keeps a share of them. The field
``r`` keeps the same shares at random. Each cell says the share of the true neighbours found (a hit that scores as well
as the k-th of them counts), how many slots are empty though a record for them matches, and the time for all queries
beside that of an exact FAISS store, which takes turns with it. A URL may hold ``{here}``, a temporary folder. Milvus
and Qdrant servers are those of $KNNSTORE_MILVUS_URL and $KNNSTORE_QDRANT_URL; where the wheel ``milvus`` is installed,
its server is started.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import knnstore
from knnstore import F
from knnstore.testing.servers import MilvusProgram, below

SHARES = {"all": None, "9/10": 0.9, "1/2": 0.5, "1/5": 0.2, "1/20": 0.05, "1/100": 0.01}
CLUSTERS, K = 200, 16
EXACT = "faiss://{here}/exact"
LOCAL = ["faiss://{here}/hnsw?index=HNSW32", "faiss://{here}/ivf?index=IVF256,Flat", "qdrant+edge://{here}/edge"]


def clustered(count: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around 200 centres, float32 (count, dim), and the number of each row's centre."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((CLUSTERS, dim), dtype=np.float32)
    cluster = rng.integers(0, CLUSTERS, count)
    rows = centres[cluster] + 0.5 * rng.standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), cluster


def urls(stack: ExitStack, given: list[str], here: Path) -> Iterator[str]:
    """What to measure."""
    for url in given or LOCAL:
        yield url.format(here=here)
    if given:
        return
    if "KNNSTORE_QDRANT_URL" in os.environ:
        yield below(os.environ["KNNSTORE_QDRANT_URL"], f"recall_{os.getpid()}")
    milvus = os.environ.get("KNNSTORE_MILVUS_URL", "")
    if not milvus and find_spec("milvus"):
        milvus = stack.enter_context(MilvusProgram(here / "milvus")).url
    for index in ("HNSW", "IVF_FLAT", "AUTOINDEX") if milvus else ():
        yield below(milvus, f"default/recall_{os.getpid()}_{index.lower()}", index=index)


def filters(kind: str) -> dict[str, knnstore.Filter | None]:
    return {name: share and F(kind) < round(share * CLUSTERS) for name, share in SHARES.items()}


def filled(url: str, vectors: np.ndarray, cluster: np.ndarray) -> knnstore.EmbeddingStore:
    spec = knnstore.StoreSpec(dim=vectors.shape[1], fields={"c": int, "r": int})
    store = knnstore.open_store(url, spec=spec)
    random = np.random.default_rng(7).integers(0, CLUSTERS, len(vectors))
    for start in range(0, len(vectors), 10_000):
        part = slice(start, start + 10_000)
        ids = [str(i) for i in range(start, min(start + 10_000, len(vectors)))]
        store.upsert(ids, vectors[part], {"c": cluster[part], "r": random[part]})
    return store


def turns(
    stores: dict[str, knnstore.EmbeddingStore], queries: np.ndarray, where: knnstore.Filter | None, rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Scores of each store's hits, and the median milliseconds of a search of all queries, taken in turns."""
    scores = {name: store.search(queries, K, where=where).scores for name, store in stores.items()}
    taken: dict[str, list[float]] = {name: [] for name in stores}
    for _ in range(rounds):
        for name, store in stores.items():
            started = time.perf_counter()
            store.search(queries, K, where=where)
            taken[name].append(1e3 * (time.perf_counter() - started))
    return scores, {name: statistics.median(values) for name, values in taken.items()}


def cell(scores: np.ndarray, truth: np.ndarray) -> str:
    there = np.isfinite(truth)
    least = np.where(there, truth, np.inf).min(axis=1, keepdims=True)
    empty = there.sum() - np.isfinite(scores).sum()
    return f"{(scores >= least - 1e-5).sum() / there.sum():.3f}" + (f", {empty} empty" if empty else "")


def table(kind: str, stores: dict[str, knnstore.EmbeddingStore], queries: np.ndarray, rounds: int) -> None:
    print(f"\nfilter on `{kind}`\n\n| store | floor | " + " | ".join(SHARES) + " |\n|---|---|" + "---|" * len(SHARES))
    rows = {name: f"| {name} | {store.capabilities.recall_floor} |" for name, store in stores.items()}
    for where in filters(kind).values():
        scores, taken = turns(stores, queries, where, rounds)
        for name in stores:
            rows[name] += f" {cell(scores[name], scores['exact'])} · {taken[name] / taken['exact']:.2f} |"
        rows["exact"] = rows["exact"].rpartition("·")[0] + f"· {taken['exact']:.0f} ms |"
    print("\n".join(rows.values()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--filters", choices=["clusters", "random", "both"], default="both")
    parser.add_argument("--unindexed", action="store_true", help="without optimize()")
    args = parser.parse_args()
    vectors, cluster = clustered(args.rows, args.dim, 0)
    queries, _ = clustered(args.queries, args.dim, 1)
    with ExitStack() as stack:
        here = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = {"exact": stack.enter_context(filled(EXACT.format(here=here), vectors, cluster))}
        for url in urls(stack, args.urls, here):
            store = stack.enter_context(filled(url, vectors, cluster))
            if not args.unindexed:
                started = time.perf_counter()
                store.optimize()
                print(f"{store.url}: optimize() took {time.perf_counter() - started:.1f} s", file=sys.stderr)
            name = str(store.url).replace(f"//{here}/", "").split(f"recall_{os.getpid()}")
            stores["".join(name)] = store
        for kind in {"clusters": "c", "random": "r", "both": "cr"}[args.filters]:
            table(kind, stores, queries, args.rounds)


if __name__ == "__main__":
    main()
