"""Exactness: the same pair has the same score, and the same records win, whatever else is stored."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from knnstore.ranking import best, error_bound, nominated, pair_scores
from knnstore.types import Metric

METRICS = get_args(Metric)


def make(kind: str, n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Queries and vectors with exact ties, near ties, wide or tiny ranges, or nothing special."""
    rng = np.random.default_rng([seed, n, dim])
    vectors, queries = rng.normal(size=(n, dim)), rng.normal(size=(3, dim))
    if kind == "twins":
        vectors = vectors[rng.integers(max(1, n // 4), size=n)]
    elif kind == "near":
        vectors = vectors[:1] * (1 + rng.integers(-3, 4, size=(n, dim)) * 2.0**-23)
    elif kind == "integers":
        vectors, queries = rng.integers(-2, 3, size=(n, dim)), rng.integers(-2, 3, size=(3, dim))
    elif kind == "wide":
        vectors *= 10.0 ** rng.integers(-6, 7, size=(n, 1))
    elif kind == "tiny":
        vectors, queries = vectors * 1e-23, queries * 1e-20
    elif kind == "huge":
        vectors, queries = vectors * 1e30, queries * 1e20
    return queries.astype(np.float32), vectors.astype(np.float32)


def search(queries: np.ndarray, vectors: np.ndarray, ids: np.ndarray, k: int, metric: Metric) -> list[tuple]:
    norms = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    found = []
    for query, rows in zip(queries, nominated(queries, vectors, norms, k, metric), strict=True):
        scores = pair_scores(query, vectors[rows], metric)
        order = best(ids[rows], scores, k)
        found.append((ids[rows][order].tolist(), scores[order].tobytes()))
    return found


def all_pairs(queries: np.ndarray, vectors: np.ndarray, ids: np.ndarray, k: int, metric: Metric) -> list[tuple]:
    """What :func:`search` must find: every pair scored on its own, a full sort."""
    found = []
    for query in queries:
        scores = np.array([pair_scores(query, vector, metric) for vector in vectors], np.float32)
        order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))[:k]
        found.append((ids[order].tolist(), scores[order].tobytes()))
    return found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["plain", "twins", "near", "integers", "wide", "tiny", "huge"])
def test_the_same_as_scoring_every_pair(kind: str, metric: Metric) -> None:
    for seed in range(12):
        n, dim = [1, 2, 5, 30, 64, 200][seed % 6], [1, 3, 16, 65, 384, 7][(seed * 5) % 6]
        queries, vectors = make(kind, n, dim, seed)
        ids = np.array([f"r{i}" for i in np.random.default_rng(seed).permutation(n)], object)
        for k in (1, 3, n):
            assert search(queries, vectors, ids, k, metric) == all_pairs(queries, vectors, ids, k, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["plain", "twins", "near", "integers", "wide", "tiny", "huge"])
def test_the_same_among_so_many_that_groups_are_looked_at_first(kind: str, metric: Metric) -> None:
    queries, vectors = make(kind, 900, 9, 3)
    ids = np.array([f"r{i}" for i in np.random.default_rng(3).permutation(900)], object)
    for k in (2, 12):
        assert search(queries, vectors, ids, k, metric) == all_pairs(queries, vectors, ids, k, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["plain", "twins", "near"])
def test_neither_order_nor_company_matters(kind: str, metric: Metric) -> None:
    queries, vectors = make(kind, 120, 33, 0)
    ids = np.array([f"r{i}" for i in range(120)], object)
    alone = search(queries, vectors, ids, 10, metric)
    rng = np.random.default_rng(1)
    for extra in (0, 1, 7, 300):
        far = -np.sign(queries.sum(axis=0)) * rng.uniform(50, 60, size=(extra, 33))  # among no query's best
        order = rng.permutation(120 + extra)
        more = np.concatenate([vectors, far.astype(np.float32)])[order]
        names = np.concatenate([ids, np.array([f"x{i}" for i in range(extra)], object)])[order]
        if metric == "l2" or not extra:
            assert search(queries, more, names, 10, metric) == alone
    for q in range(3):
        assert search(queries[q : q + 1], vectors, ids, 10, metric) == alone[q : q + 1]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 2, 15, 256, 1024])
def test_the_bound_holds(dim: int, metric: Metric) -> None:
    rng = np.random.default_rng(dim)
    queries, vectors = (rng.normal(size=(n, dim)).astype(np.float32) * 3 for n in (20, 200))
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    product = queries @ vectors.T
    if metric == "l2":
        exact = -((q[:, None] - x[None]) ** 2).sum(axis=2)
        rough = 2 * product.astype(np.float64) - (x * x).sum(axis=1) - (q * q).sum(axis=1)[:, None]
    else:
        exact, rough = q @ x.T, product
    bound = error_bound(queries, float(np.linalg.norm(x, axis=1).max()), metric)[:, None]
    paired = pair_scores(queries[:, None], vectors[None], metric)
    assert (np.abs(rough - exact) <= bound).all()
    assert (np.abs(paired - exact) <= bound).all()
    assert (np.abs(rough - paired) <= bound).all()


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_finite(metric: Metric) -> None:
    """-inf is what marks an empty slot, so the worst of records must score better."""
    queries = np.array([[3e38, -3e38, 1], [1e-45, 0, 0]], np.float32)
    vectors = np.array([[3e38, 3e38, 0], [-3e38, 3e38, 0], [1e-45, -1e-45, 0], [0, 0, 0]], np.float32)
    scores = pair_scores(queries[:, None], vectors[None], metric)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    if metric == "dot":
        assert scores[0, :2].tolist() == [0, -np.finfo(np.float32).max]
    ids = np.array(list("abcd"), object)
    assert search(queries, vectors, ids, 2, metric) == all_pairs(queries, vectors, ids, 2, metric)


def test_best() -> None:
    ids = np.array(["b", "a", "c", "d"], object)
    scores = np.array([1, 1, 2, 0], np.float32)
    assert best(ids, scores, 2).tolist() == [2, 1]
    assert best(ids, scores, 9).tolist() == [2, 1, 0, 3]
    assert best(ids[:0], scores[:0], 3).tolist() == []
    assert best(np.array(["b", "a"], object), np.array([0.0, -0.0], np.float32), 1).tolist() == [1]


def test_many_queries_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, vectors = make("plain", 50, 8, 3)
    ids = np.array([f"r{i}" for i in range(50)], object)
    whole = search(queries, vectors, ids, 5, "l2")
    monkeypatch.setattr("knnstore.ranking._PRODUCT", 60)
    assert search(queries, vectors, ids, 5, "l2") == whole


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["plain", "twins", "integers"])
def test_halves_are_ranked_as_the_same_numbers_in_float32(kind: str, metric: Metric) -> None:
    queries, vectors = make(kind, 1300, 24, 3)
    half = vectors.astype(np.float16)
    wide, ids = half.astype(np.float32), np.array([f"r{i}" for i in range(1300)], object)
    norms = np.einsum("nd,nd->n", wide, wide, dtype=np.float64)
    found = [rows.tolist() for rows in nominated(queries, half, norms, 9, metric)]
    for query, rows, (true, _) in zip(queries, found, all_pairs(queries, wide, ids, 9, metric), strict=True):
        order = best(ids[rows], pair_scores(query, wide[rows], metric), 9)
        assert ids[rows][order].tolist() == true
