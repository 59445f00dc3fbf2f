"""What flows between the stages: frozen values that check themselves.

The letters of every shape in this package:

    H, W   height and width of an image, pixels        N   masks of one image
    h, w   height and width of a feature grid, cells   K   neighbours of one mask
    D      width of an embedding                       C   classes of the active vocabulary

    image (H,W,3) -> Features (D,h,w) -> Masks (N,H,W) -> Embeddings (N,D) -> Neighbours (N,K) -> ClassScores (N,C)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import sparse

from knnseg.arrays import expect, plain, whole_numbers
from knnseg.errors import ConfigError, MaskError, ShapeError, VocabularyError

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
]

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

    Args:
        matrix: float32 CSR (N, H·W), row-major pixels, coverage of the pixel by the mask in (0, 1].
        size: (H, W).
        scores: float32 (N,), how much the proposer believes in each mask; 1 where it has no opinion.
        instances: each mask is meant to be one whole object, not a part of one or a patch of stuff.
    """

    matrix: sparse.csr_array
    size: tuple[int, int]
    scores: NDArray[np.float32]
    instances: bool = False

    def __post_init__(self) -> None:
        rows, pixels = self.matrix.shape
        if pixels != self.size[0] * self.size[1]:
            raise MaskError(f"masks: expected {self.size[0]}×{self.size[1]} pixels each, got {pixels} pixels")
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
            MaskError: the array is not (N, H, W), or holds values outside [0, 1].
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
    def from_partition(cls, regions: NDArray[np.integer], scores: NDArray[np.float32] | None = None) -> Masks:
        """One mask for each value that is at least 0 in an integer (H, W) map, ordered by value.

        Raises:
            MaskError: the map is none of whole numbers.
        """
        flat = whole_numbers(regions, "regions", MaskError).reshape(-1)
        pixels = np.flatnonzero(flat >= 0)
        values, rows = np.unique(flat[pixels], return_inverse=True)
        return cls.from_pixels(rows, pixels, len(values), regions.shape, scores)

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
            MaskError: no part, or parts of different image sizes.
        """
        sizes = {part.size for part in parts}
        if len(sizes) != 1:
            raise MaskError(f"masks: expected parts of one image size, got {sorted(sizes)}")
        matrix = sparse.csr_array(sparse.vstack([part.matrix for part in parts], format="csr"))
        scores = np.concatenate([part.scores for part in parts])
        return cls(matrix, parts[0].size, scores, all(part.instances for part in parts))

    def __len__(self) -> int:
        return int(self.matrix.shape[0])

    def __getitem__(self, index: int) -> NDArray[np.bool_]:
        """Bool (H, W): where mask ``index`` covers at least half of a pixel."""
        dense: NDArray[np.bool_] = self.matrix[[index]].toarray()[0].reshape(self.size) >= 0.5
        return dense

    def select(self, keep: NDArray[np.bool_] | NDArray[np.integer] | Sequence[int]) -> Masks:
        """The masks that an index or boolean array picks."""
        rows = np.asarray(keep)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return Masks(self.matrix[rows], self.size, self.scores[rows], self.instances)

    def dense(self) -> NDArray[np.bool_]:
        """Bool (N, H, W): where each mask covers at least half of a pixel."""
        dense: NDArray[np.bool_] = self.matrix.toarray().reshape(len(self), *self.size) >= 0.5
        return dense

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
        return np.asarray(self.matrix.sum(axis=1), np.float32).reshape(-1)


def _ones(count: int) -> NDArray[np.float32]:
    return np.ones(count, np.float32)


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


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The classes that a prediction may use, in order, without repetition.

    Args:
        names: the C class names.
        things: the names among them that are countable objects; the rest is stuff.
        wording: what a text encoder reads for some of the names, where that is not the name itself: synonyms, plain
            words for a name that is none. Labels in a database are names, whatever their wording.

    Raises:
        VocabularyError: no name, an empty name, a repeated name, or a thing or words of what is not among the names.
    """

    names: tuple[str, ...]
    things: frozenset[str] = field(default_factory=frozenset)
    wording: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise VocabularyError("vocabulary: expected at least one class name, got none")
        blank = [i for i, name in enumerate(self.names) if not isinstance(name, str) or not name.strip()]
        if blank:
            raise VocabularyError(f"vocabulary: expected non-empty names, got {self.names[blank[0]]!r} at {blank[0]}")
        repeated = sorted({name for name in self.names if self.names.count(name) > 1})
        if repeated:
            raise VocabularyError(f"vocabulary: expected each name once, got {repeated[0]!r} more than once")
        for what, given in (("things", self.things), ("wording of", frozenset(self.wording))):
            if not given <= set(self.names):
                raise VocabularyError(f"vocabulary: {what} {sorted(given - set(self.names))} are not among the names")

    @classmethod
    def of(cls, classes: Vocabulary | Iterable[str], things: Iterable[str] = ()) -> Vocabulary:
        """Take names as they come: ``Vocabulary.of(["kettle", "grass"], things=["kettle"])``."""
        if isinstance(classes, Vocabulary):
            return classes
        if isinstance(classes, str):
            raise VocabularyError(f"vocabulary: expected a list of names, got the string {classes!r}")
        if isinstance(things, str):
            raise VocabularyError(f"vocabulary: expected things as a list of names, got the string {things!r}")
        return cls(tuple(classes), frozenset(things))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def subset(self, names: Iterable[str]) -> Vocabulary:
        """These names, in this order, with what is known here of things and wording."""
        kept = tuple(names)
        wording = {name: self.wording[name] for name in kept if name in self.wording}
        return Vocabulary(kept, self.things & set(kept), wording)

    def words(self, name: str) -> tuple[str, ...]:
        """All words for one class, each once: its wording, or else the parts of its name, which commas may part."""
        words = self.wording.get(name) or [part.strip() for part in name.split(",")]
        return tuple(dict.fromkeys(word for word in words if word)) or (name,)

    def index(self, names: NDArray[np.object_]) -> NDArray[np.int64]:
        """int64, the shape of ``names``: the position of each name, -1 for a name that is not of this vocabulary."""
        position = {name: i for i, name in enumerate(self.names)}
        flat = np.fromiter((position.get(name, -1) for name in names.reshape(-1)), np.int64, names.size)
        return flat.reshape(names.shape)
