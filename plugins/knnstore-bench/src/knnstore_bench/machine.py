"""Where it is measured: what a reader needs to know to compare."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

import psutil

from knnstore._plugins import backends
from knnstore.url import StoreURL
from knnstore_bench.results import Detail, Machine

__all__ = ["this_machine"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def this_machine(urls: list[StoreURL]) -> Machine:
    """The machine, and the versions of what takes part.

    Args:
        urls: the backends.
    """
    return Machine(
        platform.platform(terse=True),
        _cpu(),
        os.cpu_count() or 1,
        int(psutil.virtual_memory().total),
        tuple(Detail(name, version) for name, version in sorted(_versions({url.backend for url in urls}).items())),
        tuple(Detail(name, os.environ[name]) for name in _THREADS if name in os.environ),
    )


def _cpu() -> str:
    """The name of the processor; Python itself knows it on some systems only."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _versions(names: set[str]) -> dict[str, str]:
    """Python, ours, the distribution of each backend, and what that is built on."""
    versions = {"python": platform.python_version()}
    for info in backends():
        if info.name in names and info.distribution:
            distribution = info.distribution.split(" ")[0]
            wanted = {"numpy"} if info.name == "memory" else _requirements(distribution)
            versions |= {name: version for name in {distribution, *wanted} if (version := _version(name))}
    return versions


def _requirements(distribution: str) -> set[str]:
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in metadata.requires(distribution) or ())
    return {match[0].lower() for match in found if match}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
