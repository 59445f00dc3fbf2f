"""The errors of knnseg.

    KnnSegError
    ├── ConfigError(ValueError)           a configuration value or a misspelt key
    ├── ImageError(ValueError)            a file or an array that cannot be used as an image
    ├── MaskError(ValueError)             masks that do not fit their image, or are empty
    ├── ShapeError(ValueError)            any other array of the wrong shape or dtype
    ├── VocabularyError(ValueError)       class names missing, repeated or unknown
    ├── DatasetError(ValueError)          a folder or an annotation file that is not as published
    ├── StageError(TypeError)             a stage that does not do what its protocol says
    ├── UnknownStageError(LookupError)    no stage is registered under this name
    └── WeightsError(OSError)             model weights absent, unreadable or of another layout

    KnnSegWarning(UserWarning)            what was done differs from what was asked, and the message says how

Every one is also the builtin exception that a caller would catch without knowing this module, and has its parts as
attributes: ``what``, ``expected``, ``got``, ``hint``. Errors of the embedding store are in :mod:`knnstore.errors` and
pass through unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from knnstore.errors import ExplainedError

__all__ = [
    "OF_ONE_IMAGE",
    "ConfigError",
    "DatasetError",
    "ImageError",
    "KnnSegError",
    "KnnSegWarning",
    "MaskError",
    "ShapeError",
    "StageError",
    "UnknownStageError",
    "VocabularyError",
    "WeightsError",
    "skipping",
    "those_that_can",
    "told",
    "warn_left_out",
]

T = TypeVar("T")
R = TypeVar("R")


class KnnSegError(ExplainedError):
    """Root of the tree."""


class ConfigError(KnnSegError, ValueError):
    """A configuration value out of range, or a key that does not exist."""


class ImageError(KnnSegError, ValueError):
    """A file or an array that cannot be used as an image."""


class MaskError(KnnSegError, ValueError):
    """Masks that do not fit their image, or are empty."""


class ShapeError(KnnSegError, ValueError):
    """An array of the wrong shape or dtype."""


class VocabularyError(KnnSegError, ValueError):
    """Class names that are missing, repeated or unknown."""


class DatasetError(KnnSegError, ValueError):
    """A dataset folder or annotation file that is not laid out as published."""


class StageError(KnnSegError, TypeError):
    """A stage, or a plugin that brings some, does not do what its protocol says."""


class UnknownStageError(KnnSegError, LookupError):
    """No stage implementation is registered under this name."""


class WeightsError(KnnSegError, OSError):
    """Model weights that are absent, unreadable or of another layout."""


class KnnSegWarning(UserWarning):
    """Something was done, but not as the caller may think: images were left out, a class is known to nobody."""


OF_ONE_IMAGE = (ImageError, MaskError, DatasetError, VocabularyError)
"""What one image can be to blame for."""


@contextmanager
def told(done: Callable[[], str]) -> Iterator[None]:
    """Whatever ends the work inside, Ctrl-C too, says in a note what is done by then, and how to go on."""
    try:
        yield
    except BaseException as stop:
        stop.add_note(done())
        raise


@contextmanager
def skipping(
    failed: list[str], name: str = "", *, strict: bool = False, also: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Go on where one image of many cannot be used, and keep why.

    Only what one image can be to blame for is kept: a store that is down, or weights that cannot be read, would fail
    for the next image as well, and are raised.

    Args:
        failed: gets the name of the image with the reason.
        name: of the image; put before a message that does not have it.
        strict: raise all the same.
        also: further errors that one image can be to blame for here.
    """
    kinds: tuple[type[Exception], ...] = (*OF_ONE_IMAGE, *also)
    try:
        yield
    except kinds as error:
        if strict:
            raise
        text = str(error)
        failed.append(text if name in text else f"{name}: {text}")


def those_that_can(
    make: Callable[[list[T]], Sequence[R]], items: list[T], name: Callable[[T], str], failed: list[str], *, strict: bool
) -> list[R | None]:
    """Results for a batch; where it fails for one image, for each image by itself, with None for those that cannot.

    Args:
        make: from a batch to its results, in order.
        items: the batch.
        name: of an item.
        failed: see :func:`skipping`.
        strict: raise instead.
    """
    try:
        return list(make(items))
    except OF_ONE_IMAGE:
        if strict:
            raise
    results: list[R | None] = []
    for item in items:
        result: list[R | None] = [None]
        with skipping(failed, name(item)):
            result = list(make([item]))
        results += result
    return results


def warn_left_out(
    doing: str, failed: Sequence[str], more: str = "see `failed` of the report", *, depth: int = 2
) -> None:
    """Warn of what :func:`skipping` has kept, where it has kept anything.

    Args:
        doing: the name of the function, at the front of the message.
        failed: the images that were left out, each with the reason.
        more: what to say of them.
        depth: of the line that is named, in calls above this one; 2 is the caller of the function that calls this.
    """
    if failed:
        said = f"{doing}: images left out: {len(failed)}, {more}; the first: {failed[0]}"
        warnings.warn(said, KnnSegWarning, stacklevel=depth + 1)
