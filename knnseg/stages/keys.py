"""Retrieval keys made from the features of any extractor: whitened, and with a view of the whole image.

Both are extractors themselves, so they compose, and everything that takes an extractor takes them:

    whitened = Whitened.fit(extractor, images)          # once, on unlabelled images; save it with the database
    keys = WithContext(whitened, 0.7)
    database = ConceptDatabase.open("faiss:///tmp/concepts", keys)

The fit is part of the embedding space: other images give another fingerprint, and so another collection. Fit once, on
images as varied as those to come, and keep the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from knnseg.data.features import Features
from knnseg.data.image import Image
from knnseg.data.reading import ImageLike
from knnseg.errors import ConfigError, ShapeError, WeightsError
from knnseg.stages.protocols import DerivedFeatures, FeatureExtractor
from knnstore import EmbeddingSpace

__all__ = ["Whitened", "WithContext"]

_FORMAT = "knnseg whitening 1"
_STILL = 1e-10
"""A channel with less than this share of the largest variance does not vary: nothing can be learnt from it."""
_LIFT = 1e-3
"""Of the mean variance, added to the variance of every direction before a power of it is taken."""


class Whitened(DerivedFeatures):
    """Features in which no direction outweighs another: centred, decorrelated and of equal variance.

    The cosine of raw features is ruled by the few directions that all of them share. Whitening takes them back, without
    labels. It is affine, so whitening the cells and then pooling is pooling and then whitening. Channels are first
    brought to equal variance, so layers of different scales can simply be concatenated by the source; the result is the
    whitening called ZCA-cor by Kessy, Lewin and Strimmer (The American Statistician, 2018, arXiv 1512.00809).

    Args:
        source: the extractor whose features are whitened.
        mean: float32 (D,).
        matrix: float32 (D, D'); f becomes (f - mean) · matrix.

    Raises:
        ShapeError: arrays that do not fit the source.
    """

    def __init__(self, source: FeatureExtractor, mean: NDArray[np.float32], matrix: NDArray[np.float32]) -> None:
        super().__init__(source)
        wanted = (source.dim,)
        if mean.shape != wanted or matrix.ndim != 2 or matrix.shape[:1] != wanted or not matrix.shape[1]:
            raise ShapeError(
                f"whitening of {source.space.encoder!r}",
                expected=f"a mean ({source.dim},) and a matrix ({source.dim}, D')",
                got=f"{mean.shape} and {matrix.shape}",
            )
        if not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
            raise ShapeError(f"whitening of {source.space.encoder!r}", expected="finite numbers")
        self._mean = np.ascontiguousarray(mean, np.float32)
        self._matrix = np.ascontiguousarray(matrix, np.float32)
        self._space = _derived(source, "whitened", self._mean, self._matrix)

    @classmethod
    def fit(cls, source: FeatureExtractor, images: Iterable[ImageLike], shrinkage: float = 1.0) -> Whitened:
        """Fit to the features of unlabelled images, in one pass; memory does not grow with their number.

        Args:
            source: the extractor whose features are whitened.
            images: as varied as the images to come: a fit to few kinds of pictures serves other kinds worse.
            shrinkage: s ≥ 0, added to the eigenvalues of the correlation matrix, whose mean is 1, so that directions of
                hardly any variance are not blown up.

        Raises:
            ConfigError: no images, a negative shrinkage, or features that never vary.
        """
        if not shrinkage >= 0:
            raise ConfigError("whitening shrinkage", expected="a number of at least 0", got=repr(shrinkage))
        count, total, products = 0.0, np.zeros(source.dim), np.zeros((source.dim, source.dim))
        for image in images:
            features = source.extract([Image.read(image)])[0]
            cells, weights = _cells(features), features.inside.reshape(-1, 1)
            count += float(weights.sum())
            total += (weights * cells).sum(axis=0)
            products += cells.T @ (weights * cells)
        if not count:
            raise ConfigError("whitening", expected="images to fit to", got="none")
        mean = total / count
        matrix = _whitening(products / count - np.outer(mean, mean), shrinkage)
        return cls(source, mean.astype(np.float32), matrix.astype(np.float32))

    @classmethod
    def of_moments(
        cls, source: FeatureExtractor, mean: NDArray[np.float64], covariance: NDArray[np.float64], exponent: float
    ) -> Whitened:
        """Something between centring and whitening: f becomes (f - mean) · covariance^(-exponent/2).

        Args:
            source: the extractor whose features have these moments.
            mean: float64 (D,).
            covariance: float64 (D, D).
            exponent: 0 only takes the mean off; 1 whitens; in between, strong directions are weakened in part.
        """
        return cls(source, mean.astype(np.float32), _power(covariance, exponent).astype(np.float32))

    @classmethod
    def load(cls, path: str | PathLike[str], source: FeatureExtractor) -> Whitened:
        """Read what :meth:`save` wrote.

        Raises:
            WeightsError: no such file, or not one of ours.
            ConfigError: it was fitted to another extractor than ``source``.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                if str(archive["format"]) != _FORMAT:
                    raise ValueError(f"format {archive['format']}")
                encoder, fingerprint = str(archive["encoder"]), str(archive["fingerprint"])
                mean, matrix = archive["mean"], archive["matrix"]
        except Exception as error:  # zip, format and key errors, and whatever a damaged archive makes numpy raise
            raise WeightsError(path, expected="a whitening saved by knnseg", got=str(error)) from error
        if fingerprint != source.space.fingerprint:
            raise ConfigError(
                path,
                expected=f"a whitening fitted to {source.space.encoder!r} ({source.space.fingerprint})",
                got=f"one fitted to {encoder!r} ({fingerprint})",
                hint="Fit it again with Whitened.fit.",
            )
        return cls(source, mean, matrix)

    def save(self, path: str | PathLike[str]) -> None:
        """Write an .npz with the mean, the matrix, and the fingerprint of the source."""
        space = self.source.space
        with Path(path).open("wb") as file:
            np.savez(
                file, format=np.array(_FORMAT), encoder=np.array(space.encoder),
                fingerprint=np.array(space.fingerprint), mean=self._mean, matrix=self._matrix,
            )  # fmt: skip

    @property
    def mean(self) -> NDArray[np.float32]:
        """float32 (D,)."""
        return self._mean

    @property
    def matrix(self) -> NDArray[np.float32]:
        """float32 (D, D')."""
        return self._matrix

    @property
    def space(self) -> EmbeddingSpace:
        """The source's space and these arrays."""
        return self._space

    @property
    def dim(self) -> int:
        """D'."""
        return int(self._matrix.shape[1])

    def transform(self, features: Features) -> Features:
        """Whiten every cell."""
        _without_context(features, "whiten")
        cells = (features.data.reshape(features.dim, -1).T - self._mean) @ self._matrix
        data = np.ascontiguousarray(cells.T.reshape(-1, *features.grid), np.float32)
        return dataclasses.replace(features, data=data)


class WithContext(DerivedFeatures):
    """Features with a view of the whole image beside them: what lies around a region helps to tell what it is.

    The context is weight · normalise(mean of the cells), each cell weighing what it covers of the image. Pooling
    appends it to every mask's own vector, so two masks compare as (cos + weight² · cos of images) / (1 + weight²).

    Args:
        source: the extractor, whitened already where it shall be.
        weight: length of the context beside the unit vector of the mask, above 0.

    Raises:
        ConfigError: a weight that is not above 0.
    """

    def __init__(self, source: FeatureExtractor, weight: float) -> None:
        super().__init__(source)
        if not (weight > 0 and np.isfinite(weight)):
            raise ConfigError("context weight", expected="a number above 0", got=repr(weight))
        self._weight = float(weight)
        self._space = _derived(source, "context", np.array([weight], np.float64))

    @property
    def weight(self) -> float:
        """Length of the context."""
        return self._weight

    @property
    def space(self) -> EmbeddingSpace:
        """The source's space and the weight."""
        return self._space

    @property
    def dim(self) -> int:
        """Twice the source's: the mask and its image."""
        return 2 * self.source.dim

    def transform(self, features: Features) -> Features:
        """Add the context."""
        _without_context(features, "add a context")
        mean = (_cells(features) * features.inside.reshape(-1, 1)).sum(axis=0)
        length = float(np.linalg.norm(mean))
        context = (mean * (self._weight / length) if length else mean).astype(np.float32)
        return dataclasses.replace(features, context=context)


def _cells(features: Features) -> NDArray[np.float64]:
    """float64 (h·w, D)."""
    return features.data.reshape(features.dim, -1).T.astype(np.float64)


def _without_context(features: Features, what: str) -> None:
    if features.context is not None:
        hint = "WithContext comes last, and once."
        raise ConfigError(f"cannot {what}", expected="features without a context", got="some with one", hint=hint)


def _power(covariance: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """float64 (D, D): C^(-exponent/2), the symmetric root again; directions of hardly any variance are not blown up."""
    if not exponent:
        return np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    if not values.max() > 0:
        raise ConfigError("whitening", expected="features that vary", got="the same everywhere")
    lifted = np.maximum(values, 0) + _LIFT * values.mean()
    # Of mean variance 1, so that float32 and the keys of other exponents are of one size.
    return (vectors * (lifted / values.mean()) ** (-exponent / 2)) @ vectors.T


def _whitening(covariance: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """float64 (D, D): V^-½ (P + s)^-½, V the variances and P the correlations; channels that are still get zeros.

    The symmetric root, unlike one through the eigenvectors alone, has no free signs or rotations: it depends on nothing
    but the data.
    """
    variance = np.diag(covariance)
    varies = np.flatnonzero(variance > _STILL * variance.max(initial=0))
    if not len(varies):
        raise ConfigError("whitening", expected="features that vary", got="the same everywhere")
    scale = 1 / np.sqrt(variance[varies])
    values, vectors = np.linalg.eigh(covariance[np.ix_(varies, varies)] * np.outer(scale, scale))
    root = (vectors / np.sqrt(np.maximum(values, 0) + shrinkage + 1e-9)) @ vectors.T
    matrix = np.zeros_like(covariance)
    matrix[np.ix_(varies, varies)] = scale[:, None] * root
    return matrix


def _derived(source: FeatureExtractor, how: str, *arrays: NDArray[np.generic]) -> EmbeddingSpace:
    """The space of ``source`` after a step that depends on ``arrays``."""
    digest = hashlib.sha256(f"{source.space.fingerprint}\0{how}".encode())
    for array in arrays:
        digest.update(f"\0{array.dtype.str}{array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    space = source.space
    return dataclasses.replace(space, encoder=f"{space.encoder}+{how}", fingerprint=f"sha256:{digest.hexdigest()}")
