"""Things, made and grown: each is painted on a :class:`Sprite` within [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from knnseg.datasets._sprites import Colour, Sprite, length, tint

__all__ = ["PAINTERS", "Painter"]

Painter: TypeAlias = Callable[[Sprite, np.random.Generator], None]

_BLACK = np.array([0.08, 0.08, 0.09], np.float32)
_WHITE = np.array([0.97, 0.96, 0.93], np.float32)
_GLASS = np.array([0.62, 0.82, 0.92], np.float32)
_ANY = ((0.0, 1.0), (0.65, 0.9), (0.65, 0.92))


def _gold(rng: np.random.Generator) -> Colour:
    return tint(rng, (0.11, 0.14), (0.65, 0.85), (0.85, 0.98))


def _wood(rng: np.random.Generator) -> Colour:
    return tint(rng, (0.05, 0.08), (0.55, 0.7), (0.4, 0.55))


def ball(s: Sprite, rng: np.random.Generator) -> None:
    """A beach ball: white and coloured sectors that meet at a pole."""
    d, colour, turn = s.circle(0.0, 0.0, 0.92), tint(rng, *_ANY), rng.uniform(0, 1)
    s.part(d, _WHITE, 0.92)
    angle = np.arctan2(s.v + 0.3, s.u - 0.2) / np.float32(2 * math.pi) * 3 + np.float32(turn)
    edge = (np.abs(angle % 1 - 0.5) - 0.25) * length(s.v + 0.3, s.u - 0.2) * np.float32(2 * math.pi / 3)
    s.mark(np.maximum(d, edge), colour)
    s.mark(s.circle(0.2, -0.3, 0.13), _WHITE)


def star(s: Sprite, rng: np.random.Generator) -> None:
    """Five points, yellow."""
    inner = rng.uniform(0.4, 0.46)
    radii = [1.0 if i % 2 == 0 else inner for i in range(10)]
    points = [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]
    s.part(s.polygon(points), tint(rng, (0.125, 0.155), (0.75, 0.92), (0.92, 1.0)), 0.35)


def heart(s: Sprite, rng: np.random.Generator) -> None:
    """Two lobes and a point, red to pink."""
    x, y = np.abs(s.u) * np.float32(0.6), (np.float32(0.92) - s.v) * np.float32(0.6)
    lobe = length(x - np.float32(0.25), y - np.float32(0.75)) - np.float32(math.sqrt(2) / 4)
    fold = np.maximum(x + y, 0) / 2
    flank = np.minimum(length(x, y - 1), length(x - fold, y - fold)) * np.sign(x - y)
    d = np.where(x + y > 1, lobe, flank) / np.float32(0.6)
    s.part(d, tint(rng, (0.93, 1.01), (0.65, 0.9), (0.82, 0.96)), 0.45)


def cup(s: Sprite, rng: np.random.Generator) -> None:
    """A mug with a handle, a band and a dark drink."""
    glaze = tint(rng, (0.45, 0.7), (0.45, 0.75), (0.65, 0.88))
    s.part(s.ring(0.52, 0.1, 0.3, 0.085), glaze * np.float32(0.9), 0.08)
    body = np.minimum(s.box(-0.12, 0.1, 0.62, 0.62, 0.05), s.ellipse(-0.12, 0.7, 0.58, 0.2))
    s.part(body, glaze, 0.55, 0.05)
    s.mark(np.maximum(body, np.abs(s.v - 0.22 - 0.12 * (1 - np.square(s.u + 0.12))) - 0.12), _WHITE)
    s.part(s.ellipse(-0.12, -0.52, 0.62, 0.2), glaze * np.float32(1.1), 0.05, 0.3)
    s.mark(s.ellipse(-0.12, -0.52, 0.53, 0.14), np.array([0.3, 0.17, 0.08], np.float32))


def key(s: Sprite, rng: np.random.Generator) -> None:
    """A ring, a shaft and two teeth, of brass or steel."""
    metal = _gold(rng) * np.float32(0.9) if rng.random() < 0.7 else tint(rng, (0.55, 0.6), (0.02, 0.1), (0.7, 0.82))
    shape = np.minimum(s.ring(-0.58, 0.0, 0.28, 0.11), s.line(-0.25, 0.0, 0.9, 0.0, 0.085))
    for x, tall in ((0.82, 0.36), (0.56, 0.28)):
        shape = np.minimum(shape, s.box(x, tall / 2, 0.085, tall / 2 + 0.04))
    s.part(shape, metal, 0.1)


def house(s: Sprite, rng: np.random.Generator) -> None:
    """Pale walls, a steep red roof, a door, two windows and a chimney."""
    roof = tint(rng, (-0.01, 0.04), (0.6, 0.8), (0.55, 0.72))
    s.part(s.box(0.45, -0.62, 0.11, 0.26), roof * np.float32(0.7), 0.05)
    s.part(s.box(0.0, 0.42, 0.68, 0.54), tint(rng, (0.08, 0.16), (0.1, 0.35), (0.88, 0.97)), 0.05)
    s.part(s.polygon([(-0.92, -0.08), (0.0, -0.88), (0.92, -0.08)]), roof, 0.12, 0.2)
    s.mark(s.box(0.0, 0.64, 0.15, 0.32), _wood(rng))
    s.mark(s.circle(0.08, 0.66, 0.03), _gold(rng))
    for x in (-0.42, 0.42):
        s.mark(s.box(x, 0.3, 0.16, 0.17), _WHITE)
        s.mark(np.maximum(s.box(x, 0.3, 0.12, 0.13), np.float32(0.02) - np.abs(s.u - x)), _GLASS * np.float32(0.75))


def car(s: Sprite, rng: np.random.Generator) -> None:
    """A coloured body, windows and two wheels, seen from the side."""
    paint = tint(rng, *_ANY)
    s.part(s.polygon([(-0.55, 0.0), (-0.34, -0.42), (0.28, -0.42), (0.58, 0.0)]), paint * np.float32(0.92), 0.1)
    for pane in (
        [(-0.42, -0.02), (-0.28, -0.33), (-0.05, -0.33), (-0.05, -0.02)],
        [(0.03, -0.02), (0.03, -0.33), (0.23, -0.33), (0.43, -0.02)],
    ):
        s.mark(s.polygon(pane), _GLASS)
    s.part(s.box(0.0, 0.17, 0.96, 0.23, 0.13), paint, 0.18, 0.1)
    s.mark(s.circle(0.86, 0.1, 0.08), np.array([1.0, 0.95, 0.6], np.float32))
    s.mark(s.line(-0.01, 0.05, -0.01, 0.32, 0.014), paint * np.float32(0.55))
    for x in (-0.52, 0.52):
        s.part(s.circle(x, 0.4, 0.24), _BLACK, 0.1, 0.25)
        s.mark(s.circle(x, 0.4, 0.11), np.array([0.75, 0.76, 0.78], np.float32))


def boat(s: Sprite, rng: np.random.Generator) -> None:
    """A wooden hull, a mast and two sails."""
    sail = tint(rng, *_ANY) if rng.random() < 0.4 else _WHITE
    s.part(s.line(0.0, 0.5, 0.0, -0.93, 0.035), _wood(rng), 0.03)
    s.part(s.polygon([(0.07, -0.86), (0.07, 0.34), (0.8, 0.34)]), sail, 0.2, 0.1)
    s.part(s.polygon([(-0.07, -0.7), (-0.07, 0.34), (-0.6, 0.34)]), _WHITE * np.float32(0.93), 0.2, 0.1)
    hull = s.polygon([(-0.95, 0.42), (0.95, 0.42), (0.62, 0.88), (-0.62, 0.88)])
    s.part(hull, _wood(rng), 0.2, 0.1)
    s.mark(np.maximum(hull, s.v - 0.53), _WHITE)


def umbrella(s: Sprite, rng: np.random.Generator) -> None:
    """A scalloped canopy in two colours over a hooked stick."""
    a, b = tint(rng, *_ANY), _WHITE if rng.random() < 0.5 else tint(rng, *_ANY)
    s.part(s.line(0.0, -0.9, 0.0, 0.72, 0.04), _wood(rng), 0.04)
    s.part(np.maximum(s.ring(0.15, 0.74, 0.15, 0.04), np.float32(0.72) - s.v), _wood(rng), 0.04)
    canopy = np.maximum(s.ellipse(0.0, 0.05, 0.96, 0.88), s.v - 0.05)
    for x in (-0.72, -0.24, 0.24, 0.72):
        canopy = np.maximum(canopy, -s.ellipse(x, 0.07, 0.24, 0.13))
    s.part(canopy, a, 0.5)
    bow = np.sqrt(np.maximum(1 - np.square((s.v - 0.05) / np.float32(0.88)), 0.003))
    s.mark(np.maximum(canopy, (np.abs((s.u / bow / 0.96 + 2.25) % 1 - 0.5) - 0.25) * bow), b)


def book(s: Sprite, rng: np.random.Generator) -> None:
    """A closed book: a coloured cover with a framed title, pages along one edge."""
    cover = tint(rng, (0.0, 1.0), (0.5, 0.8), (0.35, 0.6))
    s.part(s.box(0.06, 0.06, 0.66, 0.86, 0.03), _WHITE * np.float32(0.9), 0.04)
    for y in (0.86, 0.9):
        s.mark(s.line(-0.5, y, 0.7, y, 0.008), _WHITE * np.float32(0.6))
    s.part(s.box(-0.02, -0.04, 0.66, 0.86, 0.03), cover, 0.05, 0.1)
    s.mark(s.box(-0.6, -0.04, 0.08, 0.86), cover * np.float32(0.65))
    frame = s.box(0.08, -0.38, 0.42, 0.28)
    s.mark(np.abs(frame) - np.float32(0.025), _gold(rng))
    for y, half in ((-0.48, 0.28), (-0.34, 0.2), (0.45, 0.16)):
        s.mark(s.box(0.08, y, half, 0.035), _gold(rng))


def clock(s: Sprite, rng: np.random.Generator) -> None:
    """A white dial with twelve marks and two hands in a dark rim."""
    s.part(s.circle(0.0, 0.0, 0.94), tint(rng, (0.0, 1.0), (0.2, 0.6), (0.2, 0.45)), 0.12)
    s.part(s.circle(0.0, 0.0, 0.77), _WHITE, 0.03)
    for i in range(12):
        x, y = math.sin(i * math.pi / 6), math.cos(i * math.pi / 6)
        s.mark(s.line(0.6 * x, 0.6 * y, 0.69 * x, 0.69 * y, 0.045 if i % 3 == 0 else 0.025), _BLACK)
    for reach, width in ((0.35, 0.06), (0.55, 0.04)):
        a = rng.uniform(0, 2 * math.pi)
        s.mark(s.line(0.0, 0.0, reach * math.cos(a), reach * math.sin(a), width), _BLACK)
    s.mark(s.circle(0.0, 0.0, 0.07), np.array([0.8, 0.15, 0.1], np.float32))


def candle(s: Sprite, rng: np.random.Generator) -> None:
    """A pale column with a flame, on a brass dish."""
    wax = tint(rng, (0.1, 0.15), (0.05, 0.25), (0.92, 0.99))
    s.part(s.ellipse(0.0, 0.82, 0.66, 0.15), _gold(rng) * np.float32(0.8), 0.1)
    s.part(s.box(0.0, 0.28, 0.25, 0.56, 0.06), wax, 0.24, 0.1)
    s.part(s.line(-0.14, -0.2, -0.14, rng.uniform(0.0, 0.3), 0.06), wax * np.float32(0.95), 0.06, 0.3)
    s.part(s.line(0.0, -0.28, 0.0, -0.42, 0.025), _BLACK, 0.02)
    s.part(s.line(0.0, -0.5, 0.0, -0.92, 0.16, 0.02), tint(rng, (0.06, 0.09), (0.85, 0.95), (1.0, 1.0)), 0.02, 0.1)
    s.mark(s.line(0.0, -0.48, 0.0, -0.68, 0.09, 0.02), np.array([1.0, 0.95, 0.6], np.float32))


def balloon(s: Sprite, rng: np.random.Generator) -> None:
    """A glossy drop of one colour on a string."""
    rubber = tint(rng, *_ANY)
    s.part(s.line(0.0, 0.5, 0.1, 0.75, 0.02), _WHITE * np.float32(0.85), 0.02)
    s.part(s.line(0.1, 0.75, 0.0, 0.98, 0.02), _WHITE * np.float32(0.85), 0.02)
    s.part(s.polygon([(0.0, 0.36), (0.12, 0.55), (-0.12, 0.55)]), rubber * np.float32(0.8), 0.05)
    s.part(np.minimum(s.ellipse(0.0, -0.3, 0.58, 0.66), s.line(0.0, -0.1, 0.0, 0.36, 0.4, 0.06)), rubber, 0.58)
    s.mark(s.ellipse(-0.24, -0.54, 0.1, 0.19, 0.5), rubber * 0.3 + np.float32(0.7))


def kettle(s: Sprite, rng: np.random.Generator) -> None:
    """A wide body with a spout, a lid and an arched dark handle."""
    steel = rng.random() < 0.6
    metal = tint(rng, (0.52, 0.62) if steel else (0.03, 0.08), (0.03, 0.15) if steel else (0.6, 0.7), (0.72, 0.84))
    s.part(np.maximum(s.ring(0.0, -0.2, 0.58, 0.065), s.v + 0.12), _BLACK, 0.06)
    s.part(s.line(0.4, 0.35, 0.92, -0.22, 0.16, 0.07), metal * np.float32(0.9), 0.1)
    body = np.maximum(s.ellipse(0.0, 0.42, 0.72, 0.64), s.v - 0.82)
    s.part(body, metal, 0.6, 0.1)
    s.mark(np.maximum(body, np.abs(s.v - 0.66) - 0.04), metal * np.float32(0.6))
    s.part(s.ellipse(0.0, -0.18, 0.36, 0.11), metal * np.float32(0.8), 0.1, 0.5)
    s.part(s.circle(0.0, -0.32, 0.1), _BLACK, 0.1, 0.5)


def crown(s: Sprite, rng: np.random.Generator) -> None:
    """Gold points with pearls over a band of jewels."""
    gold = _gold(rng)
    points = [(-0.78, 0.7), (-0.95, -0.35), (-0.48, 0.1), (0.0, -0.62), (0.48, 0.1), (0.95, -0.35), (0.78, 0.7)]
    s.part(s.polygon(points), gold, 0.12)
    for x, y in (points[1], points[3], points[5]):
        s.part(s.circle(x * 0.93, y, 0.12), gold * np.float32(1.05), 0.12, 0.1)
    s.part(s.box(0.0, 0.62, 0.8, 0.17, 0.04), gold * np.float32(0.82), 0.1, 0.15)
    for x in (-0.5, 0.0, 0.5):
        s.part(s.ellipse(x, 0.62, 0.12, 0.1), tint(rng, (0.0, 1.0), (0.8, 0.95), (0.65, 0.9)), 0.1, 0.3)
    s.part(s.circle(0.0, 0.14, 0.13), tint(rng, (0.95, 1.02), (0.85, 0.95), (0.7, 0.85)), 0.1, 0.2)


def guitar(s: Sprite, rng: np.random.Generator) -> None:
    """A waisted wooden body with a sound hole, a long neck and a head."""
    wood = tint(rng, (0.05, 0.1), (0.65, 0.85), (0.72, 0.9))
    s.part(s.line(0.0, -0.1, 0.0, -0.72, 0.085), _BLACK * np.float32(2.5), 0.05, 0.15)
    s.part(s.box(0.0, -0.84, 0.13, 0.15, 0.03), wood * np.float32(0.55), 0.05, 0.15)
    body = np.minimum(np.minimum(s.circle(0.0, 0.53, 0.45), s.circle(0.0, 0.02, 0.33)), s.box(0.0, 0.25, 0.28, 0.25))
    s.part(body, wood * np.float32(0.6), 0.1)
    s.mark(body + 0.06, wood)
    s.mark(s.circle(0.0, 0.18, 0.15), _BLACK)
    s.mark(s.box(0.0, 0.62, 0.2, 0.05), _BLACK * np.float32(2.5))
    for x in (-0.04, 0.0, 0.04):
        s.mark(np.maximum(np.abs(s.u - x) - 0.008, np.abs(s.v + 0.1) - 0.72), _WHITE)


def rocket(s: Sprite, rng: np.random.Generator) -> None:
    """A white hull with a red nose and fins, a porthole and a flame."""
    red = tint(rng, (-0.03, 0.02) if rng.random() < 0.7 else (0.55, 0.65), (0.75, 0.9), (0.72, 0.88))
    s.part(s.line(0.0, 0.58, 0.0, 0.92, 0.17, 0.04), tint(rng, (0.05, 0.09), (0.85, 0.95), (1.0, 1.0)), 0.02)
    s.mark(s.line(0.0, 0.55, 0.0, 0.74, 0.09, 0.02), np.array([1.0, 0.95, 0.55], np.float32))
    for side in (-1.0, 1.0):
        s.part(s.polygon([(side * 0.25, 0.1), (side * 0.68, 0.5), (side * 0.62, 0.8), (side * 0.2, 0.52)]), red, 0.1)
    hull = np.maximum(s.ellipse(0.0, -0.05, 0.4, 0.92), s.v - 0.58)
    s.part(hull, _WHITE, 0.38, 0.1)
    s.mark(np.maximum(hull, s.v + 0.48), red)
    s.mark(np.maximum(hull, np.abs(s.v - 0.45) - 0.05), red)
    s.mark(s.circle(0.0, -0.16, 0.19), red * np.float32(0.6))
    s.mark(s.circle(0.0, -0.16, 0.13), _GLASS)


def anchor(s: Sprite, rng: np.random.Generator) -> None:
    """A ring, a shank with a stock, and a curved arm with two flukes, of dark iron."""
    iron = tint(rng, (0.58, 0.66), (0.25, 0.55), (0.26, 0.42))
    shape = np.minimum(s.ring(0.0, -0.74, 0.16, 0.065), s.line(0.0, -0.56, 0.0, 0.8, 0.1))
    shape = np.minimum(shape, s.line(-0.42, -0.36, 0.42, -0.36, 0.085))
    shape = np.minimum(shape, np.maximum(s.ring(0.0, 0.08, 0.72, 0.095), np.float32(0.2) - s.v))
    for side in (-1.0, 1.0):
        shape = np.minimum(shape, s.polygon([(side * 0.95, 0.36), (side * 0.44, 0.28), (side * 0.82, -0.1)]))
    s.part(shape, iron, 0.1)


_DARK = np.array([0.07, 0.06, 0.07], np.float32)
_LEAF = ((0.27, 0.36), (0.6, 0.8), (0.45, 0.65))
_WOOD = ((0.05, 0.08), (0.5, 0.65), (0.38, 0.5))


def apple(s: Sprite, rng: np.random.Generator) -> None:
    """Two lobes, red or green with a paler side, a stem and a leaf."""
    red = rng.random() < 0.7
    skin = (
        tint(rng, (-0.03, 0.02), (0.8, 0.92), (0.7, 0.88)) if red else tint(rng, (0.21, 0.27), (0.65, 0.8), (0.65, 0.8))
    )
    lobes = np.minimum(s.ellipse(-0.27, 0.15, 0.56, 0.72), s.ellipse(0.27, 0.15, 0.56, 0.72))
    s.part(s.line(0.0, -0.4, 0.12, -0.9, 0.055), tint(rng, *_WOOD), 0.05)
    s.part(lobes, skin, 0.8)
    s.mark(s.ellipse(0.3, 0.25, 0.22, 0.4, 0.2), skin * 0.75 + np.array([0.25, 0.2, 0.02], np.float32))
    s.mark(s.ellipse(0.0, -0.44, 0.2, 0.07), skin * 0.5)
    s.part(s.ellipse(0.42, -0.72, 0.33, 0.14, -0.4), tint(rng, *_LEAF), 0.1, 0.5)


def tree(s: Sprite, rng: np.random.Generator) -> None:
    """A round crown of leaves on a brown trunk."""
    leaf = tint(rng, *_LEAF)
    s.part(s.line(0.0, 0.95, 0.0, 0.1, 0.16, 0.1), tint(rng, *_WOOD), 0.12)
    s.part(s.line(0.0, 0.35, 0.3, 0.05, 0.06), tint(rng, *_WOOD), 0.06)
    for x, y, r in ((-0.4, -0.1, 0.42), (0.42, -0.1, 0.4), (-0.2, -0.5, 0.42), (0.25, -0.5, 0.42), (0.0, -0.15, 0.45)):
        s.part(s.circle(x, y, r + rng.uniform(-0.05, 0.05)), leaf * np.float32(rng.uniform(0.8, 1.15)), 0.4, 0.2)
    for _ in range(9):
        x, y = rng.uniform(-0.6, 0.6), rng.uniform(-0.75, 0.15)
        s.mark(np.maximum(s.circle(x, y, 0.09), s.v - 0.25), leaf * np.float32(rng.choice([0.65, 1.3])))


def flower(s: Sprite, rng: np.random.Generator) -> None:
    """Petals around a yellow eye, on a stem with two leaves."""
    petal = tint(rng, (0.78, 1.0), (0.45, 0.75), (0.85, 1.0))
    green, n = tint(rng, *_LEAF), int(rng.integers(6, 9))
    s.part(s.line(0.0, -0.2, 0.0, 0.98, 0.06), green, 0.06)
    s.part(s.ellipse(-0.28, 0.62, 0.3, 0.11, 0.5), green, 0.1)
    s.part(s.ellipse(0.28, 0.5, 0.3, 0.11, -0.5), green, 0.1)
    for i in range(n):
        a = 2 * math.pi * i / n
        d = s.ellipse(0.36 * math.cos(a), -0.32 + 0.36 * math.sin(a), 0.28, 0.17, a)
        s.part(d, petal * np.float32(0.9 + 0.1 * (i % 2)), 0.15, 0.1)
    s.part(s.circle(0.0, -0.32, 0.2), tint(rng, (0.11, 0.15), (0.8, 0.95), (0.9, 1.0)), 0.2, 0.2)


def mushroom(s: Sprite, rng: np.random.Generator) -> None:
    """A red cap with white spots on a pale stem."""
    cap = tint(rng, (-0.03, 0.03), (0.8, 0.95), (0.7, 0.88))
    s.part(s.line(0.0, 0.7, 0.0, 0.0, 0.27, 0.2), tint(rng, (0.1, 0.14), (0.08, 0.2), (0.88, 0.97)), 0.22)
    dome = np.maximum(s.ellipse(0.0, 0.1, 0.92, 0.98), s.v - 0.16)
    s.part(dome, cap, 0.6, 0.1)
    s.mark(np.maximum(dome, 0.06 - s.v), tint(rng, (0.08, 0.12), (0.2, 0.3), (0.8, 0.9)))
    for x, y, r in (
        (-0.5, -0.2, 0.13),
        (0.0, -0.5, 0.17),
        (0.48, -0.25, 0.14),
        (-0.08, -0.08, 0.12),
        (0.72, 0.0, 0.07),
    ):
        s.mark(s.circle(x + rng.uniform(-0.05, 0.05), y, r * rng.uniform(0.85, 1.2)), _WHITE)


def fish(s: Sprite, rng: np.random.Generator) -> None:
    """An oval body with stripes, a forked tail, fins and an eye."""
    body = tint(rng, (0.04, 0.1), (0.8, 0.95), (0.9, 1.0))
    fin, stripe = body * np.float32(0.72), _WHITE
    s.part(s.polygon([(0.35, 0.0), (0.98, -0.48), (0.85, 0.0), (0.98, 0.48)]), fin, 0.1)
    s.part(s.polygon([(-0.35, -0.3), (0.15, -0.68), (0.4, -0.2)]), fin, 0.1)
    s.part(s.polygon([(-0.15, 0.3), (0.15, 0.64), (0.25, 0.25)]), fin, 0.1)
    oval = s.ellipse(-0.22, 0.0, 0.74, 0.44)
    s.part(oval, body, 0.4, 0.05)
    for x in (-0.35, 0.15):
        s.mark(np.maximum(oval, np.abs(s.u - x + 0.25 * s.v * s.v) - 0.1), stripe)
    s.mark(s.circle(-0.66, -0.08, 0.12), _WHITE)
    s.mark(s.circle(-0.68, -0.08, 0.065), _DARK)
    s.mark(s.line(-0.92, 0.12, -0.72, 0.16, 0.02), fin * np.float32(0.5))


def carrot(s: Sprite, rng: np.random.Generator) -> None:
    """A tapered orange root with fine rings and a green tuft."""
    root, green = tint(rng, (0.05, 0.08), (0.82, 0.95), (0.9, 1.0)), tint(rng, *_LEAF)
    for x in (-0.36, -0.18, 0.0, 0.18, 0.36):
        s.part(s.line(0.0, -0.4, x, -0.9 + 0.3 * abs(x), 0.05, 0.09), green * np.float32(1 - 0.5 * abs(x)), 0.08)
    s.part(s.line(0.0, -0.25, 0.0, 0.93, 0.33, 0.04), root, 0.33, 0.1)
    for y in (-0.3, -0.08, 0.12, 0.34, 0.55):
        side = float(rng.choice([-1.0, 1.0]))
        width = 0.28 - 0.24 * (y + 0.25)
        s.mark(s.line(side * width, y, side * width * 0.2, y + 0.03, 0.022), root * np.float32(0.62))


def snowman(s: Sprite, rng: np.random.Generator) -> None:
    """Three balls of snow, a hat, a carrot nose, buttons and a scarf."""
    snow = tint(rng, (0.55, 0.62), (0.0, 0.05), (0.95, 1.0))
    for y, r in ((0.58, 0.42), (0.02, 0.33), (-0.42, 0.25)):
        s.part(s.circle(0.0, y, r), snow, r)
    s.part(s.line(-0.24, -0.22, 0.24, -0.22, 0.075), tint(rng, (0.0, 1.0), (0.7, 0.9), (0.6, 0.85)), 0.07, 0.3)
    s.part(s.box(0.0, -0.82, 0.2, 0.17, 0.03), _DARK, 0.15, 0.2)
    s.part(s.box(0.0, -0.63, 0.34, 0.05, 0.03), _DARK, 0.05, 0.3)
    for x in (-0.09, 0.09):
        s.mark(s.circle(x, -0.48, 0.04), _DARK)
    s.part(s.line(0.0, -0.39, 0.26, -0.34, 0.055, 0.01), tint(rng, (0.05, 0.07), (0.85, 0.95), (0.9, 1.0)), 0.05, 0.3)
    for y in (-0.04, 0.14, 0.42, 0.6):
        s.mark(s.circle(0.0, y, 0.05), _DARK)


def cactus(s: Sprite, rng: np.random.Generator) -> None:
    """A ribbed green column with two raised arms, in a clay pot."""
    green = tint(rng, (0.32, 0.42), (0.5, 0.7), (0.45, 0.62))
    left, right = rng.uniform(-0.15, 0.1), rng.uniform(-0.3, -0.05)
    body = s.line(0.0, 0.5, 0.0, -0.72, 0.24)
    for x, y in ((-0.56, left), (0.56, right)):
        body = np.minimum(
            body, np.minimum(s.line(0.0, y + 0.22, x, y + 0.22, 0.13), s.line(x, y + 0.22, x, y - 0.2, 0.13))
        )
    s.part(body, green, 0.2)
    for x in (-0.12, 0.0, 0.12):
        s.mark(np.maximum(body + 0.05, np.abs(s.u - x) - 0.02), green * np.float32(0.6))
    for _ in range(14):
        x, y = rng.uniform(-0.2, 0.2), rng.uniform(-0.85, 0.35)
        s.mark(np.maximum(body, s.circle(x, y, 0.03)), _WHITE)
    clay = tint(rng, (0.03, 0.06), (0.55, 0.7), (0.68, 0.82))
    s.part(s.polygon([(-0.42, 0.45), (0.42, 0.45), (0.3, 0.97), (-0.3, 0.97)]), clay, 0.2, 0.2)
    s.part(s.box(0.0, 0.47, 0.48, 0.1, 0.03), clay * np.float32(0.88), 0.1, 0.4)


def butterfly(s: Sprite, rng: np.random.Generator) -> None:
    """Two pairs of wings with dark rims and pale spots."""
    wing = tint(rng, (0.6, 0.86), (0.55, 0.85), (0.75, 1.0))
    for side in (-1.0, 1.0):
        upper = s.ellipse(side * 0.5, -0.3, 0.52, 0.4, side * -0.55)
        lower = s.ellipse(side * 0.4, 0.42, 0.4, 0.32, side * 0.7)
        for d in (lower, upper):
            s.part(d, _DARK, 0.08)
            s.mark(d + 0.09, wing)
        for x, y, r in ((0.68, -0.42, 0.13), (0.38, -0.2, 0.1), (0.45, 0.45, 0.12)):
            s.mark(s.circle(side * x, y, r), wing * 0.35 + np.float32(0.62))
        s.part(s.line(side * 0.03, -0.45, side * 0.22, -0.9, 0.03), _DARK, 0.03)
    s.part(s.line(0.0, -0.42, 0.0, 0.6, 0.1, 0.06), _DARK * 2, 0.1, 0.2)


def ladybird(s: Sprite, rng: np.random.Generator) -> None:
    """A red dome with black spots, a black head and six legs."""
    shell = tint(rng, (-0.02, 0.03), (0.85, 0.97), (0.78, 0.92))
    for y in (-0.25, 0.15, 0.5):
        s.part(s.line(-0.92, y + 0.1, 0.92, y + 0.1, 0.05), _DARK, 0.05)
    for side in (-1.0, 1.0):
        s.part(s.line(side * 0.1, -0.7, side * 0.35, -0.97, 0.035), _DARK, 0.03)
    s.part(s.ellipse(0.0, -0.6, 0.42, 0.34), _DARK, 0.3)
    dome = s.ellipse(0.0, 0.14, 0.78, 0.8)
    s.part(dome, shell, 0.75)
    s.mark(np.maximum(dome, np.abs(s.u) - 0.035), _DARK)
    for x, y, r in ((0.4, -0.2, 0.16), (0.46, 0.32, 0.16), (0.2, 0.65, 0.12)):
        for side in (-1.0, 1.0):
            s.mark(np.maximum(dome, s.circle(side * x, y, r * rng.uniform(0.9, 1.15))), _DARK)
    for side in (-1.0, 1.0):
        s.mark(s.circle(side * 0.2, -0.74, 0.09), _WHITE)


def donut(s: Sprite, rng: np.random.Generator) -> None:
    """A ring of dough with icing and sprinkles."""
    dough = tint(rng, (0.07, 0.1), (0.45, 0.6), (0.75, 0.88))
    icing = tint(rng, (0.86, 0.98) if rng.random() < 0.7 else (0.03, 0.06), (0.35, 0.65), (0.6, 0.98))
    s.part(s.ring(0.0, 0.0, 0.62, 0.32), dough, 0.32)
    wave = np.float32(0.03) * np.sin(9 * np.arctan2(s.v, s.u) + np.float32(rng.uniform(0, 6)))
    s.mark(s.ring(0.0, 0.0, 0.62, 0.24) + wave, icing)
    for _ in range(22):
        a, r, b = rng.uniform(0, 2 * math.pi), rng.uniform(0.46, 0.78), rng.uniform(0, math.pi)
        x, y, dx, dy = r * math.cos(a), r * math.sin(a), 0.055 * math.cos(b), 0.055 * math.sin(b)
        s.mark(s.line(x - dx, y - dy, x + dx, y + dy, 0.028), tint(rng, (0.0, 1.0), (0.5, 0.9), (0.85, 1.0)))


def pineapple(s: Sprite, rng: np.random.Generator) -> None:
    """A yellow fruit with a lattice of eyes under a crown of pointed leaves."""
    green, fruit = tint(rng, *_LEAF), tint(rng, (0.1, 0.13), (0.75, 0.9), (0.85, 0.98))
    for x, y in ((-0.5, -0.72), (0.5, -0.72), (-0.26, -0.92), (0.26, -0.92), (0.0, -0.98)):
        s.part(s.line(0.0, -0.22, x, y, 0.15, 0.02), green * np.float32(1.1 - 0.6 * abs(x)), 0.1)
    body = s.ellipse(0.0, 0.37, 0.5, 0.61)
    s.part(body, fruit, 0.48, 0.1)
    lattice = np.minimum(*(np.abs((s.u * 2.6 + k * s.v * 2.6) % 1 - 0.5) for k in (-1.0, 1.0)))
    s.mark(np.maximum(body, lattice - np.float32(0.09)), tint(rng, (0.05, 0.07), (0.75, 0.85), (0.5, 0.62)))


_ALL: tuple[Painter, ...] = (
    apple, ball, balloon, boat, book, candle, car, carrot, clock, cup, fish, flower, heart, house, key, mushroom,
    snowman, star, tree, umbrella, anchor, butterfly, cactus, crown, donut, guitar, kettle, ladybird, pineapple,
    rocket,
)  # fmt: skip
PAINTERS = {painter.__name__: painter for painter in _ALL}
"""How each thing is painted, by its name."""
