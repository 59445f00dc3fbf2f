"""Our stores beside LangChain's and LlamaIndex's integrations of the same backends: 250 queries, k=16, labels returned.

    python benchmarks/integrations.py [--vectors 20000] [--dim 256] [--rounds 5] [--only milvus,qdrant,faiss]

The libraries need other versions of the clients than we do, so they get an environment of their own, made here. All
contestants take turns, the medians are compared, and the ratio is what is reported. Milvus is a real server: the one of
KNNSTORE_MILVUS_URL, or the program in the wheel `milvus`. Qdrant is the server of KNNSTORE_QDRANT_URL, and left
out without one. Both sides search exactly.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np

import knnstore
from knnstore.testing.servers import MilvusProgram

HERE = Path(__file__).parent
ENVIRONMENT = HERE / "results" / "integrations-venv"
PACKAGES = [
    "langchain-milvus==0.3.3",
    "langchain-qdrant==1.1.0",
    "langchain-community==0.4.2",
    "llama-index-vector-stores-milvus==1.2.0",
    "llama-index-vector-stores-qdrant==0.10.4",
    "llama-index-vector-stores-faiss==0.7.0",
    "faiss-cpu==1.15.1",
]
LIBRARIES = ("langchain", "llamaindex")
QUERIES, K = 250, 16


def environment() -> Path:
    """The python of the environment with the other libraries; made at the first call."""
    done, python = ENVIRONMENT / "done", ENVIRONMENT / "bin" / "python"
    if not done.exists() or done.read_text() != "\n".join(PACKAGES):
        print("making an environment for LangChain and LlamaIndex: some minutes", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        done.write_text("\n".join(PACKAGES))
    return python


def make_data(path: Path, count: int, dim: int) -> dict[str, np.ndarray]:
    """Rows around 200 centres, as embeddings are; unit norm."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, dim), dtype=np.float32)

    def rows(n: int) -> np.ndarray:
        made = centres[rng.integers(0, 200, n)] + rng.standard_normal((n, dim), dtype=np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    labels = np.array([f"class {i % 150}" for i in range(count)])
    data = {"vectors": rows(count), "queries": rows(QUERIES), "labels": labels, "k": np.array(K)}
    np.savez(path, **data)
    return data


class Other:
    """One of the other libraries, in its process."""

    def __init__(self, library: str, backend: str, data: Path, address: str) -> None:
        command = [environment(), HERE / "integration_worker.py", library, backend, data, address]
        self._process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        if not self._line().startswith("ready"):
            raise RuntimeError(f"{library} on {backend} did not start")

    def turn(self) -> tuple[float, str]:
        assert self._process.stdin is not None
        print("go", file=self._process.stdin, flush=True)
        seconds, answer = self._line().split()
        return float(seconds), answer

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def ours(store: knnstore.EmbeddingStore, queries: np.ndarray) -> tuple[float, str]:
    started = time.perf_counter()
    hits = store.search(queries, K, fields=["label"])
    answers = hits.fields["label"].tolist()
    seconds = time.perf_counter() - started
    return seconds, hashlib.sha256(repr(answers).encode()).hexdigest()


def contest(backend: str, url: str, address: dict[str, str], data: dict, path: Path, rounds: int) -> dict[str, object]:
    """Load everyone, then take turns."""
    spec = knnstore.StoreSpec(dim=data["vectors"].shape[1], fields={"label": str})
    taken: dict[str, list[float]] = {"knnstore": [], **{library: [] for library in LIBRARIES}}
    answers: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(knnstore.open_store(url, spec))
        for start in range(0, len(data["vectors"]), 5000):
            part = slice(start, start + 5000)
            ids = [f"{i:08d}" for i in range(len(data["vectors"]))[part]]
            store.upsert(ids, data["vectors"][part], {"label": data["labels"][part].tolist()})
        others = {library: Other(library, backend, path, address[library]) for library in LIBRARIES}
        for other in others.values():
            stack.callback(other.close)
        for done in range(rounds + 1):
            turns = {"knnstore": ours(store, data["queries"]), **{name: other.turn() for name, other in others.items()}}
            for name, (seconds, answer) in turns.items():
                answers[name] = answer
                if done:  # the first round warms up
                    taken[name].append(seconds)
    median = {name: statistics.median(values) for name, values in taken.items()}
    return {
        "ms": {name: round(1e3 * seconds, 1) for name, seconds in median.items()},
        "times as long as knnstore": {name: round(median[name] / median["knnstore"], 2) for name in LIBRARIES},
        "the same labels": len(set(answers.values())) == 1,
    }


def run(args: argparse.Namespace, folder: Path, stack: contextlib.ExitStack) -> dict[str, object]:
    path = folder / "data.npz"
    data = make_data(path, args.vectors, args.dim)
    name = f"integrations_{uuid.uuid4().hex[:8]}"
    results: dict[str, object] = {}
    if "faiss" in args.only:
        nowhere = dict.fromkeys(LIBRARIES, "")
        results["faiss"] = contest("faiss", f"faiss://{folder}/faiss", nowhere, data, path, args.rounds)
    if "milvus" in args.only:
        server = os.environ.get("KNNSTORE_MILVUS_URL") or stack.enter_context(MilvusProgram(folder / "milvus")).url
        address = dict.fromkeys(LIBRARIES, server.partition("://")[2])
        url = f"{server}/default/{name}?index=FLAT"
        results["milvus"] = contest("milvus", url, address, data, path, args.rounds)
    if "qdrant" in args.only and (server := os.environ.get("KNNSTORE_QDRANT_URL", "")):
        address = dict.fromkeys(LIBRARIES, server.partition("://")[2])
        results["qdrant"] = contest("qdrant", f"{server}/{name}?exact=1", address, data, path, args.rounds)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["faiss", "milvus", "qdrant"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        results = {"vectors": args.vectors, "dim": args.dim, **run(args, Path(folder), stack)}
    print(json.dumps(results, indent=2))
    target = HERE / "results" / "integrations.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
