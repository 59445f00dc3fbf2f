"""FC-CLIP's ensemble taken up again after one of its parts was replaced: how retrieval gets inside it.

P_out is what CLIP says of a mask, P_in what the decoder says, v the probability of void (Yu et al., NeurIPS 2023, arXiv
2308.02487, section 3.3):

    P_ens ∝ P_in^(1-w) · P_out^w        P(c) = (1 - v) P_ens(c)

Row by row in float64, so that a row does not depend on how many others there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnseg.data.scores import FINAL, ClassScores, check_branch
from knnseg.models.fcclip.classification import EPSILON

__all__ = ["BRANCHES", "EnsembleScores"]

BRANCHES = ("out_vocab", "ensemble", FINAL)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EnsembleScores(ClassScores):
    """The scores of FC-CLIP's own masks, with what they were made of.

    Args:
        in_vocab: float32 (N, C), logits of the decoder, without void.
        out_vocab: float32 (N, C), logits of CLIP.
        weight: float32 (N, C), w: α or β; 0 where CLIP does not count.
        void: float32 (N, 1), v.
    """

    branches: tuple[str, ...] = BRANCHES
    in_vocab: NDArray[np.float32]
    out_vocab: NDArray[np.float32]
    weight: NDArray[np.float32]
    void: NDArray[np.float32]

    def branch(self, name: str) -> ClassScores:
        """``"out_vocab"`` is P_out, ``"ensemble"`` P_ens, ``"final"`` these scores."""
        check_branch(name, self.branches)
        if name == FINAL:
            return self
        logarithm = _log_softmax(self.out_vocab)
        if name == "ensemble":
            logarithm = _log_softmax(_geometric(_log_softmax(self.in_vocab), logarithm, self.weight))
        return ClassScores(np.exp(logarithm).astype(np.float32), self.classes)

    def resume(self, name: str, fused: ClassScores) -> ClassScores:
        """See :meth:`knnseg.ClassScores.resume`.

        A row of zeros in ``fused`` has no opinion any more: without P_out the decoder decides alone, and without P_ens
        nothing is known.
        """
        before = self.branch(name).probabilities
        if name == FINAL:
            return fused
        changed = (fused.probabilities != before).any(axis=1)
        if name == "out_vocab":
            changed &= self.weight.any(axis=1)
        rows = np.flatnonzero(changed)
        mixed = fused.probabilities[rows].astype(np.float64)
        if name == "out_vocab":
            mixed = self._ensemble(rows, before[rows], fused.probabilities[rows])
        final = self.probabilities.copy()
        final[rows] = _with_void(mixed, self.void[rows])
        return ClassScores(final, self.classes)

    def _ensemble(
        self, rows: NDArray[np.intp], before: NDArray[np.float32], after: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """P_ens of some rows with another P_out.

        A class whose P_out is what it was keeps its logarithm, also where the probability is too small for float32.
        """
        with np.errstate(divide="ignore"):
            replaced = np.log(after, dtype=np.float64)
        logarithm = np.where(after == before, _log_softmax(self.out_vocab[rows]), replaced)
        weight = self.weight[rows] * after.any(axis=1, keepdims=True)
        return np.exp(_log_softmax(_geometric(_log_softmax(self.in_vocab[rows]), logarithm, weight)))


def _geometric(
    log_in: NDArray[np.float64], log_out: NDArray[np.float64], weight: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(1-w) log P_in + w log P_out, where 0 · -inf is 0."""
    share = weight.astype(np.float64)
    return (1 - share) * log_in + np.multiply(share, log_out, out=np.zeros_like(log_out), where=share > 0)


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logarithm of the softmax of each row, which needs one finite number."""
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def _with_void(ensemble: NDArray[np.float64], void: NDArray[np.float32]) -> NDArray[np.float64]:
    """As :func:`knnseg.models.fcclip.classification.with_void`, then a softmax, void left out."""
    share = (ensemble * (1 - void.astype(np.float64)) + EPSILON) / (1 + EPSILON * (ensemble.shape[1] + 1))
    return np.where(ensemble.any(axis=1, keepdims=True), share, 0)
