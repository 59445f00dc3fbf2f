"""Mask-average pooling with soft coverage, equation 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from knnseg.data.features import Embeddings, Features
from knnseg.data.masks import Masks
from knnseg.errors import MaskError

__all__ = ["averages", "pool"]

_MANY, _FULL = 4096, 0.1
"""A mask of at least this many pixels, and of this share of the rows of pixels that it touches, is pooled as a dense
array: about where both ways take equally long."""
_KEPT = 1 << 19
"""Interpolation weights are kept for masks of at most this many cells: 8 MB for each size of image."""


def pool(features: Features, masks: Masks) -> Embeddings:
    """One unit vector for each mask.

    Equation 1: e = normalise( Σ_p m(p) f(p) / Σ_p m(p) ), where f(p) is the feature grid interpolated bilinearly at
    pixel p. Interpolation is linear, so the N pooled vectors are (M·B)·F: masks (N, P) times interpolation weights
    (P, h·w), both sparse, times features (h·w, D); P counts the cells of the mask grid, mostly pixels. A mask smaller
    than a cell of the features still weighs the cells around it.

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
    vectors = _unit(_sums(features, masks)[0])  # the 1/Σm of the mean cancels in the normalisation
    if features.context is not None:
        context = np.where(vectors.any(axis=1, keepdims=True), features.context.astype(np.float64), 0)
        vectors = _unit(np.hstack([vectors, context]))
    (height, width), (tall, wide) = features.grid, features.extent
    return Embeddings(vectors.astype(np.float32), masks.areas * np.float32(height * width / (tall * wide)))


def averages(features: Features, masks: Masks) -> NDArray[np.float32]:
    """The mean in equation 1 as it is, before it is normalised: float32 (N, D), without the context.

    Whatever is affine in the features can be made of these later: the mean of whitened cells is the whitened mean. An
    empty mask has zeros.

    Raises:
        MaskError: masks of another image size than the features.
    """
    sums, weights = _sums(features, masks)
    total = np.asarray(weights.sum(axis=1), np.float64).reshape(-1, 1)
    return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0).astype(np.float32)


def _sums(features: Features, masks: Masks) -> tuple[NDArray[np.float64], sparse.csr_array]:
    """Σ_p m(p) f(p), float64 (N, D), and the weights of the cells in it."""
    if masks.size != features.image_size:
        raise MaskError("masks", expected=f"{features.image_size} like the features' image", got=masks.size)
    weights = _cell_weights(masks, features)
    return np.asarray(weights @ features.data.reshape(features.dim, -1).T, np.float64), weights


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
    places = (masks.grid, masks.size, features.grid, features.extent)
    large = _large(matrix, masks.grid[1])
    if not len(large):
        return _listed(matrix, places)
    (up, left), rows = _axes(places), np.empty((len(large), features.grid[0] * features.grid[1]), np.float32)
    down, across = up.dense(), left.dense()
    buffer = np.empty(matrix.shape[1], np.float32)
    for row, n in zip(rows, large.tolist(), strict=True):
        first, block = _block(matrix, n, masks.grid[1], buffer)
        row[:] = (down[first : first + len(block)].T @ (block @ across)).reshape(-1)
    if len(large) == len(masks):
        return sparse.csr_array(rows)
    others = np.setdiff1d(np.arange(len(masks)), large)
    parts = [_listed(matrix[others], places), sparse.csr_array(rows)]
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


_Places: TypeAlias = tuple[tuple[int, int], tuple[int, int], tuple[int, int], tuple[float, float]]
"""Where masks lie over features: grid of the masks, size of the image, grid of the features, and their extent."""


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """Linear interpolation along one side of an image, between the centres of cells, constant beyond the outermost.

    Args:
        near: int64 (places,), the cell before each place of the masks.
        far: int64 (places,), the cell after it.
        share: float64 (places,), the weight of the cell after it.
        cells: how many cells there are.
    """

    near: NDArray[np.int64]
    far: NDArray[np.int64]
    share: NDArray[np.float64]
    cells: int

    @classmethod
    def of(cls, places: int, pixels: int, cells: int, extent: float) -> _Axis:
        """``places`` spread evenly over ``pixels``; masks as fine as the image have one at each."""
        centre = (np.arange(places) + 0.5) * (pixels / places) * cells / extent - 0.5
        centre = np.clip(centre, 0, cells - 1)
        near = np.minimum(centre.astype(np.int64), max(cells - 2, 0))
        return cls(near, np.minimum(near + 1, cells - 1), centre - near, cells)

    def dense(self) -> NDArray[np.float32]:
        """float32 (places, cells)."""
        weights = np.zeros((len(self.near), self.cells))
        places = np.arange(len(self.near))
        np.add.at(weights, (places, self.near), 1 - self.share)
        np.add.at(weights, (places, self.far), self.share)
        return weights.astype(np.float32)


def _axes(places: _Places) -> tuple[_Axis, _Axis]:
    """Down and across."""
    down, across = (_Axis.of(*axis) for axis in zip(*places, strict=True))
    return down, across


def _listed(matrix: sparse.csr_array, places: _Places) -> sparse.csr_array:
    """M·B for masks that are lists of pixels."""
    if matrix.shape[1] <= _KEPT:
        return sparse.csr_array(matrix @ _everywhere(places))
    used, columns = np.unique(matrix.indices, return_inverse=True)
    narrow = sparse.csr_array((matrix.data, columns, matrix.indptr), shape=(matrix.shape[0], len(used)))
    return sparse.csr_array(narrow @ _bilinear(used.astype(np.int64), places))


@lru_cache(maxsize=8)
def _everywhere(places: _Places) -> sparse.csr_array:
    """B at every place of the masks, kept for the next image of this size."""
    return _bilinear(np.arange(places[0][0] * places[0][1]), places)


def _bilinear(pixels: NDArray[np.int64], places: _Places) -> sparse.csr_array:
    """float32 CSR (pixels, h·w): the bilinear weights of the cells at some places of the masks; rows sum to 1."""
    down, across = _axes(places)
    y, x = np.divmod(pixels, places[0][1])
    rows = ((1 - down.share[y], down.near[y]), (down.share[y], down.far[y]))
    columns = ((1 - across.share[x], across.near[x]), (across.share[x], across.far[x]))
    weights = np.stack([one * other for one, _ in rows for other, _ in columns], 1).astype(np.float32)
    cells = np.stack([row * across.cells + column for _, row in rows for _, column in columns], 1)
    starts = np.arange(0, 4 * len(pixels) + 1, 4)
    return sparse.csr_array(
        (weights.reshape(-1), cells.reshape(-1), starts), shape=(len(pixels), down.cells * across.cells)
    )
