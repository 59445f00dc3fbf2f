"""Why a segment has its class, as people want to see it: scores in a table, and who voted, with what and when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from knnseg.database.concepts import ConceptDatabase
from knnseg.result import Explanation, Segmentation
from knnseg.segmenter import Segmenter

__all__ = ["ClassRow", "SegmentEvidence", "Voter", "evidence", "file_name", "when"]

_ROWS = 6
"""Classes in a table, at most."""


@dataclass(frozen=True, slots=True)
class ClassRow:
    """What was thought of one class; None where nobody said anything of it.

    Args:
        name: of the class.
        base: P_base.
        retrieved: P_ret.
        final: P_final.
    """

    name: str
    base: float | None
    retrieved: float | None
    final: float | None


@dataclass(frozen=True, slots=True)
class Voter:
    """An example that voted on a segment.

    Args:
        id: of the example.
        label: the concept that it voted for.
        weight: its share of the votes.
        similarity: cosine to the segment.
        image: the name of its photograph's file, "" where nobody said.
        writer: who added it, "" where nobody said.
        added: when, seconds since the epoch.
    """

    id: str
    label: str
    weight: float
    similarity: float
    image: str
    writer: str
    added: float


@dataclass(frozen=True, slots=True)
class SegmentEvidence:
    """All of it.

    Args:
        segment: its number.
        label: its class.
        score: of the class, 0 to 1.
        rows: the classes that matter, likeliest first.
        voters: heaviest first.
    """

    segment: int
    label: str
    score: float
    rows: tuple[ClassRow, ...]
    voters: tuple[Voter, ...]


def evidence(segmenter: Segmenter, result: Segmentation, segment: int, *, most: int = 8) -> SegmentEvidence:
    """The evidence for one segment.

    Args:
        segmenter: what has segmented.
        result: what it returned.
        segment: a number in its panoptic map.
        most: how many voters are listed.

    Raises:
        VocabularyError: there is no such segment.
    """
    why = segmenter.explain(result, segment, most=most)
    voters = () if segmenter.database is None else _voters(why, segmenter.database)
    return SegmentEvidence(segment, why.label, result.segment(segment).score, _rows(why), voters)


def _rows(why: Explanation) -> tuple[ClassRow, ...]:
    """The likeliest classes, and the favourites of both sides however the other judged."""
    columns = (why.base, why.retrieved, why.final)
    ranked = sorted(why.final, key=lambda name: -why.final[name])
    favourites = [max(column, key=lambda name: column[name]) for column in columns if column]
    kept = [name for name in ranked if name in {why.label, *favourites, *ranked[:_ROWS]}]
    kept += [name for name in dict.fromkeys(favourites) if name not in kept]
    return tuple(
        ClassRow(name, *(column.get(name, 0.0) if column else None for column in columns)) for name in kept
    )  # fmt: skip


def _voters(why: Explanation, database: ConceptDatabase) -> tuple[Voter, ...]:
    ids = [vote.id for vote in why.votes]
    records = database.store.get(ids, fields=["writer", "added"], with_vectors=False)
    fields = zip(records.fields["writer"].tolist(), records.fields["added"].tolist(), strict=True)
    known = dict(zip(records.ids.tolist(), fields, strict=True))
    return tuple(
        Voter(vote.id, vote.label, vote.weight, vote.similarity, file_name(vote.image), *known.get(vote.id, ("", 0.0)))
        for vote in why.votes
    )


def file_name(uri: str) -> str:
    """The last part of where an image is."""
    return PurePosixPath(unquote(urlsplit(uri).path)).name


def when(added: float) -> str:
    """A time for people, as it is on their clocks; "" for none."""
    return datetime.fromtimestamp(added).astimezone().strftime("%Y-%m-%d %H:%M") if added else ""
