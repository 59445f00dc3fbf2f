"""The surfaces of rendered scenes: how each kind of stuff looks, as a function of position.

A surface is called with coordinates in its own unit (one brick, one plank, one tile...) and returns colours. It is
a function of position alone, so that it can be drawn at any size, rotated, and seen in perspective.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnseg.datasets._sprites import Colour, Field, length, tint

__all__ = ["SURFACES", "Surface"]

Surface: TypeAlias = Callable[[Field, Field, np.random.Generator], Colour]
"""(u, v, rng) -> float32 (H, W, 3) from two float32 (H, W)."""

_TABLE = 512


@cache
def _table() -> Field:
    """Fractal value noise that tiles, float32 (512, 512) between 0 and 1. Built once, at the first scene."""
    rng = np.random.default_rng(0)
    total = np.zeros((_TABLE, _TABLE), np.float32)
    for octave in range(4, 9):
        cells = 2**octave
        spectrum = np.fft.rfft2(rng.standard_normal((cells, cells)))
        wide = np.zeros((_TABLE, _TABLE // 2 + 1), complex)
        half = cells // 2
        wide[:half, :half], wide[-half:, :half] = spectrum[:half, :half], spectrum[-half:, :half]
        layer = np.fft.irfft2(wide)
        total += (layer / layer.std() * 0.62 ** (octave - 4)).astype(np.float32)
    ranks = np.empty(total.size, np.float32)
    ranks[np.argsort(total, axis=None)] = np.linspace(0, 1, total.size, dtype=np.float32)
    return ranks.reshape(total.shape)


def _noise(u: Field, v: Field, rng: np.random.Generator, scale: float = 1.0) -> Field:
    """Uniform noise, float32 (H, W) between 0 and 1, whose coarsest grain is one unit over ``scale``."""
    step = np.float32(_TABLE / 16 * scale)
    a, b = rng.integers(0, _TABLE, 2)
    y, x = v * step + a, u * step + b
    row, column = np.floor(y).astype(np.int32), np.floor(x).astype(np.int32)
    if scale >= 1:
        return np.asarray(_table()[row & _TABLE - 1, column & _TABLE - 1])
    # Coarse noise is magnified: without interpolation one would see the squares of the table.
    upper, lower = (_blend(row + i, column, x - column) for i in (0, 1))
    return np.asarray(upper + (lower - upper) * (y - row), np.float32)


def _blend(row: NDArray[np.int32], column: NDArray[np.int32], t: Field) -> Field:
    """Noise between ``column`` and the next one."""
    left, right = (_table()[row & _TABLE - 1, (column + i) & _TABLE - 1] for i in (0, 1))
    return np.asarray(left + (right - left) * t)


def _hash(i: Field, j: Field, salt: int = 0) -> Field:
    """A number between 0 and 1 for each cell (i, j) of a lattice."""
    n = (i.astype(np.int32) * 73856093 ^ j.astype(np.int32) * 19349663 ^ (salt * 83492791 & 0x7FFFFFFF)) & 0x7FFFFFFF
    n = (n ^ n >> 13) * 1274126177 & 0x7FFFFFFF
    return np.asarray(((n ^ n >> 16) & 0xFFFF).astype(np.float32) / np.float32(0xFFFF))


def _mix(a: Colour, b: Colour, t: Field) -> Colour:
    """``a`` where t is 0, ``b`` where it is 1."""
    return a + (b - a) * np.clip(t, 0, 1)[..., None]


def _shade(colour: Colour, t: Field) -> Colour:
    """Scale brightness by t, float32 (H, W)."""
    return colour * t[..., None]


def _ramp(d: Field, width: float) -> Field:
    """0 where d is below 0, 1 from ``width`` on."""
    return np.asarray(np.clip(d / np.float32(width), 0, 1))


def _cells(u: Field, v: Field, salt: int) -> tuple[Field, Field, Field]:
    """Jittered Voronoi cells: distance to the nearest centre, to the border (about), and a number for each cell."""
    i, j = np.floor(u), np.floor(v)
    first = np.full(u.shape, 9.0, np.float32)
    second, number = first.copy(), first.copy()
    for di in (-1.0, 0.0, 1.0):
        for dj in (-1.0, 0.0, 1.0):
            ci, cj = i + np.float32(di), j + np.float32(dj)
            tag = _hash(ci, cj, salt)
            d = length(ci + 0.15 + 0.7 * tag - u, cj + 0.15 + 0.7 * ((tag * 97) % 1) - v).astype(np.float32)
            nearer = d < first
            second = np.where(nearer, first, np.minimum(second, d))
            number = np.where(nearer, tag, number)
            first = np.minimum(first, d)
    return first, second - first, number


def _salt(rng: np.random.Generator) -> int:
    return int(rng.integers(1, 1 << 20))


def _brick_wall(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    row = np.floor(v * 2)
    x = u + 0.5 * (row % 2)
    edge = np.minimum(0.5 - np.abs(x % 1 - 0.5), (0.5 - np.abs((v * 2) % 1 - 0.5)) / 2)
    brick = tint(rng, (-0.01, 0.045), (0.55, 0.75), (0.55, 0.78))
    shade = 0.78 + 0.34 * _hash(np.floor(x), row, _salt(rng)) + 0.18 * (_noise(u, v, rng, 3) - 0.5)
    mortar = tint(rng, (0.07, 0.12), (0.03, 0.15), (0.68, 0.85))
    return _mix(mortar, _shade(brick, shade), _ramp(edge - 0.035, 0.03))


def _grass(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    blades = _noise(u * 3.2, v * 0.8, rng, 1.6)
    tuft = _noise(u, v, rng, 0.5)
    dark = tint(rng, (0.28, 0.34), (0.7, 0.85), (0.22, 0.34))
    light = tint(rng, (0.22, 0.29), (0.6, 0.8), (0.62, 0.8))
    return _mix(dark, light, 0.65 * blades + 0.35 * tuft)


def _sand(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    grain = _noise(u, v, rng, 8)
    ripple = np.sin(9 * v + 5 * _noise(u, v, rng, 0.25) + 1.5 * u)
    base = tint(rng, (0.1, 0.13), (0.28, 0.45), (0.82, 0.95))
    return _shade(base, 0.84 + 0.1 * ripple + 0.2 * (grain - 0.5))


def _water(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    warp = 2.6 * _noise(u * 0.5, v, rng, 0.3)
    crest = np.sin(11 * v + 3 * np.sin(1.7 * u + warp) + warp)
    deep = tint(rng, (0.53, 0.6), (0.7, 0.9), (0.42, 0.62))
    light = tint(rng, (0.49, 0.55), (0.3, 0.5), (0.85, 0.98))
    return _mix(deep, light, 0.25 + 0.25 * crest + 0.6 * _ramp(crest - 0.75, 0.25))


def _wooden_floor(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    row, salt = np.floor(v * 2), _salt(rng)
    x = u * 0.5 + _hash(row, row * 0, salt)
    edge = np.minimum((0.5 - np.abs((v * 2) % 1 - 0.5)) / 2, (0.5 - np.abs(x % 1 - 0.5)) * 2)
    grain = _noise(u * 0.25 + row * np.float32(1.7), v * 3, rng, 1.5)
    wood = tint(rng, (0.065, 0.095), (0.5, 0.7), (0.62, 0.82))
    shade = 0.72 + 0.24 * _hash(np.floor(x), row, salt) + 0.22 * grain
    return _shade(wood, shade * (0.45 + 0.55 * _ramp(edge - 0.008, 0.025)))


def _checkered_floor(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    odd = (np.floor(u) + np.floor(v)) % 2
    dark = tint(rng, (0.0, 1.0), (0.0, 0.35), (0.08, 0.2))
    light = tint(rng, (0.0, 1.0), (0.0, 0.1), (0.85, 0.97))
    return _shade(_mix(dark, light, odd), 0.9 + 0.14 * _noise(u, v, rng, 0.7))


def _cloudy_sky(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    puff = 0.7 * _noise(u * 0.6, v, rng, 0.22) + 0.3 * _noise(u, v, rng, 0.7)
    sky = tint(rng, (0.55, 0.6), (0.45, 0.65), (0.8, 0.95))
    cloud = np.float32(0.99) - 0.12 * _noise(u, v, rng, 0.4)[..., None] * np.array([1, 0.9, 0.7], np.float32)
    return _mix(sky, np.asarray(cloud, np.float32), _ramp(puff - 0.45, 0.3))


def _gravel(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    first, border, number = _cells(u * 2.6, v * 2.6, _salt(rng))
    stone = tint(rng, (0.05, 0.12), (0.02, 0.14), (0.62, 0.82))
    return _shade(stone, (0.55 + 0.6 * number - 0.25 * first) * (0.3 + 0.7 * _ramp(border, 0.25)))


def _hedge(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    first, border, number = _cells(u * 1.9, v * 1.9, _salt(rng))
    leaf = tint(rng, (0.33, 0.4), (0.55, 0.75), (0.42, 0.58))
    vein = _ramp(np.abs((number * 37 % 1 - 0.5) * u + v * 0.5 - np.round(v * 0.5)) * 8, 1.0)
    return _shade(
        leaf, (0.5 + 0.8 * number) * (1.1 - 0.9 * first) * (0.25 + 0.75 * _ramp(border, 0.2)) * (0.9 + 0.1 * vein)
    )


def _striped_wallpaper(u: Field, _v: Field, rng: np.random.Generator) -> Colour:
    wave = np.abs(u % 1 - 0.5)
    a = tint(rng, (0.0, 1.0), (0.1, 0.25), (0.88, 0.97))
    b = tint(rng, (0.0, 1.0), (0.4, 0.65), (0.55, 0.8))
    thin = _ramp(wave - 0.44, 0.02)
    return _mix(_mix(a, b, _ramp(0.25 - wave, 0.04)), b, thin) * np.float32(0.97)


def _plaid_cloth(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    base = tint(rng, (-0.03, 0.02) if rng.random() < 0.6 else (0.36, 0.64), (0.6, 0.85), (0.5, 0.72))
    band = tint(rng, (0.45, 0.7), (0.5, 0.8), (0.15, 0.3))
    bars = _ramp(0.2 - np.abs(u % 1 - 0.5), 0.03) + _ramp(0.2 - np.abs(v % 1 - 0.5), 0.03)
    cloth = _mix(base, band, 0.5 * bars)
    thread = np.maximum(_ramp(0.025 - np.abs(u % 1 - 0.06), 0.02), _ramp(0.025 - np.abs(v % 1 - 0.06), 0.02))
    return _mix(cloth, np.array([0.95, 0.9, 0.6], np.float32), 0.8 * thread)


def _starry_sky(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    night = tint(rng, (0.61, 0.72), (0.65, 0.85), (0.14, 0.26))
    sky = _shade(night, 0.7 + 0.8 * _noise(u, v, rng, 0.2))
    first, _, number = _cells(u * 1.7, v * 1.7, _salt(rng))
    return _mix(sky, np.array([1.0, 0.97, 0.85], np.float32), _ramp(0.06 + 0.1 * number - first, 0.06))


def _metal_plate(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    x, y = u * 1.4 + v * 1.4, v * 1.4 - u * 1.4
    odd = (np.floor(x) + np.floor(y)) % 2
    p, q = x % 1 - 0.5, y % 1 - 0.5
    p, q = np.where(odd > 0, p, q), np.where(odd > 0, q, p)
    bump = 0.42 - length(p, q * 2.4)
    metal = tint(rng, (0.55, 0.65), (0.02, 0.1), (0.55, 0.7))
    light = _ramp(bump, 0.08) * (0.22 - 1.3 * (x % 1 - 0.5) - 1.3 * (y % 1 - 0.5))
    return _shade(metal, 0.88 + light + 0.1 * (_noise(u * 0.15, v * 2, rng, 2) - 0.5))


def _snow(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    white = tint(rng, (0.55, 0.62), (0.0, 0.04), (0.96, 1.0))
    shadow = tint(rng, (0.57, 0.62), (0.18, 0.28), (0.78, 0.88))
    drift = 0.5 + 0.5 * np.sin(2.2 * v + 0.9 * u + 6 * _noise(u, v, rng, 0.2))
    fluff = 0.5 * (_noise(u, v, rng, 2.5) - 0.5)
    sparkle = _ramp(_noise(u, v, rng, 9) - 0.96, 0.02)
    return _mix(_mix(white, shadow, 0.75 * drift * drift + fluff), np.ones(3, np.float32), sparkle)


def _honeycomb(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    q = np.stack([u, v], -1) * np.float32(1.5)
    size = np.array([1.0, 1.7320508], np.float32)
    a, b = q % size - size / 2, (q - size / 2) % size - size / 2
    near = np.where((np.square(a).sum(-1) < np.square(b).sum(-1))[..., None], a, b)
    p = np.abs(near)
    d = 0.5 - np.maximum(p[..., 0], p[..., 0] * 0.5 + p[..., 1] * 0.8660254)
    wax = tint(rng, (0.11, 0.14), (0.6, 0.75), (0.9, 1.0))
    honey = tint(rng, (0.075, 0.1), (0.85, 0.98), (0.62, 0.82))
    return _mix(wax, _shade(honey, 0.7 + 0.9 * d + 0.5 * near[..., 1]), _ramp(d - 0.06, 0.04))


def _lava(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    x, y = u + 0.5 * _noise(u, v, rng, 0.6), v + 0.5 * _noise(u, v, rng, 0.6)
    _, border, number = _cells(x * 1.3, y * 1.3, _salt(rng))
    rock = _shade(tint(rng, (0.0, 0.05), (0.1, 0.3), (0.16, 0.26)), 0.6 + 0.8 * number * _noise(u, v, rng, 3))
    glow = _mix(
        tint(rng, (0.0, 0.02), (0.9, 1.0), (0.8, 0.9)), tint(rng, (0.1, 0.14), (0.6, 0.8), (1.0, 1.0)), 1 - border * 8
    )
    return _mix(glow, rock, _ramp(border - 0.1, 0.1))


def _roof_tiles(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    u, v = u * np.float32(1.5), v * np.float32(1.5)
    row = np.floor(v * 2)
    clay = tint(rng, (0.02, 0.06), (0.6, 0.75), (0.68, 0.85))
    salt, shade = _salt(rng), np.zeros(u.shape, np.float32)
    for back in (0, 1):  # each row of round tiles lies over the row below it
        level = row - back
        x = u + 0.5 * (level % 2)
        depth = v * 2 - level
        round_end = np.float32(1.9) - depth - 4 * np.square(x % 1 - 0.5)
        tile = (
            (0.75 + 0.35 * _hash(np.floor(x), level, salt))
            * (0.45 + 0.35 * depth)
            * (0.55 + 0.45 * _ramp(round_end, 0.12))
        )
        shade = np.where((round_end > 0) | (back == 0), np.where(back == 0, tile * 0.6, tile), shade)
    return _shade(clay, shade * 1.15)


def _polka_dot_cloth(u: Field, v: Field, rng: np.random.Generator) -> Colour:
    cloth = tint(rng, (0.75, 1.0) if rng.random() < 0.7 else (0.4, 0.6), (0.5, 0.75), (0.65, 0.9))
    x, y = u + v, v - u
    d = length(x % 1 - 0.5, y % 1 - 0.5)
    weave = 0.95 + 0.1 * _noise(u, v, rng, 5)
    return _shade(_mix(cloth, np.array([0.98, 0.97, 0.94], np.float32), _ramp(0.3 - d, 0.04)), weave)


SURFACES: dict[str, Surface] = {
    "brick wall": _brick_wall,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "wooden floor": _wooden_floor,
    "checkered floor": _checkered_floor,
    "cloudy sky": _cloudy_sky,
    "gravel": _gravel,
    "hedge": _hedge,
    "striped wallpaper": _striped_wallpaper,
    "plaid cloth": _plaid_cloth,
    "starry sky": _starry_sky,
    "metal plate": _metal_plate,
    "snow": _snow,
    "honeycomb": _honeycomb,
    "lava": _lava,
    "roof tiles": _roof_tiles,
    "polka dot cloth": _polka_dot_cloth,
}
