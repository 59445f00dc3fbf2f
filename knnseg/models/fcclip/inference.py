"""From scored masks to maps, without a loop over pixels or over masks of pixels.

Semantic and panoptic inference as in MaskFormer (Cheng et al., NeurIPS 2021, arXiv 2107.06278, section 3.4), instances
as in Mask2Former (arXiv 2112.01527). Every function takes one image: ``logits`` float32 (Q, C + 1), void last, and
``masks`` float32 (Q, H, W), logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from knnseg.models.fcclip.pooling import resize

__all__ = ["Instances", "Panoptic", "PanopticSegment", "crop_resize", "instances", "panoptic", "semantic"]

_HALF = 0.5
_EPSILON = 1e-6
_STRIPE = 1 << 19
"""Mask values to look at at a time, so that a pass over them stays in the cache."""


@dataclass(frozen=True, slots=True)
class PanopticSegment:
    """One segment.

    Args:
        id: its number in the map, from 1.
        label: position of its class.
        thing: whether it is one object.
        query: the mask that made it; for stuff, the first one.
        score: the probability of its class for that mask.
    """

    id: int
    label: int
    thing: bool
    query: int
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class Panoptic:
    """A panoptic map.

    Args:
        ids: int32 (H, W), segment numbers, 0 where nothing is.
        segments: in the order of their numbers.
    """

    ids: Tensor
    segments: tuple[PanopticSegment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """Objects that may overlap, best first.

    Args:
        masks: bool (n, H, W).
        labels: int64 (n,), positions of classes.
        scores: float32 (n,), class probability times mean mask probability inside the mask.
        queries: int64 (n,), where each mask came from.
    """

    masks: Tensor
    labels: Tensor
    scores: Tensor
    queries: Tensor


def crop_resize(x: Tensor, size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Take the padding off (N, H, W) and resize to the size of the original image."""
    return resize(x[None, :, : size[0], : size[1]], original)[0]


def semantic(logits: Tensor, masks: Tensor) -> Tensor:
    """Σ_q P_q(c) · σ(mask_q), float32 (C, H, W)."""
    return torch.einsum("qc,qhw->chw", logits.softmax(-1)[:, :-1], masks.sigmoid())


def panoptic(
    logits: Tensor, masks: Tensor, things: Tensor, object_threshold: float, overlap_threshold: float
) -> Panoptic:
    """Each pixel goes to the mask of highest class probability times mask probability.

    A mask is left out where its best class is void or not more probable than ``object_threshold``, where it does not
    cover a pixel that is its own, and where it owns fewer pixels than ``overlap_threshold`` times the pixels that it
    covers. All masks of a stuff class are one segment.

    Args:
        logits: see the module.
        masks: see the module.
        things: bool (C,).
        object_threshold: see above.
        overlap_threshold: see above.
    """
    scores, labels = logits.softmax(-1).max(-1)
    kept = torch.nonzero((labels != logits.shape[1] - 1) & (scores > object_threshold))[:, 0]
    owner, certain, covered = _owners(masks, kept, scores)
    owned = torch.bincount(owner.flatten(), minlength=len(kept))
    visible = torch.bincount(owner[certain], minlength=len(kept))
    accepted = (visible > 0) & (owned.double() / covered >= overlap_threshold)
    numbers, segments = _number(accepted.tolist(), kept.tolist(), labels.tolist(), scores.tolist(), things.tolist())
    table = torch.tensor([*numbers, 0], dtype=torch.int32, device=masks.device)
    return Panoptic(torch.where(certain, table[owner], 0), segments)


def _owners(masks: Tensor, kept: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Who owns each pixel, by position in ``kept``; whether it covers it; and how many pixels each mask covers.

    Returns:
        int64 (H, W), bool (H, W), int64 (len(kept),).
    """
    height, width = masks.shape[1:]
    owner = torch.zeros((height, width), dtype=torch.int64, device=masks.device)
    certain = torch.zeros((height, width), dtype=torch.bool, device=masks.device)
    covered = torch.zeros(len(kept), dtype=torch.int64, device=masks.device)
    if not len(kept):
        return owner, certain, covered
    weight = scores[kept][:, None, None]
    rows = max(1, _STRIPE // (len(kept) * width))
    for top in range(0, height, rows):
        stripe = slice(top, top + rows)
        share = masks[kept, stripe].sigmoid_()
        weighted = weight * share
        best = weighted.max(0).indices  # of equal ones the first, as argmax, which takes twice as long
        owner[stripe] = best
        certain[stripe] = share.gather(0, best[None])[0] >= _HALF
        # Ones and zeros as floats in memory that is there: to sum booleans takes three times as long.
        covered += torch.ge(share, _HALF, out=weighted).flatten(1).sum(1).long()
    return owner, certain, covered


def _number(
    accepted: list[bool], kept: list[int], labels: list[int], scores: list[float], things: list[bool]
) -> tuple[list[int], tuple[PanopticSegment, ...]]:
    """The segment number of every kept mask, 0 for none; and the segments."""
    numbers, segments, stuff = [0] * len(kept), list[PanopticSegment](), dict[int, int]()
    for i, query in enumerate(kept):
        label = labels[query]
        if not accepted[i]:
            continue
        if label not in stuff:
            segments.append(PanopticSegment(len(segments) + 1, label, things[label], query, scores[query]))
            if not things[label]:
                stuff[label] = len(segments)
        numbers[i] = stuff.get(label, len(segments))
    return numbers, tuple(segments)


def instances(logits: Tensor, masks: Tensor, things: Tensor | None, most: int) -> Instances:
    """The most probable pairs of mask and class.

    Args:
        logits: see the module.
        masks: see the module.
        things: bool (C,); of the pairs taken, those of other classes are dropped. None keeps all.
        most: how many pairs are taken, of stuff too.
    """
    scores = logits.softmax(-1)[:, :-1]
    top, index = scores.flatten().topk(min(most, scores.numel()))
    queries, labels = index // scores.shape[1], index % scores.shape[1]
    if things is not None:
        keep = things[labels]
        top, queries, labels = top[keep], queries[keep], labels[keep]
    chosen = masks[queries]
    inside = chosen > 0
    mean = (chosen.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + _EPSILON)
    order = (top * mean).argsort(descending=True, stable=True)
    return Instances(inside[order], labels[order], (top * mean)[order], queries[order])
