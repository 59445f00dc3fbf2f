"""What the embedded store costs beside what a user would write instead.

    python benchmarks/store.py [--quick] [--rounds 11] [--only search,filter,upsert,open]

Absolute times depend on the machine and on what else it does. Contestants therefore take turns in one process
(A B C A B C …), medians are compared, and the ratios are what is reported. Needs faiss and torch.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import torch

import knnstore
from knnstore import F

DIM, K = 768, 16
SPEC = knnstore.StoreSpec(dim=DIM, fields={"label": str, "area": int})
RESULTS = Path(__file__).parent / "results" / "store.json"
Contest = dict[str, Callable[[], object]]


def turns(contest: Contest, rounds: int) -> dict[str, float]:
    """Median milliseconds of each contestant, one turn each a round, after one round to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in contest}
    for done in range(rounds + 1):
        for name, work in contest.items():
            started = time.perf_counter()
            work()
            if done:
                taken[name].append(1e3 * (time.perf_counter() - started))
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def unit_rows(count: int, seed: int) -> np.ndarray:
    """Rows around 200 centres, as embeddings are: float32 (count, DIM), unit norm."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((200, DIM), dtype=np.float32)
    rows = centres[rng.integers(0, 200, count)] + rng.standard_normal((count, DIM), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def columns(count: int, first: int = 0) -> dict[str, list]:
    numbers = range(first, first + count)
    return {"label": [f"class {i % 150}" for i in numbers], "area": [i % 1000 for i in numbers]}


def filled(folder: Path, vectors: np.ndarray) -> knnstore.EmbeddingStore:
    store = knnstore.open_store(f"faiss://{folder}", SPEC)
    for first in range(0, len(vectors), 5000):
        part = vectors[first : first + 5000]
        store.upsert([f"{first + i:08d}" for i in range(len(part))], part, columns(len(part), first))
    return store


def raw(vectors: np.ndarray, queries: np.ndarray) -> Contest:
    """The strongest ways to do the bare search: tuned FAISS twice, torch, and FAISS as it comes for one query."""
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    tensor, asked = torch.from_numpy(vectors), torch.from_numpy(queries)

    def tuned(threshold: int, search: Callable[[], object]) -> Callable[[], object]:
        def work() -> object:
            faiss.cvar.distance_compute_blas_threshold = threshold
            return search()

        return work

    return {
        "faiss, BLAS": tuned(1, lambda: index.search(queries, K)),
        "faiss.knn, BLAS": tuned(1, lambda: faiss.knn(queries, vectors, K, faiss.METRIC_INNER_PRODUCT)),
        "faiss, default": tuned(128_000, lambda: index.search(queries, K)),
        "torch": lambda: torch.topk(asked @ tensor.T, K),
        "numpy matmul alone": lambda: queries @ vectors.T,
    }


def compared(times: dict[str, float], *, instead: tuple[str, ...] = ()) -> dict[str, object]:
    """Ratios of every store line to the best raw line that gives the same answer."""
    others = {n: t for n, t in times.items() if not n.startswith("store") and n != "numpy matmul alone"}
    best = min(instead or others, key=times.__getitem__)
    ratios = {n: round(t / times[best], 3) for n, t in times.items() if n.startswith("store")}
    return {"ms": times, "best_raw": best, "ratio": ratios}


def bench_search(folder: Path, quick: bool, rounds: int) -> dict[str, object]:
    vectors = unit_rows(5_000 if quick else 50_000, 0)
    results: dict[str, object] = {}
    half = F("area") < 500
    with filled(folder / "search", vectors) as store:
        for count in (100, 1, 250):
            queries = unit_rows(count, 1)
            contest: Contest = {
                "store": lambda q=queries: store.search(q, K, fields=["label"]),
                "store, half filtered out": lambda q=queries: store.search(q, K, where=half, fields=["label"]),
            } | raw(vectors, queries)
            results[f"Q={count}"] = compared(turns(contest, rounds))
    return results


def bench_first_filter(folder: Path, quick: bool, rounds: int) -> dict[str, object]:
    """A filter that the store has not seen: the selection itself."""
    vectors = unit_rows(5_000 if quick else 50_000, 0)
    queries = unit_rows(100, 1)
    with filled(folder / "filters", vectors) as store:
        fresh = iter(range(500, 1000))
        contest: Contest = {
            "store, new filter": lambda: store.search(queries, K, where=F("area") < next(fresh), fields=["label"]),
            "store, same filter": lambda: store.search(queries, K, where=F("area") < 500, fields=["label"]),
        } | raw(vectors, queries)
        return compared(turns(contest, rounds))


class Bare:
    """The 20 lines that a user would write: one table, WAL, the vector as bytes."""

    def __init__(self, path: Path, sync: str) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=wal")
        self.connection.execute(f"PRAGMA synchronous={sync}")
        self.connection.execute("CREATE TABLE r (id TEXT PRIMARY KEY, label TEXT, area INTEGER, vector BLOB)")

    def upsert(self, ids: list[str], vectors: np.ndarray, fields: dict[str, list]) -> None:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = zip(ids, fields["label"], fields["area"], (row.tobytes() for row in vectors), strict=True)
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT OR REPLACE INTO r VALUES (?, ?, ?, ?)", rows)
        self.connection.execute("COMMIT")


def bench_upsert(folder: Path, quick: bool, rounds: int) -> dict[str, object]:
    results: dict[str, object] = {}
    for sync in ("normal", "full"):
        for size, batches in ((1000, rounds if quick else 4 * rounds), (50, rounds if quick else 10 * rounds)):
            place = folder / f"upsert-{sync}-{size}"
            place.mkdir()
            bare = Bare(place / "bare.sqlite3", sync)
            store = knnstore.open_store(f"faiss://{place}/store?sync={sync}", SPEC)
            results[f"sync={sync}, batches of {size}"] = upsert_contest(store, bare, size, batches)
            store.close()
            bare.connection.close()
    return results


def upsert_contest(store: knnstore.EmbeddingStore, bare: Bare, size: int, batches: int) -> dict[str, object]:
    vectors, taken = 3 * unit_rows(size, 3), {"store": 0.0, "bare": 0.0}
    shuffled = np.random.default_rng(0).permutation(size * batches)
    for number in range(batches):
        ids = [f"{i:032d}" for i in shuffled[number * size : (number + 1) * size]]
        order = [("store", store), ("bare", bare)]
        for name, target in order[:: 1 if number % 2 else -1]:
            started = time.perf_counter()
            target.upsert(ids, vectors, columns(size))
            taken[name] += time.perf_counter() - started
    rate = {name: round(size * batches / seconds) for name, seconds in taken.items()}
    return {"per_second": rate, "ratio": round(taken["store"] / taken["bare"], 3)}


def bench_open(folder: Path, quick: bool, rounds: int) -> dict[str, object]:
    vectors = unit_rows(20_000 if quick else 200_000, 5)
    filled(folder / "open", vectors).close()
    vectors.tofile(folder / "raw.bin")
    query = unit_rows(1, 6)

    def opened() -> None:
        with knnstore.open_store(f"faiss://{folder}/open") as store:
            store.search(query, K)

    def bare_rows() -> None:
        connection = sqlite3.connect(folder / "open" / "store.sqlite3")
        blobs = [blob for (blob,) in connection.execute("SELECT vector FROM vectors")]
        np.frombuffer(b"".join(blobs), np.float32)
        connection.close()

    def nothing_but_open() -> None:
        knnstore.open_store(f"faiss://{folder}/open").close()

    times = turns(
        {
            "store: open and first search": opened,
            "store: open alone": nothing_but_open,
            "bare: all vectors from SQLite": bare_rows,
            "numpy.fromfile": lambda: np.fromfile(folder / "raw.bin", np.float32),
        },
        max(3, rounds // 3),
    )
    whole = times["store: open and first search"]
    ratios = {name: round(whole / times[name], 3) for name in ("bare: all vectors from SQLite", "numpy.fromfile")}
    return {"ms": times, "ratio_of_first_search_to": ratios}


BENCHMARKS = {"search": bench_search, "filter": bench_first_filter, "upsert": bench_upsert, "open": bench_open}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run, not what does it cost")
    parser.add_argument("--rounds", type=int, default=11, help="turns of each contestant")
    parser.add_argument("--only", default=",".join(BENCHMARKS), help="some of " + ",".join(BENCHMARKS))
    chosen = parser.parse_args()
    versions = {"python": platform.python_version(), "faiss": faiss.__version__, "numpy": np.__version__}
    results: dict[str, object] = {"versions": versions | {"torch": torch.__version__}, "quick": chosen.quick}
    folder = Path(tempfile.mkdtemp(prefix="knnstore-bench-"))
    try:
        for name in chosen.only.split(","):
            results[name] = BENCHMARKS[name](folder, chosen.quick, chosen.rounds)
            print(f"\n{name}", flush=True)
            show(results[name], 1)
            save(results, chosen.quick)
    finally:
        shutil.rmtree(folder)


def save(results: dict[str, object], quick: bool) -> None:
    """After each benchmark, so that what was measured stays when a later one is interrupted."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.with_stem("store-quick" if quick else "store").write_text(json.dumps(results, indent=1) + "\n")


def show(value: object, depth: int) -> None:
    for name, inner in value.items() if isinstance(value, dict) else ():
        if isinstance(inner, dict) and any(isinstance(each, dict) for each in inner.values()):
            print(f"{'  ' * depth}{name}")
            show(inner, depth + 1)
        elif isinstance(inner, dict):
            print(f"{'  ' * depth}{name:16}" + "   ".join(f"{key}: {each}" for key, each in inner.items()))
        else:
            print(f"{'  ' * depth}{name:16}{inner}")


if __name__ == "__main__":
    main()
