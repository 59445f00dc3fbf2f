"""The numbers of FC-CLIP, as published, and small ones where a test asks for them."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from knnseg.errors import ConfigError

__all__ = ["SIZES", "FcClipConfig"]

SIZES = {"base": "convnext_base_w_320", "large": "convnext_large_d_320", "xxlarge": "convnext_xxlarge"}
"""The image towers that the paper's code has a place for, by open_clip's names. A checkpoint is published for large."""


@dataclass(frozen=True, slots=True)
class FcClipConfig:
    """Sizes of the network and constants of its inference.

    Defaults are those of the published ConvNeXt-Large model and its evaluation.

    Args:
        clip: the CLIP model: a size of :data:`SIZES`, a ConvNeXt that open_clip knows by name, or the path of a JSON
            file in open_clip's model-config format.
        width: E, channels of both decoders; a multiple of 32.
        heads: of attention, in both decoders.
        points: sampled by deformable attention in each level by each head.
        encoder_layers: of the pixel decoder.
        encoder_hidden: width of their feed-forward layers.
        decoder_layers: of the mask decoder.
        decoder_hidden: width of their feed-forward layers.
        queries: Q, masks of an image.
        alpha: weight of CLIP's own opinion for classes seen in training.
        beta: the same for unseen classes.
        valid_masks_only: ask CLIP only about masks that cover a cell of its grid; so for the published ResNets.
        short_side: images are resized so that their shorter side has so many pixels.
        long_side: but their longer side no more than so many.
        multiple: batches are padded to a multiple of so many pixels.
        mean: of the channels R, G and B, 0 to 255.
        std: their standard deviation.
        object_threshold: panoptic: masks with no class of a higher probability are left out.
        overlap_threshold: panoptic: masks are left out of which less than this share is theirs.
        instances: the most instances of an image, before those of stuff are taken out.
        prompts: texts encoded at a time.

    Raises:
        ConfigError: a value out of range.
    """

    clip: str = "large"
    width: int = 256
    heads: int = 8
    points: int = 4
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    decoder_layers: int = 9
    decoder_hidden: int = 2048
    queries: int = 250
    alpha: float = 0.4
    beta: float = 0.8
    valid_masks_only: bool = False
    short_side: int = 800
    long_side: int = 1333
    multiple: int = 32
    mean: tuple[float, float, float] = (122.7709383, 116.7460125, 104.09373615)
    std: tuple[float, float, float] = (68.5005327, 66.6321579, 70.32316305)
    object_threshold: float = 0.0
    overlap_threshold: float = 0.8
    instances: int = 100
    prompts: int = 128

    def __post_init__(self) -> None:
        _require(isinstance(self.clip, str) and bool(self.clip), "clip", "a name or a path", self.clip)
        for name in _COUNTS:
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            _require(whole, name, "a whole number of at least 1", value)
        for name in _SHARES:
            _require(
                _number(getattr(self, name)) and 0 <= getattr(self, name) <= 1, name, "0 to 1", getattr(self, name)
            )
        for name in ("mean", "std"):
            value = getattr(self, name)
            ok = isinstance(value, tuple | list) and len(value) == 3 and all(_number(v) for v in value)
            _require(ok, name, "three numbers, for R, G and B", value)
            object.__setattr__(self, name, tuple(float(v) for v in value))
        _require(all(v > 0 for v in self.std), "std", "numbers above 0", self.std)
        _require(self.width % 32 == 0, "width", "a multiple of 32", self.width)
        _require(self.width % self.heads == 0, "heads", f"a divisor of the width {self.width}", self.heads)
        _require(self.multiple % 32 == 0, "multiple", "a multiple of 32, the coarsest stride", self.multiple)
        _require(
            self.short_side <= self.long_side, "long_side", f"at least short_side {self.short_side}", self.long_side
        )
        _require(isinstance(self.valid_masks_only, bool), "valid_masks_only", "true or false", self.valid_masks_only)

    @property
    def open_clip_name(self) -> str:
        """``clip``, with a size of :data:`SIZES` written out."""
        return SIZES.get(self.clip, self.clip)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FcClipConfig:
        """Take values by name; the others keep their defaults.

        Raises:
            ConfigError: an unknown name, or a value out of range.
        """
        known = [part.name for part in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Expected one of {known}."
                raise ConfigError(f"FC-CLIP configuration: unknown key {key!r}. {hint}")
        return cls(**data)

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> FcClipConfig:
        """Read a file of such values; a relative ``clip`` that ends in ``.json`` is relative to that file.

        Raises:
            ConfigError: no such file, not TOML, an unknown key, or a value out of range.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: expected a TOML file: {error}") from error
        if str(data.get("clip", "")).endswith(".json"):
            data["clip"] = str(Path(path).parent / data["clip"])
        return cls.from_dict(data)


_COUNTS = (
    "width", "heads", "points", "encoder_layers", "encoder_hidden", "decoder_layers", "decoder_hidden", "queries",
    "short_side", "long_side", "multiple", "instances", "prompts",
)  # fmt: skip
_SHARES = ("alpha", "beta", "object_threshold", "overlap_threshold")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(ok: bool, key: str, expected: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"FC-CLIP configuration {key}: expected {expected}, got {got!r}")
