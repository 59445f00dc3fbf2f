"""What flows between the stages: frozen values that check themselves.

The letters of every shape in this package:

    H, W   height and width of an image, pixels        N   masks of one image
    h, w   height and width of a feature grid, cells   K   neighbours of one mask
    D      width of an embedding                       C   classes of the active vocabulary

    image (H,W,3) -> Features (D,h,w) -> Masks (N,H,W) -> Embeddings (N,D) -> Neighbours (N,K) -> ClassScores (N,C)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import sparse

from knnseg.arrays import expect, plain, whole_numbers
from knnseg.errors import ConfigError, MaskError, ShapeError
from knnseg.vocabulary import Vocabulary

__all__ = [
    "FINAL",
    "IGNORE",
    "ClassScores",
    "Embeddings",
    "Features",
    "ImageArray",
    "Masks",
    "Neighbours",
    "Vocabulary",
    "check_branch",
    "nearest",
]

_T = TypeVar("_T", bound=np.generic)

ImageArray: TypeAlias = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, sRGB-encoded."""

IGNORE = -1
"""The value of a pixel without a class in every semantic map of this package."""


FINAL = "final"
"""The branch that every base has: its scores as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """A dense feature grid over one image.

    Cell (i, j) of the grid sits over the pixels [i·eh/h, (i+1)·eh/h) × [j·ew/w, (j+1)·ew/w) of the original image,
    where (eh, ew) is ``extent``. An extractor that pads its input reports an extent larger than the image, so that
    masks and features stay aligned to the pixel.

    Args:
        data: float32 (D, h, w).
        image_size: (H, W) of the original image, pixels.
        extent: (eh, ew), pixels of the original image that the grid spans from its top left corner; at least (H, W)
            up to rounding. Defaults to ``image_size``.
        context: float32 (Dc,), what is known of the image as a whole, or None. Pooling appends it to the unit vector of
            every mask, so its length is its weight there; see :class:`knnseg.keys.WithContext`.
    """

    data: NDArray[np.float32]
    image_size: tuple[int, int]
    extent: tuple[float, float] = (0.0, 0.0)
    context: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        expect(self.data, "Features.data", np.float32, 3)
        if self.context is not None:
            expect(self.context, "Features.context", np.float32, 1)
        if self.extent == (0.0, 0.0):
            object.__setattr__(self, "extent", (float(self.image_size[0]), float(self.image_size[1])))

    @property
    def dim(self) -> int:
        """D, without the context."""
        return int(self.data.shape[0])

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return int(self.data.shape[1]), int(self.data.shape[2])

    @property
    def inside(self) -> NDArray[np.float64]:
        """float64 (h, w), the share of each cell that lies over the image, 0 to 1; less than 1 only at padding."""
        down, across = (
            np.clip(pixels * cells / spanned - np.arange(cells), 0, 1)
            for pixels, cells, spanned in zip(self.image_size, self.grid, self.extent, strict=True)
        )
        return np.outer(down, across)


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
            raise MaskError(f"masks: expected a grid of at most {self.size} like the image, got {self.grid}")
        if cells != self.grid[0] * self.grid[1]:
            raise MaskError(f"masks: expected {self.grid[0]}×{self.grid[1]} pixels each, got {cells} pixels")
        expect(self.scores, "Masks.scores", np.float32, 1)
        if len(self.scores) != rows:
            raise MaskError(f"masks: expected one score for each of the {rows} masks, got {len(self.scores)}")

    @classmethod
    def from_dense(
        cls,
        masks: NDArray[np.bool_] | NDArray[np.float32],
        scores: NDArray[np.float32] | None = None,
        *,
        instances: bool = False,
    ) -> Masks:
        """Take bool or float32 (N, H, W) masks.

        Raises:
            MaskError: the array is not (N, H, W), holds values outside [0, 1], or is a masked array that leaves some
                out.
        """
        array = plain(masks, "masks", MaskError)
        if array.ndim != 3 or array.dtype.kind not in "bf":
            raise MaskError(f"masks: expected a bool or float array (N, H, W), got {array.dtype.name} {array.shape}")
        weights = array.astype(np.float32)
        if not ((weights >= 0) & (weights <= 1)).all():  # false for NaN too
            raise MaskError("masks: expected values between 0 and 1")
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
            MaskError: the map is none of whole numbers.
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
                raise MaskError(f"masks: expected parts of one {what}, got {sorted(sizes)}")
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


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """One pooled vector for each mask.

    Args:
        vectors: float32 (N, D), unit-norm rows.
        coverage: float32 (N,), how many cells of the feature grid the mask covers, in cells; a quality weight.
    """

    vectors: NDArray[np.float32]
    coverage: NDArray[np.float32]

    def __post_init__(self) -> None:
        expect(self.vectors, "Embeddings.vectors", np.float32, 2)
        expect(self.coverage, "Embeddings.coverage", np.float32, 1)

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True, eq=False)
class Neighbours:
    """The database entries nearest to each mask, best first; where fewer than K were found, id "" and score -inf.

    Args:
        ids: object (N, K), str.
        scores: float32 (N, K), cosine similarity.
        labels: object (N, K), str; "" in empty slots.
    """

    ids: NDArray[np.object_]
    scores: NDArray[np.float32]
    labels: NDArray[np.object_]

    def __post_init__(self) -> None:
        if not self.ids.shape == self.scores.shape == self.labels.shape:
            raise ShapeError(
                f"Neighbours: expected one shape, got {self.ids.shape}, {self.scores.shape} and {self.labels.shape}"
            )

    @property
    def found(self) -> NDArray[np.bool_]:
        """Bool (N, K), the slots that hold an entry."""
        return np.isfinite(self.scores)


@dataclass(frozen=True, slots=True, eq=False)
class ClassScores:
    """The probability of each class for each mask. A row of zeros is a mask about which nothing is known.

    A base whose scores come about in steps may let retrieval in at an earlier one, a *branch*: it returns a subclass
    that says what the scores are there (:meth:`branch`), and what follows from others (:meth:`resume`).

    Args:
        probabilities: float32 (N, C), rows that sum to 1, to 0, or to less than 1 where the rest is the probability
            that the mask is none of the classes.
        classes: the C class names, in order.
        branches: the branches that the base has; to plain scores they are all the same.
    """

    probabilities: NDArray[np.float32]
    classes: tuple[str, ...]
    branches: tuple[str, ...] = (FINAL,)

    def __post_init__(self) -> None:
        expect(self.probabilities, "ClassScores.probabilities", np.float32, 2)
        if self.probabilities.shape[1] != len(self.classes):
            raise ShapeError(
                f"ClassScores: expected {len(self.classes)} columns, one for each class, "
                f"got {self.probabilities.shape[1]}"
            )

    def __len__(self) -> int:
        return len(self.probabilities)

    def select(self, rows: NDArray[np.integer]) -> Self:
        """The scores of some masks, in the order given, with all that a subclass knows of them."""
        return replace(self, **{name: array[rows] for name, array in self._columns()})

    @classmethod
    def concatenate(cls, parts: Sequence[ClassScores]) -> ClassScores:
        """The scores of several sets of masks, one after another.

        Raises:
            ShapeError: no part, or parts of different kinds or classes.
        """
        if len({(type(part), part.classes, part.branches) for part in parts}) != 1:
            raise ShapeError("ClassScores: expected parts of one kind over the same classes")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name, _ in parts[0]._columns()
        }
        return replace(parts[0], **joined)

    def _columns(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        """The arrays, which have a row for each mask."""
        for field_ in fields(self):
            if isinstance(value := getattr(self, field_.name), np.ndarray):
                yield field_.name, value

    def branch(self, name: str) -> ClassScores:
        """The scores at one of the branches, (N, C).

        Raises:
            ConfigError: the base has no such branch.
        """
        check_branch(name, self.branches)
        return self

    def resume(self, name: str, fused: ClassScores) -> ClassScores:
        """The final scores, (N, C), after the scores at a branch were replaced by ``fused``.

        A row that is as it was in ``branch(name)`` gives the row of these scores, bit for bit.

        Raises:
            ConfigError: the base has no such branch.
        """
        check_branch(name, self.branches)
        return fused


def check_branch(name: str, branches: Iterable[str]) -> None:
    """Hold the branch that a configuration asks for against those of its base.

    Raises:
        ConfigError: the base has no such branch.
    """
    known = tuple(branches)
    if name not in known:
        raise ConfigError(
            f"fusion.branch: expected one of {list(known)}, which this base has, got {name!r}. "
            "The branches out_vocab and ensemble are those of the base fcclip; every base has final"
        )
