"""The vector indexes of Milvus: which server has them, what they take, how much they find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["INDEXES", "INDEX_OPTIONS", "Index"]

_KEPT, _CODED = 0.9, 0.4
"""The share of true neighbours that is declared, for indexes over the vectors and for those over short codes of them.
Measured with 2.3.5 on vectors in clusters, as embeddings are; ``docs/design/milvus.md`` has the figures. Random vectors
of 256 numbers, which have no structure at all, are worse: without a filter HNSW with ef=64 finds 0.35 of them."""
Parameters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Steered:
    """The search option that decides how much an index looks at.

    Args:
        option: its name here.
        usual: its value where none is given.
        growth: how many times as much is worth asking for. A graph finds nearly all with five times as many
            candidates, and what it cannot reach then it does not find with more; cells are searched up to the last.
        largest: what Milvus takes at most.
    """

    option: str
    usual: int
    growth: float
    largest: int

    def value(self, options: Any, effort: float) -> int:
        """The value for this effort."""
        return int(min((getattr(options, self.option) or self.usual) * min(effort, self.growth), self.largest))


@dataclass(frozen=True, slots=True)
class Index:
    """One type of index.

    Args:
        name: as Milvus calls it.
        since: the first server version that has it.
        build: our option -> the parameter of Milvus, for those that count when it is built.
        search: the same for those that count at each search.
        at_least_k: the search option that must not be smaller than k, with its value where none is given.
        steered: the search option that decides how much is looked at; None where there is none.
        exact: whether it finds the true neighbours.
        recall_floor: the least share of true neighbours that we declare.
    """

    name: str
    since: tuple[int, int] = (2, 3)
    build: Mapping[str, str] = field(default_factory=dict)
    search: Mapping[str, str] = field(default_factory=dict)
    at_least_k: tuple[str, int] | None = None
    steered: Steered | None = None
    exact: bool = False
    recall_floor: float = 1.0

    @property
    def graph(self) -> bool:
        """Whether it is one of the HNSW family."""
        return "ef" in self.search

    def contradiction(self, options: Any) -> str:
        """What would have been right, where an option is given that this index does not have; "" otherwise."""
        strangers = [n for n in INDEX_OPTIONS if getattr(options, n) and n not in {**self.build, **self.search}]
        return f"no {strangers[0]}= with index={self.name}" if strangers else ""

    def impossible(self, options: Any, dim: int) -> str:
        """What would have been right, where no such index can be built over vectors of this width; "" otherwise.

        A server refuses such a pq_m when the collection is there already; m=1 brings the process of milvus-lite down.
        """
        if "pq_m" in self.build and options.pq_m and dim % options.pq_m:
            return f"a pq_m= that divides the width of the vectors, {dim}"
        return "an m= of at least 2" if "m" in self.build and options.m == 1 else ""

    def build_parameters(self, options: Any) -> dict[str, str | int | float | bool]:
        """What ``CreateIndex`` is given; what is not given is left to the server."""
        given = {theirs: getattr(options, ours) for ours, theirs in self.build.items() if getattr(options, ours)}
        given = {**{name: value for name, value in _DEFAULTS.items() if name in self.build.values()}, **given}
        return {**given, "refine": True} if "refine_type" in given else given

    def search_parameters(self, options: Any, k: int, effort: float = 1.0) -> dict[str, str | int | float | bool]:
        """What a search is given; ``effort`` is how many times as much is looked at as usual."""
        given = {theirs: getattr(options, ours) for ours, theirs in self.search.items() if getattr(options, ours)}
        if self.steered is not None and effort > 1:
            given[self.search[self.steered.option]] = self.steered.value(options, effort)
        if self.at_least_k is not None:
            name, usual = self.at_least_k
            given[self.search[name]] = max(given.get(self.search[name], usual), k)
        return given


# The server insists on these; the values are those of its documentation.
_DEFAULTS: Parameters = MappingProxyType({"M": 16, "efConstruction": 200, "nlist": 1024})

_GRAPH = {"m": "M", "ef_construction": "efConstruction"}
_REFINED = {"refine_type": "refine_type"}
_EF = {"ef": "ef"}
_CELLS = {"nlist": "nlist"}
_PROBES = {"nprobe": "nprobe"}
_REFINE_K = {"refine_k": "refine_k"}
_LARGEST_EF, _LARGEST_NPROBE = 32_768, 65_536
_GRAPH_STEERED = Steered("ef", 64, 5, _LARGEST_EF)
_CELLS_STEERED = Steered("nprobe", 8, math.inf, _LARGEST_NPROBE)


def _hnsw(name: str, since: tuple[int, int], floor: float, *build: Mapping[str, str]) -> Index:
    merged = {key: value for part in (_GRAPH, *build) for key, value in part.items()}
    search = {**_EF, **_REFINE_K} if build else _EF
    return Index(name, since, merged, search, ("ef", 64), _GRAPH_STEERED, recall_floor=floor)


def _ivf(name: str, since: tuple[int, int], floor: float, build: Mapping[str, str], search: Mapping[str, str]) -> Index:
    return Index(name, since, {**_CELLS, **build}, {**_PROBES, **search}, steered=_CELLS_STEERED, recall_floor=floor)


# Sources: the release notes of Milvus. 2.3.0: SCANN, GPU indexes; 2.5.0: HNSW_SQ, HNSW_PQ, HNSW_PRQ; 2.6.0: IVF_RABITQ.
# AUTOINDEX of a server of one's own is an HNSW, whose ef would be k; a managed one looks at no ef.
_ALL: tuple[Index, ...] = (
    Index("AUTOINDEX", (2, 3), {}, _EF, ("ef", 64), _GRAPH_STEERED, recall_floor=_KEPT),
    Index("FLAT", exact=True),
    _hnsw("HNSW", (2, 3), _KEPT),
    _hnsw("HNSW_SQ", (2, 5), _KEPT, {"sq_type": "sq_type"}, _REFINED),
    _hnsw("HNSW_PQ", (2, 5), _CODED, {"pq_m": "m", "nbits": "nbits"}, _REFINED),
    _ivf("IVF_FLAT", (2, 3), _KEPT, {}, {}),
    _ivf("IVF_SQ8", (2, 3), _KEPT, {}, {}),
    _ivf("IVF_PQ", (2, 3), _CODED, {"pq_m": "m", "nbits": "nbits"}, {}),
    _ivf("IVF_RABITQ", (2, 6), _CODED, _REFINED, {"refine_k": "rbq_refine_k"}),
    Index("SCANN", (2, 3), _CELLS, {**_PROBES, "reorder_k": "reorder_k"}, ("reorder_k", 100), _CELLS_STEERED,
          recall_floor=_KEPT),
    Index("DISKANN", (2, 3), {}, {"search_list": "search_list"}, ("search_list", 100),
          Steered("search_list", 100, 5, 65_535), recall_floor=_KEPT),
)  # fmt: skip

INDEXES: Mapping[str, Index] = MappingProxyType({index.name: index for index in _ALL})
INDEX_OPTIONS: tuple[str, ...] = tuple(dict.fromkeys(name for index in _ALL for name in (*index.build, *index.search)))
"""Every option that belongs to one index or another."""
