"""Class names as embeddings, by an ensemble of prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from knnseg.data.vocabulary import Vocabulary
from knnseg.errors import ConfigError

__all__ = ["ENSEMBLES", "SIMPLE", "VILD", "TextEncoder", "WordTable", "ensemble", "fill", "word_embeddings"]

SIMPLE = ("a photo of a {}.", "a photo of the {}.", "a picture of a {}.", "there is a {} in the scene.", "{}")
"""The default: five wordings of our own."""

_PLAIN = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
)
_SIZED = ("a photo of a SIZE {}.", "This is a photo of a SIZE {}.", "There is a SIZE {} in the scene.")
VILD = _PLAIN + tuple(text.replace("SIZE", size) for text in _SIZED for size in ("small", "medium", "large"))
"""The fourteen of ViLD (Gu et al., ICLR 2022, arXiv 2104.13921). Their full stops are not even, and count."""


def _imagenet() -> tuple[str, ...]:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


ENSEMBLES: Mapping[str, Callable[[], tuple[str, ...]]] = {
    "simple": lambda: SIMPLE,
    "vild": lambda: VILD,
    "imagenet80": _imagenet,
}
"""Prompt ensembles by name. ``imagenet80`` is CLIP's own for ImageNet (Radford et al., 2021, arXiv 2103.00020, section
3.1.4), which open_clip has; it is imported when it is asked for."""


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
        raise ConfigError("templates", expected="one {} in each", got=wrong or "no template")
    return [template.replace("{}", name) for template in templates]


def ensemble(templates: Sequence[str] | str) -> tuple[str, ...]:
    """The prompts of an ensemble of :data:`ENSEMBLES`, or prompts as they are given.

    Raises:
        ConfigError: no ensemble of this name, or no prompt.
    """
    if isinstance(templates, str):
        if templates not in ENSEMBLES:
            raise ConfigError(
                "templates", expected=f"one of {list(ENSEMBLES)} or a list of prompts", got=repr(templates)
            )
        return ENSEMBLES[templates]()
    fill(templates, "")
    return tuple(templates)


def word_embeddings(
    encoder: TextEncoder, words: Sequence[str], templates: Sequence[str], most: int = 256
) -> NDArray[np.float32]:
    """float32 (len(words), D), unit-norm rows: each word is the mean of its unit vectors over the prompts.

    Args:
        encoder: the text tower.
        words: W words.
        templates: P prompts, each with one ``{}``.
        most: prompts that are encoded at a time; those of one word stay together.
    """
    rows, step = [], max(1, most // len(templates))
    for first in range(0, len(words), step):
        some = words[first : first + step]
        encoded = encoder.encode([prompt for word in some for prompt in fill(templates, word)])
        rows.append(encoded.reshape(len(some), len(templates), -1).mean(axis=1, dtype=np.float64))
    mean = np.concatenate(rows)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), np.float32)


class WordTable:
    """The embeddings of words, each made once.

    Args:
        encoder: the text tower.
        templates: the name of a prompt ensemble, see :data:`ENSEMBLES`, or prompts, each with one ``{}``.
    """

    def __init__(self, encoder: TextEncoder, templates: Sequence[str] | str) -> None:
        self._encoder, self._templates = encoder, ensemble(templates)
        self._known: dict[str, NDArray[np.float32]] = {}

    def of(self, vocabulary: Vocabulary) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """All words of its classes, float32 (W, D), unit-norm rows; and where those of each class begin, (C,)."""
        groups = [vocabulary.words(name) for name in vocabulary]
        words = [word for group in groups for word in group]
        missing = [word for word in dict.fromkeys(words) if word not in self._known]
        if missing:
            self._known |= dict(zip(missing, word_embeddings(self._encoder, missing, self._templates), strict=True))
        starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
        return np.stack([self._known[word] for word in words]), starts
