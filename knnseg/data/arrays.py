"""Arrays as callers give them: taken as they are, or refused by name."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnseg.errors import KnnSegError, ShapeError

__all__ = ["IGNORE", "ImageArray", "expect", "narrow", "plain", "whole_numbers"]

ImageArray: TypeAlias = NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, sRGB-encoded."""
IGNORE = -1
"""The value of a pixel without a class in every semantic map of this package."""


def plain(value: object, name: str, error: type[KnnSegError] = ShapeError) -> NDArray[Any]:
    """A value as the array of NumPy that it is, or that it is a view of.

    Raises:
        error: a masked array that leaves entries out, which would come back; or what is not an array, such as a tensor
            that wants a gradient or is on a GPU.
    """
    if np.ma.is_masked(value):
        raise error(
            name,
            expected="a plain array",
            got="a masked one that says nothing of some entries",
            hint="Say what they are: .filled(value)",
        )
    try:
        array = np.asarray(value)
    except Exception as wrong:  # whatever the object's own conversion says
        raise error(
            name,
            expected="an array",
            got=f"{type(value).__name__}: {wrong}",
            hint="Of a tensor pass .detach().cpu().numpy()",
        ) from wrong
    if array.dtype.kind == "O":
        raise error(name, expected="an array of numbers", got=f"{type(value).__name__} of objects")
    return array


def whole_numbers(value: object, name: str, error: type[KnnSegError] = ShapeError) -> NDArray[np.integer]:
    """A map of whole numbers, (H, W), as the array that it is; booleans are 0 and 1.

    Raises:
        error: as for :func:`plain`, or numbers of another kind or another number of dimensions.
    """
    array = plain(value, name, error)
    if array.ndim != 2 or array.dtype.kind not in "biu":
        raise error(name, expected="an integer array (H, W)", got=f"{array.dtype.name} {array.shape}")
    return array


def narrow(value: object, name: str, error: type[KnnSegError] = ShapeError) -> NDArray[np.int32]:
    """A map of whole numbers, (H, W), as int32; the same array where it is that already.

    Raises:
        error: as for :func:`whole_numbers`, or numbers that int32 has no room for.
    """
    numbers = whole_numbers(value, name, error)
    found = numbers.astype(np.int32, copy=False)
    if not np.array_equal(found, numbers):
        raise error(name, expected="numbers that fit int32", got=f"{numbers.min()} to {numbers.max()}")
    return found


def expect(array: NDArray[np.generic], name: str, kind: type[np.generic], ndim: int) -> None:
    """Check an array against the dtype and number of dimensions that it must have.

    Raises:
        ShapeError: it has others, or is masked or no array.
    """
    plain(array, name)
    if not isinstance(array, np.ndarray):
        raise ShapeError(name, expected="an array", got=type(array).__name__)
    if array.dtype != kind or array.ndim != ndim:
        raise ShapeError(
            name,
            expected=f"a {ndim}-dimensional {np.dtype(kind).name} array",
            got=f"{array.ndim} dimensions of {array.dtype.name}",
        )
