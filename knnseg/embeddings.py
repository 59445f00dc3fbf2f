"""Mask-average pooling with soft coverage, equation 1."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from knnseg.errors import MaskError
from knnseg.types import Embeddings, Features, Masks

__all__ = ["pool"]

_FULL = 0.15
"""Masks over more than this share of the image are pooled as dense arrays: about where both ways take equally long."""


def pool(features: Features, masks: Masks) -> Embeddings:
    """One unit vector for each mask.

    Equation 1: e = normalise( Σ_p m(p) f(p) / Σ_p m(p) ), where f(p) is the feature grid interpolated bilinearly at
    pixel p. Interpolation is linear, so the N pooled vectors are (M·B)·F: masks (N, H·W) times interpolation weights
    (H·W, h·w), both sparse, times features (h·w, D). A mask smaller than a cell still weighs the cells around it.

    Where the features carry a context c, the vector is normalise(e ⊕ c), so that the cosine of two masks is the mean of
    their own cosine and that of their images' contexts, the latter weighing ‖c‖². This extends equation 1.

    Args:
        features: the grid, over the same image.
        masks: the masks, over the same image.

    Returns:
        Vectors in the order of the masks, with their coverage in cells. An empty mask, or one over features that cancel
        out, has a vector of zeros; retrieval finds nothing for it.

    Raises:
        MaskError: masks of another image size than the features.
    """
    if masks.size != features.image_size:
        raise MaskError(f"masks: expected {features.image_size} like the features' image, got {masks.size}")
    weights = _cell_weights(masks, features)
    grid = features.data.reshape(features.dim, -1).T
    vectors = _unit(np.asarray(weights @ grid, np.float64))  # the 1/Σm of the mean cancels in the normalisation
    if features.context is not None:
        context = np.where(vectors.any(axis=1, keepdims=True), features.context.astype(np.float64), 0)
        vectors = _unit(np.hstack([vectors, context]))
    (height, width), (tall, wide) = features.grid, features.extent
    return Embeddings(vectors.astype(np.float32), masks.areas * np.float32(height * width / (tall * wide)))


def _cell_weights(masks: Masks, features: Features) -> sparse.csr_array:
    """float32 CSR (N, h·w): M·B of :func:`pool`.

    A mask over much of the image goes through dense products of its own, down and across apart, which a machine does
    many times as fast as it goes through a list of nonzero pixels. The way depends on the mask alone, so its vector
    does not depend on the masks beside it.
    """
    matrix = masks.matrix
    full = np.diff(matrix.indptr) > _FULL * matrix.shape[1]
    places = (masks.size, features.grid, features.extent)
    if not full.any():
        return sparse.csr_array(matrix @ _interpolation(*places))
    down, across = (_linear(*axis).toarray().astype(np.float32) for axis in zip(*places, strict=True))
    wide = np.flatnonzero(full)
    rows = [down.T @ (matrix[[n]].toarray().reshape(masks.size) @ across) for n in wide.tolist()]
    parts = [matrix[~full] @ _interpolation(*places), sparse.csr_array(np.stack(rows).reshape(len(rows), -1))]
    order = np.argsort(np.concatenate([np.flatnonzero(~full), wide]))
    return sparse.csr_array(sparse.vstack(parts, format="csr")[order])


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


@lru_cache(maxsize=32)
def _interpolation(size: tuple[int, int], grid: tuple[int, int], extent: tuple[float, float]) -> sparse.csr_array:
    """float32 CSR (H·W, h·w): the bilinear weights of the cells at each pixel; rows sum to 1."""
    down, across = (_linear(*axis) for axis in zip(size, grid, extent, strict=True))
    return sparse.csr_array(sparse.kron(down, across, format="csr"), dtype=np.float32)


def _linear(pixels: int, cells: int, extent: float) -> sparse.csr_array:
    """CSR (pixels, cells): linear interpolation between cell centres, constant beyond the outermost."""
    centre = np.clip((np.arange(pixels) + 0.5) * cells / extent - 0.5, 0, cells - 1)
    left = np.minimum(centre.astype(np.int64), max(cells - 2, 0))
    right = np.minimum(left + 1, cells - 1)
    share = centre - left
    rows = np.repeat(np.arange(pixels), 2)
    columns = np.stack([left, right], 1).reshape(-1)
    values = np.stack([1 - share, share], 1).reshape(-1)
    return sparse.csr_array((values, (rows, columns)), shape=(pixels, cells))
