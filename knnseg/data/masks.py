"""The masks of an image, as a sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import sparse

from knnseg.data.arrays import expect, plain, whole_numbers
from knnseg.errors import MaskError

__all__ = ["Masks", "add_remainder", "nearest", "resolve_overlaps"]


_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Masks:
    """N masks of one image, which may overlap, held as a sparse matrix.

    Region proposals at several scales are mostly zeros: 900 of them, in three partitions of 320×213 pixels, take 61 MB
    as booleans and 1.6 MB like this, and both pooling (equation 1) and painting are then one sparse matrix product.

    The matrix may be coarser than the image: a proposer that works on a smaller copy of a large photograph says what it
    found there, and painting brings the edges back to the pixels of the image. Cell (i, j) of the mask grid lies over
    the pixels [i·H/h, (i+1)·H/h) × [j·W/w, (j+1)·W/w).

    Args:
        matrix: float32 CSR (N, h·w), row-major cells, coverage of the cell by the mask in (0, 1].
        size: (H, W) of the image.
        scores: float32 (N,), how much the proposer believes in each mask; 1 where it has no opinion.
        instances: each mask is meant to be one whole object, not a part of one or a patch of stuff.
        grid: (h, w) of the matrix; at most (H, W), which is the default.
    """

    matrix: sparse.csr_array
    size: tuple[int, int]
    scores: NDArray[np.float32]
    instances: bool = False
    grid: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        rows, cells = self.matrix.shape
        if self.grid == (0, 0):
            object.__setattr__(self, "grid", self.size)
        if self.grid[0] > self.size[0] or self.grid[1] > self.size[1]:
            raise MaskError("masks", expected=f"a grid of at most {self.size} like the image", got=self.grid)
        if cells != self.grid[0] * self.grid[1]:
            raise MaskError("masks", expected=f"{self.grid[0]}×{self.grid[1]} pixels each", got=f"{cells} pixels")
        expect(self.scores, "Masks.scores", np.float32, 1)
        if len(self.scores) != rows:
            raise MaskError("masks", expected=f"one score for each of the {rows} masks", got=len(self.scores))

    @classmethod
    def from_dense(
        cls,
        masks: NDArray[np.bool_] | NDArray[np.integer] | NDArray[np.float32],
        scores: NDArray[np.float32] | None = None,
        *,
        instances: bool = False,
    ) -> Masks:
        """Take bool or float (N, H, W) masks, or whole numbers, of which one other than 0, 1 or 255 say, is inside.

        Raises:
            MaskError: the array is not (N, H, W), holds values outside [0, 1] or several whole numbers, or is a masked
                array that leaves some out.
        """
        array = plain(masks, "masks", MaskError)
        if array.ndim != 3 or array.dtype.kind not in "biuf":
            got = f"{array.dtype.name} {array.shape}"
            raise MaskError("masks", expected="an array (N, H, W) of bool, float or whole numbers", got=got)
        if array.dtype.kind in "iu":
            if len(inside := np.unique(array[array != 0])) > 1:
                hint, got = "Of a label map, give LabelledImage the map.", f"{inside[:5].tolist()} beside 0"
                raise MaskError("masks", expected="0 and one other number", got=got, hint=hint)
            array = array != 0
        weights = array.astype(np.float32)
        if not ((weights >= 0) & (weights <= 1)).all():  # false for NaN too
            raise MaskError("masks", expected="values between 0 and 1")
        count, height, width = array.shape
        matrix = sparse.csr_array(weights.reshape(count, height * width))
        quality = _ones(count) if scores is None else plain(scores, "scores", MaskError).astype(np.float32)
        return cls(matrix, (height, width), quality, instances)

    @classmethod
    def from_partition(
        cls,
        regions: NDArray[np.integer],
        scores: NDArray[np.float32] | None = None,
        *,
        size: tuple[int, int] | None = None,
    ) -> Masks:
        """One mask for each value that is at least 0 in an integer (h, w) map, ordered by value.

        The map is the mask grid over an image of ``size`` (H, W), by default of its own size.

        Raises:
            MaskError: the map does not hold whole numbers.
        """
        flat = whole_numbers(regions, "regions", MaskError).reshape(-1)
        pixels = np.flatnonzero(flat >= 0)
        values, rows = np.unique(flat[pixels], return_inverse=True)
        found = cls.from_pixels(rows, pixels, len(values), regions.shape, scores)
        return found if size is None else replace(found, size=size, grid=found.size)

    @classmethod
    def from_pixels(
        cls,
        rows: NDArray[np.integer],
        pixels: NDArray[np.integer],
        count: int,
        size: tuple[int, ...],
        scores: NDArray[np.float32] | None = None,
    ) -> Masks:
        """Mask ``rows[i]`` of ``count`` covers pixel ``pixels[i]`` of an image of ``size`` (H, W), row-major."""
        height, width = size
        # 32-bit indices are half the size, and enough for any image that images.MAX_PIXELS lets in.
        places = (rows.astype(np.int32), pixels.astype(np.int32))
        matrix = sparse.csr_array((np.ones(len(pixels), np.float32), places), shape=(count, height * width))
        return cls(matrix, (height, width), _ones(count) if scores is None else scores)

    @classmethod
    def concatenate(cls, parts: Sequence[Masks]) -> Masks:
        """Masks of one image from several sources, in order.

        Raises:
            MaskError: no part, or parts of different image sizes or grids.
        """
        for what, sizes in (("image size", {part.size for part in parts}), ("grid", {part.grid for part in parts})):
            if len(sizes) != 1:
                raise MaskError("masks", expected=f"parts of one {what}", got=sorted(sizes))
        matrix = sparse.csr_array(sparse.vstack([part.matrix for part in parts], format="csr"))
        scores = np.concatenate([part.scores for part in parts])
        return cls(matrix, parts[0].size, scores, all(part.instances for part in parts), parts[0].grid)

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """Bool (H, W): where mask ``index`` covers at least half of a pixel."""
        covered: NDArray[np.bool_] = self.matrix[[index]].toarray()[0].reshape(self.grid) >= 0.5
        return nearest(covered, self.size)

    def select(self, keep: NDArray[np.bool_] | NDArray[np.integer] | Sequence[int]) -> Masks:
        """The masks that an index or boolean array picks."""
        rows = np.asarray(keep)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return Masks(self.matrix[rows], self.size, self.scores[rows], self.instances, self.grid)

    def dense(self) -> NDArray[np.bool_]:
        """Bool (N, H, W): where each mask covers at least half of a pixel."""
        if not len(self):
            return np.zeros((0, *self.size), bool)
        return np.stack([self[i] for i in range(len(self))])

    def on_grid(self, grid: tuple[int, int]) -> Masks:
        """The same masks on a coarser grid (h, w); the coverage of a cell is the mean of what lies over it."""
        if grid == self.grid:
            return self
        down, across = (_overlap(*sides) for sides in zip(self.grid, grid, strict=True))
        cells = sparse.csr_array(sparse.kron(down, across, format="csr"), dtype=np.float32)
        return Masks(sparse.csr_array(self.matrix @ cells), self.size, self.scores, self.instances, grid)

    def inside(self, region: NDArray[np.bool_]) -> NDArray[np.float32]:
        """float32 (N,): how many pixels of a bool (H, W) region each mask covers."""
        down, across = (_overlap(*sides) for sides in zip(self.size, self.grid, strict=True))
        cells = down.T @ region.astype(np.float32) @ across * self._pixels_per_cell
        return np.asarray(self.matrix @ cells.reshape(-1), np.float32)

    def to_rle(self) -> list[str]:
        """Each mask in COCO's compressed run-length encoding, with column-major runs."""
        return [
            coco_mask.encode(np.asfortranarray(self[i], np.uint8))["counts"].decode("ascii") for i in range(len(self))
        ]

    @classmethod
    def from_rle(cls, encoded: Sequence[str], size: tuple[int, int]) -> Masks:
        """The inverse of :meth:`to_rle`, for an image of ``size`` (H, W)."""
        decoded = [coco_mask.decode({"size": list(size), "counts": text.encode("ascii")}) for text in encoded]
        return cls.from_dense(np.stack(decoded).astype(bool) if decoded else np.zeros((0, *size), bool))

    @property
    def areas(self) -> NDArray[np.float32]:
        """float32 (N,), pixels covered by each mask."""
        return np.asarray(self.matrix.sum(axis=1) * self._pixels_per_cell, np.float32).reshape(-1)

    @property
    def _pixels_per_cell(self) -> np.float32:
        return np.float32(self.size[0] * self.size[1] / (self.grid[0] * self.grid[1]))


def _ones(count: int) -> NDArray[np.float32]:
    return np.ones(count, np.float32)


def nearest(grid: NDArray[_T], size: tuple[int, int]) -> NDArray[_T]:
    """A map (h, w) at the size (H, W) of its image: each pixel has the value of the cell that its centre lies in."""
    if grid.shape == size:
        return grid
    rows, columns = ((2 * np.arange(n) + 1) * cells // (2 * n) for n, cells in zip(size, grid.shape, strict=True))
    return grid.take(rows, axis=0).take(columns, axis=1)


def _overlap(pixels: int, cells: int) -> sparse.csr_array:
    """float32 CSR (pixels, cells): the share of a cell that each pixel covers; columns sum to 1."""
    edges = np.arange(pixels + 1) * (cells / pixels)  # of the pixels, in cells
    first = np.minimum(edges[:-1].astype(np.int64), cells - 1)
    border = np.minimum(first + 1, edges[1:])  # a pixel is no larger than a cell, and so touches two at most
    shares = np.stack([border - edges[:-1], edges[1:] - border], 1)
    columns = np.stack([first, np.minimum(first + 1, cells - 1)], 1)
    rows = np.repeat(np.arange(pixels), 2)
    places = (rows, columns.reshape(-1))
    return sparse.csr_array((shares.reshape(-1).astype(np.float32), places), shape=(pixels, cells))


def resolve_overlaps(masks: Masks) -> Masks:
    """Give every pixel to one mask: the smallest that covers at least half of it; of equal ones, the most certain.

    So a part keeps its pixels, and the whole keeps what its parts leave. Giving them to the most certain mask instead
    would let a whole swallow the objects inside it whenever its score is better by a hair.

    Args:
        masks: N masks, which may overlap.

    Returns:
        The masks that are left with a pixel, in their order, each without the pixels of the others; where a mask
        covers less than half of a pixel, it does not cover it any more.
    """
    covers = masks.matrix.multiply(masks.matrix >= 0.5).tocsr()
    areas = np.diff(covers.indptr)
    order = np.lexsort((masks.scores, -areas))  # the smallest last, and so on top
    stacked = covers[order]
    owner = np.full(covers.shape[1], -1)
    owner[stacked.indices] = np.repeat(order, np.diff(stacked.indptr))  # of several values, NumPy keeps the last
    rows = np.repeat(np.arange(len(masks)), areas)
    own = owner[covers.indices] == rows
    data = (covers.data[own], (rows[own], covers.indices[own]))
    left = Masks(sparse.csr_array(data, shape=covers.shape), masks.size, masks.scores, masks.instances, masks.grid)
    return left.select(np.diff(left.matrix.indptr) > 0)


def add_remainder(masks: Masks) -> Masks:
    """One more mask, the last, of the pixels that no mask covers by half; the same masks where there are none.

    Its score is the lowest of the others, since nothing proposed it; 1 if there are no others.
    """
    covered = np.zeros(masks.matrix.shape[1], bool)
    covered[masks.matrix.indices[masks.matrix.data >= 0.5]] = True
    if covered.all():
        return masks
    score = np.array([masks.scores.min(initial=1)], np.float32)
    rest = Masks(sparse.csr_array(~covered[None], dtype=np.float32), masks.size, score, masks.instances, masks.grid)
    return Masks.concatenate([masks, rest])
