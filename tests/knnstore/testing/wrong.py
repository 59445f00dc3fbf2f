"""Stores that are wrong on purpose, each in one way, and the checks of the kit that must catch it."""

from __future__ import annotations

import math
import threading
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from knnstore.abc import OpenRequest
from knnstore.errors import ConflictError
from knnstore.filters import Compare, F, Filter, IsIn, Not, Scalar, depth_of
from knnstore.memory import MemoryBackend, MemoryStore, _Collection
from knnstore.types import Batch, Capabilities, Column, Conflict, Hits, Records, StoreSpec, StoreStats, empty_column
from knnstore.url import StoreURL


@dataclass(frozen=True)
class Wrong:
    store: type[MemoryStore]
    backend: type[MemoryBackend]
    caught_by: tuple[str, ...]


WRONG: dict[str, Wrong] = {}


def caught_by(*tests: str, backend: type[MemoryBackend] = MemoryBackend) -> Any:
    """Registers a wrong store together with the checks that must fail on it."""

    def keep(store: type[MemoryStore]) -> type[MemoryStore]:
        WRONG[store.__name__.lower()] = Wrong(store, backend, tests)
        return store

    return keep


def _until(happens: Callable[[], bool], at_most: float = 0.1) -> None:
    """Keep a window between two steps open until another thread has stepped in, so that no check needs luck."""
    end = time.monotonic() + at_most
    while not happens() and time.monotonic() < end:
        time.sleep(0.001)


# -- scores and order --------------------------------------------------------------------------------------------------


@caught_by("test_scores_and_order[cosine]", "test_l2_is_the_negative_square")
class WorstFirst(MemoryStore):
    def _search(self, *args: Any) -> Hits:
        hits = super()._search(*args)
        for q in range(len(hits.ids)):
            found = int((hits.ids[q] != "").sum())
            hits.ids[q, :found], hits.scores[q, :found] = hits.ids[q, :found][::-1], hits.scores[q, :found][::-1]
        return hits


class _Rescored(MemoryStore):
    def _search(self, *args: Any) -> Hits:
        hits = super()._search(*args)
        found = hits.ids != ""
        hits.scores[found] = self._changed(hits.scores[found])
        return hits

    def _changed(self, scores: np.ndarray) -> np.ndarray:
        raise NotImplementedError


@caught_by("test_l2_is_the_negative_square", "test_scores_and_order[l2]")
class PositiveDistance(_Rescored):
    def _changed(self, scores: np.ndarray) -> np.ndarray:
        return -scores if self.spec.metric == "l2" else scores


@caught_by("test_l2_is_the_negative_square", "test_scores_and_order[l2]")
class PlainDistance(_Rescored):
    def _changed(self, scores: np.ndarray) -> np.ndarray:
        return -np.sqrt(-scores) if self.spec.metric == "l2" else scores


@caught_by("test_cosine_does_not_depend_on_length", "test_scores_and_order[cosine]")
class CosineDistance(_Rescored):
    def _changed(self, scores: np.ndarray) -> np.ndarray:
        return 1 - scores if self.spec.metric == "cosine" else scores


@caught_by("test_scores_and_order[dot]", "test_dot_depends_on_length")
class DotIsCosine(MemoryStore):
    def _search(self, queries: Any, *args: Any) -> Hits:
        if self.spec.metric == "dot":
            queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        return super()._search(queries, *args)


@caught_by("test_norms_whose_square_overflows[l2]")
class OverflowingAreFar(MemoryStore):
    """Ranks by |q|² + |x|² - 2qx in float32, where an overflow is the largest distance of all."""

    def _search(self, queries: Any, k: int, where: Any, fields: Any) -> Hits:
        hits = super()._search(queries, len(self._data.rows) + k, where, fields)
        vectors = {value: self._data.view().vectors[row] for value, row in self._data.rows.items()}
        for q in range(len(queries) if self.spec.metric == "l2" else 0):
            with np.errstate(over="ignore", invalid="ignore"):
                lost = [
                    bool(value) and not np.isfinite(vectors[value] @ vectors[value] + queries[q] @ queries[q])
                    for value in hits.ids[q]
                ]
            order = np.argsort(lost, kind="stable")
            hits.ids[q], hits.scores[q] = hits.ids[q, order], hits.scores[q, order]
        return Hits(hits.ids[:, :k], hits.scores[:, :k], {n: c[:, :k] for n, c in hits.fields.items()})


@caught_by("test_scores_and_order[l2]", "test_dot_depends_on_length")
class OneTooFew(MemoryStore):
    def _search(self, queries: Any, k: int, *args: Any) -> Hits:
        hits = super()._search(queries, k, *args)
        hits.ids[:, -1:], hits.scores[:, -1:] = "", -np.inf
        return hits


@caught_by("test_scores_and_order[cosine]", "test_many_records[cosine]", "test_a_batch_is_its_single_queries[l2]")
class HalfOfTheNeighbours(MemoryStore):
    """Declares an approximate search with a recall that it does not reach."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(persistent=False, approximate=True, recall_floor=0.9)

    def _search(self, queries: Any, k: int, where: Any, fields: Any) -> Hits:
        wide = super()._search(queries, 2 * k, where, fields)
        return Hits(wide.ids[:, ::2], wide.scores[:, ::2], {n: c[:, ::2] for n, c in wide.fields.items()})


@caught_by("test_a_batch_is_its_single_queries[dot]", "test_scores_and_order[dot]")
class FirstQueryOnly(MemoryStore):
    def _search(self, queries: Any, *args: Any) -> Hits:
        return super()._search(np.repeat(queries[:1], len(queries), axis=0), *args)


@caught_by("test_fewer_records_than_k[l2]", "test_empty_store")
class PaddingScoreLeaks(MemoryStore):
    def _search(self, *args: Any) -> Hits:
        hits = super()._search(*args)
        hits.scores[hits.ids == ""] = np.finfo(np.float32).min
        return hits


@caught_by("test_fewer_records_than_k[cosine]", "test_empty_store")
class PaddingIdLeaks(MemoryStore):
    def _search(self, *args: Any) -> Hits:
        hits = super()._search(*args)
        hits.ids[hits.ids == ""] = "-1"
        return hits


@caught_by("test_fields_come_with_the_hits")
class FieldsOfOthers(MemoryStore):
    def _search(self, *args: Any) -> Hits:
        hits = super()._search(*args)
        return Hits(hits.ids, hits.scores, {name: np.roll(c, 1, axis=1) for name, c in hits.fields.items()})


@caught_by("test_k_limits")
class MaxKIsNotTrue(MemoryStore):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(persistent=False, max_k=100)

    def _search(self, queries: Any, k: int, *args: Any) -> Hits:
        if k > 64:
            raise RuntimeError("topk must be at most 64")
        return super()._search(queries, k, *args)


@caught_by("test_order_of_writing_changes_nothing[cosine]")
class LatestWinsTies(MemoryStore):
    def _search(self, *args: Any) -> Hits:
        hits = super()._search(*args)
        rows = {value: row for row, value in enumerate(self._data.view().ids)}
        for q in range(len(hits.ids)):
            order = sorted(range(hits.ids.shape[1]), key=lambda i: (-hits.scores[q, i], -rows.get(hits.ids[q, i], -1)))
            hits.ids[q], hits.scores[q] = hits.ids[q, order], hits.scores[q, order]
        return hits


# -- filters -----------------------------------------------------------------------------------------------------------


@caught_by("test_filter[str-eq]", "test_the_filter_comes_before_the_k_best")
class FilterIgnored(MemoryStore):
    def _search(self, queries: Any, k: int, where: Any, fields: Any) -> Hits:
        return super()._search(queries, k, None, fields)


@caught_by("test_the_filter_comes_before_the_k_best", "test_filter[int-lt]")
class FilterAfterwards(MemoryStore):
    def _search(self, queries: Any, k: int, where: Filter | None, fields: Any) -> Hits:
        hits = super()._search(queries, k, None, fields)
        if where is not None:
            view = self._data.view()
            allowed = set(view.ids[view.match(where)])
            for q in range(len(hits.ids)):
                kept = [i for i in range(k) if hits.ids[q, i] in allowed]
                ids, scores = hits.ids[q, kept], hits.scores[q, kept]
                hits.ids[q], hits.scores[q] = "", -np.inf
                hits.ids[q, : len(kept)], hits.scores[q, : len(kept)] = ids, scores
        return hits


class _Approximate(MemoryStore):
    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(persistent=False, approximate=True, recall_floor=0.8)


@caught_by(
    "test_a_filter_that_goes_with_the_vectors[before optimize]",
    "test_a_filter_that_goes_with_the_vectors[after optimize]",
)
class FewerHitsThanMatch(_Approximate):
    """Looks at what is nearest of all and at the filter afterwards, and ends with what it has met."""

    def _search(self, queries: Any, k: int, where: Filter | None, fields: Any) -> Hits:
        hits = FilterAfterwards._search(self, queries, max(k, 200), where, fields)  # type: ignore[arg-type]  # alike
        return Hits(hits.ids[:, :k], hits.scores[:, :k], {name: c[:, :k] for name, c in hits.fields.items()})


@caught_by("test_a_filter_that_goes_with_the_vectors[after optimize]")
class LosesNeighboursBehindAFilter(_Approximate):
    """Has an index, once it is optimised, that does not lead everywhere behind a filter; what it finds fills every slot."""

    _walks = False

    def _optimize(self) -> None:
        self._walks = True

    def _search(self, queries: Any, k: int, where: Filter | None, fields: Any) -> Hits:
        reached = None if where is None else where & (F("area") >= 10)
        if self._walks and reached is not None and self._count(reached) >= k:
            where = reached
        return super()._search(queries, k, where, fields)


@caught_by("test_bounds_are_exact[area]", "test_bounds_are_exact[weight]")
class BoundsOffByABit(MemoryStore):
    """Reads about one bound in twenty a little wrong, as a parser of numbers does."""

    def _count(self, where: Filter | None) -> int:
        if isinstance(where, Compare) and isinstance(where.value, int | float) and hash(where.value) % 20 == 0:
            step = 1 if isinstance(where.value, int) else math.ulp(where.value)
            where = replace(where, value=where.value + step)
        return super()._count(where)


@caught_by("test_the_revision_changes_with_the_writes_of_others")
class RevisionCounts(MemoryStore):
    """Takes the number of records, and of its own writes, for the state."""

    _writes = 0

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._writes += 1
        return super()._upsert(batch, on_conflict)

    def _revision(self) -> str:
        return f"{self._count(None)}-{self._writes}"


@caught_by("test_the_revision_changes_with_the_writes_of_others")
class RevisionForgetsDeletions(MemoryStore):
    """Numbers what is written, and nothing else."""

    def _delete_where(self, where: Filter) -> int:
        gone = super()._delete_where(where)
        self._data.revision -= 1
        return gone


@caught_by("test_the_revision_stays_until_somebody_writes")
class RevisionBeginsAnew(MemoryStore):
    """Counts its own writes from its opening on; keeps its records, or so it says."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._token = uuid.uuid4().hex

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, persistent=True, multi_process=False)

    def _revision(self) -> str:
        return f"{self._token}-{self._data.revision}"


class _Asked(MemoryStore):
    """Knows how often anyone has asked for the revision: who asks again has read what came with the one before."""

    _questions = 0

    def _revision(self) -> str:
        _Asked._questions += 1
        return super()._revision()

    def _until_read(self) -> None:
        before = _Asked._questions
        _until(lambda: _Asked._questions >= before + 2)


@caught_by("test_what_is_kept_with_a_revision")
class RevisionComesFirst(_Asked):
    """Changes the revision and writes a moment later."""

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._data.revision += 1
        self._until_read()
        before = self._data.revision
        done = super()._upsert(batch, on_conflict)
        self._data.revision = before
        return done


@caught_by("test_what_is_kept_with_a_revision")
class RevisionIsPutBack(_Asked):
    """Puts back the number after its own last one, as another writer may have done already."""

    _one_at_a_time = threading.Lock()
    _number = 0

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        with self._one_at_a_time:
            self._until_read()
            done = super()._upsert(batch, on_conflict)
            self._number += 1
            self._data.revision = self._number
        return done


@caught_by("test_of_two_writers_of_one_new_id_the_first_is_kept")
class LooksBeforeItWrites(MemoryStore):
    """Looks which ids are stored and writes the others a moment later."""

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        if on_conflict == "replace":
            return super()._upsert(batch, on_conflict)
        stored, before = set(self._get(batch.ids, [], False).ids.tolist()), self._data.revision
        _until(lambda: self._data.revision > before)
        time.sleep(0.01 * (self._data.revision > before))  # whoever came first reads what was written
        picked = [i for i, value in enumerate(batch.ids) if value not in stored]
        columns = {name: column[picked] for name, column in batch.fields.items()}
        part = Batch([batch.ids[i] for i in picked], batch.vectors[picked], columns)
        return super()._upsert(part, "replace") if picked else 0


@caught_by("test_filter[str-isin-empty]")
class EmptyListMatchesAll(MemoryStore):
    def _count(self, where: Filter | None) -> int:
        return super()._count(None if isinstance(where, IsIn) and not where.values else where)


@caught_by("test_filters_built_in_a_loop")
class ShallowParser(MemoryStore):
    """Fails on filters that are nested, or long, as an engine with a small stack does."""

    def _count(self, where: Filter | None) -> int:
        if where is not None and (depth_of(where) > 6 or sum(1 for _ in where.leaves()) > 500):
            raise RuntimeError("parser stack overflow")
        return super()._count(where)


@caught_by("test_filters_built_in_a_loop", "test_a_long_list")
class LastPartOfALongList(MemoryStore):
    """Asks for a long list in several requests and keeps the last answer."""

    def _count(self, where: Filter | None) -> int:
        if isinstance(where, IsIn) and len(where.values) > 1000:
            where = IsIn(where.field, where.values[-1000:])
        return super()._count(where)


@caught_by("test_filter[int-eq]")
class UndeclaredOperator(MemoryStore):
    """Says that it cannot compare, and does not refuse to."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(persistent=False, filters=frozenset({"isin", "&", "|", "~"}))


@caught_by("test_delete_by_id", "test_delete_what_is_not_there")
class CountsWhatWasAsked(MemoryStore):
    """Reports how many ids it was given, as servers do."""

    def _delete_ids(self, ids: list[str]) -> int:
        super()._delete_ids(ids)
        return len(ids)


@caught_by("test_delete_by_filter[nested]")
class CountsNothing(MemoryStore):
    """Deletes and does not say how many."""

    def _delete_where(self, where: Filter) -> int:
        super()._delete_where(where)
        return 0


@caught_by("test_filter[str-ge]")
class UndeclaredOrder(MemoryStore):
    """Says that it does not order text, and does not refuse to."""

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(persistent=False, unordered=frozenset({"str"}))


# -- what is stored ----------------------------------------------------------------------------------------------------


class _Altered(MemoryStore):
    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        return super()._upsert(self._changed(batch), on_conflict)

    def _changed(self, batch: Batch) -> Batch:
        raise NotImplementedError


@caught_by("test_every_bit_comes_back[cosine]", "test_unit_rows_are_left_alone_under_cosine")
class NormalisedAgain(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        lengths = np.linalg.norm(batch.vectors, axis=1, keepdims=True)
        return replace(batch, vectors=batch.vectors / lengths) if self.spec.metric == "cosine" else batch


@caught_by("test_every_bit_comes_back[dot]", "test_odd_numbers_come_back[l2]")
class HalfPrecision(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        vectors = np.clip(batch.vectors, -60000, 60000).astype(np.float16).astype(np.float32)
        return replace(batch, vectors=vectors)


@caught_by("test_odd_numbers_come_back[dot]")
class NegativeZeroLost(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        return replace(batch, vectors=batch.vectors + np.float32(0))


@caught_by("test_odd_numbers_come_back[dot]")
class DenormalsFlushed(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        small = np.abs(batch.vectors) < np.finfo(np.float32).tiny
        return replace(batch, vectors=np.where(small, np.float32(0), batch.vectors))


@caught_by("test_any_text_is_an_id[case]")
class IdsCaseFolded(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        return replace(batch, ids=[value.lower() for value in batch.ids])


@caught_by("test_any_text_is_an_id[unicode]")
class IdsComposed(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        return replace(batch, ids=[unicodedata.normalize("NFC", value) for value in batch.ids])


class _Relabelled(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        fields = dict(batch.fields)
        if "label" in fields:
            fields["label"] = np.array([self._text(value) for value in fields["label"]] + [None], object)[:-1]
        return replace(batch, fields=fields)

    def _text(self, value: str) -> str:
        raise NotImplementedError


@caught_by("test_any_label_is_data[nul]")
class LabelsEndAtNul(_Relabelled):
    def _text(self, value: str) -> str:
        return value.partition("\0")[0]


@caught_by("test_any_label_is_data[whitespace]")
class LabelsStripped(_Relabelled):
    def _text(self, value: str) -> str:
        return value.strip()


@caught_by("test_a_long_label_is_data")
class LabelsCut(_Relabelled):
    def _text(self, value: str) -> str:
        return value[:256]


@caught_by(
    "test_any_label_is_data[quotes]", "test_any_label_is_data[backslashes]", "test_labels_that_nobody_thought_of"
)  # fmt: skip
class LabelsEscaped(_Relabelled):
    def _text(self, value: str) -> str:
        return value.replace("\\", "\\\\").replace("'", "\\'")


@caught_by("test_large_integers_are_exact")
class IntegersAsDoubles(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        areas = [int(float(v)) if abs(v) < 2**62 else v for v in batch.fields["area"].tolist()]
        return replace(batch, fields={**batch.fields, "area": np.array(areas, np.int64)})


@caught_by("test_floats_are_exact")
class FloatsAsSingles(_Altered):
    def _changed(self, batch: Batch) -> Batch:
        weights = np.clip(batch.fields["weight"], -1e38, 1e38).astype(np.float32).astype(np.float64)
        return replace(batch, fields={**batch.fields, "weight": weights})


@caught_by("test_arrays_read_are_the_callers")
class OwnArraysHandedOut(MemoryStore):
    def _get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        records, view = super()._get(ids, fields, with_vectors), self._data.view()
        if ids != view.ids.tolist():
            return records
        return Records(view.ids, view.vectors if with_vectors else None, {name: view.fields[name] for name in fields})


class _Careless(MemoryStore):
    """Lets NumPy make what it will of what it is given, before anything is checked."""

    def upsert(self, ids: Any, vectors: Any, *args: Any, **kwargs: Any) -> int:  # type: ignore[misc]  # final, but Python does not mind
        return super().upsert(ids, self._read(vectors), *args, **kwargs)

    def _read(self, vectors: Any) -> Any:
        raise NotImplementedError


@caught_by("test_bad_upserts_change_nothing")
class MasksDropped(_Careless):
    def _read(self, vectors: Any) -> Any:
        return np.asarray(vectors) if isinstance(vectors, np.ma.MaskedArray) else vectors


@caught_by("test_tensors_are_their_values")
class TensorsWithGradientsFail(_Careless):
    def _read(self, vectors: Any) -> Any:
        return np.asarray(vectors) if hasattr(vectors, "detach") else vectors


@caught_by("test_arrays_read_are_the_callers")
class ReadOnlyArraysHandedOut(MemoryStore):
    def _get(self, *args: Any) -> Records:
        records = super()._get(*args)
        if records.vectors is not None:
            records.vectors.flags.writeable = False
        return records


# -- writing -----------------------------------------------------------------------------------------------------------


@caught_by("test_search_sees_every_write", "test_upsert_replaces", "test_delete_by_id")
class StaleIndex(MemoryStore):
    """Searches what was there at the first search, until somebody optimises."""

    _index: _Collection | None = None

    def _search(self, *args: Any) -> Hits:
        if self._index is None:
            self._index = _Collection(self.spec)
            view = self._data.view()
            if len(view.ids):
                self._index.write(Batch(view.ids.tolist(), view.vectors, view.fields), list(range(len(view.ids))))
        data, self._data = self._data, self._index
        try:
            return super()._search(*args)
        finally:
            self._data = data

    def _optimize(self) -> None:
        self._index = None

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        if self._index is None:
            self._search(np.ones((1, self.spec.dim), np.float32), 1, None, [])
        return super()._upsert(batch, on_conflict)


@caught_by("test_optimize_after_deletions")
class UnsearchableOnceOptimized(MemoryStore):
    """Has an index from 20 records on. Optimised with fewer it begins an empty one, which later writes are added to."""

    _missing: frozenset[str] = frozenset()
    _indexed = False

    def _search(self, queries: Any, k: int, where: Any, fields: Any) -> Hits:
        if len(self._data.rows) >= 20:
            self._indexed, self._missing = True, frozenset()
        data = self._data
        self._data = _Collection(self.spec)
        view = data.view()
        rows = [row for row, value in enumerate(view.ids.tolist()) if value not in self._missing]
        self._data.write(Batch(view.ids.tolist(), view.vectors, view.fields), rows)
        try:
            return super()._search(queries, k, where, fields)
        finally:
            self._data = data

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._missing -= set(batch.ids)
        return super()._upsert(batch, on_conflict)

    def _optimize(self) -> None:
        if self._indexed and len(self._data.rows) < 20:
            self._indexed, self._missing = False, frozenset(self._data.rows)


@caught_by("test_upsert_twice_is_once", "test_upsert_replaces")
class DuplicatesKept(MemoryStore):
    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        if on_conflict != "replace":
            return super()._upsert(batch, on_conflict)
        written = super()._upsert(batch, on_conflict)
        self._data._dead.clear()
        return written


@caught_by("test_skip_keeps_what_is_there")
class SkipReplaces(MemoryStore):
    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        return super()._upsert(batch, "replace" if on_conflict == "skip" else on_conflict)


@caught_by("test_skip_keeps_what_is_there")
class SkipCountsAll(MemoryStore):
    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        super()._upsert(batch, on_conflict)
        return len(batch)


@caught_by("test_error_writes_nothing")
class ErrorWritesHalf(MemoryStore):
    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        if on_conflict != "error":
            return super()._upsert(batch, on_conflict)
        stored = [value for value in batch.ids if value in self._data.rows]
        super()._upsert(batch, "skip")
        if stored:
            raise ConflictError(f"id {stored[0]!r} is stored already")
        return len(batch)


@caught_by("test_delete_by_id", "test_delete_everything_and_start_again")
class DeleteForgets(MemoryStore):
    def _delete_ids(self, ids: list[str]) -> int:
        return super()._delete_ids(ids[1:])


@caught_by("test_delete_what_is_not_there")
class DeleteInsists(MemoryStore):
    def _delete_ids(self, ids: list[str]) -> int:
        if any(value not in self._data.rows for value in ids):
            raise KeyError("no such id")
        return super()._delete_ids(ids)


@caught_by("test_delete_by_filter[str-eq]")
class DeleteByFilterDoesNothing(MemoryStore):
    def _delete_where(self, where: Filter) -> int:
        return self._count(where)


# -- reading -----------------------------------------------------------------------------------------------------------


@caught_by("test_scan_to_the_end[3]", "test_scan_beyond_the_limits_of_servers")
class ScanCutAtTen(MemoryStore):
    def _scan(self, *args: Any) -> Iterator[Records]:
        left = 10
        for records in super()._scan(*args):
            part = slice(0, left)
            vectors = None if records.vectors is None else records.vectors[part]
            yield Records(records.ids[part], vectors, {n: c[part] for n, c in records.fields.items()})
            left -= len(records.ids[part])


@caught_by(
    "test_count_by_lists_what_occurs[by id]", "test_count_by_lists_what_occurs[by filter]",
    "test_count_by_lists_what_occurs[replaced]",
)  # fmt: skip
class CountsWhatIsGone(MemoryStore):
    """Lists every value that was ever there, as an engine does whose index keeps them, with 0."""

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._ever = {**getattr(self, "_ever", {})}
        for name, column in batch.fields.items():
            self._ever[name] = [*self._ever.get(name, []), *column.tolist()]
        return super()._upsert(batch, on_conflict)

    def _count_by(self, field: str, where: Filter | None) -> dict[Any, int]:
        return {**dict.fromkeys(getattr(self, "_ever", {}).get(field, []), 0), **super()._count_by(field, where)}


@caught_by("test_both_zeros_are_one_number[isin]", "test_both_zeros_are_one_number[not-isin]")
class ZerosDifferInAList(MemoryStore):
    """Tells 0.0 and -0.0 apart in a list, as one that compares bits does."""

    def _count(self, where: Filter | None) -> int:
        found = super()._count(where)
        leaf = where.operand if isinstance(where, Not) else where
        if not isinstance(leaf, IsIn) or 0.0 not in leaf.values or leaf.field != "weight":
            return found
        view, bits = self._data.view(), {np.float64(value).tobytes() for value in leaf.values}
        same = sum(value.tobytes() in bits for value in view.fields["weight"])
        return len(view.ids) - same if isinstance(where, Not) else same


@caught_by("test_both_zeros_are_one_number[ge]", "test_both_zeros_are_one_number[lt]")
class ZerosAreOrdered(MemoryStore):
    """Sorts -0.0 before 0.0, as one does that keeps floats by their bits."""

    def _count(self, where: Filter | None) -> int:
        if isinstance(where, Compare) and where.value == 0 and where.op in ("<", ">="):
            view = self._data.view()
            below = sum(bool(np.signbit(value)) for value in view.fields.get(where.field, ()))
            return below if where.op == "<" else len(view.ids) - below
        return super()._count(where)


class _Busy(MemoryStore):
    """Knows how many calls it is in."""

    _calls = 0

    def _get(self, *args: Any) -> Records:
        self._calls += 1
        try:
            time.sleep(0.01)
            return super()._get(*args)
        finally:
            self._calls -= 1


@caught_by("test_closing_while_in_use[get]")
class CannotCloseWhileInUse(_Busy):
    def _close(self) -> None:
        for _ in range(1000):
            if self._calls:
                raise RuntimeError("already borrowed")


@caught_by("test_closing_while_in_use[get]")
class ClosedUnderACall(_Busy):
    """Tells a call that meets the end in the words of the engine."""

    def _get(self, *args: Any) -> Records:
        records = super()._get(*args)
        if self._closed:
            raise RuntimeError("the engine is not there any more")
        return records


@caught_by("test_scan_to_the_end[7]")
class ScanOverlaps(MemoryStore):
    def _scan(self, *args: Any) -> Iterator[Records]:
        for records in super()._scan(*args):
            yield records
        yield records


@caught_by("test_get_keeps_the_order_asked_for")
class GetInStoredOrder(MemoryStore):
    def _get(self, ids: list[str], *args: Any) -> Records:
        return super()._get([value for value in self._data.view().ids.tolist() if value in ids], *args)


@caught_by("test_stats")
class StatsCountTheDead(MemoryStore):
    _most = 0

    def _stats(self) -> StoreStats:
        return replace(super()._stats(), count=self._most)

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._most += len(batch)
        return super()._upsert(batch, on_conflict)


# -- opening -----------------------------------------------------------------------------------------------------------


class _AnySpecOpens(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        there = bool(MemoryBackend.collections(self, request.url)[:1] == [request.url])
        return super().open(replace(request, spec=None) if there else request)


@caught_by("test_another_spec_is_refused[dim]", "test_another_spec_is_refused[space]", backend=_AnySpecOpens)
class AnySpecOpens(MemoryStore):
    pass


class _Recreates(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        try:
            return super().open(request)
        except ValueError:
            self._collections.clear()
            return super().open(request)


@caught_by("test_another_spec_is_refused[metric]", backend=_Recreates)
class RecreatesOnMismatch(MemoryStore):
    pass


class _Forgets(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        store = super().open(request)
        collections = self._collections
        store._close = collections.clear  # type: ignore[method-assign]
        return store


@caught_by("test_reopen[dot]", "test_reopen_after_each_write", backend=_Forgets)
class GoneAfterClosing(MemoryStore):
    pass


class _LosesSpace(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        spec = request.spec and replace(request.spec, space=None)
        return super().open(replace(request, spec=spec))


@caught_by("test_reopen[cosine]", "test_another_spec_is_refused[space]", backend=_LosesSpace)
class SpaceNotStored(MemoryStore):
    pass


class _LosesDtype(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        spec = request.spec and replace(request.spec, dtype="float32")
        return super().open(replace(request, spec=spec))


@caught_by("test_halves_come_back[dot]", "test_another_dtype_is_refused", backend=_LosesDtype)
class DtypeNotStored(MemoryStore):
    """Keeps whatever the front has rounded, and says float32 of it."""


@caught_by("test_halves_come_back[l2]", "test_halves_are_scored_as_they_are_kept[dot]")
class FewerBitsThanHalves(MemoryStore):
    """Keeps the 8 bits of a bfloat16, as engines do that take one for the other."""

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        if self.spec.dtype == "float16":
            cut = (batch.vectors.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
            batch = Batch(batch.ids, cut, batch.fields)
        return super()._upsert(batch, on_conflict)


@caught_by("test_halves_are_scored_as_they_are_kept[cosine]", "test_halves_are_scored_as_they_are_kept[l2]")
class SumsInHalves(_Rescored):
    def _changed(self, scores: np.ndarray) -> np.ndarray:
        return scores.astype(np.float16) if self.spec.dtype == "float16" else scores


@caught_by("test_halves_come_back[cosine]")
class NormalisesHalvesAgain(MemoryStore):
    """Makes them unit vectors once more, which the rounded ones are not quite."""

    def _get(self, *arguments: Any) -> Records:
        records = super()._get(*arguments)
        if self.spec.dtype == "float16" and self.spec.metric == "cosine" and records.vectors is not None:
            lengths = np.linalg.norm(records.vectors, axis=1, keepdims=True)
            records = replace(records, vectors=(records.vectors / lengths).astype(np.float32))
        return records


class _ByName(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        store = super().open(request)
        store._backend = self  # type: ignore[attr-defined]  # the store below has it
        return store


@caught_by("test_a_collection_made_again", backend=_ByName)
class WritesIntoAnothers(MemoryStore):
    """Finds its collection by name at each write, whatever has been made under it meanwhile."""

    _backend: MemoryBackend

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        self._data = self._backend._collections[(self.url.host + self.url.path).rstrip("/")]
        return super()._upsert(batch, on_conflict)


class _CreatesAlways(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        store = super().open(replace(request, read_only=False))
        store._read_only = request.read_only
        return store


@caught_by("test_nothing_there", backend=_CreatesAlways)
class CreatesReadOnly(MemoryStore):
    pass


class _FrozenForReaders(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        store = super().open(request)
        if request.read_only:
            view, store._data = store._data.view(), _Collection(store.spec)
            store._data.write(Batch(view.ids.tolist(), view.vectors, view.fields), list(range(len(view.ids))))
        return store


@caught_by("test_a_reader_sees_later_writes", backend=_FrozenForReaders)
class ReadersSeeThePast(MemoryStore):
    """Declares strong consistency, and reads what was there when it was opened."""


class _OneForAll(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        if request.url.path.endswith(("/one", "/two")):
            return super().open(replace(request, url=replace(request.url, path="/same")))
        return super().open(request)


@caught_by("test_children_are_collections_of_their_own", backend=_OneForAll)
class ChildrenShared(MemoryStore):
    pass


class _RemovesAll(MemoryBackend):
    def remove_empty(self, url: StoreURL) -> bool:
        return self._collections.pop(url.path, None) is not None


@caught_by("test_only_what_is_empty_is_removed", backend=_RemovesAll)
class RemovesWithRecords(MemoryStore):
    pass


class _DropsBelow(MemoryBackend):
    def drop(self, url: StoreURL) -> bool:
        gone = [super(_DropsBelow, self).drop(place) for place in self.collections(url)]
        return any(gone)


@caught_by("test_dropped", backend=_DropsBelow)
class DropsWhatIsBelow(MemoryStore):
    pass


class _PingMakes(MemoryBackend):
    def ping(self, url: StoreURL) -> None:
        self._collections.setdefault(url.path, _Collection(StoreSpec(2)))


@caught_by("test_ping", backend=_PingMakes)
class PingMakesACollection(MemoryStore):
    pass


class _AnyOption(MemoryBackend):
    def open(self, request: OpenRequest) -> MemoryStore:
        return super().open(replace(request, url=replace(request.url, options={})))


@caught_by("test_an_unknown_option_is_refused", backend=_AnyOption)
class OptionsSwallowed(MemoryStore):
    pass


class _ListsNothing(MemoryBackend):
    def collections(self, url: StoreURL) -> list[StoreURL]:
        return []


@caught_by("test_collections_lists_the_url_itself", backend=_ListsNothing)
class ListsNothing(MemoryStore):
    pass


# -- threads -----------------------------------------------------------------------------------------------------------


@caught_by("test_searching_while_writing")
class TornRecords(MemoryStore):
    """Takes the fields of its hits from a later state than the hits."""

    def _search(self, queries: Any, k: int, where: Any, fields: Any) -> Hits:
        hits, view = super()._search(queries, k, where, fields), self._data.view()
        rows = np.arange(hits.ids.size).reshape(hits.ids.shape) % max(len(view.ids), 1)
        return Hits(hits.ids, hits.scores, {name: view.fields[name][rows] for name in fields})


# -- updating ----------------------------------------------------------------------------------------------------------


def _put_back(store: MemoryStore, records: Records, fields: dict[str, Any]) -> int:
    """Write records again, with other fields and the vectors that they were read with."""
    assert records.vectors is not None
    batch = Batch(records.ids.tolist(), records.vectors, {**records.fields, **fields})
    return MemoryStore._upsert(store, batch, "replace") if len(batch) else 0


@caught_by("test_update_of_what_is_not_there", "test_update_by_id[dot]")
class UpdateCreates(MemoryStore):
    """Writes what it is asked to change, stored or not, as an upsert of some fields would."""

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        absent = [value for value in ids if value not in self._data.rows]
        vectors = np.ones((len(absent), self.spec.dim), np.float32)
        columns = {name: empty_column(kind, len(absent)) for name, kind in self.spec.fields.items()}
        MemoryStore._upsert(self, Batch(absent, vectors, columns), "skip")
        return super()._update_ids(ids, fields)


@caught_by("test_update_of_what_is_not_there", "test_update_by_id[l2]")
class UpdateCountsWhatWasAsked(MemoryStore):
    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        super()._update_ids(ids, fields)
        return len(ids)


@caught_by("test_update_of_what_is_not_there", "test_update_by_id[cosine]")
class UpdateInsists(MemoryStore):
    """Changes what is there, and fails over an id that is not, as Qdrant does when it is given ids."""

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        changed = super()._update_ids(ids, fields)
        if changed < len(ids):
            raise KeyError("no such id")
        return changed


@caught_by("test_update_by_id[cosine]", "test_update_by_filter")
class UpdateResetsOtherFields(MemoryStore):
    """Replaces all of a record's fields by those that are named."""

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        empty = {name: empty_column(kind, len(ids)) for name, kind in self.spec.fields.items()}
        return super()._update_ids(ids, {**empty, **fields})

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        empty = {name: empty_column(kind, 1)[0] for name, kind in self.spec.fields.items()}
        return super()._update_where(where, {**empty, **fields})


@caught_by("test_update_by_id[l2]", "test_update_with_an_index")
class UpdateChangesTheVector(MemoryStore):
    """Puts vectors back in half the precision."""

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        changed = super()._update_ids(ids, fields)
        records = self._get(ids, list(self.spec.fields), True)
        halved = Records(records.ids, records.vectors.astype(np.float16).astype(np.float32), records.fields)  # type: ignore[union-attr]  # there
        _put_back(self, halved, {})
        return changed


@caught_by("test_an_update_brings_nothing_back")
class UpdateReadsAndPutsBack(MemoryStore):
    """Declares that it changes records where they lie, and reads them and writes them again a moment later."""

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        records = self._get(ids, list(self.spec.fields), True)
        _until(lambda: len(self._data.rows) < len(records))
        at = [ids.index(value) for value in records.ids]
        return _put_back(self, records, {name: column[at] for name, column in fields.items()})


@caught_by("test_an_update_brings_nothing_back")
class UpdateByFilterPutsBack(MemoryStore):
    """The same behind a filter."""

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        view = self._data.view()
        records = view.records(view.match(where), list(self.spec.fields), True)
        _until(lambda: len(self._data.rows) < len(records))
        return _put_back(self, records, {name: np.array([value] * len(records)) for name, value in fields.items()})


@caught_by("test_update_by_filter")
class UpdateIgnoresWhere(MemoryStore):
    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        count = self._count(where)
        super()._update_where(~F("label").isin([]) if "label" in self.spec.fields else where, fields)
        return count


@caught_by("test_update_by_filter")
class UpdateLooksTwice(MemoryStore):
    """Changes one field after the other, and asks each time what matches."""

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        counts = [MemoryStore._update_where(self, where, {name: value}) for name, value in fields.items()]
        return counts[0]


@caught_by("test_update_by_id[dot]", "test_update_of_many")
class UpdateGivesAllTheFirstValue(MemoryStore):
    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        return super()._update_ids(ids, {name: np.repeat(column[:1], len(ids)) for name, column in fields.items()})


@caught_by("test_update_of_many")
class UpdateEndsWithTheFirstRequest(MemoryStore):
    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        return super()._update_ids(ids[:1000], {name: column[:1000] for name, column in fields.items()})


class _KeepsWhatMatches(MemoryStore):
    """Keeps what it has found for a filter until it is told to forget."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._kept: dict[object, list[str]] = {}

    def _moment(self) -> object:
        raise NotImplementedError

    def _search(self, queries: Any, k: int, where: Filter | None, fields: Any) -> Hits:
        if where is None:
            return super()._search(queries, k, where, fields)
        view = self._data.view()
        ids = self._kept.setdefault((where, self._moment()), view.ids[view.match(where)].tolist())
        rows = [row for row, value in enumerate(view.ids) if value in ids]
        part = _Collection(self.spec)
        part.write(
            Batch(view.ids[rows].tolist(), view.vectors[rows], {n: c[rows] for n, c in view.fields.items()}),
            list(range(len(rows))),
        )
        return MemoryStore(OpenRequest(self.url), part)._search(queries, k, None, fields)


@caught_by("test_filters_see_updated_fields")
class FiltersKeepTheRecordsOfBefore(_KeepsWhatMatches):
    """Forgets when records come or go, and not when their fields change."""

    def _moment(self) -> object:
        return tuple(self._data.rows)


@caught_by("test_other_openers_see_an_update")
class OthersFiltersKeepTheRecordsOfBefore(_KeepsWhatMatches):
    """Forgets at its own updates and at whatever anyone else writes, but not at the updates of others."""

    _own = 0

    def _moment(self) -> object:
        return tuple(self._data.rows), self._own

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        self._own += 1
        return super()._update_ids(ids, fields)

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        self._own += 1
        return super()._update_where(where, fields)


@caught_by("test_other_openers_see_an_update")
class RevisionForgetsUpdates(MemoryStore):
    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        before = self._data.revision
        changed = super()._update_ids(ids, fields)
        self._data.revision = before
        return changed
