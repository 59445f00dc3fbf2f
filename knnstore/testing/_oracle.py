"""What the right answer is: brute force in float64, and comparisons that allow for rounding and for ties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from knnstore.abc import EmbeddingStore
from knnstore.filters import FieldType
from knnstore.ranking import error_bound
from knnstore.testing._data import Sample
from knnstore.types import Column, Hits, Metric, Records, StoreSpec, empty_column

__all__ = [
    "assert_column", "assert_content", "assert_hits", "assert_records", "assert_same_answer", "assert_same_bits",
    "scan_all", "true_scores",
]  # fmt: skip

_SLACK = 4.0
"""Rounding allowed, in multiples of what a float32 product may be off by; engines sum in other orders than ours."""


def true_scores(queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    """The score of every pair by the definition: float64 (Q, N), higher is better."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return np.asarray(-((q[:, None, :] - x[None, :, :]) ** 2).sum(axis=2))
    if metric == "cosine":
        q, x = q / np.linalg.norm(q, axis=1, keepdims=True), x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(q @ x.T)


def _tolerance(queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    if metric == "cosine":
        return np.full(len(queries), _SLACK * 2 * (queries.shape[1] + 2) * 2.0**-24)
    largest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max(initial=0.0))
    return _SLACK * error_bound(queries, largest, metric)


def assert_hits(
    hits: Hits, queries: NDArray[np.float32], sample: Sample, metric: Metric, k: int,
    *, rows: Sequence[int] | None = None, recall: float = 1.0,
) -> None:  # fmt: skip
    """Check the answer of a search against brute force.

    Args:
        hits: the answer.
        queries: float32 (Q, D), as asked.
        sample: every record that is stored.
        metric: the metric.
        k: as asked.
        rows: the records that the filter lets through; None for all.
        recall: the least share of true neighbours; 1 demands all of them, with ties free among themselves.
    """
    assert hits.ids.shape == hits.scores.shape == (len(queries), k), f"shapes {hits.ids.shape}, {hits.scores.shape}"
    assert hits.ids.dtype == object, _not_object("ids of the hits", hits.ids)
    assert hits.scores.dtype == np.float32, f"scores are {hits.scores.dtype}"
    allowed = list(range(len(sample))) if rows is None else list(rows)
    part = sample.take(allowed)
    scores, slack = true_scores(queries, part.vectors, metric), _tolerance(queries, part.vectors, metric)
    where = {value: i for i, value in enumerate(part.ids)}
    good = sum(
        _good_in_row(hits.ids[q].tolist(), hits.scores[q], scores[q], where, float(slack[q]), exact=recall >= 1)
        for q in range(len(queries))
    )
    wanted = len(queries) * min(k, len(part))
    assert good >= recall * wanted, (
        f"{good} of {wanted} true neighbours found; capabilities.recall_floor declares at least {recall:.0%}"
    )


def _good_in_row(
    ids: list[str], scores: NDArray[np.float32], truth: NDArray[np.float64], where: dict[str, int], slack: float,
    *, exact: bool,
) -> int:  # fmt: skip
    """Check one query's hits; return how many are among the true neighbours, ties with the last one included."""
    found = [value for value in ids if value]
    assert ids[: len(found)] == found, f"empty slots between the hits: {ids}"
    assert (scores[len(found) :] == -np.inf).all(), f"scores of empty slots: {scores[len(found) :]}"
    assert len(set(found)) == len(found), f"a record twice: {found}"
    strangers = [value for value in found if value not in where]
    assert not strangers, f"found {strangers}, which are not stored or do not match the filter"
    got = scores[: len(found)].astype(np.float64)
    assert (np.diff(got) <= 0).all(), f"not best first: {got}"
    expected = truth[[where[value] for value in found]]
    assert (np.abs(got - expected) <= slack).all(), f"scores {got} of {found}, expected {expected} within {slack}"
    best = np.sort(truth)[::-1][: len(ids)]
    # Approximate or not: an empty slot means that fewer records match.
    assert len(found) == len(best), f"{len(found)} hits and {len(ids) - len(found)} empty slots, but {len(truth)} match"
    if exact:
        assert (np.abs(got - best) <= 2 * slack).all(), f"scores {got}, the best are {best}"
    return int((expected >= best[-1] - 2 * slack).sum()) if len(best) else 0


def assert_same_bits(got: NDArray[np.float32], expected: NDArray[np.float32], what: str) -> None:
    """Equal as bit patterns: -0.0 is not 0.0."""
    assert got.dtype == np.float32, f"{what}: {got.dtype}, expected float32"
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, expected {expected.shape}"
    same = np.ascontiguousarray(got).view(np.uint32) == np.ascontiguousarray(expected).view(np.uint32)
    assert same.all(), f"{what}: not the bits that were stored; got\n{got[~same][:8]}, expected\n{expected[~same][:8]}"


def assert_records(records: Records, sample: Sample, spec: StoreSpec, *, with_vectors: bool = True) -> None:
    """Exactly these records with all of their fields, in this order."""
    assert records.ids.dtype == object, _not_object("ids of the records", records.ids)
    assert records.ids.tolist() == sample.ids, (
        f"ids of the records: got {records.ids.tolist()[:20]}, expected {sample.ids[:20]}, in the order asked for, "
        "each once, without those that are not stored"
    )
    assert (records.vectors is not None) == with_vectors, "vectors where none were asked for, or the other way round"
    if records.vectors is not None:
        assert_same_bits(records.vectors, sample.stored(spec.metric, spec.dtype), "vectors")
    assert set(records.fields) == set(spec.fields), f"fields {sorted(records.fields)}"
    for name, kind in spec.fields.items():
        column = records.fields[name]
        assert_column(column, kind, f"field {name!r} of the records")
        got, written = column.tolist(), sample.fields[name]
        assert got == written, f"field {name!r}: got {got[:8]}, expected {written[:8]}, the values that were written"


def assert_column(column: Column, kind: FieldType, what: str) -> None:
    """An array of the dtype that the contract has for this type of field."""
    if kind is str:
        assert column.dtype == object, _not_object(what, column)
    dtype = empty_column(kind, 0).dtype
    assert column.dtype == dtype, (
        f"{what}, of type {kind.__name__}: an array of {column.dtype}, expected {dtype}; "
        f"knnstore.types.empty_column({kind.__name__}, n) makes one"
    )


def _not_object(what: str, array: Column) -> str:
    return (
        f"{what}: an array of {array.dtype}, expected object with a str in each place, since NumPy's own text type "
        "drops a NUL at its end; knnstore.types.empty_column(str, n) makes one"
    )


def assert_same_answer(got: Hits, expected: Hits, what: str) -> None:
    """The same ids and the same scores in every bit, as exact engines in this process owe.

    Args:
        got: an answer.
        expected: the other one.
        what: the difference between the two that must change nothing.
    """
    for q, place in np.argwhere(got.scores.view(np.uint32) != expected.scores.view(np.uint32)).tolist():
        raise AssertionError(
            f"{what} changes a score: query {q}, hit {place}: {_hit(got, q, place)} and {_hit(expected, q, place)}. "
            "An exact engine in this process scores a pair of vectors alike whatever else is stored or asked: take the "
            "last score from knnstore.ranking.pair_scores"
        )
    for q, place in np.argwhere(got.ids != expected.ids).tolist():
        raise AssertionError(
            f"{what} changes the order of equal scores: query {q}, hit {place}: {_hit(got, q, place)} and "
            f"{_hit(expected, q, place)}. Ties are broken by id, the smallest first: knnstore.ranking.best does so"
        )


def _hit(hits: Hits, q: int, place: int) -> str:
    return f"{hits.ids[q, place]!r} with {hits.scores[q, place]:.9g}"


def scan_all(store: EmbeddingStore, batch_size: int = 64) -> Sample:
    """Everything in the store, in the order of a scan; no record twice, no batch too large or empty."""
    ids: list[str] = []
    vectors = [np.empty((0, store.spec.dim), np.float32)]
    fields: dict[str, list[object]] = {name: [] for name in store.spec.fields}
    for records in store.scan(with_vectors=True, batch_size=batch_size):
        assert 0 < len(records) <= batch_size, f"a batch of {len(records)} with batch_size={batch_size}"
        ids += records.ids.tolist()
        vectors.append(records.vectors)
        for name in fields:
            fields[name] += records.fields[name].tolist()
    assert len(set(ids)) == len(ids), "a record more than once in a scan"
    return Sample(ids, np.concatenate(vectors), fields)


def assert_content(store: EmbeddingStore, sample: Sample) -> None:
    """Count, get and scan agree that the store holds exactly this sample."""
    count = store.count()
    assert count == len(sample), f"count() is {count}, expected {len(sample)} records"
    assert_records(store.get(sample.ids), sample, store.spec)
    found = scan_all(store)
    assert set(found.ids) == set(sample.ids), f"scan found {sorted(found.ids)[:20]}, expected {sorted(sample.ids)[:20]}"
    where = {value: i for i, value in enumerate(found.ids)}
    ordered = found.take([where[value] for value in sample.ids])
    assert_same_bits(ordered.vectors, sample.stored(store.spec.metric, store.spec.dtype), "scanned vectors")
    for name, written in sample.fields.items():
        got = ordered.fields[name]
        assert got == written, f"field {name!r} from a scan: got {got[:8]}, expected {written[:8]}, as written"
