"""What moving house costs, beside the least that could be done: reading everything and writing it, unchecked.

    python benchmarks/transfer.py [--records 50000] [--dim 768]

FAISS stores with fields like those of a concept database, in a temporary folder. Best of three, taken in turns.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

import knnstore
from knnstore import content_checksum, copy_store, export_parquet, import_parquet

FIELDS = {"label": str, "image": str, "area": int, "coverage": float, "thing": bool}


def make(url, records, dim):
    rng = np.random.default_rng(0)
    with knnstore.open_store(url, knnstore.StoreSpec(dim, "cosine", FIELDS)) as store:
        for start in range(0, records, 4096):
            n = min(4096, records - start)
            store.upsert(
                [f"image-{start + i}#7" for i in range(n)],
                rng.standard_normal((n, dim)).astype(np.float32),
                {
                    "label": [f"concept {i % 100}" for i in range(n)],
                    "image": [f"s3://photographs/{start + i}.jpg" for i in range(n)],
                    "area": rng.integers(1, 10_000, n),
                    "coverage": rng.random(n),
                    "thing": rng.random(n) < 0.5,
                },
            )


def bare(source, target):
    """Scan and upsert: what a loop of four lines would do."""
    with knnstore.open_store(source, read_only=True) as a, knnstore.open_store(target, a.spec) as b:
        for records in a.scan(with_vectors=True, batch_size=4096):
            b.upsert(records.ids.tolist(), records.vectors, records.fields)
        b.flush()


def checked(source):
    with knnstore.open_store(source, read_only=True) as store:
        content_checksum(store)


def read(source):
    with knnstore.open_store(source, read_only=True) as store:
        for _ in store.scan(with_vectors=True, batch_size=4096):
            pass


def timed(work, clean=None):
    if clean is not None:
        shutil.rmtree(clean, ignore_errors=True)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=768)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, target = f"faiss://{folder}/from", f"faiss://{folder}/to"
        make(source, arguments.records, arguments.dim)
        work = {
            "read": lambda: timed(lambda: read(source)),
            "read and checksum": lambda: timed(lambda: checked(source)),
            "scan and upsert, unchecked": lambda: timed(lambda: bare(source, target), folder / "to"),
            "copy_store": lambda: timed(lambda: copy_store(source, target), folder / "to"),
            "copy_store again": lambda: timed(lambda: copy_store(source, target)),
            "export_parquet": lambda: timed(lambda: export_parquet(source, folder / "x"), folder / "x"),
            "import_parquet": lambda: timed(lambda: import_parquet(folder / "x", target), folder / "to"),
        }
        size = arguments.records * arguments.dim * 4 / 1e6
        taken = [{what: run() for what, run in work.items()} for _ in range(3)]
        for what in work:
            seconds = min(round_[what] for round_ in taken)
            print(
                f"{what:<28} {seconds:6.2f} s  {size / seconds:6.0f} MB/s  {arguments.records / seconds:8.0f} records/s"
            )


if __name__ == "__main__":
    main()
