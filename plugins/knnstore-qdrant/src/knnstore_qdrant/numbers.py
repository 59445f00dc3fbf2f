"""Bounds in JSON as integers.

The client writes every bound as a double, ``4.611686018427388e18``, and the server's JSON reader is off by a bit for
one such double in twenty; an integer literal it reads exactly. All of our bounds are whole numbers (see
:mod:`knnstore_qdrant.filters`), so they can be written as what they are. The client has no setting for that: its model
of a range turns whatever it is given into a double.
"""

from __future__ import annotations

import re

__all__ = ["whole_bounds"]

_START = b'"range":{'
_RANGE = re.compile(rb'(?<!\\)"range":\{[^{}"]*(?:"[a-z]+":[^{}"]*)*\}')
"""The object of a range; within a text the first quote would come after a backslash."""
_NUMBER = re.compile(rb"(?<=:)-?[0-9][0-9.eE+-]*")


def whole_bounds(body: bytes) -> bytes:
    """The body of a request, with the bounds of its ranges as integers where they are whole.

    >>> whole_bounds(b'{"filter":{"must":[{"key":"area","range":{"gt":4.611686018427388e+18,"lt":0.5}}]}}')
    b'{"filter":{"must":[{"key":"area","range":{"gt":4611686018427387904,"lt":0.5}}]}}'
    """
    if _START not in body:
        return body
    return _RANGE.sub(lambda found: _NUMBER.sub(_whole, found[0]), body)


def _whole(found: re.Match[bytes]) -> bytes:
    value = float(found[0])
    return b"%d" % int(value) if value.is_integer() else found[0]
