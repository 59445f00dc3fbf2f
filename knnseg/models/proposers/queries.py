"""Mask2Former and EoMT as mask proposers: one mask for each query, whatever the class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import sparse
from torch import Tensor

from knnseg.checked import Count, Share, checked
from knnseg.data.arrays import ImageArray
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.reading import MASK_SIDE, within
from knnseg.errors import ConfigError
from knnseg.models._torch import pick_device, to_numpy
from knnseg.models.fcclip.pooling import resize
from knnseg.models.proposers import detectron2
from knnseg.models.proposers.hub import library, load, prepared

__all__ = ["QueryProposer", "load_eomt", "load_mask2former"]

_KIND = "AutoModelForUniversalSegmentation"
_VALUES = 1 << 25
"""Mask values at full size that exist at a time: 128 MB, beside a few copies."""
_MULTIPLE = 32
"""What the input of Mask2Former is padded to multiples of, the stride of its coarsest features."""
_OUTSIDE = -20.0
"""The logit of a pixel that a window does not show; its probability is 2e-9."""


@dataclass(frozen=True, slots=True)
class _Window:
    """Where a network's input lies on the resized image, pixels; the rest of the input is padding."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, eq=False)
class _View:
    """The inputs that an image became: float32 (B, 3, h', w'), their windows, and the size that it was resized to."""

    pixels: Tensor
    windows: tuple[_Window, ...]
    resized: tuple[int, int]


class QueryProposer:
    """The masks of a universal segmentation network's queries. Implements :class:`knnseg.MaskProposer`.

    The score of a mask is (1 - P(no object)) times its mean probability over the pixels that it covers, the second
    factor as in the instance inference of Mask2Former (arXiv 2112.01527). The classes that the network was trained on
    do not enter: an object that it cannot name is as good as one that it can.

    Args:
        model: of transformers, Mask2Former or EoMT for universal segmentation.
        processor: the image processor that belongs to it.
        min_score: masks with a lower score are left out, 0 to 1.
        max_masks: of more masks than this, those of the highest scores are taken.
        min_coverage: a mask covers a pixel by its probability there, and not at all below this, 0 to 0.5.
        device: where it runs.

    Raises:
        ConfigError: an option out of range.
    """

    @checked("masks")
    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        min_score: Share = 0.1,
        max_masks: Count = 100,
        min_coverage: Annotated[int | float, Field(gt=0, le=0.5, description="above 0 and at most 0.5")] = 0.05,
        device: str = "auto",
    ) -> None:
        self._device = pick_device(device)
        self._model, self._processor = model.eval().to(self._device), processor
        self._min_score, self._most, self._least = min_score, max_masks, min_coverage
        self._view = _eomt_view if model.config.model_type.startswith("eomt") else _mask2former_view

    @torch.inference_mode()
    def propose(self, images: Sequence[Image]) -> list[Masks]:
        """See :meth:`knnseg.MaskProposer.propose`; the highest score first."""
        return [self._propose(image) for image in images]

    def _propose(self, image: Image) -> Masks:
        grid = within(image.size, MASK_SIDE)
        view = self._view(self._processor, image.pixels)
        outputs = self._model(pixel_values=view.pixels.to(self._device))
        certain = 1 - outputs.class_queries_logits.float().softmax(-1)[..., -1]  # (B, Q)
        rows, scores = [sparse.csr_array((0, grid[0] * grid[1]), dtype=np.float32)], [np.empty(0, np.float32)]
        for logits, objects, window in zip(outputs.masks_queries_logits, certain, view.windows, strict=True):
            likely = objects >= self._min_score  # the score can only be lower
            for chunk, sure in _chunks(logits[likely].float(), objects[likely], view, grid):
                coverage = _coverage(chunk, view, window, grid)
                score = sure * _quality(coverage)
                kept = (score >= self._min_score) & (score > 0)
                scores.append(to_numpy(score[kept]))
                rows.append(sparse.csr_array(to_numpy(_cut(coverage[kept], self._least).flatten(1))))
        matrix, quality = sparse.csr_array(sparse.vstack(rows, format="csr")), np.concatenate(scores)
        best = np.argsort(-quality, kind="stable")[: self._most]
        # Masks of windows may end where the window ends, so that they are not whole objects.
        return Masks(matrix[best], image.size, quality[best], instances=len(view.windows) == 1, grid=grid)


def _chunks(logits: Tensor, sure: Tensor, view: _View, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """As many masks at a time as may exist at the larger of the sizes of the masks and of the input."""
    step = max(1, _VALUES // max(size[0] * size[1], view.pixels[0, 0].numel()))
    for start in range(0, len(logits), step):
        yield logits[start : start + step], sure[start : start + step]


def _coverage(logits: Tensor, view: _View, window: _Window, size: tuple[int, int]) -> Tensor:
    """Mask probabilities over the image, float32 (n, *size), from logits (n, h, w) over one input."""
    padded = (int(view.pixels.shape[2]), int(view.pixels.shape[3]))
    shown = resize(logits[None], padded)[:, :, : window.height, : window.width]
    if shown.shape[2:] != view.resized:
        below, right = view.resized[0] - window.top - window.height, view.resized[1] - window.left - window.width
        shown = F.pad(shown, (window.left, right, window.top, below), value=_OUTSIDE)
    return resize(shown, size)[0].sigmoid()


def _quality(coverage: Tensor) -> Tensor:
    """Mean probability over the pixels that a mask covers by half at least, (n,); 0 where it covers no pixel."""
    inside = (coverage >= 0.5).flatten(1)
    return (coverage.flatten(1) * inside).sum(1) / inside.sum(1).clamp(min=1)


def _cut(coverage: Tensor, least: float) -> Tensor:
    return coverage * (coverage >= least)


def _mask2former_view(processor: Any, image: ImageArray) -> _View:
    inputs = prepared(processor, image, image.shape[:2], input_data_format="channels_last")
    shown = inputs["pixel_mask"][0].bool()
    height, width = int(shown.any(1).sum()), int(shown.any(0).sum())
    pixels = inputs["pixel_values"]
    below, right = (-side % _MULTIPLE for side in pixels.shape[2:])
    return _View(F.pad(pixels, (0, right, 0, below)), (_Window(0, 0, height, width),), (height, width))


def _eomt_view(processor: Any, image: ImageArray) -> _View:
    """Padded to a square for panoptic and instance checkpoints, cut into windows for semantic ones."""
    inputs = prepared(processor, image, image.shape[:2], input_data_format="channels_last")
    pixels = inputs["pixel_values"]
    height, width = (
        int(side)
        for side in library().image_transforms.get_size_with_aspect_ratio(
            (int(image.shape[0]), int(image.shape[1])), processor.size["shortest_edge"], processor.size["longest_edge"]
        )
    )
    spans = [(int(start), int(end)) for _, start, end in inputs["patch_offsets"]]
    if spans and height > width:
        windows = tuple(_Window(start, 0, end - start, width) for start, end in spans)
    elif spans:
        windows = tuple(_Window(0, start, height, end - start) for start, end in spans)
    else:
        windows = (_Window(0, 0, height, width),)
    return _View(pixels, windows, (height, width))


def load_mask2former(
    model: str = "",
    checkpoint: str = "",
    min_score: float = 0.1,
    max_masks: int = 100,
    min_coverage: float = 0.05,
    device: str = "auto",
) -> QueryProposer:
    """Mask2Former of transformers, or of a detectron2 checkpoint such as EntitySeg's.

    Args:
        model: a folder in the published format, or an id of the hub.
        checkpoint: path of a checkpoint in detectron2's layout (safetensors, or readable with ``weights_only=True``).
            With ``model``, that gives sizes and preprocessing; without, the weights give the sizes, and preprocessing
            is as published.
        min_score: see :class:`QueryProposer`.
        max_masks: see there.
        min_coverage: see there.
        device: where it runs.

    Raises:
        ConfigError: neither ``model`` nor ``checkpoint``, or a checkpoint of another type.
        WeightsError: weights absent, unreadable, incomplete or of another layout.
    """
    if checkpoint:
        network, processor = detectron2.load(checkpoint, model)
    elif model:
        network, processor = load("mask2former", model, _KIND)
    else:
        model_ = "`model`, a folder or an id of the hub such as facebook/mask2former-swin-tiny-coco-panoptic"
        expected = f"{model_}, or `checkpoint`, a file in detectron2's layout"
        raise ConfigError("masks stage mask2former", expected=expected, got="neither")
    return QueryProposer(
        network, processor, min_score=min_score, max_masks=max_masks, min_coverage=min_coverage, device=device
    )


def load_eomt(
    model: str = "tue-mps/coco_panoptic_eomt_large_640",
    min_score: float = 0.1,
    max_masks: int = 100,
    min_coverage: float = 0.05,
    device: str = "auto",
) -> QueryProposer:
    """EoMT (Kerssies et al., CVPR 2025, arXiv 2503.19108), on DINOv2 or on DINOv3.

    Args:
        model: a folder in the published format, or an id of the hub.
        min_score: see :class:`QueryProposer`.
        max_masks: see there.
        min_coverage: see there.
        device: where it runs.
    """
    network, processor = load("eomt", model, _KIND)
    return QueryProposer(
        network, processor, min_score=min_score, max_masks=max_masks, min_coverage=min_coverage, device=device
    )
