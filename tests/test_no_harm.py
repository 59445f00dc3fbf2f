"""The benchmark of no harm, on a few random keys: what its cells are, and that nothing taught changes nothing."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from knnseg import Vocabulary

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CLASSES, WIDTH = 5, 16


@pytest.fixture(scope="module")
def no_harm():
    """The module; it finds the others beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("no_harm")


@pytest.fixture(scope="module")
def seen(no_harm):
    """Sixty examples in twenty images, and a map of thirty pixels under forty masks."""
    rng = np.random.default_rng(0)

    def keys(count):
        rows = rng.standard_normal((count, WIDTH)).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    labels, whole = np.repeat(np.arange(CLASSES), 12), np.arange(60) % 3 > 0
    examples = no_harm.Examples(keys(60), labels, np.arange(60) // 3, whole, np.ones(60, np.float32))
    base = rng.random((40, CLASSES)).astype(np.float32)
    coverage = sparse.csr_array(rng.random((30, 40)).astype(np.float32))
    truth = np.concatenate([np.arange(CLASSES - 1), rng.integers(-1, CLASSES - 1, 31 - CLASSES)])
    return examples, no_harm.Masks(keys(40), base / base.sum(axis=1, keepdims=True), coverage, truth, np.ones(40, "f4"))


def test_mean_iou_is_over_the_classes_that_are_there(seen):
    _, masks = seen
    found = (masks.coverage @ masks.base).argmax(axis=1)
    found[masks.truth < 0] = -1
    ious = [
        np.sum((found == c) & (masks.truth == c)) / np.sum((found == c) | (masks.truth == c))
        for c in range(CLASSES - 1)  # the last is in no pixel
    ]
    assert masks.mean_iou(masks.base) == pytest.approx(100 * np.mean(ious))


def test_a_draw_takes_so_many_images_of_so_many_classes(no_harm, seen):
    examples, _ = seen
    taken = no_harm.draw(examples, np.random.default_rng(1), 0.6, 2)
    labels = examples.labels[taken]
    assert len(set(labels)) == 3
    assert all(len(set(examples.images[taken[labels == label]])) == 2 for label in set(labels))
    assert len(no_harm.draw(examples, np.random.default_rng(1), 0.0, 0)) == 0
    assert len(no_harm.draw(examples, np.random.default_rng(1), 1.0, 0)) == 60


def test_without_examples_every_fusion_is_the_base(no_harm, seen):
    rows = list(no_harm.measure(*seen, Vocabulary(tuple("abcde")), 2))
    assert len(rows) == 2 * len(no_harm.CELLS) * len(no_harm.BASES)
    nothing = [row for row in rows if row["share"] == 0]
    assert len(nothing) == 4 and all(row[mode] == row["alone"] for row in nothing for mode in no_harm.FUSIONS)
    cells = no_harm.summary({"set": rows})
    text = no_harm.page(cells, {"set": "- set"})
    assert text.count("| 0% | – | +0.0 ± 0.0 | +0.0 ± 0.0 | +0.0 ± 0.0 |") == 2
    assert all((mode in text) for mode in no_harm.FUSIONS) and no_harm.harmed(cells, "late")
