"""FC-CLIP's own dense CLIP features as retrieval keys: no second model, and no second pass over the image."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from knnseg.data.features import Features
from knnseg.data.image import Image
from knnseg.models._torch import fingerprint
from knnseg.models.fcclip.outputs import PixelBatch
from knnseg.models.fcclip.stage import FcClipSession, features_of, load_session
from knnstore import EmbeddingSpace

__all__ = ["FcClipFeatures"]

_SEEN = ("short_side", "long_side", "multiple", "mean", "std")
"""Of the configuration, what changes the input of the image tower."""


class FcClipFeatures:
    """CLIP's dense features in the joint space. Implements :class:`knnseg.FeatureExtractor`.

    Each cell of the image tower goes through CLIP's own norm and projection. Cosine is what CLIP was trained by there,
    while nothing holds the channels of the tower to one scale before the norm; and the published joint space is half as
    wide as the tower.

    Args:
        session: the model, which the other stages of the pipeline share.
    """

    def __init__(self, session: FcClipSession) -> None:
        self._session = session
        model = session.model
        config = dataclasses.asdict(model.config)
        settings = {name: config[name] for name in _SEEN} | {"precision": model.precision, "features": "joint"}
        self._space = EmbeddingSpace(
            f"fcclip/{Path(model.config.open_clip_name).stem}",
            fingerprint(model.backbone.clip.visual, settings),
            note=json.dumps(settings, sort_keys=True),
        )

    @classmethod
    def load(
        cls, checkpoint: str = "", sizes: str = "", precision: str = "float32", device: str = "auto"
    ) -> FcClipFeatures:
        """Load a checkpoint in the published layout.

        Args:
            checkpoint: its path.
            sizes: path of a TOML file for :class:`FcClipConfig`; empty for the published sizes.
            precision: see :class:`FCCLIP`.
            device: where it runs.
        """
        return cls(load_session(checkpoint, sizes, precision, device))

    @property
    def space(self) -> EmbeddingSpace:
        """The embedding space: the image tower's weights, the input's size, the precision."""
        return self._space

    @property
    def dim(self) -> int:
        """D, the width of CLIP's joint space."""
        return self._session.model.backbone.dim

    def extract(self, images: Sequence[Image]) -> list[Features]:
        """See :meth:`knnseg.FeatureExtractor.extract`; the mask decoder does not run."""
        return [self._extract(batch, dense) for batch, dense in self._session.encode(images)]

    @torch.inference_mode()
    def _extract(self, batch: PixelBatch, dense: Tensor) -> Features:
        cells = self._session.model.backbone.project(dense.flatten(2).transpose(1, 2))
        return features_of(batch, cells.transpose(1, 2).reshape(1, -1, *dense.shape[2:]))
