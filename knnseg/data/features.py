"""A dense feature grid over an image, and the vectors that are pooled from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnseg.data.arrays import expect

__all__ = ["Embeddings", "Features"]


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
            every mask, so its length is its weight there; see :class:`knnseg.WithContext`.
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

    @classmethod
    def concatenate(cls, parts: Sequence[Embeddings]) -> Embeddings:
        """Those of several images, one after another; at least one part."""
        vectors, coverage = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("vectors", "coverage")
        )
        return cls(vectors, coverage)
