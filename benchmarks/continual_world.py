"""One set for ``continual.py``: features, regions and the base of each image, computed once."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from last_block import LastBlock, Pooled
from mobilenet import Remembered, RememberedProposals
from numpy.typing import NDArray
from PIL import Image as Picture
from torch import Tensor, nn
from tqdm import tqdm

from knnseg import Config, Image, LabelledImage, Masks, Segmenter, Vocabulary
from knnseg.data.masks import nearest
from knnseg.database.schema import segment_masks
from knnseg.datasets import CONCEPTS, LabelledImages, RenderedScenes
from knnseg.stages.protocols import masks_of, scores_of

__all__ = ["Asked", "Floats", "Ints", "Scenes", "Taught", "World", "among", "look"]

UNLABELLED = 64
"""Regions of each image to learn from that LwF sees without their class."""
CHECKED = 5
"""Query images that the whole pipeline segments too."""
Floats: TypeAlias = NDArray[np.float32]
Ints: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Taught:
    """One image to learn from: N masks, the true ones first, then regions.

    Args:
        example: the image as it is added to a database.
        pooled: for the last block.
        keys: float32 (N, D), of the network as it was.
        base: float32 (N, C).
        labels: int64 (N,), positions in the vocabulary, -1 of regions.
        size: bytes of the picture and its labels as files.
    """

    example: LabelledImage
    pooled: Pooled
    keys: Tensor
    base: Tensor
    labels: Tensor
    size: int


@dataclass(frozen=True)
class Asked:
    """All query images: N regions, and the A pieces into which the partitions of the regions cut the images.

    Args:
        pooled: for the last block, of each image.
        keys: float32 (N, D).
        base: float32 (N, C).
        pieces: int64 (A, P), the regions that a piece lies in.
        truth: float32 (A, C), pixels of each class in a piece.
        checked: pictures that the whole pipeline segments too, and the piece that each cell of their grid is in.
    """

    pooled: list[Pooled]
    keys: Tensor
    base: Tensor
    pieces: Ints
    truth: Floats
    checked: list[tuple[Image, Ints]]

    def found(self, scores: Floats, classes: Ints) -> Ints:
        """The class of each piece, of the map that scores (N, C) give; -1 where nobody has an opinion."""
        total = scores[:, classes][self.pieces].sum(axis=1)
        return np.where(total.any(axis=1), classes[total.argmax(axis=1)], -1)

    def ious(self, found: Ints, classes: Ints) -> Floats:
        """(C,), of pixels that are of some of the classes; NaN of the others, and of those that are not there."""
        matrix = np.zeros((self.truth.shape[1] + 1, self.truth.shape[1]))
        np.add.at(matrix, found, self.truth)
        matrix = matrix[:, classes]
        right, present, union = matrix[classes].diagonal(), matrix.sum(axis=0), matrix[classes].sum(axis=1)
        every = np.full(self.truth.shape[1], np.nan, np.float32)
        every[classes] = 100 * np.where(present > 0, right / np.maximum(present + union - right, 1), np.nan)
        return every

    def differ(self, one: Ints, other: Ints, classes: Ints) -> float:
        """Per cent of the pixels of some classes whose class is not the same."""
        pixels = self.truth[:, classes].sum(axis=1)
        return 100 * float(pixels[one != other].sum() / pixels.sum())


@dataclass(frozen=True)
class World:
    """One set, looked at once."""

    config: Config
    vocabulary: Vocabulary
    taught: list[Taught]
    asked: Asked
    block: nn.Module
    segmenter: Segmenter

    @property
    def present(self) -> Ints:
        """The classes with examples that are asked about too."""
        learnt = torch.cat([one.labels for one in self.taught]).numpy()
        return np.intersect1d(np.unique(learnt[learnt >= 0]), np.flatnonzero(self.asked.truth.sum(axis=0)))


class Scenes(LabelledImages):
    """Rendered scenes, with all concepts in turn."""

    vocabulary = Vocabulary(tuple(c.name for c in CONCEPTS), frozenset(c.name for c in CONCEPTS if c.thing))

    def __init__(self, count: int, seed: int, side: int = 192) -> None:
        self._scenes = RenderedScenes(count, seed=seed, size=(side, side), including=self.vocabulary.names)

    def __len__(self) -> int:
        return len(self._scenes)

    def load(self, index: int) -> LabelledImage:
        return self._scenes[index]


def look(config: Config, reference: LabelledImages, query: LabelledImages) -> World:
    """Features, regions and the base, of each image once."""
    made = Segmenter.from_config(config)
    extractor, vocabulary = Remembered(made.extractor), reference.vocabulary
    last, rng = LastBlock(config, extractor), np.random.default_rng(0)
    taught = [_taught(made, last, example, vocabulary, rng) for example in tqdm(reference, desc="to learn from")]
    offset, pieces, parts = 0, 0, list[tuple[Any, ...]]()
    for example in tqdm(query, desc="to answer"):
        image, (masks,) = Image(example.image), masks_of([Image(example.image)], made.proposer)
        pooled, base = last.look(image, masks), scores_of([image], [masks], vocabulary, made.base)[0].probabilities
        cut, at, truth = _cut(masks, example.semantic(list(vocabulary)), len(vocabulary))
        with torch.no_grad():
            parts.append((pooled, pooled.keys(last.block), torch.from_numpy(base), cut + offset, truth))
        parts[-1] += ((image if len(parts) <= CHECKED else None, at + pieces),)
        offset, pieces = offset + len(masks), pieces + len(cut)
    pooled, keys, base, cuts, truth, checked = zip(*parts, strict=True)
    asked = Asked(list(pooled), torch.cat(keys), torch.cat(base), np.concatenate(cuts), np.concatenate(truth),
                  [one for one in checked if one[0] is not None])  # fmt: skip
    segmenter = Segmenter(extractor, RememberedProposals(made.proposer), made.base, config=config)
    return World(config, vocabulary, taught, asked, last.block, segmenter)


def _taught(
    made: Segmenter, last: LastBlock, example: LabelledImage, vocabulary: Vocabulary, rng: np.random.Generator
) -> Taught:
    image, (regions,) = Image(example.image), masks_of([Image(example.image)], made.proposer)
    true = segment_masks(example, [segment.id for segment in example.info])
    shown = np.flatnonzero(true.areas > 0)
    some = np.sort(rng.permutation(len(regions))[:UNLABELLED]).tolist()
    parts = true.select(shown), regions.select(some)
    labels = vocabulary.index(np.array([example.info[i].label for i in shown], object))
    pooled = last.look(image, *parts)
    base = [scores_of([image], [part], vocabulary, made.base)[0].probabilities for part in parts]
    files = io.BytesIO(), io.BytesIO()
    Picture.fromarray(example.image).save(files[0], "JPEG", quality=90)
    Picture.fromarray(example.segments.astype(np.uint8)).save(files[1], "PNG")
    with torch.no_grad():
        keys = pooled.keys(last.block)
    every = torch.from_numpy(np.concatenate([labels, np.full(len(some), -1)]))
    size = sum(file.tell() for file in files)
    return Taught(example, pooled, keys, torch.from_numpy(np.concatenate(base)), every, size)


def _cut(masks: Masks, truth: NDArray[np.int32], classes: int) -> tuple[Ints, Ints, Floats]:
    """The regions of each piece, the piece of each cell of the grid, and the pixels of each class in a piece."""
    columns = masks.matrix.tocsc()
    columns.sort_indices()
    pieces, at = np.unique(columns.indices.reshape(columns.shape[1], -1), axis=0, return_inverse=True)
    grid = at.reshape(masks.grid)
    there, known = nearest(grid, truth.shape), (truth >= 0) & (truth < classes)
    pixels = np.zeros((len(pieces), classes), np.float32)
    np.add.at(pixels, (there[known], truth[known]), 1)
    return pieces.astype(np.int64), grid, pixels


def among(base: Floats | Tensor, classes: Ints) -> Tensor:
    """What a base says where only some classes are asked for, (N, C), zeros for the others.

    The probability that it gives to none of the words, where it knows that, is as if the others had not been asked for.
    """
    base = torch.as_tensor(base)
    rest = (1 - base.sum(dim=1, keepdim=True)).clamp(min=0)
    rest[(rest < 1e-5) | ~base.any(dim=1, keepdim=True)] = 0  # a softmax over the words alone
    kept = torch.zeros_like(base)
    kept[:, classes] = base[:, classes]
    return kept / (kept.sum(dim=1, keepdim=True) + rest).clamp(min=1e-30)
