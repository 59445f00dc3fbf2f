"""Base predictors without a network of their own: no opinion, and dense CLIP features against class names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from knnseg.data.image import Image
from knnseg.data.masks import Masks
from knnseg.data.scores import FINAL, ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnseg.errors import ConfigError
from knnseg.method.pooling import pool
from knnseg.stages.protocols import FeatureExtractor, features_of
from knnseg.stages.text import TextEncoder, ensemble, word_embeddings

__all__ = ["DenseClip", "NoBase"]


class NoBase:
    """No opinion about anything: predictions come from the database alone."""

    branches = (FINAL,)

    def predict(self, images: Sequence[Image], masks: Sequence[Masks], vocabulary: Vocabulary) -> list[ClassScores]:
        """Zeros, (N, C) for each image."""
        zeros = [np.zeros((len(own), len(vocabulary)), np.float32) for own in masks]
        return [ClassScores(scores, vocabulary.names) for scores in zeros]


class DenseClip:
    """Zero-shot classification of masks: pooled dense CLIP features against the embeddings of the class names.

    Args:
        features: dense features in the joint space of ``text``.
        text: the text encoder of the same model.
        scale: inverse temperature of the softmax over cosine similarities.
        templates: the name of a prompt ensemble, see :data:`~knnseg.stages.text.ENSEMBLES`, or prompts, each with
            one ``{}``.
    """

    branches = (FINAL,)

    def __init__(
        self, features: FeatureExtractor, text: TextEncoder, scale: float, templates: Sequence[str] | str = "simple"
    ) -> None:
        if scale <= 0:
            raise ConfigError("scale", expected="a number above 0", got=scale)
        self._features, self._text, self._scale, self._templates = features, text, scale, ensemble(templates)
        self._words: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}

    def predict(self, images: Sequence[Image], masks: Sequence[Masks], vocabulary: Vocabulary) -> list[ClassScores]:
        """softmax(scale · cosine) over the vocabulary, (N, C); a mask with no features has a row of zeros."""
        groups = [vocabulary.words(name) for name in vocabulary]
        words = self._embeddings([word for group in groups for word in group])
        starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
        features = features_of(images, self._features)
        return [
            ClassScores(self._scores(pool(grid, own).vectors, words, starts), vocabulary.names)
            for grid, own in zip(features, masks, strict=True)
        ]

    def _scores(
        self, pooled: NDArray[np.float32], words: NDArray[np.float32], starts: NDArray[np.intp]
    ) -> NDArray[np.float32]:
        similar = (pooled @ words.T).astype(np.float64)
        logits = self._scale * np.maximum.reduceat(
            similar, starts, axis=1
        )  # the most similar word speaks for its class
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        scores[~pooled.any(axis=1)] = 0
        return scores.astype(np.float32)

    def _embeddings(self, words: Sequence[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        missing = [word for word in dict.fromkeys(words) if word not in self._words]
        if missing:
            self._words |= dict(zip(missing, word_embeddings(self._text, missing, self._templates), strict=True))
        return np.stack([self._words[word] for word in words])
