"""Label Studio's brush masks: a stream of bits, both ways.

The stream: 32 bits for the number of values, 5 for the bits of a value less 1, four times 4 for the bits of a length
less 1; then blocks of 1 bit for "one value again and again", 2 bits for which of the four lengths, a length less 1, and
one value or that many. It is the format of the package ``rle-pack`` of thi.ng/umbrella.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_brush", "encode_brush"]

_LENGTHS = np.array([3, 4, 8, 16])
"""Bits of the four lengths that we write, which are those that Label Studio writes."""


def encode_brush(mask: NDArray[np.bool_]) -> bytes:
    """What Label Studio packs for a bool (H, W): RGBA values, all four 255 inside."""
    flat = np.ascontiguousarray(mask).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    runs = np.diff(starts, append=flat.size) * 4
    most = 1 << int(_LENGTHS[-1])
    blocks = -(-runs // most)  # of a run that is too long for one
    lengths = np.full(int(blocks.sum()), most)
    lengths[np.cumsum(blocks) - 1] = runs - (blocks - 1) * most
    which = np.searchsorted(1 << _LENGTHS, lengths)
    widths = _LENGTHS[which]
    values = np.repeat(flat[starts].astype(np.int64) * 255, blocks)
    codes = (((4 | which) << widths | lengths - 1) << 8) | values
    header = [(4 * flat.size, 32), (7, 5), *((int(width) - 1, 4) for width in _LENGTHS)]
    return _packed(
        np.concatenate([[number for number, _ in header], codes]),
        np.concatenate([[bits for _, bits in header], widths + 11]),
    )


def _packed(numbers: NDArray[np.int64], widths: NDArray[np.int64]) -> bytes:
    """Numbers of ``width`` bits each, the highest bit first."""
    left = np.repeat(np.cumsum(widths), widths) - np.arange(widths.sum()) - 1  # bits of its number after each bit
    return np.packbits((np.repeat(numbers, widths) >> left & 1).astype(np.uint8)).tobytes()


def decode_brush(data: bytes) -> NDArray[np.uint8]:
    """The RGBA values that Label Studio packs for a brush mask.

    Raises:
        ValueError: the stream ends early.
    """
    bits = _Bits(data)
    count, width = bits.take(32), bits.take(5) + 1
    lengths = [bits.take(4) + 1 for _ in range(4)]
    if width != 8 or count > 1 << 31:
        raise ValueError(f"expected values of 8 bits, got {width}")
    values, at = np.zeros(count, np.uint8), 0
    while at < count:
        again = bits.take(1)
        run = min(bits.take(lengths[bits.take(2)]) + 1, count - at)
        values[at : at + run] = bits.take(8) if again else bits.bytes(run)
        at += run
    return values


class _Bits:
    """Numbers from a stream of bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
        self._at = 0

    def take(self, count: int) -> int:
        """The next number of ``count`` bits."""
        number = 0
        for bit in self._next(count).tolist():
            number = number << 1 | bit
        return number

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """The next ``count`` numbers of 8 bits."""
        return np.packbits(self._next(8 * count))

    def _next(self, count: int) -> NDArray[np.uint8]:
        self._at += count
        if self._at > len(self._bits):
            raise ValueError("it ends early")
        return self._bits[self._at - count : self._at]
