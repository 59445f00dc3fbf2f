"""The benchmark of vote weights: each of its lines gives votes, and that of the preset those of the library."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from knnseg import Config
from knnseg.data.scores import Neighbours
from knnseg.method.voting import vote_weights

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def votes():
    """The script as a module; it imports another that lies beside it."""
    sys.path.insert(0, str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("votes", BENCHMARKS / "votes.py")
    module = sys.modules["votes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))
    del sys.modules["votes"]


@pytest.fixture(scope="module")
def half(votes):
    """Sixty rows of three classes in twenty images, a third of them parts."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    keys = (np.eye(3)[labels] + 0.3 * rng.standard_normal((60, 3))).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    cells = rng.uniform(1, 50, 60).astype(np.float32)
    rows = {"keys": keys, "cells": cells, "images": np.arange(60) // 3, "labels": labels, "part": np.arange(60) % 6 > 3}
    return votes.Half(rows, rows, None, labels, labels)


@pytest.mark.parametrize("whole", [True, False])
def test_each_line_gives_votes_that_sum_to_one(votes, half, whole):
    asked = votes.ask(half, np.arange(30), half.masks, np.arange(30, 60), 3, whole=whole)
    for name, line in votes.LINES.items():
        labels, weights = line(asked)
        assert labels.shape == weights.shape, name
        np.testing.assert_allclose(weights.sum(axis=1), 1, err_msg=name)
        np.testing.assert_allclose(votes.shares(asked, line).sum(axis=1), 1, err_msg=name)


def test_the_line_of_the_preset_is_the_library(votes, half):
    asked = votes.ask(half, np.arange(30), half.masks, np.arange(30, 60), 3, whole=True)
    wholes = np.flatnonzero(~half.rows["part"][:30])
    similar = half.rows["keys"][30:] @ half.rows["keys"][wholes].T
    order = np.argsort(-similar, axis=1, kind="stable")[:, :10]
    names = half.rows["labels"][wholes].astype(str).astype(object)
    sizes = half.rows["cells"][wholes][order] / half.rows["cells"][30:, None]
    found = Neighbours(names[order], np.take_along_axis(similar, order, 1), names[order], sizes)
    counts = {name: int((names == name).sum()) for name in set(names)}
    expected = vote_weights(found, Config.preset("photo").retrieval, counts, whole=True)
    np.testing.assert_allclose(votes.LINES["**the preset**"](asked)[1], expected, rtol=1e-5)


def test_a_perplexity_is_that_of_so_many_equal_votes(votes):
    scores = -np.sort(-np.random.default_rng(1).uniform(0.2, 0.9, (6, 30)), axis=1)
    weights = np.exp((scores - scores[:, :1]) / votes.perplexed(scores))
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(-(weights * np.log(weights)).sum(axis=1)), 5, rtol=1e-3)


def test_blocks_are_contiguous_in_each_group_of_shots(votes):
    found = votes.blocks(["a_1", "a_2", "b_1", "a_3", "b_2", "b_3", "b_4"])
    np.testing.assert_array_equal(found, [0, 1, 0, 2, 0, 1, 2])
