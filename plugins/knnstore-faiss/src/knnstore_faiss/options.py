"""The options of a ``faiss://`` URL."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from knnstore.errors import InvalidURLError
from knnstore.url import StoreURL

__all__ = ["Options", "folder"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a store is searched and written. None of it is stored with the data: each opening chooses.

    Args:
        index: ``Flat`` (exact, the default) or a FAISS factory string such as ``HNSW32`` or ``IVF256,Flat``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``; only ``Flat`` runs on a GPU.
        timeout: seconds to wait for another writer.
        sync: ``normal`` survives the death of the process, ``full`` also a power cut right after a write.
        nprobe: cells that an IVF index visits; 0 measures and chooses.
        ef_search: candidates that an HNSW index keeps; 0 measures and chooses.
        refine: how many times k candidates an approximate index nominates for exact scoring.
        train_at: records before an index that needs training is trained; 0 takes FAISS's recommendation.
        seed: for the sample that an index is trained on.
    """

    index: str = "Flat"
    device: str = "auto"
    timeout: float = 5.0
    sync: str = "normal"
    nprobe: int = 0
    ef_search: int = 0
    refine: int = 4
    train_at: int = 0
    seed: int = 0

    @classmethod
    def parse(cls, url: StoreURL) -> Options:
        """The options of ``url``.

        Raises:
            InvalidURLError: an unknown option or a value that is not one.
        """
        given = url.check_options(field.name for field in fields(cls))
        return cls(**{name: _value(name, text) for name, text in given.items()})

    @property
    def exact(self) -> bool:
        """Whether the index finds the true neighbours."""
        return self.index.lower() == "flat"


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise ValueError
    return value


def _natural(text: str) -> int:
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII):
        raise ValueError
    return int(text)


def _positive(text: str) -> int:
    value = _natural(text)
    if value < 1:
        raise ValueError
    return value


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError
        return text

    return parse


_PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "index": (_matching(r"[A-Za-z][\w,()+.\[\]-]*"), "a FAISS factory string"),
    "device": (_matching(r"auto|cpu|cuda(:\d{1,3})?"), "auto, cpu, cuda or cuda:N"),
    "timeout": (_seconds, "seconds, from 0 to 86400"),
    "sync": (_matching("normal|full"), "normal or full"),
    "nprobe": (_natural, "a whole number, 0 to let the store choose"),
    "ef_search": (_natural, "a whole number, 0 to let the store choose"),
    "refine": (_positive, "a whole number of at least 1"),
    "train_at": (_natural, "a whole number, 0 for the recommended one"),
    "seed": (_natural, "a whole number"),
}


def _value(name: str, text: str) -> Any:
    parse, expected = _PARSERS[name]
    try:
        return parse(text)
    except ValueError:
        raise InvalidURLError(f"option {name}", expected=expected, got=repr(text)) from None


def folder(url: StoreURL) -> Path:
    """The folder of a collection: an absolute path.

    Raises:
        InvalidURLError: a host, a port or a user; or no path at all.
    """
    if url.host or url.port is not None or url.user or url.variant:
        raise InvalidURLError(
            f"{url}", expected="three slashes before an absolute folder, faiss:///folder", got="a host"
        )
    if not url.path.strip("/"):
        raise InvalidURLError(f"{url}", expected="a folder, such as faiss:///data/concepts", got="none")
    if "\0" in url.path:
        raise InvalidURLError(f"{url}", expected="a path without NUL characters")
    return Path(url.path)
