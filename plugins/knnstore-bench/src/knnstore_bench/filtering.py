"""A filter that lets about half of the records through, whatever their fields are: labels that lie together, if it can.

That is what an active vocabulary does, and where approximate indexes lose most; of much less they scan what matches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from knnstore.filters import F, Filter
from knnstore.types import Column, StoreSpec

__all__ = ["SHARE", "choose_filter"]

SHARE = 0.5
_MOST_VALUES = 100


def choose_filter(spec: StoreSpec, fields: Mapping[str, Column]) -> Filter | None:
    """A list of labels if there is a field of text with repeated values, else a bound on a number, else a flag.

    Args:
        spec: declares the fields.
        fields: a column for each.

    Returns:
        The filter; None where no field tells the records apart.
    """
    texts = [name for name, kind in spec.fields.items() if kind is str]
    numbers = [name for name, kind in spec.fields.items() if kind in (int, float)]
    flags = [name for name, kind in spec.fields.items() if kind is bool]
    found = [_listed(name, fields[name]) for name in texts]
    found += [_bounded(name, fields[name]) for name in numbers]
    found += [F(name) == True for name in flags if 0 < fields[name].mean() < 1]  # noqa: E712  # builds a filter
    return next((where for where in found if where is not None), None)


def _listed(name: str, column: Column) -> Filter | None:
    """Values from the common to the rare, all but the most common, until there are enough records."""
    counts = Counter(column.tolist()).most_common()
    if not 2 <= len(counts) <= max(2, len(column) // 4):
        return None  # the same everywhere, or another for nearly every record, as in a path
    chosen: list[str] = []
    enough = SHARE * len(column)
    for value, count in counts[1:]:
        if enough <= 0 or len(chosen) == _MOST_VALUES:
            break
        if count <= 1.5 * enough:
            chosen.append(value)
            enough -= count
    return F(name).isin(chosen or [counts[-1][0]])


def _bounded(name: str, column: Column) -> Filter | None:
    known = column[~np.isnan(column)] if column.dtype.kind == "f" else column
    if not len(known) or known.min() == known.max():
        return None
    return F(name) >= np.sort(known)[int((1 - SHARE) * (len(known) - 1))].item()
