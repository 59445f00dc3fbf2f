"""The store: a snapshot of the database, an index brought up to that snapshot, the search, the records of the hits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from knnstore.abc import EmbeddingStore, OpenRequest
from knnstore.errors import KnnStoreError
from knnstore.filters import Filter, Scalar
from knnstore.types import Batch, Capabilities, Column, Conflict, Hits, Records, StoreStats, empty_column
from knnstore_faiss import writes
from knnstore_faiss.database import Commit, Database
from knnstore_faiss.errors import map_error
from knnstore_faiss.nominate import ranked
from knnstore_faiss.options import Options
from knnstore_faiss.schema import Connection, steady
from knnstore_faiss.synced import Detail, SyncedIndex

__all__ = ["FaissStore"]

_SELECTIONS = 4


class FaissStore(EmbeddingStore):
    """See the module. Writing goes to the database alone; the next search brings the index up to date.

    Args:
        request: what was asked for.
        database: open.
        options: of the URL.
    """

    def __init__(self, request: OpenRequest, database: Database, options: Options) -> None:
        super().__init__(request.url, database.spec, read_only=request.read_only)
        self._database, self._options = database, options
        self._index = SyncedIndex(database, options)
        self._selections: OrderedDict[Filter, tuple[bytes, NDArray[np.int64]]] = OrderedDict()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            snapshot=True,
            conditional=True,
            update_in_place=True,
            revision=True,
            half_precision=True,
            multi_process=True,
            approximate=not self._options.exact,
            recall_floor=self._index.recall_floor,
            consistency=("strong", "session", "eventual"),
        )

    # -- writing ------------------------------------------------------------------------------------------------------

    def _upsert(self, batch: Batch, on_conflict: Conflict) -> int:
        return writes.upsert(self._database, batch, on_conflict)

    def _delete_ids(self, ids: list[str]) -> int:
        with self._database.writing() as (connection, commit):
            rows = list(self._database.rows_of(connection, ids).values())
            return writes.remove(connection, commit, rows)

    def _delete_where(self, where: Filter) -> int:
        with self._database.writing() as (connection, commit):
            rows = self._database.matching(connection, where).tolist()
            return writes.remove(connection, commit, rows)

    def _update_ids(self, ids: list[str], fields: dict[str, Column]) -> int:
        return writes.update(self._database, ids, fields)

    def _update_where(self, where: Filter, fields: dict[str, Scalar]) -> int:
        return writes.update_where(self._database, where, fields)

    # -- reading ------------------------------------------------------------------------------------------------------

    @steady
    def _search(self, queries: NDArray[np.float32], k: int, where: Filter | None, fields: list[str]) -> Hits:
        with self._database.connection() as connection:
            with self._database.gate:
                # Begun inside the gate: the index never gets ahead of the snapshot of a search that uses it.
                connection.execute("BEGIN")
                commit = self._index.follow(connection)
                chosen = None if where is None else self._selection(connection, commit, where)
                found = self._index.search(connection, queries, k, chosen)
            rows, scores = ranked(
                found, (len(queries), k), lambda tied: self._database.columns_of(connection, tied, ())[0]
            )
            return self._hits(connection, rows, scores, fields)

    def _selection(self, connection: Connection, commit: Commit, where: Filter) -> NDArray[np.int64]:
        """The matching rows. A segmenter asks with the same filter for each image, so the last few are kept."""
        kept = self._selections.pop(where, None)
        if kept is None or kept[0] != commit.token:
            kept = (commit.token, self._database.matching(connection, where))
            connection.check_unchanged()
        self._selections[where] = kept
        while len(self._selections) > _SELECTIONS:
            self._selections.popitem(last=False)
        return kept[1]

    def _hits(
        self, connection: Connection, rows: NDArray[np.int64], scores: NDArray[np.float32], fields: list[str]
    ) -> Hits:
        distinct, inverse = np.unique(rows, return_inverse=True)
        missing = int(len(distinct) > 0 and distinct[0] < 0)  # -1, where too few match, sorts first
        ids, columns = self._database.columns_of(connection, distinct[missing:], fields)
        inverse = inverse.reshape(rows.shape) - missing  # -1 now picks the last entry, which is the empty one
        return Hits(
            np.append(ids, empty_column(str, 1))[inverse],
            scores,
            {
                name: np.append(column, empty_column(self.spec.fields[name], 1))[inverse]
                for name, column in columns.items()
            },
        )

    @steady
    def _get(self, ids: list[str], fields: list[str], with_vectors: bool) -> Records:
        with self._database.snapshot() as (connection, _):
            return self._database.get(connection, ids, fields, vectors=with_vectors)

    @steady
    def _count(self, where: Filter | None) -> int:
        with self._database.snapshot() as (connection, commit):
            return commit.count if where is None else self._database.count(connection, where)

    @steady
    def _count_by(self, field: str, where: Filter | None) -> dict[Scalar, int]:
        with self._database.snapshot() as (connection, _):
            return self._database.count_by(connection, field, where)

    @steady
    def _revision(self) -> str:
        with self._database.snapshot() as (_, commit):
            return f"{commit.generation}-{commit.token.hex()}"

    def _scan(self, where: Filter | None, fields: list[str], with_vectors: bool, batch_size: int) -> Iterator[Records]:
        with self._database.snapshot() as (connection, _):
            yield from self._database.scan(connection, where, fields, vectors=with_vectors, size=batch_size)

    # -- keeping ------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._database.settle()
        with self._database.gate:
            self._index.save()

    def _optimize(self) -> None:
        with self._database.connection() as connection:
            with self._gated(connection):
                due = self._index.wants_building(connection)
                self._index.drop_if_few(connection)
            if due:
                self._build(connection)
            more = True
            while more:
                with self._gated(connection):
                    more = self._index.grow(connection)
        self._database.compact()
        self._flush()

    @contextmanager
    def _gated(self, connection: Connection) -> Iterator[None]:
        """The newest snapshot, with the index in our hands: it never gets ahead of a snapshot that follows."""
        with self._database.gate:
            connection.execute("BEGIN")
            yield
            connection.execute("COMMIT")

    def _build(self, connection: Connection) -> None:
        """Build beside the index that others go on to search."""
        connection.execute("BEGIN")
        built = self._index.built(connection)
        connection.execute("COMMIT")
        with self._database.gate:
            self._index.adopt(*built)

    def _close(self) -> None:
        with self._database.gate:
            self._index.release()
        self._database.close()

    @steady
    def _stats(self) -> StoreStats:
        with self._database.connection() as connection, self._database.gate:
            connection.execute("BEGIN")
            commit = self._index.follow(connection)
            recall = self._index.measured_recall(connection)
        details: dict[str, Detail] = {"generation": commit.generation, "sync": self._options.sync}
        details |= self._index.details()
        return StoreStats(
            "faiss",
            commit.count,
            self._database.bytes_on_disk(),
            self._index.nbytes,
            recall=recall,
            indexed=self._index.indexed,
            details=details,
        )

    def _map_error(self, error: Exception) -> KnnStoreError | None:
        return map_error(error, str(self.url))
