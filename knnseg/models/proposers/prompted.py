"""SAM and SAM 2 asked for the masks of boxes and points that somebody has drawn.

Which of its masks counts is as the authors of Segment Anything advise (Kirillov et al., ICCV 2023, arXiv 2304.02643,
section 3): one point may mean a whole or a part of it, so the network gives three masks, and the one counts of which it
expects the largest IoU. A box or several points mean one thing, and it gives one mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from knnseg.data.arrays import ImageArray
from knnseg.models._torch import pick_device
from knnseg.models.proposers.hub import load
from knnseg.models.proposers.points import SAM_KIND, embedded

__all__ = ["PromptedSam", "load_sam", "load_sam2"]


class PromptedSam:
    """Masks of boxes and points. Implements :class:`knnseg.stages.protocols.Prompted`.

    Args:
        model: of transformers, SAM or SAM 2.
        processor: the image processor that belongs to it.
        device: where it runs.
    """

    def __init__(self, model: Any, processor: Any, *, device: str = "auto") -> None:
        self._model, self._processor = model.eval().to(pick_device(device)), processor

    @torch.inference_mode()
    def masks(
        self, image: ImageArray, boxes: Sequence[NDArray[np.float64]] = (), points: Sequence[NDArray[np.float64]] = ()
    ) -> NDArray[np.bool_]:
        """See :meth:`knnseg.stages.protocols.Prompted.masks`. The image is encoded once."""
        size = (image.shape[0], image.shape[1])
        found = np.zeros((len(boxes) + len(points), *size), bool)
        if not len(found):
            return found
        first = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        embeddings, reshaped = embedded(self._model, self._processor, first, size)
        scale = np.array([reshaped[1] / size[1], reshaped[0] / size[0]])
        # One at a time: the decoder is small beside the encoder, and groups of points differ in length.
        corners = [box.reshape(2, 2) * scale for box in boxes]
        for i, prompt in enumerate(self._prompts(corners, [group * scale for group in points])):
            outputs = self._model(image_embeddings=embeddings, **prompt)
            best = int(outputs.iou_scores[0, 0].argmax())
            logits = outputs.pred_masks[0, :, best, None].float()
            full = self._processor.post_process_masks([logits], [size], reshaped_input_sizes=[reshaped])[0]
            found[i] = full[0, 0].cpu().numpy()
        return found

    def _prompts(
        self, boxes: Iterable[NDArray[np.float64]], points: Iterable[NDArray[np.float64]]
    ) -> Iterator[dict[str, Any]]:
        """The arguments of the network for each, of corners (2, 2) and points (P, 2) where it sees them."""
        for box in boxes:
            yield {"input_boxes": self._tensor(box.reshape(1, 1, 4)), "multimask_output": False}
        for group in points:
            yield {
                "input_points": self._tensor(group[None, None]),
                "input_labels": torch.ones((1, 1, len(group)), dtype=torch.int64, device=self._model.device),
                "multimask_output": len(group) == 1,
            }

    def _tensor(self, values: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(values).to(self._model.device, torch.float32)


def load_sam(model: str = "facebook/sam-vit-base", device: str = "auto") -> PromptedSam:
    """SAM (Kirillov et al., ICCV 2023, arXiv 2304.02643), asked.

    Args:
        model: a folder in the published format, or an id of the hub.
        device: where it runs.

    Raises:
        ConfigError: transformers is not installed, or the checkpoint is of another model.
        WeightsError: no such folder, the hub cannot be reached, or weights that are unreadable or incomplete.
    """
    return PromptedSam(*load("sam", model, SAM_KIND), device=device)


def load_sam2(model: str = "facebook/sam2.1-hiera-base-plus", device: str = "auto") -> PromptedSam:
    """SAM 2 (Ravi et al., 2024, arXiv 2408.00714) on images, asked. Arguments and errors as for :func:`load_sam`."""
    return PromptedSam(*load("sam2", model, SAM_KIND), device=device)
