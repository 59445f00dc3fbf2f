"""FC-CLIP, put together: images and class names in, maps out.

Yu et al., "Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional CLIP", NeurIPS 2023,
arXiv 2308.02487. Written from the paper and from those that it builds on; the parameters are the published ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor, nn

from knnseg.data.arrays import ImageArray
from knnseg.errors import ConfigError
from knnseg.models._torch import pick_device
from knnseg.models.fcclip.backbone import Backbone
from knnseg.models.fcclip.checkpoint import load_state, read_checkpoint
from knnseg.models.fcclip.classification import classify
from knnseg.models.fcclip.config import FcClipConfig
from knnseg.models.fcclip.decoder import MaskDecoder
from knnseg.models.fcclip.inference import Instances, Panoptic, crop_resize, instances, panoptic, semantic
from knnseg.models.fcclip.outputs import PixelBatch, Proposals, Pyramid, Scores
from knnseg.models.fcclip.pixel_decoder import PixelDecoder
from knnseg.models.fcclip.pooling import pool_masks, resize
from knnseg.models.fcclip.preprocessing import prepare
from knnseg.models.fcclip.text import TextClassifier, build_classifier

__all__ = ["FCCLIP", "PRECISIONS", "Prediction"]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""For the image tower and the mask decoder's attention. Everything else is float32 always."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The scored masks of one image, at its own size.

    Args:
        logits: float32 (Q, C + 1), void last.
        masks: float32 (Q, H, W), logits.
        config: the thresholds.
    """

    logits: Tensor
    masks: Tensor
    config: FcClipConfig

    def semantic(self) -> Tensor:
        """Sums of scores, float32 (C, H, W)."""
        return semantic(self.logits, self.masks)

    def panoptic(self, things: Tensor) -> Panoptic:
        """Segments; ``things`` is bool (C,)."""
        config = self.config
        return panoptic(self.logits, self.masks, things, config.object_threshold, config.overlap_threshold)

    def instances(self, things: Tensor | None = None) -> Instances:
        """Objects; ``things`` is bool (C,), None where every class is one."""
        return instances(self.logits, self.masks, things, self.config.instances)


class FCCLIP(nn.Module):
    """The network. It is for inference: weights have no gradient and dropout is off.

    Args:
        config: its sizes.
        precision: ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for what is safe in it, see :data:`PRECISIONS`.
    """

    def __init__(self, config: FcClipConfig, precision: str = "float32") -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise ConfigError("precision", expected=f"one of {sorted(PRECISIONS)}", got=repr(precision))
        self.config, self.precision, self._dtype = config, precision, PRECISIONS[precision]
        self.backbone = Backbone(config.open_clip_name)
        self.pixel_decoder = PixelDecoder(self.backbone.channels, config)
        self.decoder = MaskDecoder(config, self.backbone.dim)
        self.void = nn.Parameter(torch.randn(1, self.backbone.dim))
        self.eval().requires_grad_(False)

    @classmethod
    def load(
        cls,
        checkpoint: str | PathLike[str],
        config: FcClipConfig | None = None,
        *,
        device: str = "auto",
        precision: str = "float32",
    ) -> FCCLIP:
        """Load a checkpoint in the published layout.

        Args:
            checkpoint: safetensors, or a file that torch reads with ``weights_only=True``.
            config: the published ConvNeXt-Large where it is None.
            device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
            precision: see the class.

        Raises:
            WeightsError: no such file, or not the layout and sizes that were expected.
            ConfigError: an unknown CLIP model, device or precision.
        """
        state, place = read_checkpoint(checkpoint), pick_device(device)
        model = cls(config or FcClipConfig(), precision)
        load_state(model, state)
        return model.to(place)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.void.device

    def forward(self, pixels: Tensor) -> Proposals:
        """Propose masks: all that needs no class names.

        Args:
            pixels: float32 (B, 3, H, W) as :func:`~knnseg.models.fcclip.preprocessing.prepare` makes them.
        """
        return self.propose(self.encode(pixels))

    def encode(self, pixels: Tensor) -> Pyramid:
        """The features of the image tower; see :meth:`forward`."""
        with self._lower():
            pyramid: Pyramid = self.backbone(pixels)
            return pyramid

    def propose(self, pyramid: Pyramid) -> Proposals:
        """The masks, and CLIP's features pooled under them."""
        features = self.pixel_decoder(pyramid)
        with self._lower():
            masks, named = self.decoder(features)
        dense = pyramid.dense.float()
        coarse = resize(masks, (int(dense.shape[2]), int(dense.shape[3])))
        seen = self.backbone.project(pool_masks(dense, coarse))
        return Proposals(masks, named, seen, (coarse > 0).flatten(2).any(2))

    def _lower(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32)

    @torch.inference_mode()
    def classifier(self, classes: Sequence[str], trained: Iterable[str] = ()) -> TextClassifier:
        """Encode class names, each with its synonyms separated by commas.

        Args:
            classes: C of them.
            trained: the names that training knew, which decide between α and β.
        """
        return build_classifier(self.backbone.encode_text, classes, trained, self.config.prompts)

    def classify(self, proposals: Proposals, classifier: TextClassifier) -> Scores:
        """Score the masks of a batch."""
        scales = (self.decoder.logit_scale, self.backbone.logit_scale)
        weights = (self.config.alpha, self.config.beta)
        return classify(proposals, classifier, self.void, scales, weights, valid_only=self.config.valid_masks_only)

    @torch.inference_mode()
    def predict(self, images: Sequence[ImageArray], classifier: TextClassifier) -> list[Prediction]:
        """Segment uint8 (H, W, 3) images of any sizes, in one batch."""
        batch = prepare(images, self.config, self.device)
        proposals = self(batch.pixels)
        return self.predictions(batch, proposals, self.classify(proposals, classifier))

    def predictions(self, batch: PixelBatch, proposals: Proposals, scores: Scores) -> list[Prediction]:
        """The masks at the size of each original image, beside their scores."""
        padded = (int(batch.pixels.shape[2]), int(batch.pixels.shape[3]))
        return [
            Prediction(logits, crop_resize(resize(masks[None], padded)[0], size, original), self.config)
            for logits, masks, size, original in zip(
                scores.logits, proposals.masks, batch.sizes, batch.originals, strict=True
            )
        ]
