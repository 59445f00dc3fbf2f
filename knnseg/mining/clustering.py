"""Vectors that lie together. Pure functions on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

__all__ = ["clusters"]


def clusters(
    vectors: NDArray[np.float32], areas: NDArray[np.float64], distance: float, *, most: int = 4000
) -> list[NDArray[np.int64]]:
    """The members of each cluster, the cluster with the largest area first, and in it those nearest to its mean.

    Two clusters become one while the mean cosine distance between their members is at most ``distance`` (average
    linkage). So nobody needs to know how many there are, and the same vectors always give the same clusters.

    Args:
        vectors: float32 (N, D), unit-norm rows.
        areas: float64 (N,).
        distance: 0 to 2.
        most: vectors that are compared with each other, since time and memory grow with the square of their number;
            the largest are taken, and each other one joins the cluster of its nearest.
    """
    order = np.argsort(-areas, kind="stable")
    compared, others = order[:most], order[most:]
    number = np.zeros(len(vectors), np.int64)
    if len(compared) > 1:
        tree = linkage(vectors[compared].astype(np.float64), "average", metric="cosine")
        number[compared] = fcluster(tree, distance, "distance")
    if len(others):
        number[others] = number[compared[(vectors[others] @ vectors[compared].T).argmax(axis=1)]]
    members = [np.flatnonzero(number == one) for one in np.unique(number)]
    members.sort(key=lambda rows: (-areas[rows].sum(), rows[0]))
    return [_inner_first(rows, vectors[rows]) for rows in members]


def _inner_first(rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    return rows[np.argsort(-(vectors @ vectors.mean(axis=0)), kind="stable")]
