"""Training data of the bundled ``tiny`` model: a pool of rendered scenes, and random crops at several scales."""

from __future__ import annotations

import math
import multiprocessing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from knnseg.data.annotations import LabelledSegment
from knnseg.datasets.rendered import CONCEPTS, RenderedScenes, describe

__all__ = ["PATCH", "SEEN", "Batch", "Pool", "coverage", "region_prompt"]

PATCH = 8
SEEN = tuple(concept.name for concept in CONCEPTS if not concept.held_back)
_THING = {concept.name: concept.thing for concept in CONCEPTS}
_SLOTS = 12
"""Most segments of one image that training looks at."""

_PROMPTS = (
    "{}",
    "a {}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a picture of a {}.",
    "a rendering of {}.",
    "the {}",
)
_PROMPTS_SCENE = ("{}", "{}.", "a photo of {}.", "a picture of {}.")


def region_prompt(name: str, rng: np.random.Generator) -> str:
    """Word the name of a concept in one of several ways."""
    return _PROMPTS[rng.integers(len(_PROMPTS))].format(name)


@dataclass(frozen=True, slots=True)
class Batch:
    """Crops with their regions.

    Args:
        images: float32 (B, 3, s, s) between 0 and 1.
        weights: float32 (B, N, s/8, s/8), how much of each cell each region covers, part of a region in half the cases.
        labels: int64 (B, N), index into ``SEEN``, -1 where a slot is empty.
        captions: B sentences about what is visible.
    """

    images: Tensor
    weights: Tensor
    labels: Tensor
    captions: list[str]


def _render(job: tuple[int, int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[list[str]]]:
    """Scenes ``start`` to ``stop`` of the training set: images, segment numbers, and the label of each number."""
    start, stop, seed, side = job
    scenes = RenderedScenes(stop, seed=seed, size=(side, side), concepts="seen")[start:stop]
    images = np.stack([scene.image for scene in scenes])
    segments = np.stack([scene.segments for scene in scenes]).astype(np.uint8)
    return images, segments, [[segment.label for segment in scene.info] for scene in scenes]


@dataclass(frozen=True, slots=True)
class Pool:
    """Rendered scenes held in memory.

    Args:
        images: uint8 (S, side, side, 3).
        segments: uint8 (S, side, side).
        labels: for each scene, the label of segment 1, 2...
    """

    images: NDArray[np.uint8]
    segments: NDArray[np.uint8]
    labels: list[list[str]]

    @classmethod
    def render(cls, count: int, seed: int, side: int = 160, cache: Path | None = None) -> Pool:
        """Render ``count`` scenes of seen concepts in two processes, or take them from ``cache`` if it is there."""
        if cache is not None and cache.exists():
            stored = np.load(cache)
            return cls(stored["images"], stored["segments"], [line.split("|") for line in stored["labels"].tolist()])
        jobs = [(start, min(start + 50, count), seed, side) for start in range(0, count, 50)]
        with multiprocessing.get_context("fork").Pool(2) as workers:
            parts = workers.map(_render, jobs, chunksize=1)
        labels = [names for part in parts for names in part[2]]
        pool = cls(np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]), labels)
        if cache is not None:
            lines = np.array(["|".join(names) for names in labels])
            np.savez(cache, images=pool.images, segments=pool.segments, labels=lines)
        return pool

    def batch(self, count: int, side: int, rng: np.random.Generator) -> Batch:
        """Draw crops of ``side`` pixels: rotated a little, mirrored, magnified 0.6 to 1.7 times, colours jittered."""
        picks = rng.integers(0, len(self.images), count)
        grid = _grids(count, side, self.images.shape[1], rng)
        images = torch.from_numpy(self.images[picks]).permute(0, 3, 1, 2).float() / 255
        crops = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        numbers = torch.from_numpy(self.segments[picks])[:, None].float()
        segments = F.grid_sample(numbers, grid, mode="nearest", padding_mode="reflection", align_corners=False)
        gain = torch.from_numpy(rng.uniform(0.75, 1.25, (count, 1, 1, 1)) * rng.uniform(0.92, 1.08, (count, 3, 1, 1)))
        weights = coverage(segments[:, 0].long(), _SLOTS)
        labels, captions = self._labels(picks, weights, rng)
        images = (crops * gain.float()).clamp(0, 1)
        return Batch(images, _partial(weights, rng), torch.from_numpy(labels), captions)

    def _labels(
        self, picks: NDArray[np.int64], weights: Tensor, rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], list[str]]:
        areas = weights.sum((2, 3)).numpy()
        cells = weights.shape[2] * weights.shape[3]
        labels, captions = np.full(areas.shape, -1, np.int64), []
        for row, scene in enumerate(picks):
            names = self.labels[scene][:_SLOTS]
            visible = [i for i in range(len(names)) if areas[row, i] >= max(1.5, 0.012 * cells)]
            labels[row, visible] = [SEEN.index(names[i]) for i in visible]
            info = [LabelledSegment(i + 1, names[i], _THING[names[i]]) for i in visible]
            captions.append(
                _PROMPTS_SCENE[rng.integers(len(_PROMPTS_SCENE))].format(describe(info) if info else "nothing")
            )
        return labels, captions


def _grids(count: int, side: int, full: int, rng: np.random.Generator) -> Tensor:
    """Sampling grids (B, side, side, 2) of random windows in the coordinates of ``grid_sample``."""
    zoom = np.exp(rng.uniform(math.log(0.6), math.log(1.7), count))
    half = np.minimum(side / zoom, full) / full
    turn = rng.normal(0.0, 0.15, count)
    flip = rng.choice([-1.0, 1.0], count)
    centre = rng.uniform(-1, 1, (count, 2)) * (1 - half)[:, None]
    cos, sin = half * np.cos(turn), half * np.sin(turn)
    rows = np.stack([cos * flip, -sin, centre[:, 0], sin * flip, cos, centre[:, 1]], 1).reshape(count, 2, 3)
    return F.affine_grid(torch.from_numpy(rows).float(), [count, 1, side, side], align_corners=False)


def coverage(segments: Tensor, slots: int) -> Tensor:
    """Segment numbers (B, H, W) to the part of each cell that segment 1, 2... covers, float32 (B, slots, h, w)."""
    members = torch.arange(1, slots + 1).view(1, -1, 1, 1)
    return F.avg_pool2d((segments[:, None] == members).float(), PATCH)


def _partial(weights: Tensor, rng: np.random.Generator) -> Tensor:
    """Cut half of the regions along a random line, unless little is left: automatic masks are often parts."""
    count, slots, h, w = weights.shape
    angle = torch.from_numpy(rng.uniform(0, 2 * math.pi, (count, slots, 1, 1))).float()
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    along = x * angle.cos() + y * angle.sin()
    total = weights.sum((2, 3), keepdim=True).clamp_min(1e-6)
    middle = (along * weights).sum((2, 3), keepdim=True) / total
    cut = weights * (along > middle)
    use = torch.from_numpy(rng.random((count, slots, 1, 1)) < 0.5) & (cut.sum((2, 3), keepdim=True) >= 1.5)
    return torch.where(use, cut, weights)
