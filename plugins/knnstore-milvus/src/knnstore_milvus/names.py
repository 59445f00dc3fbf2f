"""Names: from the path of a URL to a database and a collection of Milvus, whose names are plain identifiers.

A path of one identifier is the collection's name. Any other becomes a readable identifier with a hash of the path:

    >>> collection_name("concepts")
    'concepts'
    >>> collection_name("concepts/dinov2-b14")
    'concepts_dinov2_b14__2d72b91b0a5d7d1e'
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from knnstore.errors import InvalidURLError
from knnstore.url import StoreURL

__all__ = ["ID", "VECTOR", "Place", "collection_name", "field_name", "may_hold", "place_of"]

ID, VECTOR = "_id", "_vector"
"""Our own fields of a collection; names of declared fields never start with an underscore."""

_LONGEST = 255
_READABLE = 200
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_HASHED = re.compile(r".*__[0-9a-f]{16}", re.ASCII)
_LITE_SUFFIX = ".db"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a URL points.

    Args:
        file: the file of milvus-lite, "" on a server.
        database: the database on the server.
        path: what names the collection within it: one or more names joined by slashes, "" for none.
    """

    file: str
    database: str
    path: str


def place_of(url: StoreURL) -> Place:
    """Take the path of a URL apart.

    Raises:
        InvalidURLError: no database or no host; no file of milvus-lite.
    """
    if url.variant == "lite":
        return _lite_place(url)
    if url.variant:
        raise InvalidURLError(f"{url}", expected="milvus:// or milvus+lite://", got=f"milvus+{url.variant}://")
    names = url.path.strip("/").split("/")
    if not url.host:
        raise InvalidURLError(f"{url}", expected="a host, as in milvus://host:19530/default/name")
    if not names[0]:
        raise InvalidURLError(
            f"{url}", expected="/database/collection after the host", hint="The database of a new server is 'default'."
        )
    return Place("", names[0], "/".join(names[1:]))


def _lite_place(url: StoreURL) -> Place:
    if url.host or url.port is not None or url.user:
        raise InvalidURLError(
            f"{url}", expected="three slashes before an absolute path, milvus+lite:///folder/file.db/name", got="a host"
        )
    names = url.path.strip("/").split("/")
    ends = [i for i, name in enumerate(names) if name.endswith(_LITE_SUFFIX)]
    if not ends:
        raise InvalidURLError(
            f"{url}",
            expected="a path with a file that ends with .db",
            hint="Such as milvus+lite:///data/my.db/concepts.",
        )
    cut = ends[0] + 1
    return Place("/" + "/".join(names[:cut]), "default", "/".join(names[cut:]))


def collection_name(path: str) -> str:
    """The collection of Milvus for a path; another one for another path.

    Distinct up to a collision of 64 bits of SHA-256; the path is stored with the collection, and opening compares it.
    """
    if _PLAIN.fullmatch(path) and len(path) <= _LONGEST and not _HASHED.fullmatch(path):
        return path
    return f"{_readable(path)}__{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def _readable(path: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_]", "_", path)[:_READABLE]
    return plain if _PLAIN.fullmatch(plain) else f"_{plain}"


def may_hold(name: str, path: str) -> bool:
    """Whether a collection of this name can be that of ``path`` or of something below it; cheap, to ask about few."""
    return name == collection_name(path) or name.startswith(_readable(path)[: _READABLE - 1]) or not path


def field_name(name: str) -> str:
    """The field of Milvus for a declared field: ``f_label``, since ``like`` or ``exists`` are words of its filters."""
    return f"f_{name}"
