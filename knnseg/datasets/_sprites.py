"""A sprite: a small square canvas on which an object is built from signed distances.

A part of an object is a *signed distance* d (negative inside), because one array then gives three things for a few
operations: an antialiased edge (d over the size of a pixel), a rounded relief for the lighting (the depth -d), and a
soft shadow (a wide ramp of d). The distances are those of Inigo Quilez, "2D distance functions",
https://iquilezles.org/articles/distfunctions2d/.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["MARGIN", "Colour", "Field", "Sprite", "length", "tint"]

Field: TypeAlias = NDArray[np.floating]
"""float32 (n, n) over a sprite, or (H, W) over a scene. (Typed wider: numpy's stubs widen a product with a float.)"""

Colour: TypeAlias = NDArray[np.floating]
"""float32 (3,) or (..., 3), RGB between 0 and 1."""

MARGIN = 1.3
"""Half the side of a sprite in object units: objects stay within [-1, 1], shadows spread a little further."""


def length(x: Field, y: Field) -> Field:
    """The length of (x, y). ``np.hypot`` guards against overflow and takes ten times as long."""
    return np.asarray(np.sqrt(x * x + y * y))


def tint(
    rng: np.random.Generator, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]
) -> Colour:
    """Draw a colour, float32 (3,), from ranges of HSV; hue in turns, taken modulo 1."""
    h, s, v = (rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value))
    wheel = np.abs((np.array([h, h + 2 / 3, h + 1 / 3]) % 1.0) * 6 - 3) - 1
    return np.asarray(v * (1 - s + s * np.clip(wheel, 0, 1)), np.float32)


class Sprite:
    """An object being painted, in its own coordinates: u to the right, v down, within [-1, 1].

    Args:
        radius: of the object in pixels; may be fractional.
        centre: (x, y) of the object in pixels of the scene; the fraction matters for antialiasing.
        angle: rotation, radians, clockwise.
        flip: mirror left and right.
        stretch: width over height of the object.

    Attributes:
        rgb: float32 (n, n, 3), colours without light.
        alpha: float32 (n, n), coverage.
        height: float32 (n, n), relief towards the viewer in object units.
        solid: float32 (n, n), signed distance of everything painted so far.
        corner: (x, y) of the sprite's first pixel in the scene.
    """

    def __init__(
        self, radius: float, centre: tuple[float, float], angle: float = 0.0, flip: bool = False, stretch: float = 1.0
    ) -> None:
        half = math.ceil(radius * MARGIN)
        self.corner = (math.floor(centre[0]) - half, math.floor(centre[1]) - half)
        side = np.arange(2 * half + 1, dtype=np.float32) + 0.5
        x = (side + self.corner[0] - centre[0])[None, :] / np.float32(radius)
        y = (side + self.corner[1] - centre[1])[:, None] / np.float32(radius)
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        self.u: Field = (cos * x + sin * y) * np.float32((-1.0 if flip else 1.0) / stretch)
        self.v: Field = cos * y - sin * x
        self.pixel = np.float32(1.0 / radius)
        shape = self.u.shape
        self.rgb: Colour = np.zeros((*shape, 3), np.float32)
        self.alpha: Field = np.zeros(shape, np.float32)
        self.height: Field = np.zeros(shape, np.float32)
        self.solid: Field = np.full(shape, 9.0, np.float32)

    def part(self, d: Field, colour: Colour, relief: float = 0.2, lift: float = 0.0) -> None:
        """Add a part in front of what is there, its edge rounded over ``relief`` and raised by ``lift``."""
        cover = self._cover(d)
        self.alpha = np.maximum(self.alpha, cover)
        # Over nothing, the colour itself: an edge pixel must not be mixed with the black of an empty canvas.
        self.rgb += (cover / np.maximum(self.alpha, np.float32(1e-6)))[..., None] * (colour - self.rgb)
        self.solid = np.minimum(self.solid, d)
        depth = 1 - np.clip(d / np.float32(-relief), 0, 1)
        rounded = np.float32(lift) + np.float32(relief) * np.sqrt(1 - depth * depth)
        self.height = np.where(cover > 0.5, rounded, self.height)

    def mark(self, d: Field, colour: Colour) -> None:
        """Paint on the surface that is there: neither the outline nor the relief changes."""
        self.rgb += self._cover(d)[..., None] * (colour - self.rgb)

    def _cover(self, d: Field) -> Field:
        return np.asarray(np.clip(np.float32(0.5) - d / self.pixel, 0, 1))

    def circle(self, x: float, y: float, r: float) -> Field:
        """Signed distance of a disc."""
        return length(self.u - np.float32(x), self.v - np.float32(y)) - np.float32(r)

    def ring(self, x: float, y: float, r: float, half: float) -> Field:
        """Signed distance of a ring of radius ``r`` and half width ``half``."""
        return np.abs(self.circle(x, y, r)) - np.float32(half)

    def ellipse(self, x: float, y: float, a: float, b: float, turn: float = 0.0) -> Field:
        """Nearly the signed distance of an ellipse of half axes ``a``, ``b`` rotated by ``turn`` radians."""
        p, q = self.u - np.float32(x), self.v - np.float32(y)
        if turn:
            cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
            p, q = cos * p + sin * q, cos * q - sin * p
        k = length(p / np.float32(a), q / np.float32(b))
        # f / |grad f|: exact at the outline, where it matters, without the quartic of the exact distance.
        slope = length(p / np.float32(a * a), q / np.float32(b * b)) + np.float32(1e-6)
        return np.asarray(np.maximum(k * (k - 1) / slope, (k - 1) * np.float32(min(a, b))), np.float32)

    def box(self, x: float, y: float, half_width: float, half_height: float, corner: float = 0.0) -> Field:
        """Signed distance of a box with rounded corners."""
        p = np.abs(self.u - np.float32(x)) - np.float32(half_width - corner)
        q = np.abs(self.v - np.float32(y)) - np.float32(half_height - corner)
        outside = length(np.maximum(p, 0), np.maximum(q, 0))
        return np.asarray(outside + np.minimum(np.maximum(p, q), 0) - np.float32(corner))

    def line(self, x0: float, y0: float, x1: float, y1: float, r0: float, r1: float | None = None) -> Field:
        """Signed distance of a capsule from one end to the other, its radius changing from ``r0`` to ``r1``."""
        p, q = self.u - np.float32(x0), self.v - np.float32(y0)
        dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
        t = np.clip((p * dx + q * dy) / (dx * dx + dy * dy), 0, 1)
        return length(p - t * dx, q - t * dy) - np.float32(r0) - t * np.float32((r0 if r1 is None else r1) - r0)

    def polygon(self, points: Sequence[tuple[float, float]]) -> Field:
        """Signed distance of a simple polygon."""
        squared = np.full(self.u.shape, np.inf, np.float32)
        inside = np.zeros(self.u.shape, bool)
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            p, q = self.u - np.float32(x0), self.v - np.float32(y0)
            dx, dy = np.float32(x1 - x0), np.float32(y1 - y0)
            t = np.clip((p * dx + q * dy) / (dx * dx + dy * dy), 0, 1)
            squared = np.minimum(squared, (p - t * dx) ** 2 + (q - t * dy) ** 2)
            crosses = (self.v >= y0) != (self.v >= y1)
            inside ^= crosses & ((p * dy < q * dx) == (dy > 0))
        return np.where(inside, -np.sqrt(squared), np.sqrt(squared))
