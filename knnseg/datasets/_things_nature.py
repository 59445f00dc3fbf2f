"""Living things and food, each painted on a :class:`Sprite` within [-1, 1]."""

from __future__ import annotations

import math

import numpy as np

from knnseg.datasets._sprites import Sprite, tint

__all__ = [
    "apple",
    "butterfly",
    "cactus",
    "carrot",
    "donut",
    "fish",
    "flower",
    "ladybird",
    "mushroom",
    "pineapple",
    "snowman",
    "tree",
]

_BLACK = np.array([0.07, 0.06, 0.07], np.float32)
_WHITE = np.array([0.97, 0.96, 0.93], np.float32)
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
    s.mark(s.circle(-0.68, -0.08, 0.065), _BLACK)
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
    s.part(s.box(0.0, -0.82, 0.2, 0.17, 0.03), _BLACK, 0.15, 0.2)
    s.part(s.box(0.0, -0.63, 0.34, 0.05, 0.03), _BLACK, 0.05, 0.3)
    for x in (-0.09, 0.09):
        s.mark(s.circle(x, -0.48, 0.04), _BLACK)
    s.part(s.line(0.0, -0.39, 0.26, -0.34, 0.055, 0.01), tint(rng, (0.05, 0.07), (0.85, 0.95), (0.9, 1.0)), 0.05, 0.3)
    for y in (-0.04, 0.14, 0.42, 0.6):
        s.mark(s.circle(0.0, y, 0.05), _BLACK)


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
            s.part(d, _BLACK, 0.08)
            s.mark(d + 0.09, wing)
        for x, y, r in ((0.68, -0.42, 0.13), (0.38, -0.2, 0.1), (0.45, 0.45, 0.12)):
            s.mark(s.circle(side * x, y, r), wing * 0.35 + np.float32(0.62))
        s.part(s.line(side * 0.03, -0.45, side * 0.22, -0.9, 0.03), _BLACK, 0.03)
    s.part(s.line(0.0, -0.42, 0.0, 0.6, 0.1, 0.06), _BLACK * 2, 0.1, 0.2)


def ladybird(s: Sprite, rng: np.random.Generator) -> None:
    """A red dome with black spots, a black head and six legs."""
    shell = tint(rng, (-0.02, 0.03), (0.85, 0.97), (0.78, 0.92))
    for y in (-0.25, 0.15, 0.5):
        s.part(s.line(-0.92, y + 0.1, 0.92, y + 0.1, 0.05), _BLACK, 0.05)
    for side in (-1.0, 1.0):
        s.part(s.line(side * 0.1, -0.7, side * 0.35, -0.97, 0.035), _BLACK, 0.03)
    s.part(s.ellipse(0.0, -0.6, 0.42, 0.34), _BLACK, 0.3)
    dome = s.ellipse(0.0, 0.14, 0.78, 0.8)
    s.part(dome, shell, 0.75)
    s.mark(np.maximum(dome, np.abs(s.u) - 0.035), _BLACK)
    for x, y, r in ((0.4, -0.2, 0.16), (0.46, 0.32, 0.16), (0.2, 0.65, 0.12)):
        for side in (-1.0, 1.0):
            s.mark(np.maximum(dome, s.circle(side * x, y, r * rng.uniform(0.9, 1.15))), _BLACK)
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
