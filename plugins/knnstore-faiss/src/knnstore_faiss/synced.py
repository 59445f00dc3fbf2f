"""The index in memory, and the state of the database that it stands for.

One way for everything that changes the store, ours or another process's: before each search, read the newest commit
that the snapshot sees, and follow it with the rows after the last one known and the deletions since.
"""

from __future__ import annotations

import logging
import os
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from knnstore_faiss import cache
from knnstore_faiss.ann import AnnIndex
from knnstore_faiss.building import build, first_effort, recall_of, search_approximately
from knnstore_faiss.database import Commit, Database, latest
from knnstore_faiss.factory import make_index, training_size
from knnstore_faiss.flat import FlatIndex
from knnstore_faiss.gpu import GpuNominator, GpuSearcher, device_number
from knnstore_faiss.nominate import Candidates
from knnstore_faiss.options import Options
from knnstore_faiss.schema import Connection

__all__ = ["Detail", "SyncedIndex"]

Detail: TypeAlias = str | int | float | bool | None

_log = logging.getLogger("knnstore_faiss")

_DEAD_SHARE = 0.3
_CLOSE = 0.05
_TUNED_FLOOR = 0.8
_FIXED_FLOOR = 0.5


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
        self._saved: Commit | None = None
        self._cache = "none"
        self._threshold = 0
        if not options.exact:
            trained = make_index(options.index, spec.dim, spec.metric).is_trained
            self._threshold = 0 if trained else training_size(options.index, spec.dim, options.train_at)
        self._key = cache.CacheKey(database.meta.uuid, options.index, spec.dim, spec.metric, options.seed)
        number = device_number(options.device) if options.exact else None
        self._gpu, self._pid = number, os.getpid()
        self._nominate = None if number is None else GpuNominator(number, spec.dim, spec.metric)

    @property
    def recall_floor(self) -> float:
        """What is declared: 1 for the exact index, less for one that is tuned, little for one set by hand."""
        if self._options.exact:
            return 1.0
        return _FIXED_FLOOR if self._options.nprobe or self._options.ef_search else _TUNED_FLOOR

    @property
    def nbytes(self) -> int | None:
        """What the exact index holds in memory; FAISS does not tell for the others."""
        return self._flat.nbytes if self._flat is not None else None

    # -- following ----------------------------------------------------------------------------------------------------

    def follow(self, connection: Connection) -> Commit:
        """Bring the index to the state that the connection's snapshot sees, and say which."""
        commit = latest(connection)
        if self._at == commit:
            return commit
        at, self._at = self._at, None  # until it is done: an error half way must not leave a wrong belief
        if at is None and self._wants_ann(commit):
            at = self._from_cache(connection)
        if at is None or at.generation > commit.generation or not self._database.is_ancestor(connection, at):
            self._rebuild(connection, commit)
        else:
            self._catch_up(connection, at, commit)
        connection.check_unchanged()
        self._at = commit
        return commit

    def _wants_ann(self, commit: Commit) -> bool:
        return not self._options.exact and commit.count >= self._threshold and commit.count > 0

    def _rebuild(self, connection: Connection, commit: Commit) -> None:
        """Forget everything, and index every record of the snapshot in the way that suits their number."""
        self._flat = self._ann = self._saved = None
        if self._wants_ann(commit):
            self._ann = build(self._database, connection, self._options, commit)
            return
        self._flat = FlatIndex(self._database.spec.dim, self._database.spec.metric, commit.count)
        for rows, vectors in self._database.vectors_after(connection, 0):
            self._flat.add(rows, vectors)

    def _catch_up(self, connection: Connection, at: Commit, commit: Commit) -> None:
        """Follow from ``at``, a state that the index stands for, to ``commit``."""
        index = self._ann or self._flat
        assert index is not None  # of the state ``at``
        index.remove(self._database.deleted_since(connection, at.generation))
        for rows, vectors in self._database.vectors_after(connection, at.last_row):
            index.add(rows, vectors)
        outgrown = self._ann is None and self._wants_ann(commit)
        wasteful = self._ann is not None and self._ann.dead > _DEAD_SHARE * len(self._ann.rows)
        if outgrown or wasteful:
            self._rebuild(connection, commit)

    def _from_cache(self, connection: Connection) -> Commit | None:
        found = cache.load(self._database.folder, self._key)
        if found is None or isinstance(found, str):
            self._cache = "none" if found is None else f"ignored: {found}"
        elif not self._database.is_ancestor(connection, found[1]):
            self._cache = "ignored: of another history (a restored backup?)"
        else:
            self._ann, self._saved = found
            self._flat, self._cache = None, "used"
            if self._options.nprobe or self._options.ef_search:
                self._ann.effort = first_effort(self._options)
            return found[1]
        if found is not None:
            _log.warning("%s: index on disk %s; rebuilding", self._database.folder, self._cache)
        return None

    # -- searching ----------------------------------------------------------------------------------------------------

    def search(
        self, connection: Connection, queries: NDArray[np.float32], k: int, chosen: NDArray[np.int64] | None
    ) -> Candidates:
        """Candidates among all rows, or the chosen ones, that include the k best (those found, where approximate)."""
        if self._ann is not None:
            return search_approximately(self._ann, self._database, connection, queries, k, chosen)
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

    def save(self, *, unless_close: bool = False) -> None:
        """Write an approximate index to disk, where there is one that is not there yet.

        Args:
            unless_close: not if the one on disk lacks little: reading a few records beats writing gigabytes.
        """
        if self._ann is None or self._at is None or self._saved == self._at:
            return
        behind = self._at.last_row - self._saved.last_row if self._saved is not None else len(self._ann.rows)
        if not unless_close or behind > _CLOSE * len(self._ann.rows):
            cache.save(self._database.folder, self._key, self._at, self._ann)
            self._saved, self._cache = self._at, "written"

    def optimize(self, connection: Connection) -> None:
        """Rebuild, and train and tune anew, an approximate index that has dead entries or that has grown."""
        commit = self.follow(connection)
        if self._ann is not None and (self._ann.dead or len(self._ann.rows) >= 2 * self._ann.trained_on):
            self._at = None
            self._rebuild(connection, commit)
            self._at = commit

    def release(self) -> None:
        """Let go of the memory."""
        self._flat = self._ann = self._at = None

    def details(self) -> dict[str, Detail]:
        """For ``stats()``."""
        common: dict[str, Detail] = {
            "index": self._options.index,
            "device": "cpu" if self._gpu is None else f"cuda:{self._gpu}",
        }
        if self._options.exact:
            return common
        ann = self._ann
        state: dict[str, Detail] = {"trained": ann is not None, "train_at": self._threshold, "index_file": self._cache}
        if ann is None:
            return common | state
        effort: dict[str, Detail] = {
            "nprobe": ann.effort.nprobe,
            "ef_search": ann.effort.ef_search,
            "refine": ann.effort.refine,
        }
        return common | state | effort | {"entries": len(ann.rows), "dead": ann.dead, "recall_when_tuned": ann.recall}
