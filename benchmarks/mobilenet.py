"""A user's own feature extractor: MobileNetV2 from the optional folder of real data, and the photographs beside it.

It is no part of the package. It shows what an extractor needs: a space, a dim, and ``extract``.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from knnseg import DerivedFeatures, FeatureExtractor, Features, Image, Masks
from knnseg.data.arrays import ImageArray
from knnseg.data.reading import resize
from knnseg.datasets import ImageLabelPairs
from knnseg.models._torch import fingerprint
from knnstore import EmbeddingSpace

__all__ = ["FirstChannels", "MobileNetFeatures", "Remembered", "RememberedProposals", "photographs"]

STRIDE = 16


class MobileNetFeatures:
    """Two layers of MobileNetV2 side by side: 896 channels, a cell for every 16 pixels of the resized image.

    The first 576 are the layer that the folder's module returns. The last 320 are the end of the network, with the
    stride of its last stage taken out and made up for by dilation, so that both have one grid.

    Args:
        folder: with ``mobilenet_v2.py`` and ``mobilenet_v2_fp16.npz``.
        long_side: images are resized so that their longer side has this many pixels; sides are multiples of 16.
    """

    dim = 576 + 320

    def __init__(self, folder: Path, long_side: int = 480) -> None:
        self._module = _module(folder / "mobilenet_v2.py")
        self._model = self._module.MobileNetV2.load(str(folder / "mobilenet_v2_fp16.npz"))
        self._side = long_side
        settings = {"long_side": long_side, "layers": [576, 320]}
        self.space = EmbeddingSpace("mobilenet-v2", fingerprint(self._model, settings), note=json.dumps(settings))

    def extract(self, images: Sequence[Image]) -> list[Features]:
        return [self._one(image.pixels) for image in images]

    @torch.inference_mode()
    def _one(self, image: ImageArray) -> Features:
        scale = self._side / max(image.shape[:2])
        size = tuple(max(1, round(side * scale / STRIDE)) * STRIDE for side in image.shape[:2])
        pixels = torch.from_numpy(resize(image, (size[0], size[1])).copy()).permute(2, 0, 1)[None].float() / 255
        grid = torch.cat(self._layers(pixels), dim=1)[0].numpy()
        return Features(np.ascontiguousarray(grid), (int(image.shape[0]), int(image.shape[1])))

    def _layers(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float32 (1, 576, h, w) and (1, 320, h, w)."""
        model, middle, last = self._model, images, 13
        x, i, block = model._conv(images * 2 - 1, 0, 2), 1, 0
        for expansion, _, repeats, first_stride in self._module.STAGES:
            for repeat in range(repeats):
                residual, stride = x, first_stride if repeat == 0 else 1
                if expansion != 1:
                    x, i = model._conv(x, i), i + 1
                if block == last:
                    middle, stride = x, 1
                x, i = self._dilated(x, i) if block > last else model._conv(x, i, stride), i + 1
                x, i = model._conv(x, i, relu6=False), i + 1
                x, block = x + residual if repeat > 0 else x, block + 1
        return middle, x

    def _dilated(self, x: torch.Tensor, i: int) -> torch.Tensor:
        weight, bias = getattr(self._model, f"w{i}"), getattr(self._model, f"b{i}")
        return F.conv2d(F.pad(x, (2, 2, 2, 2)), weight, bias, dilation=2, groups=weight.shape[0]).clamp(0, 6)


class FirstChannels(DerivedFeatures):
    """The first ``dim`` channels of another extractor."""

    def __init__(self, source: FeatureExtractor, dim: int) -> None:
        super().__init__(source)
        self._dim = dim

    @property
    def space(self) -> EmbeddingSpace:
        space = self.source.space
        return EmbeddingSpace(f"{space.encoder}-{self._dim}", f"{space.fingerprint}-{self._dim}")

    @property
    def dim(self) -> int:
        return self._dim

    def transform(self, features: Features) -> Features:
        return Features(np.ascontiguousarray(features.data[: self._dim]), features.image_size, features.extent)


class Remembered:
    """Another extractor, each image once: for measuring several things on the same photographs."""

    def __init__(self, source: FeatureExtractor) -> None:
        self.space, self.dim, self._source = source.space, source.dim, source
        self._seen: dict[str, Features] = {}

    def extract(self, images: Sequence[Image]) -> list[Features]:
        for image in images:
            if (key := image.content_hash) not in self._seen:
                self._seen[key] = self._source.extract([image])[0]
        return [self._seen[image.content_hash] for image in images]


class RememberedProposals:
    """Another proposer, each image once."""

    def __init__(self, source: Any) -> None:
        self._source, self._seen = source, dict[str, Masks]()

    def propose(self, images: Sequence[Image]) -> list[Masks]:
        for image in images:
            if (key := image.content_hash) not in self._seen:
                (self._seen[key],) = self._source.propose([image])
        return [self._seen[image.content_hash] for image in images]


def photographs(folder: Path, half: str, name: str = "msrc") -> ImageLabelPairs:
    """The ``"reference"`` or the ``"query"`` half of ``"msrc"`` or ``"camvid"``."""
    own = folder / name
    stems = json.loads((own / "split.json").read_text(encoding="utf-8"))[half]
    return ImageLabelPairs(own / "images", own / "labels", own / "classes.json", ignore=[0], stems=stems)


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("knnseg_real_mobilenet", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
