"""The mark of a collection on a server: another text after each write, in a point of its own that no reader sees.

The point has no vector, so that no search finds it, and an id that no record can have. It is written in the request of
each write, after the points themselves: the server carries out the operations of a request in their order and waits for
each, so whoever sees the mark of a write sees what was written. Two writers never write the same mark.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from qdrant_client import models

__all__ = ["MARK", "REVISION", "mark_anew", "unmarked"]

MARK = "00000000-0000-0000-0000-000000000001"
"""Its id. Those of records are UUIDs of version 5, see ``points.py``."""
REVISION = "_revision"
"""The key of the mark in its payload; the names of declared fields never start with an underscore."""


def mark_anew() -> models.UpsertOperation:
    """Write a mark that there has never been."""
    point = models.PointStruct(id=MARK, vector={}, payload={REVISION: uuid4().hex})
    return models.UpsertOperation(upsert=models.PointsList(points=[point]))


def unmarked(where: Any) -> models.Filter:
    """What matches ``where``, or everything if that is None; without the mark."""
    return models.Filter(must=None if where is None else [where], must_not=[models.HasIdCondition(has_id=[MARK])])
