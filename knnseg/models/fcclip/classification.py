"""What each mask is: the decoder's opinion, CLIP's opinion, and their weighted geometric mean.

FC-CLIP (Yu et al., NeurIPS 2023, arXiv 2308.02487); the ensemble is that of ViLD (Gu et al., ICLR 2022, arXiv
2104.13921).
"""

from __future__ import annotations

import torch
from torch import Tensor

from knnseg.models.fcclip.outputs import Proposals, Scores
from knnseg.models.fcclip.pooling import class_logits
from knnseg.models.fcclip.text import TextClassifier

__all__ = ["EPSILON", "classify", "geometric_ensemble", "with_void"]

EPSILON = 1e-8
"""The least that a probability counts."""


def geometric_ensemble(in_vocab: Tensor, out_vocab: Tensor, weight: Tensor) -> Tensor:
    """log( p_in^(1-w) · p_out^w ), from logits.

    It is computed in logarithms, so that a probability too small for float32 stays a number.

    Args:
        in_vocab: float32 (B, Q, C), logits.
        out_vocab: float32 (B, Q, C), logits.
        weight: float32, w, of a shape that broadcasts to them.

    Returns:
        float32 (B, Q, C); the rows are not normalised.
    """
    return (1 - weight) * in_vocab.log_softmax(-1) + weight * out_vocab.log_softmax(-1)


def with_void(ensemble: Tensor, void: Tensor) -> Tensor:
    """Logarithm of the class probabilities, of which void takes its share first.

    Args:
        ensemble: float32 (B, Q, C), logits of the classes.
        void: float32 (B, Q, 1), probability of void.

    Returns:
        float32 (B, Q, C + 1), of probabilities no smaller than 1e-8.
    """
    return torch.log(torch.cat([ensemble.softmax(-1) * (1 - void), void], -1) + EPSILON)


def classify(
    proposals: Proposals,
    classifier: TextClassifier,
    void: Tensor,
    scales: tuple[Tensor, Tensor],
    weights: tuple[float, float],
    *,
    valid_only: bool = False,
) -> Scores:
    """Score the masks of a batch.

    Args:
        proposals: Q masks of each image.
        classifier: C classes.
        void: float32 (1, D), what no class is like, of any length.
        scales: logarithms of the inverse temperature of the decoder and of CLIP.
        weights: α and β, how much CLIP counts for seen and for unseen classes.
        valid_only: CLIP does not count where the mask covers no cell of its grid.
    """
    full = classifier.with_void(void)
    in_vocab = class_logits(proposals.in_vocab, full.text, full.rows, scales[0])
    out_vocab = class_logits(proposals.out_vocab, classifier.text, classifier.rows, scales[1])
    alpha, beta = weights
    weight = torch.where(classifier.seen, alpha, beta).to(in_vocab).expand_as(out_vocab)
    if valid_only:
        weight = weight * proposals.valid[..., None]
    ensemble = geometric_ensemble(in_vocab[..., :-1], out_vocab, weight)
    nothing = in_vocab.softmax(-1)[..., -1:]
    return Scores(in_vocab, out_vocab, weight, ensemble, nothing, with_void(ensemble, nothing))
