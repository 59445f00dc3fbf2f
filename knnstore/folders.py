"""Collections in folders of this machine: which folder a URL names, what is there, and files that are whole or not."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

from knnstore.errors import InvalidURLError
from knnstore.url import StoreURL

__all__ = ["collections_in", "folder_of", "sync", "write_whole"]


def folder_of(url: StoreURL) -> Path:
    """The folder of a URL such as ``faiss:///data/concepts``: an absolute path.

    Raises:
        InvalidURLError: a host, a port or a user; or no path at all.
    """
    scheme = f"{url.backend}+{url.variant}" if url.variant else url.backend
    if url.host or url.port is not None or url.user:
        raise InvalidURLError(
            f"{url}", expected=f"three slashes before an absolute folder, {scheme}:///folder", got="a host"
        )
    if not url.path.strip("/"):
        raise InvalidURLError(f"{url}", expected=f"a folder, such as {scheme}:///data/concepts", got="none")
    if "\0" in url.path:
        raise InvalidURLError(f"{url}", expected="a path without NUL characters")
    return Path("/" + url.path.lstrip("/"))  # SQLite, for one, would take what follows two slashes for a host


def collections_in(url: StoreURL, is_collection: Callable[[Path], bool]) -> list[StoreURL]:
    """The folder of a URL and those right below it, as far as they are collections, sorted by name."""
    folder = folder_of(url)
    if not folder.is_dir():
        return []
    below = sorted(child.name for child in folder.iterdir() if child.is_dir() and is_collection(child))
    return ([url] if is_collection(folder) else []) + [url.child(name) for name in below]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one piece: a reader sees it as it was or as it is, also after a kill or a loss of power."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have a file survive a loss of power; of a folder, the list of its files, where the system can do that."""
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
