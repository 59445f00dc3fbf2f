"""The numbers of FC-CLIP, as published, and small ones where a test asks for them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field

from knnseg.checked import Count, Share, checked
from knnseg.errors import ConfigError

__all__ = ["SIZES", "FcClipConfig"]

SIZES = {"base": "convnext_base_w_320", "large": "convnext_large_d_320", "xxlarge": "convnext_xxlarge"}
"""The image towers that the paper's code has a place for, by open_clip's names. A checkpoint is published for large."""

_Three: TypeAlias = Annotated[
    tuple[Annotated[float, Field(strict=True)], ...],
    Field(strict=False, min_length=3, max_length=3, description="three numbers, for R, G and B"),
]
_Spread: TypeAlias = Annotated[
    tuple[Annotated[float, Field(strict=True, gt=0)], ...],
    Field(strict=False, min_length=3, max_length=3, description="three numbers above 0, for R, G and B"),
]


@checked("FC-CLIP configuration")
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
        short_side: pixels of the shorter side of a resized image,
        long_side: unless its longer side would have more than this.
        multiple: sides of batches are padded to a multiple of this.
        mean: of the channels R, G and B, 0 to 255.
        std: their standard deviation.
        object_threshold: panoptic: masks with no class of a higher probability are left out.
        overlap_threshold: panoptic: masks are left out of which less than this share is theirs.
        instances: the most instances of an image, before those of stuff are taken out.
        prompts: texts encoded at a time.

    Raises:
        ConfigError: a value out of range.
    """

    clip: Annotated[str, Field(min_length=1, description="a name or a path")] = "large"
    width: Annotated[int, Field(ge=1, multiple_of=32, description="a multiple of 32")] = 256
    heads: Count = 8
    points: Count = 4
    encoder_layers: Count = 6
    encoder_hidden: Count = 1024
    decoder_layers: Count = 9
    decoder_hidden: Count = 2048
    queries: Count = 250
    alpha: Share = 0.4
    beta: Share = 0.8
    valid_masks_only: Annotated[bool, Field(description="true or false")] = False
    short_side: Count = 800
    long_side: Count = 1333
    multiple: Annotated[int, Field(ge=1, multiple_of=32, description="a multiple of 32, the coarsest stride")] = 32
    mean: _Three = (122.7709383, 116.7460125, 104.09373615)
    std: _Spread = (68.5005327, 66.6321579, 70.32316305)
    object_threshold: Share = 0.0
    overlap_threshold: Share = 0.8
    instances: Count = 100
    prompts: Count = 128

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(
                "FC-CLIP configuration.heads", expected=f"a divisor of the width {self.width}", got=self.heads
            )
        if self.short_side > self.long_side:
            raise ConfigError(
                "FC-CLIP configuration.long_side", expected=f"at least short_side {self.short_side}", got=self.long_side
            )

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
            raise ConfigError(path, expected="a TOML file", got=str(error)) from error
        if str(data.get("clip", "")).endswith(".json"):
            data["clip"] = str(Path(path).parent / data["clip"])
        return cls.from_dict(data)
