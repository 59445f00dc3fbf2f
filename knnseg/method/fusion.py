"""Equation 4: the fusion of the votes with the base prediction. A pure function on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from knnseg.config import FusionConfig
from knnseg.data.scores import ClassScores

__all__ = ["fuse"]


def fuse(
    base: ClassScores,
    retrieved: ClassScores,
    certainty: NDArray[np.float32],
    supported: NDArray[np.bool_],
    config: FusionConfig,
) -> ClassScores:
    """Equation 4, where the confidence reaches T; P_base untouched elsewhere.

    S are the classes that have examples, P_base(S) the probability that the base gives to them together. By ``mode``:

    - ``"late"``: λ P_ret + (1-λ) P_base.
    - ``"supported"``: P_base(S) is redistributed, so that classes without examples keep their score:
      P(c∈S) = (1-λ) P_base(c) + λ P_base(S) P_ret(c).
    - ``"evidence"``: so it is, after S got what the nearest example is evidence for. With g = λ σ((confidence - m)/w),
      M = P_base(S) + g (1 - P_base(S)), and what is not in S is scaled down to 1 - M:
      P(c∈S) = M ((1-λ) P_base(c)/P_base(S) + λ P_ret(c)).

    A base without any opinion on a mask (a row of zeros) has no mass to share, so there the result is P_ret.

    P_base are the scores at the branch of the base that ``config`` names; what follows from the fused ones is the
    base's own affair, see :meth:`knnseg.ClassScores.resume`.

    Args:
        base: the scores of the base, (N, C).
        retrieved: P_ret, (N, C).
        certainty: float32 (N,), the confidence.
        supported: bool (C,), the classes that have entries in the database.
        config: branch, mode, λ, T, m and w.

    Returns:
        The final scores, (N, C).

    Raises:
        ConfigError: the base has no such branch.
    """
    start = base.branch(config.branch).probabilities
    fused = start.copy()
    rows = np.flatnonzero((certainty >= config.threshold) & np.isfinite(certainty))
    p_base, p_ret = start[rows].astype(np.float64), retrieved.probabilities[rows].astype(np.float64)
    if config.mode == "late":
        mixed = config.weight * p_ret + (1 - config.weight) * p_base
    elif config.mode == "supported":
        mixed = _redistributed(p_base, p_ret, supported, config.weight)
    else:
        trust = config.weight * expit((certainty[rows].astype(np.float64) - config.midpoint) / config.softness)
        mixed = _redistributed(_moved(p_base, p_ret, supported, trust[:, None]), p_ret, supported, config.weight)
    silent = ~p_base.any(axis=1)
    mixed[silent] = p_ret[silent]
    fused[rows] = mixed
    return base.resume(config.branch, ClassScores(fused, base.classes))


def _redistributed(
    p_base: NDArray[np.float64], p_ret: NDArray[np.float64], supported: NDArray[np.bool_], weight: float
) -> NDArray[np.float64]:
    mass = p_base[:, supported].sum(axis=1, keepdims=True)
    return np.where(supported, (1 - weight) * p_base + weight * mass * p_ret, p_base)


def _moved(
    p_base: NDArray[np.float64], p_ret: NDArray[np.float64], supported: NDArray[np.bool_], trust: NDArray[np.float64]
) -> NDArray[np.float64]:
    """P_base, after the share ``trust`` of what is not in S has gone to S: as the base weighs S, or else P_ret."""
    mass = p_base[:, supported].sum(axis=1, keepdims=True)
    moved = trust * np.maximum(1 - mass, 0)
    within = np.divide(p_base, mass, out=p_ret.copy(), where=mass > 0)
    return np.where(supported, p_base + moved * within, (1 - trust) * p_base)
