"""What is stored and what is asked: made up with the structure of embeddings, or taken from a store.

The filter lets about half of the records through: labels that lie together, if there are any. That is what an active
vocabulary does, and where approximate indexes lose most; of much less they scan what matches.

N   records        Q   queries        D   width of a vector
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from knnstore._plugins import open_store
from knnstore.abc import EmbeddingStore
from knnstore.errors import InvalidInputError
from knnstore.filters import F, Filter
from knnstore.types import Batch, Column, Metric, StoreSpec, VectorRecords
from knnstore.url import StoreURL

__all__ = ["QUERIES", "SHARE", "Workload", "choose_filter", "from_store", "made_up"]

QUERIES = 250
"""Queries of one batch: about the regions of a photograph."""

_FACTORS = 24
"""Directions in which the records of one label differ. Embeddings of real images vary in few directions; noise in all
D of them would make every record equally far from every other, and no index could help."""
_LABELS = 150
_TWINS, _COPIES = 0.05, 0.01


@dataclass(frozen=True, eq=False)
class Workload:
    """The records, the queries and the filter; the same for every backend.

    Args:
        source: where it comes from, for people; no secret is in it.
        spec: of the collections that are made.
        ids: N distinct strings.
        vectors: float32 (N, D).
        fields: a column of N values for each declared field.
        queries: float32 (Q, D); none of them is stored, though a copy of one may be.
        where: lets about half of the records through; None where there is no field to filter by.
    """

    source: str
    spec: StoreSpec
    ids: list[str]
    vectors: NDArray[np.float32]
    fields: dict[str, Column]
    queries: NDArray[np.float32]
    where: Filter | None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def matching(self) -> NDArray[np.bool_]:
        """Which records the filter lets through: bool (N,)."""
        return np.ones(len(self), np.bool_) if self.where is None else self.where.mask(self.fields)

    @cached_property
    def digest(self) -> str:
        """Identifies the content: two workloads are the same work exactly when these are equal."""
        hashed = hashlib.sha256(self.spec.to_json().encode())
        for rows in (self.vectors, self.queries):
            hashed.update(np.ascontiguousarray(rows).data)
        hashed.update(repr((self.ids, [(name, c.tolist()) for name, c in sorted(self.fields.items())])).encode())
        hashed.update(repr(self.where).encode())
        return f"sha256:{hashed.hexdigest()[:32]}"

    @property
    def shown(self) -> list[str]:
        """The field that searches return, as a program would ask for it: the first one of text, or none."""
        return [name for name, kind in self.spec.fields.items() if kind is str][:1]

    def batches(self, size: int, rows: NDArray[np.intp] | None = None) -> Iterator[Batch]:
        """The records, or some of them, in parts of at most ``size``."""
        chosen = np.arange(len(self)) if rows is None else rows
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            columns = {name: column[part] for name, column in self.fields.items()}
            yield Batch([self.ids[i] for i in part], self.vectors[part], columns)


# -- made up -----------------------------------------------------------------------------------------------------------


def made_up(count: int, dim: int, metric: Metric = "cosine", *, seed: int = 0) -> Workload:
    """Records as a database of labelled segments would hold them.

    Labels follow Zipf's law; the vectors of a label lie around its centre in a few directions of falling strength; some
    are nearly the same as another (one object in two photographs), a few are copies.

    Args:
        count: N, at least 100.
        dim: D, at least 2.
        metric: of the spec.
        seed: of every random number.

    Raises:
        InvalidInputError: too few records or numbers.
    """
    if count < 100 or dim < 2:
        raise InvalidInputError("workload", expected="at least 100 vectors of 2 numbers", got=f"{count} of {dim}")
    rng = np.random.default_rng([seed, count, dim])
    kinds = min(_LABELS, max(2, count // 20))
    weights = 1 / np.arange(1, kinds + 1)
    labels = rng.choice(kinds, count + QUERIES, p=weights / weights.sum())
    vectors = _clustered(rng, labels, kinds, dim)
    vectors[:count] = _repeated(rng, vectors[:count])
    names = np.array([f"label {i:03d}" for i in range(kinds)], object)
    fields = {
        "label": names[labels[:count]],
        "area": np.exp(rng.normal(7, 1.5, count)).astype(np.int64),
        "image": np.array([f"photographs/{i // 8:07d}.jpg" for i in range(count)], object),
        "thing": labels[:count] % 3 > 0,
    }
    spec = StoreSpec(dim, metric, {"label": str, "area": int, "image": str, "thing": bool})
    return Workload(
        f"made up, seed {seed}", spec, [f"{i // 8:07d}#{i % 8}" for i in range(count)], vectors[:count], fields,
        vectors[count:], choose_filter(spec, fields),
    )  # fmt: skip


def _clustered(rng: np.random.Generator, labels: NDArray[np.int64], kinds: int, dim: int) -> NDArray[np.float32]:
    """Vectors around the centre of their label, block by block: float32 (N, D)."""
    factors = min(_FACTORS, dim)
    centres = rng.standard_normal((kinds, dim), np.float32)
    strengths = (3.0 / np.sqrt(np.arange(1, factors + 1))).astype(np.float32)
    directions = rng.standard_normal((8, factors, dim), np.float32) * strengths[:, None] / np.sqrt(factors)
    vectors = np.empty((len(labels), dim), np.float32)
    for start in range(0, len(labels), 8192):
        part = labels[start : start + 8192]
        rows = centres[part] + 0.2 * rng.standard_normal((len(part), dim), np.float32)
        for family in range(8):
            of_it = np.flatnonzero(part % 8 == family)
            rows[of_it] += rng.standard_normal((len(of_it), factors), np.float32) @ directions[family]
        vectors[start : start + 8192] = rows
    return vectors


def _repeated(rng: np.random.Generator, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same with a few rows replaced by copies and near copies of others."""
    count = len(vectors)
    order = rng.permutation(count)
    copies, twins = int(_COPIES * count), int(_TWINS * count)
    changed = order[: copies + twins]
    originals = order[copies + twins :][: copies + twins]
    repeated = vectors.copy()
    repeated[changed] = vectors[originals]
    repeated[changed[copies:]] += 0.05 * rng.standard_normal((twins, vectors.shape[1]), np.float32)
    return repeated


# -- from a store ------------------------------------------------------------------------------------------------------


def from_store(url: str | StoreURL, limit: int | None = None) -> Workload:
    """The records of a store, or a sample of them, in memory; others of them, which are held out, are the queries.

    Which are which depends on their ids alone, so that a run that is taken up again finds the same.

    Args:
        url: the store; it is opened for reading only.
        limit: at most so many records; None for all.

    Raises:
        InvalidInputError: fewer than 100 records.
        KnnStoreError: the store cannot be read.
    """
    with open_store(url, read_only=True) as store:
        ids = sorted((i for part in store.scan(fields=[]) for i in part.ids.tolist()), key=_rank)
        if len(ids) < 100:
            raise InvalidInputError(f"--from {store.url}", expected="at least 100 records", got=len(ids))
        held_out = min(QUERIES, len(ids) // 10)
        queries = _read(store, ids[:held_out]).vectors
        records = _read(store, sorted(ids[held_out:][:limit]))
        spec = store.spec
        return Workload(
            f"records of {store.url}", spec, records.ids, records.vectors, records.fields,
            np.resize(queries, (QUERIES, spec.dim)), choose_filter(spec, records.fields),
        )  # fmt: skip


def _rank(value: str) -> bytes:
    return hashlib.blake2b(value.encode(), digest_size=8).digest()


def _read(store: EmbeddingStore, ids: list[str]) -> Batch:
    """Records by id, all of their fields."""
    found = [store.get(ids[start : start + 1024]) for start in range(0, len(ids), 1024)]
    records = VectorRecords.concatenate(found)
    return Batch(records.ids.tolist(), records.vectors, records.fields)


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
