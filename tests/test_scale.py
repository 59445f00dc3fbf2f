"""The benchmark of growing databases, at a small size: what it grows, and that each kind leaves the vote as it is."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def scale():
    """The script as a module, under the name by which its processes would find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("scale")


def keys_of(scale, count, seed):
    """Twelve classes, the first of them the largest."""
    rng, centres = np.random.default_rng(seed), np.random.default_rng(5).standard_normal((12, 40))
    numbers = np.minimum(rng.geometric(0.2, count) - 1, 11)
    keys = centres[numbers] + 0.7 * rng.standard_normal((count, 40))
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    return scale.Keys(keys, np.array([f"class {c:02}" for c in numbers], object), np.arange(count) % 2)


def test_more_numbers_keep_every_product(scale):
    keys = keys_of(scale, 50, 0).keys
    lifted = scale.lifted(keys)
    assert lifted.shape == (50, 768) and lifted.all()
    np.testing.assert_allclose(lifted @ lifted.T, keys @ keys.T, atol=1e-6)


def test_what_is_drawn_is_like_what_is_real(scale):
    """The real keys come first. Classes follow Zipf's law, and one spreads as far as its real keys do."""
    real = keys_of(scale, 400, 0)
    parts = list(scale.entries(real, 5400))
    keys, labels = (np.concatenate([part[i] for part in parts]) for i in range(2))
    assert (len(keys), len(parts[0][0])) == (5400, 400)
    assert set(map(bytes, parts[0][0])) == set(map(bytes, scale.lifted(real.keys)))
    again = np.concatenate([part for part, _ in scale.entries(real, 5400)])
    assert np.array_equal(keys, again)
    drawn = labels[400:].astype(str)
    names, counts = np.unique(real.labels.astype(str), return_counts=True)
    ranked = names[np.argsort(-counts, kind="stable")]
    shares = np.array([(drawn == name).mean() for name in ranked])
    wanted = 1 / np.arange(1, len(names) + 1)
    np.testing.assert_allclose(shares, wanted / wanted.sum(), atol=0.03)
    largest = scale.lifted(real.keys[real.labels == ranked[0]]), keys[400:][drawn == ranked[0]]
    spreads = [np.linalg.norm(one - one.mean(axis=0), axis=1).mean() for one in largest]
    assert spreads[1] == pytest.approx(spreads[0], rel=0.15)


def test_each_kind_is_measured_and_keeps_the_vote(scale, tmp_path):
    """What the processes do, in this one; a kind that finds nothing would lose the vote."""
    reference, query = keys_of(scale, 300, 0), keys_of(scale, 120, 1)
    np.savez(tmp_path / "reference.npz", keys=reference.keys, labels=reference.labels.astype(str), sets=reference.sets)
    rows = []
    for name in ("Flat", "Flat, half", "HNSW, half"):
        kind = scale.KINDS[name]
        url = f"faiss://{tmp_path}/{kind.dtype}-{kind.index}?index={kind.index}"
        row = {"kind": name, "size": 900} | scale.fill(url, str(tmp_path), 900, kind.dtype) | scale.build(url)
        rows.append(row | scale.measure(url, scale.lifted(query.keys), 10, kind.index == "Flat"))
    flat, half, graph = scale.judged(rows, query)
    assert flat["accuracy"] > 0.8 and flat["kept"] == flat["alike"] == 1
    assert half["kept"] > 0.97 and graph["kept"] > 0.95
    assert half["memory"] < 0.6 * flat["memory"] and half["disk"] < 0.7 * flat["disk"]
    assert graph["indexed"] and min(row["ms"] for row in rows) > 0
    text = scale.page([flat, half, graph], "The facts.")
    assert text.startswith("The facts.") and "### 900 entries" in text and "| HNSW, half | `HNSW32_SQfp16`" in text
    scale.picture([flat, half, graph], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_kind_that_cannot_be_trained_says_so(scale):
    row = {"kind": "IVF, PQ 96", "size": 1000, "indexed": False, "ms": 1.0}
    assert scale._line(row).endswith("too few to train | | | | | | | |")
    assert scale._line(row).count("|") == scale.HEAD.count("|")
