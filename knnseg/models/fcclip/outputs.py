"""What flows between the stages of FC-CLIP.

Beside the letters of :mod:`knnseg.data`:

    B   images of a batch                Q   queries, each a proposed mask
    E   width of the decoders            S   rows of a text classifier: every synonym of every class
    D   width of CLIP's joint space      C   classes; C + 1 with void, which is always the last

    images (B,3,H,W) -> Pyramid -> PixelFeatures -> Proposals (B,Q,…) -> Scores (B,Q,C+1) -> maps (H,W)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Level", "PixelBatch", "PixelFeatures", "Proposals", "Pyramid", "Scores"]


@dataclass(frozen=True, slots=True, eq=False)
class PixelBatch:
    """Images ready for the network.

    Args:
        pixels: float32 (B, 3, H, W), normalised; zeros, the mean colour, fill each image up to the common size.
        sizes: (height, width) of each image without its padding.
        originals: (height, width) of each image before it was resized.
    """

    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """What the image tower gives, (B, channels, H/stride, W/stride) each.

    Args:
        res2: stride 4.
        res3: stride 8.
        res4: stride 16.
        res5: stride 32.
        dense: stride 32, the features that CLIP would pool; the same as ``res5`` where the norm is in the head.
    """

    res2: Tensor
    res3: Tensor
    res4: Tensor
    res5: Tensor
    dense: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One resolution of the pixel decoder.

    Args:
        features: float32 (B, E, h, w).
        positions: float32 (1, E, h, w).
    """

    features: Tensor
    positions: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class PixelFeatures:
    """What the pixel decoder gives.

    Args:
        levels: strides 32, 16 and 8, in this order.
        masks: float32 (B, E, H/4, W/4); its product with the embedding of a query is the mask of the query.
    """

    levels: tuple[Level, ...]
    masks: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Proposals:
    """Everything about the masks of a batch that does not depend on the class names.

    Args:
        masks: float32 (B, Q, H/4, W/4), logits.
        in_vocab: float32 (B, Q, D), what the decoder would call each mask, in CLIP's joint space.
        out_vocab: float32 (B, Q, D), what CLIP itself sees in each mask; not normalised.
        valid: bool (B, Q), whether the mask covers a cell of CLIP's grid at all.
    """

    masks: Tensor
    in_vocab: Tensor
    out_vocab: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What each mask is taken for, by three opinions.

    Args:
        in_vocab: float32 (B, Q, C + 1), logits of the decoder.
        out_vocab: float32 (B, Q, C), logits of CLIP; without void.
        weight: float32 (B, Q, C), how much CLIP counts in the mean, 0 to 1.
        ensemble: float32 (B, Q, C), logarithm of the weighted geometric mean of both.
        void: float32 (B, Q, 1), probability that the mask is nothing.
        logits: float32 (B, Q, C + 1), logarithm of all of it; a softmax gives the probabilities.
    """

    in_vocab: Tensor
    out_vocab: Tensor
    weight: Tensor
    ensemble: Tensor
    void: Tensor
    logits: Tensor
