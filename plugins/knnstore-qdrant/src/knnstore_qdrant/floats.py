"""Floats as integers that keep their order and every bit.

Qdrant keeps a payload as JSON and reads numbers back with a parser that may miss the last bit of a double (measured
with qdrant-edge-py 0.9.0: one number in eight). So a float field is stored twice: under its own name, for people and
for other programs, and under ``_name`` as an integer, which is exact in JSON. The integer is what we index, filter and
read back. It is the bit pattern, with the patterns of negative numbers turned round: an integer is smaller exactly
where its float is. The two zeros become one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from knnstore.filters import FieldType

__all__ = ["code", "codes", "floats", "key"]

_MAGNITUDE = 0x7FFF_FFFF_FFFF_FFFF


def key(name: str, kind: FieldType) -> str:
    """The name under which the payload holds the exact value of a field."""
    return f"_{name}" if kind is float else name


def codes(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The integers of some floats."""
    bits = (values + 0.0).view(np.int64)  # -0.0 + 0.0 is 0.0
    return np.where(bits < 0, bits ^ _MAGNITUDE, bits)


def code(value: float) -> int:
    """The integer of a float."""
    return int(codes(np.array([value]))[0])


def floats(values: Sequence[int]) -> NDArray[np.float64]:
    """The inverse of :func:`codes`."""
    bits = np.array(values, np.int64)
    return np.where(bits < 0, bits ^ _MAGNITUDE, bits).view(np.float64)
