"""Composes one scene: areas of stuff, things that stand or lie on them, light and shadow, and the exact ground truth.

Two kinds of scene: a *room* (an upright background above a ground seen in perspective; things stand, smaller further
back) and a *table* (two or three surfaces seen from above; things lie at any angle). The picture and the segment map
are painted together, from the same coverage: a pixel belongs to what covers at least half of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from knnseg.data.annotations import LabelledImage, LabelledSegment
from knnseg.data.arrays import ImageArray
from knnseg.datasets._concepts import GROUNDS, PAINTERS, SceneClass
from knnseg.datasets._sprites import Colour, Field, Sprite
from knnseg.datasets._stuff import SURFACES

__all__ = ["Cast", "Lighting", "compose"]

_TRIES = 12
_MIN_VISIBLE = 0.45
"""What is in a scene stays recognisable: nothing is covered to less than this part of itself."""


@dataclass(frozen=True, slots=True)
class Cast:
    """What a scene is made of.

    Args:
        stuff: one to three kinds, the first one furthest back.
        things: in order of placement.
        lead: the concept that must be visible, placed last and in front, or None.
    """

    stuff: tuple[SceneClass, ...]
    things: tuple[SceneClass, ...]
    lead: SceneClass | None = None


@dataclass(frozen=True, slots=True)
class Lighting:
    """How a scene is lit.

    Args:
        towards: float32 (3,), unit vector from the surface to the light; x right, y down, z to the viewer.
        ambient: part of the light that comes from everywhere.
        gain: float32 (3,), exposure and colour cast.
        ramp: (x, y), change of brightness from the centre to the right and lower edge.
        noise: standard deviation of the sensor, of 1.
    """

    towards: NDArray[np.float32]
    ambient: float
    gain: Colour
    ramp: tuple[float, float]
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Lighting:
        """Light from above, from anywhere on the left or right."""
        side, tilt = rng.uniform(-1.0, 1.0), rng.uniform(0.55, 0.95)
        towards = np.array([math.sin(side), -math.cos(side), 0.0]) * math.sqrt(1 - tilt * tilt) + [0, 0, tilt]
        gain = rng.uniform(0.85, 1.12) * (1 + rng.uniform(-0.05, 0.05, 3))
        ramp = (rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15))
        return cls(
            towards.astype(np.float32), rng.uniform(0.35, 0.6), gain.astype(np.float32), ramp, rng.uniform(0.0, 0.02)
        )


class _Canvas:
    """The picture and the segment map while they are being painted."""

    def __init__(self, size: tuple[int, int], light: Lighting, room: bool) -> None:
        self.size, self.light, self.room = size, light, room
        self.unit = min(size)
        self.rgb: Colour = np.zeros((*size, 3), np.float32)
        self.segments = np.zeros(size, np.int32)
        self.full: dict[int, int] = {}
        self.names: dict[int, SceneClass] = {}
        self.x = (np.arange(size[1], dtype=np.float32) + 0.5)[None, :] + np.zeros((size[0], 1), np.float32)
        self.y = (np.arange(size[0], dtype=np.float32) + 0.5)[:, None] + np.zeros((1, size[1]), np.float32)

    def area(self, concept: SceneClass, d: Field, colour: Colour) -> None:
        """Cover where d, in pixels, is negative, with stuff."""
        cover = np.clip(0.5 - d, 0, 1)
        self.rgb += cover[..., None] * (colour - self.rgb)
        number = next((n for n, c in self.names.items() if c == concept), len(self.names) + 1)
        self.segments[cover >= 0.5] = number
        self.names[number] = concept

    def freeze(self) -> None:
        """Note how large each area of stuff is before anything covers it."""
        self.full = {n: int((self.segments == n).sum()) for n in self.names}

    def place(self, concept: SceneClass, sprite: Sprite, force: bool) -> bool:
        """Paint a thing with its shadow, unless it would be cut off by the border or hide what is there."""
        box = self._clip(sprite)
        own, there = sprite.alpha[box[1]] >= 0.5, self.segments[box[0]]
        number, pixels = len(self.names) + 1, int(own.sum())
        if pixels < 0.7 * (sprite.alpha >= 0.5).sum() or not (force or self._spares(own, there)):
            return False
        self._shadow(sprite)
        alpha = sprite.alpha[box[1]][..., None]
        self.rgb[box[0]] += alpha * (_lit(sprite, self.light)[box[1]] - self.rgb[box[0]])
        there[own] = number
        self.full[number], self.names[number] = pixels, concept
        return True

    def _spares(self, own: NDArray[np.bool_], there: NDArray[np.int32]) -> bool:
        hidden = np.bincount(there[own], minlength=len(self.names) + 1)
        visible = np.bincount(self.segments.reshape(-1), minlength=len(self.names) + 1)
        return all(visible[n] - hidden[n] >= _MIN_VISIBLE * self.full[n] for n in self.names if hidden[n])

    def _shadow(self, sprite: Sprite) -> None:
        reach = (0.1 if self.room else 0.16) / sprite.pixel / float(self.light.towards[2])
        dx, dy = (round(float(-self.light.towards[i] * reach)) for i in (0, 1))
        dark = np.clip(np.float32(0.5) - sprite.solid / np.float32(0.25), 0, 1) * np.float32(
            0.75 * (1 - self.light.ambient)
        )
        box = self._clip(sprite, (dx, dy))
        self.rgb[box[0]] *= 1 - dark[box[1]][..., None]

    def _clip(self, sprite: Sprite, by: tuple[int, int] = (0, 0)) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where the sprite falls on the canvas, and which part of the sprite that is."""
        side, (height, width) = sprite.alpha.shape[0], self.size
        x, y = sprite.corner[0] + by[0], sprite.corner[1] + by[1]
        x0, y0 = min(max(x, 0), width), min(max(y, 0), height)
        x1, y1 = max(min(x + side, width), x0), max(min(y + side, height), y0)
        return (slice(y0, y1), slice(x0, x1)), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))


def _lit(sprite: Sprite, light: Lighting) -> Colour:
    """Lambert and a small Blinn highlight on the relief of a sprite, float32 (n, n, 3)."""
    gy, gx = np.gradient(sprite.height, sprite.pixel)
    slope = 1 / np.sqrt(1 + np.square(np.clip(gx, -2, 2)) + np.square(np.clip(gy, -2, 2)))
    x, y, z = light.towards
    diffuse = np.maximum((z - np.clip(gx, -2, 2) * x - np.clip(gy, -2, 2) * y) * slope, 0)
    half = np.array([x, y, z + 1], np.float32) / np.float32(math.sqrt(2 + 2 * float(z)))
    gloss = np.maximum((half[2] - np.clip(gx, -2, 2) * half[0] - np.clip(gy, -2, 2) * half[1]) * slope, 0) ** 24
    shade = np.float32(light.ambient) + np.float32((1 - light.ambient) / float(z)) * diffuse
    return np.asarray(sprite.rgb * shade[..., None] + np.float32(0.22) * gloss[..., None])


def _surface(canvas: _Canvas, concept: SceneClass, rng: np.random.Generator, horizon: float | None) -> Colour:
    """The colours of a surface over the whole canvas; with a horizon (a row in pixels), seen in perspective."""
    zoom = np.float32(rng.uniform(4.0, 8.0) / canvas.unit)
    x, y = canvas.x - canvas.size[1] / 2, canvas.y
    if horizon is not None:
        depth = (canvas.size[0] - horizon) * np.float32(rng.uniform(0.5, 2.0))
        near = depth / np.maximum(y - horizon + depth, 1)  # 1 at the horizon, less towards the viewer
        x, y = x * near * 1.4, -near * depth * 2.2
    turn = np.float32(rng.uniform(-0.15, 0.15) if canvas.room else rng.uniform(-0.6, 0.6))
    cos, sin = np.cos(turn), np.sin(turn)
    u, v = (cos * x + sin * y) * zoom, (cos * y - sin * x) * zoom
    offset = rng.uniform(0, 50, 2).astype(np.float32)
    return SURFACES[concept.name](u + offset[0], v + offset[1], rng)


def _room(canvas: _Canvas, stuff: Sequence[SceneClass], rng: np.random.Generator) -> float:
    """Paint background and ground; returns the row of the horizon."""
    height, width = canvas.size
    horizon = height * float(rng.uniform(0.3, 0.5))
    canvas.area(stuff[0], canvas.x * 0 - 9, _surface(canvas, stuff[0], rng, None))
    if len(stuff) > 1:
        slope = rng.uniform(-0.06, 0.06)
        d = horizon + slope * (canvas.x - width / 2) - canvas.y
        canvas.area(stuff[1], d, _surface(canvas, stuff[1], rng, horizon))
    if len(stuff) > 2:  # a patch on the ground, like a pond or a rug
        a, b = width * rng.uniform(0.25, 0.45), (height - horizon) * rng.uniform(0.2, 0.32)
        cx, cy = width * rng.uniform(0.2, 0.8), horizon + (height - horizon) * rng.uniform(0.45, 0.75)
        p, q = np.abs(canvas.x - cx) / a, np.abs(canvas.y - cy) / b
        power = float(rng.choice([2.0, 6.0]))
        d = ((p**power + q**power) ** np.float32(1 / power) - 1) * np.float32(b)
        canvas.area(stuff[2], d, _surface(canvas, stuff[2], rng, horizon))
    return horizon


def _table(canvas: _Canvas, stuff: Sequence[SceneClass], rng: np.random.Generator) -> None:
    """Paint surfaces that meet along straight or wavy lines."""
    height, width = canvas.size
    canvas.area(stuff[0], canvas.x * 0 - 9, _surface(canvas, stuff[0], rng, None))
    start = rng.uniform(0, 2 * math.pi)
    for i, concept in enumerate(stuff[1:]):
        angle = start + i * rng.uniform(1.6, 2.6)
        along = (canvas.x - width / 2) * math.cos(angle) + (canvas.y - height / 2) * math.sin(angle)
        across = (canvas.y - height / 2) * math.cos(angle) - (canvas.x - width / 2) * math.sin(angle)
        wave = rng.choice([0.0, 0.04]) * canvas.unit * np.sin(across * (rng.uniform(6, 12) / canvas.unit) + angle)
        reach = (0.0 if len(stuff) == 2 else 0.14) * canvas.unit + rng.uniform(-0.1, 0.1) * canvas.unit
        canvas.area(concept, (reach - along + wave).astype(np.float32), _surface(canvas, concept, rng, None))


def _sprite(
    canvas: _Canvas, concept: SceneClass, rng: np.random.Generator, horizon: float | None, lead: bool
) -> Sprite:
    """Draw a thing at a random place, size and pose."""
    height, width = canvas.size
    radius = canvas.unit * float(np.exp(rng.uniform(math.log(0.16 if lead else 0.11), math.log(0.27))))
    x, y = width * rng.uniform(0.06, 0.94), height * rng.uniform(0.06, 0.94)
    angle = rng.uniform(-1.2, 1.2)
    if horizon is not None:
        near = (y - horizon) / (height - horizon)
        y = horizon + max(near, 0.12) * (height - horizon) * 0.95 - 0.6 * radius
        radius *= 0.75 + 0.35 * max(near, 0.1)
        angle = rng.uniform(-0.3, 0.3)
    sprite = Sprite(radius, (float(x), float(y)), float(angle), bool(rng.random() < 0.5), float(rng.uniform(0.85, 1.0)))
    PAINTERS[concept.name](sprite, rng)
    return sprite


def _populate(canvas: _Canvas, cast: Cast, rng: np.random.Generator, horizon: float | None) -> None:
    for thing in cast.things:
        for _ in range(_TRIES):
            sprite = _sprite(canvas, thing, rng, horizon, False)
            if canvas.place(thing, sprite, force=False):
                break
    if cast.lead is not None and cast.lead.thing:
        attempt = 0
        while not canvas.place(cast.lead, _sprite(canvas, cast.lead, rng, horizon, True), force=attempt > 2 * _TRIES):
            attempt += 1


def _develop(canvas: _Canvas, rng: np.random.Generator) -> ImageArray:
    """Expose: ramp, colour cast, noise, 8 bits."""
    height, width = canvas.size
    light = canvas.light
    ramp = 1 + light.ramp[0] * (2 * canvas.x / width - 1) + light.ramp[1] * (2 * canvas.y / height - 1)
    image = canvas.rgb * ramp[..., None] * light.gain
    image += rng.standard_normal(image.shape, np.float32) * np.float32(light.noise)
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255), np.uint8)


def compose(
    cast: Cast, size: tuple[int, int], rng: np.random.Generator, image_id: str = "", uri: str = ""
) -> LabelledImage:
    """Render a scene.

    Args:
        cast: what it is made of.
        size: (H, W), pixels.
        rng: decides everything else.
        image_id: passed on.
        uri: passed on.

    Returns:
        The picture with its exact segments: one for each kind of stuff, furthest back first, then one for each thing.
    """
    grounded = len(cast.stuff) < 2 or any(stuff.name in GROUNDS for stuff in cast.stuff)
    room = grounded and bool(rng.random() < 0.6)
    canvas = _Canvas(size, Lighting.draw(rng), room)
    horizon = None
    if room:
        horizon = _room(canvas, sorted(cast.stuff, key=lambda stuff: stuff.name in GROUNDS), rng)
    else:
        _table(canvas, cast.stuff, rng)
    canvas.freeze()
    _populate(canvas, cast, rng, horizon)
    present = np.unique(canvas.segments)
    renumber = np.searchsorted(present, canvas.segments).astype(np.int32) + 1
    concepts = [canvas.names[int(n)] for n in present]
    info = tuple(LabelledSegment(i, concept.name, concept.thing) for i, concept in enumerate(concepts, 1))
    return LabelledImage(_develop(canvas, rng), renumber, info, uri=uri, image_id=image_id)
