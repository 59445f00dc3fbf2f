r"""The path of a URL as the name of a collection, and back.

    >>> from knnstore_qdrant.names import collection_name
    >>> collection_name("concepts/dinov2-b14-reg-1a2b3c4d")
    'concepts~dinov2-b14-reg-1a2b3c4d'
    >>> collection_name("Küche/100%")
    'K=C3=BCche~100=25'

Qdrant takes names of up to 255 bytes without ``< > : " / \ | ? *`` and NUL. ASCII letters, digits and ``. _ -`` stand
for themselves, ``~`` for the slash; every other byte is written ``=XX``, so that two paths never share a name. A name
that would be too long is cut and ends in ``!`` and a hash of the path; the true path is kept with the collection.
"""

from __future__ import annotations

import hashlib
import string

from knnstore.errors import InvalidURLError
from knnstore.url import StoreURL

__all__ = ["CUT", "SLASH", "collection_name", "collection_path"]

SLASH = "~"
CUT = "!"
_LONGEST = 255
_PLAIN = frozenset(f"{string.ascii_letters}{string.digits}._-".encode())


def collection_path(url: StoreURL) -> str:
    """The path without its outer slashes; "" for the server as a whole.

    Raises:
        InvalidURLError: no host, or an empty part in the middle of the path.
    """
    if not url.host:
        raise InvalidURLError(f"{url}", expected="a host, such as qdrant://localhost/concepts", got="none")
    path = url.path.strip("/")
    if "//" in path:
        raise InvalidURLError(f"{url}", expected="a path without empty parts", got="two slashes in a row")
    return path


def collection_name(path: str) -> str:
    """The name of the collection for a path."""
    if path in (".", ".."):  # a path segment of HTTP, with a meaning of its own
        return path.replace(".", "=2E")
    name = SLASH.join("".join(_spelt(byte) for byte in part.encode()) for part in path.split("/"))
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(path.encode()).hexdigest()[:32]
    return f"{name[: _LONGEST - len(digest) - 1]}{CUT}{digest}"


def _spelt(byte: int) -> str:
    return chr(byte) if byte in _PLAIN else f"={byte:02X}"
