"""What a server has, by its version. Options that it lacks are refused before anything is created."""

from __future__ import annotations

import re

from knnstore.errors import UnsupportedOperationError
from knnstore_milvus.options import Options

__all__ = ["OLDEST", "check_options", "check_server", "parse_version"]

Version = tuple[int, int]

OLDEST: Version = (2, 3)
"""Upsert came with 2.3.0."""
_TENANTS: Version = (2, 4)
"""2.3 computes the partition of an upserted record from the wrong field (milvus-io/milvus#30772), so that a filter on
the tenant misses it; measured with 2.3.5."""
_MMAP: Version = (2, 4)
"""Memory mapping chosen for a collection; 2.3 maps all or nothing, by the configuration of the server."""


def parse_version(text: str) -> Version | None:
    """``v2.3.5-lite`` is (2, 3); None for a build without a number, which is taken for a recent one."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def check_server(version: str, where: str) -> None:
    """Refuse a server that cannot do what the contract needs.

    Raises:
        UnsupportedOperationError: it is too old.
    """
    parsed = parse_version(version)
    if parsed is not None and parsed < OLDEST:
        raise UnsupportedOperationError(where, expected="Milvus 2.3 or later", got=version)


def check_options(options: Options, version: str, where: str) -> None:
    """Refuse what this server does not have.

    Raises:
        UnsupportedOperationError: names the option and the version that it needs.
    """
    needed = {f"index={options.index}": options.vector_index.since}
    if options.mmap:
        needed["mmap=1"] = _MMAP
    if options.partition_key:
        needed["partition_key"] = _TENANTS
    parsed = parse_version(version)
    for option, since in needed.items():
        if parsed is not None and parsed < since:
            raise UnsupportedOperationError(
                f"{where}: {option}", expected=f"Milvus {since[0]}.{since[1]} or later", got=version
            )
