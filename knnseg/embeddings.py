"""Mask-average pooling with soft coverage, equation 1."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from knnseg.errors import MaskError
from knnseg.types import Embeddings, Features, Masks

__all__ = ["pool"]

_MANY, _FULL = 4096, 0.1
"""A mask of at least so many pixels, and of this share of the rows of pixels that it touches, is pooled as a dense
array: about where both ways take equally long."""


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

    A large mask goes through dense products of its own, across and down apart, which a machine does many times as fast
    as it goes through a list of pixels. The way depends on the mask alone, so its vector does not depend on the masks
    beside it.
    """
    matrix = masks.matrix
    if not matrix.has_canonical_format:  # each pixel once and in order is what the dense way counts on
        matrix = matrix.copy()
        matrix.sum_duplicates()
    places = (masks.size, features.grid, features.extent)
    large = _large(matrix, masks.size[1])
    if not len(large):
        return sparse.csr_array(matrix @ _interpolation(*places))
    down, across = (_linear(*axis).toarray().astype(np.float32) for axis in zip(*places, strict=True))
    rows = np.empty((len(large), features.grid[0] * features.grid[1]), np.float32)
    buffer = np.empty(matrix.shape[1], np.float32)
    for row, n in zip(rows, large.tolist(), strict=True):
        first, block = _block(matrix, n, masks.size[1], buffer)
        row[:] = (down[first : first + len(block)].T @ (block @ across)).reshape(-1)
    others = np.setdiff1d(np.arange(len(masks)), large)
    parts = [matrix[others] @ _interpolation(*places), sparse.csr_array(rows)]
    order = np.argsort(np.concatenate([others, large]))
    return sparse.csr_array(sparse.vstack(parts, format="csr")[order])


def _large(matrix: sparse.csr_array, width: int) -> NDArray[np.intp]:
    """The masks to pool as dense arrays."""
    pixels = np.diff(matrix.indptr)
    many = np.flatnonzero(pixels >= _MANY)
    first, last = matrix.indices[matrix.indptr[many]], matrix.indices[matrix.indptr[many + 1] - 1]
    touched = (last // width - first // width + 1) * width
    return many[pixels[many] > _FULL * touched]


def _block(
    matrix: sparse.csr_array, n: int, width: int, buffer: NDArray[np.float32]
) -> tuple[int, NDArray[np.float32]]:
    """The first row of pixels that mask ``n`` touches, and float32 (rows, W): the mask from there to the last one."""
    at = slice(*matrix.indptr[n : n + 2].tolist())
    pixels, values = matrix.indices[at], matrix.data[at]
    first, last = int(pixels[0]) // width, int(pixels[-1]) // width
    size = (last - first + 1) * width
    if len(pixels) == size:
        return first, values.reshape(-1, width)
    block = buffer[:size]
    block.fill(0)
    block[pixels - first * width] = values
    return first, block.reshape(-1, width)


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
