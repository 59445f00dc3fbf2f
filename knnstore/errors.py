"""The errors of knnstore. Each is also the builtin that a caller would catch without knowing this module.

KnnStoreError
├── InvalidInputError(ValueError)             what the caller passed cannot be used; nothing was changed
│   ├── DimensionMismatchError                vectors or queries of another width than the store
│   ├── InvalidVectorError                    dtype, NaN, infinity, or a zero vector under cosine
│   ├── InvalidIdError                        empty, too long, not a string
│   ├── DuplicateIdError                      one id twice in a call
│   ├── InvalidFieldError                     a field value of another type, or a column of another length
│   ├── InvalidLimitError                     k or batch_size out of range
│   ├── InvalidFilterError                    an expression that makes no sense for the declared fields
│   └── InvalidURLError                       a store URL that cannot be parsed, or an unknown option in it
├── UnknownFieldError(LookupError)            a field that the spec does not declare
├── UnknownBackendError(LookupError)          a URL scheme that no plugin provides
├── StoreNotFoundError(FileNotFoundError)     nothing is stored at this URL and no spec was given to create it
├── ConflictError(ValueError)                 on_conflict="error" and the id is stored already
├── SpecMismatchError(ValueError)             the collection has another dim, metric, dtype, fields, space or option
├── ContentMismatchError(RuntimeError)        what a copy leaves behind is not what its source holds
├── UnsupportedFilterError(NotImplementedError)
├── UnsupportedOperationError(NotImplementedError)
├── BackendUnavailableError(ImportError)      the plugin is installed and its client or device is not usable
├── BrokenPluginError(ImportError)            a plugin that fails while it is loaded
├── StoreClosedError(RuntimeError)            used after close()
├── StoreBusyError(TimeoutError)              another writer holds the store
├── StoreTimeoutError(TimeoutError)           the server did not answer in time
├── StoreConnectionError(ConnectionError)     the server could not be reached, or hung up
├── StoreAuthenticationError(PermissionError) the server does not know who asks, or does not let them
├── StoreCorruptError(OSError)                what is stored cannot be read back
├── StoreFullError(OSError)                   no space left; nothing of the call was written
└── BackendError(RuntimeError)                anything else that the engine reports
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BrokenPluginError",
    "ConflictError",
    "ContentMismatchError",
    "DimensionMismatchError",
    "DuplicateIdError",
    "ExplainedError",
    "InvalidFieldError",
    "InvalidFilterError",
    "InvalidIdError",
    "InvalidInputError",
    "InvalidLimitError",
    "InvalidURLError",
    "InvalidVectorError",
    "KnnStoreError",
    "SpecMismatchError",
    "StoreAuthenticationError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreConnectionError",
    "StoreCorruptError",
    "StoreFullError",
    "StoreNotFoundError",
    "StoreTimeoutError",
    "UnknownBackendError",
    "UnknownFieldError",
    "UnsupportedFilterError",
    "UnsupportedOperationError",
    "did_you_mean",
]


class ExplainedError(Exception):
    """An error in parts that a program can read; its text is made of them.

    Args:
        what: what is wrong, in one line.
        expected: what would have been right.
        got: what came instead.
        hint: what to do about it.
    """

    def __init__(self, what: object, *, expected: object = None, got: object = None, hint: str = "") -> None:
        self.what, self.expected, self.got, self.hint = str(what), expected, got, hint
        text = self.what
        if expected is not None:
            text += f": expected {expected}"
        if got is not None:
            text += f"{',' if expected is not None else ':'} got {got}"
        super().__init__(f"{text}. {hint}" if hint else text)

    def __str__(self) -> str:
        # OSError and KeyError subclasses would otherwise print their arguments as a tuple or a repr.
        return str(self.args[0])

    @classmethod
    def of(cls, error: ExplainedError, place: object = None) -> Self:
        """The same error as one of this class, or of something in ``place``."""
        what = error.what if place is None else f"{place}: {error.what}"
        return cls(what, expected=error.expected, got=error.got, hint=error.hint)


class KnnStoreError(ExplainedError):
    """Root of the tree."""


class InvalidInputError(KnnStoreError, ValueError):
    """What the caller passed cannot be used; nothing was changed."""


class DimensionMismatchError(InvalidInputError):
    """Vectors or queries of another width than the store."""


class InvalidVectorError(InvalidInputError):
    """Vectors of the wrong dtype, with NaN or infinity, or of zero length under cosine."""


class InvalidIdError(InvalidInputError):
    """An id that is empty, too long, or not a string."""


class DuplicateIdError(InvalidInputError):
    """One id twice in a call."""


class InvalidFieldError(InvalidInputError):
    """A field value of another type than declared, or a column of another length than the ids."""


class InvalidLimitError(InvalidInputError):
    """``k`` or ``batch_size`` out of range."""


class InvalidFilterError(InvalidInputError):
    """A filter expression that makes no sense for the declared fields."""


class InvalidURLError(InvalidInputError):
    """A store URL that cannot be parsed, or an unknown option in it."""


class UnknownFieldError(KnnStoreError, LookupError):
    """A field that the spec does not declare."""


class UnknownBackendError(KnnStoreError, LookupError):
    """A URL scheme that no installed plugin provides."""


class StoreNotFoundError(KnnStoreError, FileNotFoundError):
    """Nothing is stored at this URL, and no spec was given to create it."""


class ConflictError(KnnStoreError, ValueError):
    """``on_conflict="error"`` and an id is stored already; nothing of the call was written."""


class SpecMismatchError(KnnStoreError, ValueError):
    """The stored collection has another dim, metric, field, embedding space or creation option than asked for."""


class ContentMismatchError(KnnStoreError, RuntimeError):
    """What a copy or an export leaves behind is not what its source holds, or the source changed meanwhile."""


class UnsupportedFilterError(KnnStoreError, NotImplementedError):
    """A filter that this backend cannot express. It is never ignored."""


class UnsupportedOperationError(KnnStoreError, NotImplementedError):
    """An operation that this backend does not have; see ``store.capabilities``."""


class BackendUnavailableError(KnnStoreError, ImportError):
    """The plugin is known, but its client library or its device is not usable here."""


class BrokenPluginError(KnnStoreError, ImportError):
    """A plugin that fails while it is loaded, or whose hooks are not ours."""


class StoreClosedError(KnnStoreError, RuntimeError):
    """The store was used after ``close()``."""


class StoreBusyError(KnnStoreError, TimeoutError):
    """Another writer held the store for longer than the timeout."""


class StoreTimeoutError(KnnStoreError, TimeoutError):
    """The server did not answer within the timeout."""


class StoreConnectionError(KnnStoreError, ConnectionError):
    """The server could not be reached, or closed the connection."""


class StoreAuthenticationError(KnnStoreError, PermissionError):
    """The server does not know who asks, or does not let them do it: a key, token, password or right is missing."""


class StoreCorruptError(KnnStoreError, OSError):
    """What is stored cannot be read back as a store."""


class StoreFullError(KnnStoreError, OSError):
    """No space is left; nothing of the call was written."""


class BackendError(KnnStoreError, RuntimeError):
    """Anything else that the engine reports; the original exception is the ``__cause__``."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a name that does not exist: the one that was probably meant, or "" where none is like it."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"Did you mean {near[0]!r}?" if near else ""
