"""What an index takes: bytes a record on disk and in memory, and the seconds that ``optimize()`` builds, as it grows.

    python benchmarks/sizes.py [--rows 25000 100000] [--dim 256] [--threads 2] [INDEX ...]

Made-up rows around 200 centres, one field of text and one number. ``index`` is the file that the FAISS store keeps of
its index, which is what FAISS holds of it in memory; ``disk`` is the folder without that file, a record. The last lines
are those of Qdrant's engine in process, which tells its folder only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import knnstore

INDEXES = ["Flat", "SQ8", "IVF256,Flat", "IVF256,SQ8", "IVF256,PQ64", "HNSW16", "HNSW32"]
FIELDS = {"label": str, "area": int}


def rows(count: int, dim: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, dim), dtype=np.float32)
    return centres[rng.integers(0, 200, count)] + 0.7 * rng.standard_normal((count, dim), dtype=np.float32)


def measure(url: str, vectors: np.ndarray) -> dict[str, float]:
    spec = knnstore.StoreSpec(vectors.shape[1], "cosine", FIELDS)
    with knnstore.open_store(url, spec) as store:
        for start in range(0, len(vectors), 10_000):
            part = vectors[start : start + 10_000]
            ids = [f"image{start + i:08d}#1" for i in range(len(part))]
            store.upsert(ids, part, {"label": ["kettle"] * len(part), "area": list(range(len(part)))})
        start_time = time.perf_counter()
        store.optimize()
        seconds = time.perf_counter() - start_time
        store.search(vectors[:1], 10)
    folder = Path(knnstore.StoreURL.parse(url).path)
    index = sum(file.stat().st_size for file in folder.rglob("index.cache*"))
    disk = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) - index
    return {"index": index / len(vectors), "disk": disk / len(vectors), "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("indexes", nargs="*", default=[])
    parser.add_argument("--rows", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    import faiss

    faiss.omp_set_num_threads(given.threads)
    urls = [f"faiss://{{}}?index={name}" for name in given.indexes or INDEXES]
    urls += [] if given.indexes else ["qdrant+edge://{}", "qdrant+edge://{}?quantization=int8"]
    for url in urls:
        for count in given.rows:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(url.format(f"{folder}/store"), rows(count, given.dim))
            shown = ", ".join(f"{name} {value:,.1f}" for name, value in found.items())
            print(f"{url.format('…'):40} {count:>8,} rows of {given.dim}: {shown}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
