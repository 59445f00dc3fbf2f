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
from knnseg.stages.text import TextEncoder, WordTable

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
        self._features, self._scale, self._words = features, scale, WordTable(text, templates)

    def predict(self, images: Sequence[Image], masks: Sequence[Masks], vocabulary: Vocabulary) -> list[ClassScores]:
        """softmax(scale · cosine) over the vocabulary, (N, C); a mask with no features has a row of zeros."""
        words, starts = self._words.of(vocabulary)
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
