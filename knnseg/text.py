"""Class names as embeddings, by an ensemble of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from knnseg.errors import ConfigError

__all__ = ["TEMPLATES", "TextEncoder", "class_embeddings", "fill"]

TEMPLATES = ("a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "there is a {} in the scene.", "{}")
"""The default prompt ensemble. Averaging normalised embeddings of several wordings is CLIP's own recipe (Radford et
al., 2021, arXiv 2103.00020, section 3.1.4); the wordings are few because the ensemble is averaged once a class
anyway."""


@runtime_checkable
class TextEncoder(Protocol):
    """The text side of a vision-language model."""

    def encode(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (len(prompts), D), unit-norm rows."""


def fill(templates: Sequence[str], name: str) -> list[str]:
    """The prompts for one class name.

    Raises:
        ConfigError: a template without exactly one ``{}``.
    """
    wrong = [template for template in templates if template.count("{}") != 1]
    if wrong or not templates:
        raise ConfigError(f"templates: expected one {{}} in each, got {wrong or 'no template'}")
    return [template.replace("{}", name) for template in templates]


def class_embeddings(encoder: TextEncoder, name: str, templates: Sequence[str]) -> NDArray[np.float32]:
    """float32 (D,), unit norm: the mean over the prompts of one class."""
    mean = encoder.encode(fill(templates, name)).mean(axis=0, dtype=np.float64)
    return np.asarray(mean / np.linalg.norm(mean), np.float32)
