"""What the users of other libraries expect in memory. Each function needs the library that it speaks of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from knnseg.result import Segmentation

__all__ = ["detections", "transformers_panoptic", "transformers_semantic"]


def transformers_panoptic(result: Segmentation) -> dict[str, Any]:
    """See :meth:`knnseg.Segmentation.to_transformers`."""
    import torch

    info = [
        {"id": s.id, "label_id": result.vocabulary.names.index(s.label), "was_fused": not s.thing, "score": s.score}
        for s in result.segments_info
    ]
    return {"segmentation": torch.from_numpy(result.panoptic.copy()), "segments_info": info}


def transformers_semantic(result: Segmentation) -> Any:
    """See :meth:`knnseg.Segmentation.to_transformers_semantic`."""
    import torch

    return torch.from_numpy(result.semantic.astype(np.int64))


def detections(result: Segmentation) -> Any:
    """See :meth:`knnseg.Segmentation.to_supervision`."""
    import supervision

    segments = result.segments_info
    masks = np.stack([result.panoptic == s.id for s in segments]) if segments else None
    return supervision.Detections(
        xyxy=np.array([s.box for s in segments], np.float32).reshape(-1, 4),
        mask=masks,
        confidence=np.array([s.score for s in segments], np.float32),
        class_id=np.array([result.vocabulary.names.index(s.label) for s in segments], int),
        data={"class_name": np.array([s.label for s in segments], str)},
    )
