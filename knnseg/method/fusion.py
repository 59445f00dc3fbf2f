"""Equation 4: the fusion of the votes with the base prediction. A pure function on arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    """Equation 4: λ P_ret + (1-λ) P_base where the confidence reaches T, P_base untouched elsewhere.

    With ``mode="supported"`` only the probability mass that the base gives to the classes S that have examples is
    redistributed, so that classes without examples keep their score:
    P(c∈S) = (1-λ) P_base(c) + λ P_base(S) P_ret(c).

    A base without any opinion on a mask (a row of zeros) has no mass to share, so there the result is P_ret.

    P_base are the scores at the branch of the base that ``config`` names; what follows from the fused ones is the
    base's own affair, see :meth:`knnseg.ClassScores.resume`.

    Args:
        base: the scores of the base, (N, C).
        retrieved: P_ret, (N, C).
        certainty: float32 (N,).
        supported: bool (C,), the classes that have entries in the database.
        config: branch, mode, λ and T.

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
    else:
        mass = p_base[:, supported].sum(axis=1, keepdims=True)
        mixed = np.where(supported, (1 - config.weight) * p_base + config.weight * mass * p_ret, p_base)
    silent = ~p_base.any(axis=1)
    mixed[silent] = p_ret[silent]
    fused[rows] = mixed
    return base.resume(config.branch, ClassScores(fused, base.classes))
