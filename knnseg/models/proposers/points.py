"""SAM and SAM 2 as mask proposers: a grid of points, and what the network sees at each.

The procedure and the names of its settings are those of the automatic mask generator of Segment Anything (Kirillov et
al., ICCV 2023, arXiv 2304.02643, appendix B).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage, sparse
from torch import Tensor
from torchvision.ops import nms

from knnseg.checked import Count, Share, checked
from knnseg.data.arrays import ImageArray
from knnseg.data.image import Image
from knnseg.data.masks import Masks, add_remainder, resolve_overlaps
from knnseg.data.reading import MASK_SIDE, resize, within
from knnseg.models._torch import pick_device
from knnseg.models.proposers.hub import load, prepared

__all__ = ["SAM_KIND", "PointProposer", "embedded", "load_sam", "load_sam2"]

SAM_KIND = "AutoModelForMaskGeneration"
"""What of transformers loads SAM and SAM 2."""
_VALUES = 1 << 25
"""Mask values at full size that exist at a time: 128 MB, beside a few copies."""
_STABILITY_OFFSET = 1.0
"""How far the threshold of a mask's logits is moved to see whether the mask is stable, as published."""
_EIGHT = np.ones((3, 3), int)
_Some: TypeAlias = Annotated[int, Field(ge=0, description="a whole number of at least 0")]


class _Crop(NamedTuple):
    """A part of the image: uint8 (3, h, w), and float32 (4,), its box (x0, y0, x1, y1)."""

    pixels: Tensor
    box: Tensor


class _Found(NamedTuple):
    """Masks as uncompressed COCO RLE, their scores (n,), and their boxes (n, 4), (x0, y0, x1, y1)."""

    masks: list[dict[str, Any]]
    scores: Tensor
    boxes: Tensor


class PointProposer:
    """Masks around points of a grid, best first. Implements :class:`knnseg.MaskProposer`.

    Masks are wholes, parts and parts of parts, so they are not taken as instances. The score is the IoU that the
    network predicts for its own mask.

    Args:
        model: of transformers, SAM or SAM 2.
        processor: the image processor that belongs to it.
        points_per_side: the grid has the square of this many points.
        points_per_batch: how many of them the network sees at a time.
        pred_iou_thresh: masks with a predicted IoU of this or less are left out, 0 to 1; 0 keeps all.
        stability_score_thresh: masks that change with the threshold of their logits are left out: those whose areas at
            the two thresholds have a ratio of this or less, 0 to 1; 0 keeps all.
        box_nms_thresh: of two masks whose boxes have a larger IoU, the better is kept, 0 to 1.
        crop_n_layers: also look at 4 crops (1), at those and 16 crops (2), and so on.
        min_mask_region_area: islands and holes of fewer pixels are removed; 0 keeps them.
        overlaps: ``"resolve"`` gives each pixel to one mask, see :func:`knnseg.data.masks.resolve_overlaps`; ``"keep"``
            leaves masks as they are.
        remainder: one more mask, of all pixels that no mask has.
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
        points_per_side: Count = 32,
        points_per_batch: Count = 64,
        pred_iou_thresh: Share = 0.88,
        stability_score_thresh: Share = 0.95,
        box_nms_thresh: Share = 0.7,
        crop_n_layers: _Some = 0,
        min_mask_region_area: _Some = 0,
        overlaps: Literal["keep", "resolve"] = "resolve",
        remainder: Annotated[bool, Field(description="true or false")] = True,
        device: str = "auto",
    ) -> None:
        self._device = pick_device(device)
        self._model, self._processor = model.eval().to(self._device), processor
        self._grid, self._batch = _grid(points_per_side), points_per_batch
        self._least_iou, self._least_stability = pred_iou_thresh, stability_score_thresh
        self._nms, self._layers, self._area = box_nms_thresh, crop_n_layers, min_mask_region_area
        self._resolve, self._remainder = overlaps == "resolve", remainder

    @torch.inference_mode()
    def propose(self, images: Sequence[Image]) -> list[Masks]:
        """See :meth:`knnseg.MaskProposer.propose`."""
        return [self._propose(image) for image in images]

    def _propose(self, image: Image) -> Masks:
        grid = within(image.size, MASK_SIDE)
        parts = [found for crop in self._crops(resize(image.pixels, grid)) for found in self._look(crop, grid)]
        masks = replace(self._select(parts, grid), size=image.size)
        masks = resolve_overlaps(masks) if self._resolve else masks
        return add_remainder(masks) if self._remainder else masks

    def _crops(self, image: ImageArray) -> list[_Crop]:
        # The points that come along assume that the longest edge is all that is scaled, which is wrong for SAM 2.
        first = np.array(image.transpose(2, 0, 1), order="C")  # at a height of 3, channels last is guessed wrongly
        boxes, _, crops, _ = self._processor.generate_crop_boxes(first, 1, crop_n_layers=self._layers)
        return [_Crop(pixels, box) for pixels, box in zip(crops, boxes, strict=True)]

    def _look(self, crop: _Crop, size: tuple[int, int]) -> Iterator[_Found]:
        own = (int(crop.pixels.shape[1]), int(crop.pixels.shape[2]))
        embeddings, (height, width) = embedded(self._model, self._processor, crop.pixels, own)
        points = (self._grid * torch.tensor([width, height])).to(self._device)
        for batch in points.split(self._batch):  # type: ignore[no-untyped-call]  # torch has no type for it
            outputs = self._model(
                input_points=batch[None, :, None],
                input_labels=torch.ones((1, len(batch), 1), dtype=torch.int64, device=self._device),
                image_embeddings=embeddings,
            )
            logits, scores = outputs.pred_masks[0].flatten(0, 1).float(), outputs.iou_scores[0].flatten().float()
            sure = scores > self._least_iou if self._least_iou else torch.ones_like(scores, dtype=torch.bool)
            yield from self._filter(logits[sure], scores[sure], crop, (height, width), size)

    def _filter(
        self, logits: Tensor, scores: Tensor, crop: _Crop, reshaped: tuple[int, int], size: tuple[int, int]
    ) -> Iterator[_Found]:
        """Bring masks to the size of the image, a few at a time, and keep the stable ones."""
        own = (int(crop.pixels.shape[1]), int(crop.pixels.shape[2]))
        step = max(1, _VALUES // max(size[0] * size[1], max(reshaped) ** 2))
        for start in range(0, len(logits), step):
            some = slice(start, start + step)
            full = self._processor.post_process_masks(
                [logits[some, None]], [own], reshaped_input_sizes=[reshaped], binarize=False
            )[0]
            yield _Found(
                *self._processor.filter_masks(
                    full, scores[some, None], size, crop.box, self._least_iou, self._least_stability, 0.0,
                    _STABILITY_OFFSET,
                )
            )  # fmt: skip

    def _select(self, parts: list[_Found], size: tuple[int, int]) -> Masks:
        """Drop near duplicates, clean the rest, and put it together."""
        rows = [sparse.csr_array((0, size[0] * size[1]), dtype=np.float32)]
        if not parts:
            return Masks(rows[0], size, np.empty(0, np.float32))
        masks = [mask for part in parts for mask in part.masks]
        scores = torch.cat([part.scores for part in parts])
        kept = nms(torch.cat([part.boxes for part in parts]).float(), scores, self._nms).cpu()
        for i in kept.tolist():
            dense = _decode(masks[i])
            cleaned = _without_specks(dense, self._area) if self._area else dense
            rows.append(sparse.csr_array(cleaned.reshape(1, -1).astype(np.float32)))
        quality = scores.cpu()[kept].clamp(0, 1).numpy().astype(np.float32)
        found = Masks(sparse.csr_array(sparse.vstack(rows, format="csr")), size, quality)
        return found.select(found.areas > 0)


def embedded(model: Any, processor: Any, image: Any, size: tuple[int, int]) -> tuple[Any, tuple[int, int]]:
    """What the network makes of an image of ``size`` (H, W), and the size that it sees it at.

    Raises:
        ImageError: see :func:`knnseg.models.proposers.hub.prepared`.
    """
    inputs = prepared(processor, image, size)
    pixels = inputs["pixel_values"].to(model.device)
    # SAM pads to a square, SAM 2 stretches to one.
    height, width = (int(n) for n in inputs.get("reshaped_input_sizes", [pixels.shape[2:]])[0])
    return model.get_image_embeddings(pixels), (height, width)


def _grid(side: int) -> Tensor:
    """float32 (side², 2): x and y of the centres of a grid of cells over the unit square, row by row."""
    centres = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def _decode(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """Bool (H, W) from runs down the columns, of zeros and ones in turn."""
    height, width = rle["size"]
    flat = np.repeat(np.arange(len(rle["counts"])) % 2 == 1, rle["counts"])
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _without_specks(mask: NDArray[np.bool_], least: int) -> NDArray[np.bool_]:
    """Fill holes and remove islands of fewer pixels than ``least``, holes first; the largest island always stays."""
    cleaned = mask.copy()
    for kind in (False, True):
        regions, _ = ndimage.label(cleaned == kind, structure=_EIGHT)
        areas = np.bincount(regions.reshape(-1))
        small = areas < least
        small[0] = False  # of the other kind
        if kind and small[1:].all() and len(areas) > 1:
            small[1 + int(areas[1:].argmax())] = False
        cleaned ^= small[regions]
    return cleaned


def load_sam(
    model: str = "facebook/sam-vit-base",
    points_per_side: int = 32,
    points_per_batch: int = 64,
    pred_iou_thresh: float = 0.88,
    stability_score_thresh: float = 0.95,
    box_nms_thresh: float = 0.7,
    crop_n_layers: int = 0,
    min_mask_region_area: int = 0,
    overlaps: Literal["keep", "resolve"] = "resolve",
    remainder: bool = True,
    device: str = "auto",
) -> PointProposer:
    """SAM (Kirillov et al., ICCV 2023, arXiv 2304.02643).

    Args:
        model: a folder in the published format, or an id of the hub.
        points_per_side: see :class:`PointProposer`, as all that follow.
        points_per_batch: see there.
        pred_iou_thresh: see there.
        stability_score_thresh: see there.
        box_nms_thresh: see there.
        crop_n_layers: see there.
        min_mask_region_area: see there.
        overlaps: see there.
        remainder: see there.
        device: where it runs.
    """
    options = {key: value for key, value in locals().items() if key != "model"}
    return PointProposer(*load("sam", model, SAM_KIND), **options)


def load_sam2(
    model: str = "facebook/sam2.1-hiera-base-plus",
    points_per_side: int = 32,
    points_per_batch: int = 64,
    pred_iou_thresh: float = 0.8,
    stability_score_thresh: float = 0.95,
    box_nms_thresh: float = 0.7,
    crop_n_layers: int = 0,
    min_mask_region_area: int = 0,
    overlaps: Literal["keep", "resolve"] = "resolve",
    remainder: bool = True,
    device: str = "auto",
) -> PointProposer:
    """SAM 2 (Ravi et al., 2024, arXiv 2408.00714) on images. Arguments as for :func:`load_sam`.

    Its published mask generator asks for less predicted IoU than that of SAM.
    """
    options = {key: value for key, value in locals().items() if key != "model"}
    return PointProposer(*load("sam2", model, SAM_KIND), **options)
