"""The index in memory, and the state of the database that it stands for.

One way for everything that changes the store, ours or another process's: before each search, read the newest commit
that the snapshot sees, and follow it with the rows after the last one known and the deletions since.

An approximate index is built and grown by ``optimize()`` alone, so that no search waits for it. What has been written
since then is searched exactly, beside it; before the first time, everything is.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore_faiss import cache
from knnstore_faiss.ann import AnnIndex
from knnstore_faiss.building import build, first_effort, recall_of
from knnstore_faiss.database import Commit, Database, latest
from knnstore_faiss.factory import training_size
from knnstore_faiss.flat import FlatIndex
from knnstore_faiss.gpu import GpuNominator, GpuSearcher, device_number
from knnstore_faiss.nominate import Candidates, joined
from knnstore_faiss.options import Options
from knnstore_faiss.schema import Connection
from knnstore_faiss.searching import Searcher

__all__ = ["Detail", "SyncedIndex"]

Detail: TypeAlias = str | int | float | bool | None

_log = logging.getLogger("knnstore_faiss")

_STEP = 1000
"""Records that go into an approximate index while searches wait."""
_FLOORS = {True: 0.9, False: 0.8}
"""Where the index holds the very vectors, and where it holds codes of them. Tuning finds 0.95 of the neighbours of
stored vectors; of random ones, which are like no other and the worst that there is, 0.94 were found."""


class SyncedIndex:
    """Follows the database. Methods are called with the database's gate held.

    Args:
        database: open.
        options: of the URL.

    Raises:
        InvalidURLError: a factory string that cannot be used.
        BackendUnavailableError: a GPU that cannot be used.
    """

    def __init__(self, database: Database, options: Options) -> None:
        spec = database.spec
        self._database, self._options = database, options
        self._flat: FlatIndex | None = None
        self._ann: AnnIndex | None = None
        self._at: Commit | None = None
        self._saved: int | None = None
        self._cache = "none"
        self._seen: cache.Identity | None = None
        self._threshold, self._lossless = 0, True
        if not options.exact:
            empty = AnnIndex(options.index, spec.dim, spec.metric, first_effort(options), spec.dtype)
            trained, self._lossless = empty.index.is_trained, empty.lossless
            self._threshold = 0 if trained else training_size(options.index, spec.dim, options.train_at)
        uuid = database.meta.uuid
        self._key = cache.CacheKey(uuid, options.index, spec.dim, spec.metric, options.seed, spec.dtype)
        number = device_number(options.device) if options.exact else None
        self._gpu, self._pid = number, os.getpid()
        self._nominate = None if number is None else GpuNominator(number, spec.dim, spec.metric)

    @property
    def recall_floor(self) -> float:
        """What is declared: 1 for the exact index, less for one that is tuned, nothing for one set by hand."""
        if self._options.exact:
            return 1.0
        return _FLOORS[self._lossless] if not self._options.nprobe and not self._options.ef_search else 0.0

    @property
    def nbytes(self) -> int | None:
        """What the exact index holds in memory; FAISS does not tell for the others."""
        return self._flat.nbytes if self._flat is not None else None

    @property
    def indexed(self) -> int | None:
        """Records that the approximate index covers; None where there is no such thing."""
        return None if self._options.exact else self._ann.live if self._ann is not None else 0

    # -- following ----------------------------------------------------------------------------------------------------

    def follow(self, connection: Connection) -> Commit:
        """Bring the index to the state that the connection's snapshot sees, and say which."""
        # The file first: what is in it is then no newer than the snapshot, as long as nobody has read from that before.
        file = None if self._options.exact else cache.identity(self._database.folder)
        commit = latest(connection)
        if self._at == commit and file == self._seen:
            return commit
        at, self._at = self._at, None  # until it is done: an error half way must not leave a wrong belief
        if file != self._seen:  # written by another process, which optimised; or the first time
            self._seen = file
            at = self._from_cache(connection) or at
        if at is None or at.generation > commit.generation or not self._database.is_ancestor(connection, at):
            self._rebuild(connection, commit)
        else:
            self._catch_up(connection, at)
        connection.check_unchanged()
        self._at = commit
        return commit

    def _rebuild(self, connection: Connection, commit: Commit) -> None:
        """Forget everything, and search every record of the snapshot exactly until somebody optimises."""
        self._ann = self._saved = None
        self._flat = self._new_flat(commit.count)
        for rows, vectors in self._database.vectors_after(connection, 0):
            self._flat.add(rows, vectors)

    def _new_flat(self, capacity: int = 0) -> FlatIndex:
        spec = self._database.spec
        return FlatIndex(spec.dim, spec.metric, capacity, spec.dtype)

    def _catch_up(self, connection: Connection, at: Commit) -> None:
        """Follow from ``at``, a state that the index stands for, to what the snapshot sees."""
        assert self._flat is not None  # of the state ``at``
        if len(gone := self._database.deleted_since(connection, at.generation)):  # not so after a change of fields
            if self._ann is not None:
                self._ann.remove(gone)
            self._flat.remove(gone)
        for rows, vectors in self._database.vectors_after(connection, at.last_row):
            self._flat.add(rows, vectors)

    def _from_cache(self, connection: Connection) -> Commit | None:
        found = cache.load(self._database.folder, self._key)
        if found is None or isinstance(found, str):
            self._cache = "none" if found is None else f"ignored: {found}"
        elif not self._database.is_ancestor(connection, found[1]):
            self._cache = "ignored: of another history (a restored backup?)"
        else:
            self.adopt(*found)
            self._saved, self._cache = len(found[0].rows), "used"
            return found[1]
        if found is not None:
            _log.warning("%s: index on disk %s; optimize() builds it anew", self._database.folder, self._cache)
        return None

    # -- searching ----------------------------------------------------------------------------------------------------

    def search(
        self, connection: Connection, queries: NDArray[np.float32], k: int, chosen: NDArray[np.int64] | None
    ) -> Candidates:
        """Candidates among all rows, or the chosen ones, that include the k best (those found, where approximate)."""
        found = self._search_flat(queries, k, chosen)
        if self._ann is None:
            return found
        searcher = Searcher(self._ann, partial(self._database.vectors_of, connection), self._database.spec.metric)
        return joined([found, searcher.search(queries, k, chosen)])

    def _search_flat(self, queries: NDArray[np.float32], k: int, chosen: NDArray[np.int64] | None) -> Candidates:
        assert self._flat is not None  # follow() made one
        positions = None if chosen is None else self._flat.positions(chosen)
        if self._nominate is not None and self._pid == os.getpid():  # CUDA does not survive a fork
            return GpuSearcher(self._flat, self._nominate).search(queries, k, positions)
        return self._flat.search(queries, k, positions)

    def measured_recall(self, connection: Connection) -> float | None:
        """Recall@10 on a sample of the stored vectors, None where there are none."""
        if self._at is None or not self._at.count:
            return None
        return 1.0 if self._ann is None else recall_of(self._ann, self._database, connection, self._options.seed)

    # -- keeping ------------------------------------------------------------------------------------------------------

    def wants_building(self, connection: Connection) -> bool:
        """Whether to build: there is no approximate index, it has dead entries, or the records have doubled since."""
        if self._options.exact or not self._enough(latest(connection)):
            return False
        if self._at is None and cache.identity(self._database.folder) is None:
            return True  # without reading everything first, only to search it exactly
        commit, ann = self.follow(connection), self._ann
        return ann is None or ann.dead > 0 or commit.count >= 2 * ann.trained_on

    def _enough(self, commit: Commit) -> bool:
        return commit.count >= max(self._threshold, 1)

    def built(self, connection: Connection) -> tuple[AnnIndex, Commit]:
        """A new index of what the snapshot sees, and which state that is. Takes long, and needs no gate."""
        commit = latest(connection)
        return build(self._database, connection, self._options, commit), commit

    def adopt(self, ann: AnnIndex, built: Commit) -> None:
        """Take an index that stands for the state ``built``; what came later follows."""
        self._ann, self._flat, self._at, self._saved = ann, self._new_flat(), built, None
        if self._options.nprobe or self._options.ef_search:
            ann.effort = first_effort(self._options)

    def drop_if_few(self, connection: Connection) -> None:
        """Search exactly again, once too few are left for an index to be trained on."""
        if not self._options.exact and not self._enough(latest(connection)):
            self.release()
            cache.remove(self._database.folder)

    def grow(self, connection: Connection) -> bool:
        """Take some of what was written since into the approximate index; False once nothing is left."""
        self.follow(connection)
        if self._ann is None or self._flat is None or not self._flat.count:
            return False
        rows = np.sort(self._flat.rows)[:_STEP]
        self._ann.add(rows, self._database.vectors_of(connection, rows))
        self._flat.remove(rows)
        return True

    def save(self) -> None:
        """Write the approximate index to disk, where there is one, unless the one that is there holds as much."""
        ann = self._ann
        if ann is None or self._at is None or self._saved == len(ann.rows):
            return
        # What is not in it yet is read after it, whatever the newest record of the state was.
        state = replace(self._at, last_row=int(ann.rows[-1]))
        cache.save(self._database.folder, self._key, state, ann)
        self._saved, self._cache = len(ann.rows), "written"
        self._seen = cache.identity(self._database.folder)

    def release(self) -> None:
        """Let go of the memory."""
        self._flat = self._ann = self._at = self._saved = None

    def details(self) -> dict[str, Detail]:
        """For ``stats()``."""
        common: dict[str, Detail] = {
            "index": self._options.index,
            "device": "cpu" if self._gpu is None else f"cuda:{self._gpu}",
        }
        if self._options.exact:
            return common
        ann, unindexed = self._ann, self._flat.count if self._flat is not None else 0
        state: dict[str, Detail] = {"trained": ann is not None, "train_at": self._threshold, "index_file": self._cache}
        if ann is None:
            return common | state | {"entries": 0, "unindexed": unindexed}
        effort: dict[str, Detail] = {
            "nprobe": ann.effort.nprobe,
            "ef_search": ann.effort.ef_search,
            "refine": ann.effort.refine,
        }
        entries: dict[str, Detail] = {"entries": len(ann.rows), "dead": ann.dead, "unindexed": unindexed}
        return common | state | effort | entries | {"recall_when_tuned": ann.recall}
