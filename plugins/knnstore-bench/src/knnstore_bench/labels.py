"""Short names for the backends of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from knnstore.url import StoreURL

__all__ = ["labels"]


def labels(urls: Sequence[StoreURL]) -> list[str]:
    """A name for each URL: its scheme, and the options in which it differs from the others of its scheme.

    >>> labels([StoreURL.parse(f"faiss:///data?timeout=9&index={index}") for index in ("Flat", "SQ8")])
    ['faiss index=Flat', 'faiss index=SQ8']
    """
    shown = [_parts(url) for url in urls]
    names = []
    for scheme, options in shown:
        same = [set(other) for name, other in shown if name == scheme]
        common = set.intersection(*same) if len(same) > 1 else set()
        names.append(" ".join([scheme, *(option for option in options if option not in common)]))
    return _numbered(names)


def _parts(url: StoreURL) -> tuple[str, list[str]]:
    """The scheme, and the options without those that are secrets."""
    scheme = f"{url.backend}+{url.variant}" if url.variant else url.backend
    shown = StoreURL.parse(str(url)).options
    return scheme, [f"{name}={value}" for name, value in shown.items() if str(value) != "***"]


def _numbered(names: list[str]) -> list[str]:
    """The same, those that occur more than once with a number."""
    many, seen = Counter(names), Counter[str]()
    numbered = []
    for name in names:
        seen[name] += 1
        numbered.append(f"{name} #{seen[name]}" if many[name] > 1 else name)
    return numbered
