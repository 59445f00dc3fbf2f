"""What a growing database takes, and what each kind of index leaves of the vote.

    python benchmarks/scale.py                            # up to 100,000 entries; the tables and the plot in docs
    python benchmarks/scale.py --sizes 1000000 --most-graph 300000     # one more size, beside those measured before
    python benchmarks/scale.py --sizes 1000 --kinds Flat --out /tmp/scale    # a quick look

The photographs are in $KNNSEG_REAL_DATA or ../shared/real. Keys are those that the preset ``photo`` pools from the true
masks of both sets: the database is of the reference halves, the queries are of the query halves. Beyond the real keys
it grows by smoothed bootstrap: classes are drawn by Zipf's law, a real key of the class is pulled half way to the mean
of its class, and noise with the covariance within classes makes up for it, so that the spread of a class stays what it
is. A matrix with orthonormal rows takes them to 768 numbers, none of them zero; it keeps every cosine.

Each kind is built, and then opened and measured, by a process of its own with one thread. ``index`` is what the index
takes in memory: what ``stats()`` says of the exact one, and of another the size of its file. ``process`` is what the
process holds more, after its first search, than before it opened the store. ``vote`` is the accuracy, ``kept`` what
share that is of the exact vote's, ``alike`` the share of the queries that get the same class.

Where other programs keep the processor busy, times mean little, so a product of matrices of fixed size takes turns with
the searches; milliseconds are given as they would be where that takes as long as in the quickest process. What was
measured is kept in ``--work`` and not measured again.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from common import put, real_folder
from numpy.typing import NDArray

import knnstore
from knnseg import Config, Vocabulary
from knnseg.data.scores import Neighbours
from knnseg.method.voting import vote, vote_weights
from knnstore.types import Dtype

Floats: TypeAlias = NDArray[np.float32]
Row: TypeAlias = dict[str, Any]

CONFIG = Config.preset("photo")
SETS = ("msrc", "camvid")
DIM, BATCH, ROUNDS, PULL = 768, 100, 7, 0.5
WRITTEN = 1000
"""Entries of one upsert."""
GOOD = 0.98
"""Of the accuracy of the exact vote, for a kind to be counted."""
MANY, REPLICAS, NODE, USABLE = 10**9, 2, 256e9, 0.7
"""Entries of a cluster, copies of each, bytes of memory of a node and the share of them that is for indexes."""
HEAD = "| kind | made as | index | process | disk | built in | 100 queries | vote | kept | alike |"


@dataclass(frozen=True)
class Kind:
    """A way to keep and search entries.

    Args:
        index: FAISS's name of it; ``{cells}`` grows with the entries.
        dtype: what vectors are kept as, on disk and by the exact index.
        graph: whether it takes too long to build for the largest sizes.
    """

    index: str
    dtype: Dtype = "float16"
    graph: bool = False


KINDS = {
    "Flat": Kind("Flat", "float32"),
    "Flat, half": Kind("Flat"),
    "SQ8": Kind("SQ8"),
    "IVF": Kind("IVF{cells},Flat", "float32"),
    "IVF, half": Kind("IVF{cells},SQfp16"),
    "IVF, SQ8": Kind("IVF{cells},SQ8"),
    "HNSW": Kind("HNSW32", "float32", graph=True),
    "HNSW, half": Kind("HNSW32_SQfp16", graph=True),
    "IVF, PQ 192": Kind("IVF{cells},PQ192"),
    "IVF, PQ 96": Kind("IVF{cells},PQ96"),
}


@dataclass(frozen=True)
class Keys:
    """Of one half of both sets: N true masks.

    Args:
        keys: float32 (N, D), unit rows.
        labels: object (N,), names of classes.
        sets: int (N,), which set they are of.
    """

    keys: Floats
    labels: NDArray[np.object_]
    sets: NDArray[np.int64]

    def take(self, rows: NDArray[np.intp]) -> Keys:
        return Keys(self.keys[rows], self.labels[rows], self.sets[rows])


# -- keys, once -------------------------------------------------------------------------------------------------------


def look(folder: Path, half: str, work: Path) -> Keys:
    """The pooled keys of a half, from the file if it is there."""
    path = work / f"{half}.npz"
    if not path.is_file():
        parts = [part for number, name in enumerate(SETS) for part in _pooled(folder, half, name, number)]
        keys, labels, sets = (np.concatenate([part[i] for part in parts]) for i in range(3))
        np.savez(path, keys=keys, labels=labels.astype(str), sets=sets)
    with np.load(path) as file:
        return Keys(file["keys"], file["labels"].astype(object), file["sets"])


def _pooled(folder: Path, half: str, name: str, number: int) -> Iterator[tuple[Floats, Any, NDArray[np.int64]]]:
    from mobilenet import photographs  # with torch, which the processes that measure do not need
    from tqdm import tqdm

    from knnseg import Image, Masks, Segmenter
    from knnseg.method.pooling import pool
    from knnseg.stages.protocols import features_of

    extractor, images = Segmenter.from_config(CONFIG).extractor, photographs(folder, half, name)
    for i in tqdm(range(len(images)), desc=f"{name}, {half}"):
        example = images[i]
        masks = Masks.from_partition(np.where(example.segments > 0, example.segments, -1))
        keys = pool(features_of([Image(example.image)], extractor)[0], masks).vectors
        labels = np.array([segment.label for segment in example.info], object)
        yield keys, labels, np.full(len(labels), number)


def lifted(keys: Floats) -> Floats:
    """Keys with 768 numbers and the same dot products: float32 (N, 768)."""
    random = np.random.default_rng(768).standard_normal((DIM, keys.shape[1]))
    return (keys @ np.linalg.qr(random)[0].T).astype(np.float32)


def entries(reference: Keys, count: int, seed: int = 0) -> Iterator[tuple[Floats, NDArray[np.object_]]]:
    """So many keys with their labels, in parts: the real ones in any order, then drawn ones."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(reference.keys))[:count]
    yield lifted(reference.keys[order]), reference.labels[order]
    names, classes, sizes = np.unique(reference.labels.astype(str), return_inverse=True, return_counts=True)
    means = np.stack([reference.keys[classes == c].mean(axis=0) for c in range(len(names))])
    inside = reference.keys - means[classes]
    values, axes = np.linalg.eigh(inside.T @ inside / len(inside))
    spread = (axes * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)
    zipf = 1 / (1 + np.argsort(np.argsort(-sizes, kind="stable")))
    members = [np.flatnonzero(classes == c) for c in range(len(names))]
    for start in range(len(order), count, 10_000):
        drawn = rng.choice(len(names), min(10_000, count - start), p=zipf / zipf.sum())
        origin = np.array([rng.choice(members[c]) for c in drawn])
        noise = rng.standard_normal((len(drawn), len(spread)), dtype=np.float32) @ spread
        keys = means[drawn] + np.sqrt(1 - PULL**2) * inside[origin] + PULL * noise
        keys /= np.linalg.norm(keys, axis=1, keepdims=True)
        yield lifted(keys.astype(np.float32)), names[drawn].astype(object)


# -- what the processes do --------------------------------------------------------------------------------------------


def fill(url: str, work: str, count: int, dtype: Dtype) -> Row:
    """Write so many entries; how many a second."""
    reference, seconds, number = look(Path(), "reference", Path(work)), 0.0, 0
    spec = knnstore.StoreSpec(DIM, "cosine", {"label": str}, dtype=dtype)
    with knnstore.open_store(url, spec) as store:
        if store.count() == count:
            return {"rate": 0.0}  # they are of a run that was interrupted
        for keys, labels in entries(reference, count):
            for part in (slice(i, i + WRITTEN) for i in range(0, len(keys), WRITTEN)):
                ids = [f"{number + i:07}" for i in range(len(keys[part]))]
                start = time.perf_counter()
                store.upsert(ids, keys[part], {"label": labels[part]})
                seconds, number = seconds + time.perf_counter() - start, number + len(ids)
    return {"rate": number / seconds}


def build(url: str) -> Row:
    """Let the store make its index; the seconds it took."""
    with knnstore.open_store(url) as store:
        start = time.perf_counter()
        store.optimize()
        return {"build": time.perf_counter() - start}


def measure(url: str, queries: Floats, k: int, exact: bool) -> Row:
    """Memory, disk, milliseconds of a batch, and what was found."""
    before = _held()
    with knnstore.open_store(url, read_only=True) as store:
        store.search(queries[:1], 1)
        held, count, folder = _held() - before, store.count(), Path(store.url.path)
        file = folder / "index.cache"  # is not there where too few were written to train an index
        size = store.stats().bytes_in_memory if exact or not file.is_file() else file.stat().st_size
        random = np.random.default_rng(0).standard_normal((20_000, DIM), dtype=np.float32)
        searches, products = list[float](), list[float]()
        for _ in range(ROUNDS):
            products.append(_seconds(lambda: queries[:BATCH] @ random.T))
            searches.append(_seconds(lambda: store.search(queries[:BATCH], k, fields=["label"])))
        parts = [store.search(queries[i : i + BATCH], k, fields=["label"]) for i in range(0, len(queries), BATCH)]
        disk = sum(file.stat().st_size for file in folder.iterdir())
        found = np.concatenate([hits.fields["label"] for hits in parts])
        scores = np.concatenate([hits.scores for hits in parts])
        indexed = exact or store.stats().indexed == count
        counts = {str(name): count for name, count in store.count_by("label").items()}
        row = {"memory": (size or 0) / count, "process": held / 1e6, "disk": disk / count, "indexed": indexed}
        row |= {"seconds": statistics.median(searches), "product": statistics.median(products)}
        return row | {"votes": voted(found, scores, counts).tolist()}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _held() -> int:
    """Bytes of this process that are no part of a file, without what has been freed."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    return 1024 * int(found[1]) if found else 0


def voted(labels: NDArray[np.object_], scores: Floats, counts: dict[str, int]) -> NDArray[np.object_]:
    """The class that equation 3 gives to each query, with the numbers of the preset: object (Q,)."""
    neighbours = Neighbours(labels, scores, labels)
    names = Vocabulary(sorted(counts))
    shares = vote(neighbours, vote_weights(neighbours, CONFIG.retrieval, counts), names).probabilities
    return np.array(names.names, object)[shares.argmax(axis=1)]


# -- the whole --------------------------------------------------------------------------------------------------------


def spread_over(query: Keys, count: int) -> Keys:
    """So many queries, from each set as many."""
    own = [np.flatnonzero(query.sets == number) for number in range(len(SETS))]
    return query.take(np.concatenate([rows[:: max(1, len(rows) * len(SETS) // count)] for rows in own]))


def rows_of(options: argparse.Namespace, query: Keys) -> Iterator[Row]:
    """Every kind at every size, as it is measured or was before."""
    journal = options.work / f"rows-{len(query.keys)}.jsonl"
    known = [json.loads(line) for line in journal.read_text().splitlines()] if journal.is_file() else []
    queries = lifted(query.keys)
    for size in sorted({*options.sizes, *(row["size"] for row in known)}):
        there = {row["kind"]: row for row in known if row["size"] == size}
        yield from there.values()
        wanted = [name for name in options.kinds if size <= options.most_graph or not KINDS[name].graph]
        left = [name for name in wanted if size in options.sizes and name not in there]
        for dtype in dict.fromkeys(KINDS[name].dtype for name in left):
            folder = options.work / f"{size}-{dtype}"
            written = _apart(fill, f"faiss://{folder}", str(options.work), size, dtype)
            for name in (name for name in left if KINDS[name].dtype == dtype):
                row = {"kind": name, "size": size, **written, **_one(KINDS[name], folder, size, queries)}
                with journal.open("a", encoding="utf-8") as file:
                    print(json.dumps(row), file=file)
                print(f"{size:9} {name}", file=sys.stderr, flush=True)
                yield row
            shutil.rmtree(folder)


def _one(kind: Kind, folder: Path, size: int, queries: Floats) -> Row:
    cells = 2 ** round(np.log2(2 * np.sqrt(size)))
    url = f"faiss://{folder}?index={kind.index.format(cells=cells)}"
    (folder / "index.cache").unlink(missing_ok=True)  # of the kind before
    built = _apart(build, url)
    return built | _apart(measure, url, queries, CONFIG.retrieval.k, kind.index == "Flat")


def _apart(work: Callable[..., Row], *arguments: Any) -> Row:
    """In a fresh process with one thread."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def judged(rows: Iterable[Row], query: Keys) -> list[Row]:
    """Rows with the accuracy of the vote, the mean over both sets, and what share that is of the exact vote's."""
    rows, truth = list(rows), query.labels
    exact = {row["size"]: np.array(row["votes"], object) for row in rows if row["kind"] == "Flat"}
    quickest = min(row["product"] for row in rows)
    for row in rows:
        votes, true = np.array(row["votes"], object), exact[row["size"]]
        row["accuracy"], whole = (_accuracy(found, truth, query.sets) for found in (votes, true))
        row["kept"], row["alike"] = row["accuracy"] / whole, float((votes == true).mean())
        row["ms"] = 1e3 * row["seconds"] * quickest / row["product"]
    order = list(KINDS)
    return sorted(rows, key=lambda row: (row["size"], order.index(row["kind"])))


def _accuracy(votes: NDArray[np.object_], truth: NDArray[np.object_], sets: NDArray[np.int64]) -> float:
    return float(np.mean([(votes == truth)[sets == number].mean() for number in range(len(SETS))]))


# -- the page ---------------------------------------------------------------------------------------------------------


def page(rows: list[Row], facts: str) -> str:
    """The tables in Markdown."""
    lines = [facts, ""]
    for size in dict.fromkeys(row["size"] for row in rows):
        lines += [f"### {size:,} entries", "", HEAD, "|---|---|" + "--:|" * (HEAD.count("|") - 3)]
        lines += [_line(row) for row in rows if row["size"] == size] + [""]
    lines += ["### Where each pays", "", "| kind | quicker than `Flat` from | least kept of the vote | index | "]
    lines[-1] += "100 queries, at the largest size |"
    lines += ["|---|--:|--:|--:|--:|"]
    for name in dict.fromkeys(row["kind"] for row in rows if row["kind"] != "Flat"):
        own = [row for row in rows if row["kind"] == name and row["indexed"]]
        lines += [_worth(name, own, {row["size"]: row["ms"] for row in rows if row["kind"] == "Flat"})] if own else []
    return "\n".join([*lines, "", *_many(rows)])


def _many(rows: list[Row]) -> list[str]:
    """What a cluster needs, from the bytes of the largest size of each kind."""
    lines = [f"### {MANY:,} entries, by arithmetic", ""]
    lines += [f"| kind | index × {MANY:,} | × {REPLICAS} copies | nodes of {NODE / 1e9:.0f} GB | disk × {REPLICAS} |"]
    lines += ["|---|--:|--:|--:|--:|"]
    for name, row in {row["kind"]: row for row in rows if row["indexed"]}.items():
        memory, disk = row["memory"] * MANY, row["disk"] * MANY
        nodes = int(np.ceil(REPLICAS * memory / (USABLE * NODE)))
        sizes = f"{row['memory']:,.0f} B → {memory / 1e12:.2f} TB | {REPLICAS * memory / 1e12:.2f} TB"
        lines.append(f"| {name} | {sizes} | {nodes} | {REPLICAS * disk / 1e12:.1f} TB |")
    return lines


def _line(row: Row) -> str:
    index = KINDS[row["kind"]].index.format(cells=2 ** round(np.log2(2 * np.sqrt(row["size"]))))
    head = f"| {row['kind']} | `{index}`, {KINDS[row['kind']].dtype} |"
    if not row["indexed"]:
        return f"{head} too few to train | | | | | | | |"
    exact = row["kind"].startswith("Flat")
    took = "" if exact else f"{row['build']:.1f} s"
    sizes = f"{row['memory']:,.0f} B | {row['process']:,.0f} MB | {row['disk']:,.0f} B"
    votes = f"{row['accuracy']:.4f} | {row['kept']:.4f} | {row['alike']:.4f}"
    return f"{head} {sizes} | {took} | {row['ms']:.1f} ms | {votes} |"


def _worth(name: str, own: list[Row], flat: dict[int, float]) -> str:
    quicker = [row["size"] for row in own if row["ms"] < flat[row["size"]] and row["kept"] >= GOOD]
    largest = own[-1]
    since = f"{min(quicker):,}" if quicker else "never"
    return (
        f"| {name} | {since} | {min(row['kept'] for row in own):.4f} | {largest['memory']:,.0f} B "
        f"| {largest['ms']:.1f} ms at {largest['size']:,} |"
    )


def picture(rows: list[Row], path: Path) -> None:
    """Memory, time and votes as the database grows."""
    from matplotlib.figure import Figure

    panels = {
        "bytes of the index an entry": ("memory", "log"),
        "milliseconds for 100 queries": ("ms", "log"),
        "share kept of the exact vote's accuracy": ("kept", "linear"),
    }
    figure = Figure(figsize=(11, 4), layout="constrained")
    for axis, (title, (key, scale)) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in KINDS:
            own = [row for row in rows if row["kind"] == name and row["indexed"]]
            axis.plot([row["size"] for row in own], [row[key] for row in own], marker=".", label=name)
        axis.set(xscale="log", yscale=scale, xlabel="entries")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    figure.axes[2].axhline(GOOD, color="black", linewidth=0.8, linestyle=":")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    place, docs = Path(tempfile.gettempdir()) / "knnseg-scale", Path(__file__).parents[1] / "docs"
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000], help="entries")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), help="beside Flat")
    parser.add_argument("--queries", type=int, default=1000, help="about so many, from both sets alike")
    parser.add_argument("--most-graph", type=int, default=100_000, help="entries of the largest graph")
    parser.add_argument("--work", type=Path, default=place, help="folder for keys, stores and what was measured")
    parser.add_argument("--out", type=Path, default=docs, help="folder for the page and the plot")
    options = parser.parse_args()
    folder = real_folder()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # of the processes that it starts
    options.kinds = list(dict.fromkeys(["Flat", *options.kinds]))
    options.work.mkdir(parents=True, exist_ok=True)
    reference, query = look(folder, "reference", options.work), look(folder, "query", options.work)
    query = spread_over(query, options.queries)
    rows = judged(rows_of(options, query), query)
    classes, rate = len(np.unique(reference.labels.astype(str))), max(row["rate"] for row in rows)
    facts = f"{len(reference.keys):,} real keys of {classes} classes, {len(query.keys):,} queries, "
    facts += f"k = {CONFIG.retrieval.k}. Entries were written at {rate:,.0f} a second at most."
    (options.out / "assets").mkdir(parents=True, exist_ok=True)
    put(options.out / "scale.md", page(rows, facts), "scale.py")
    picture(rows, options.out / "assets" / "scale.png")
    print(page(rows, facts))


if __name__ == "__main__":
    main()
