"""The vector indexes of Milvus: which server has them, what they take, how much they find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["INDEXES", "INDEX_OPTIONS", "Index"]

_FLOOR = 0.1
"""What an approximate index finds depends on the vectors. 30,000 random ones of 256 numbers are the worst that it can
meet: HNSW with ef=64 found 0.35 of the true neighbours, and the IVF that Milvus puts over records which are not indexed
yet 0.19 (with 2.3.5). Embeddings have structure; there both find nearly all."""
Parameters = Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Index:
    """One type of index.

    Args:
        name: as Milvus calls it.
        since: the first server version that has it.
        build: our option -> the parameter of Milvus, for those that count when it is built.
        search: the same for those that count at each search.
        at_least_k: the search option that must not be smaller than k, with its value where none is given.
        exact: whether it finds the true neighbours.
    """

    name: str
    since: tuple[int, int] = (2, 3)
    build: Mapping[str, str] = field(default_factory=dict)
    search: Mapping[str, str] = field(default_factory=dict)
    at_least_k: tuple[str, int] | None = None
    exact: bool = False

    @property
    def recall_floor(self) -> float:
        """The least share of true neighbours that we declare."""
        return 1.0 if self.exact else _FLOOR

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

    def search_parameters(self, options: Any, k: int) -> dict[str, str | int | float | bool]:
        """What a search is given."""
        given = {theirs: getattr(options, ours) for ours, theirs in self.search.items() if getattr(options, ours)}
        if self.at_least_k is not None:
            name, usual = self.at_least_k
            given[self.search[name]] = max(getattr(options, name) or usual, k)
        return given


# The server insists on these; the values are those of its documentation.
_DEFAULTS: Parameters = MappingProxyType({"M": 16, "efConstruction": 200, "nlist": 1024})

_GRAPH = {"m": "M", "ef_construction": "efConstruction"}
_REFINED = {"refine_type": "refine_type"}
_EF = ("ef", 64)
_CELLS = {"nlist": "nlist"}
_PROBES = {"nprobe": "nprobe"}
_REFINE_K = {"refine_k": "refine_k"}


def _hnsw(name: str, since: tuple[int, int], *build: Mapping[str, str]) -> Index:
    merged = {key: value for part in (_GRAPH, *build) for key, value in part.items()}
    refined = _REFINE_K if build else {}
    return Index(name, since, merged, {"ef": "ef", **refined}, _EF)


# Sources: the release notes of Milvus. 2.3.0: SCANN, GPU indexes; 2.5.0: HNSW_SQ, HNSW_PQ, HNSW_PRQ; 2.6.0: IVF_RABITQ.
_ALL: tuple[Index, ...] = (
    Index("AUTOINDEX"),
    Index("FLAT", exact=True),
    _hnsw("HNSW", (2, 3)),
    _hnsw("HNSW_SQ", (2, 5), {"sq_type": "sq_type"}, _REFINED),
    _hnsw("HNSW_PQ", (2, 5), {"pq_m": "m", "nbits": "nbits"}, _REFINED),
    Index("IVF_FLAT", (2, 3), _CELLS, _PROBES),
    Index("IVF_SQ8", (2, 3), _CELLS, _PROBES),
    Index("IVF_PQ", (2, 3), {**_CELLS, "pq_m": "m", "nbits": "nbits"}, _PROBES),
    Index("IVF_RABITQ", (2, 6), {**_CELLS, **_REFINED}, {**_PROBES, "refine_k": "rbq_refine_k"}),
    Index("SCANN", (2, 3), _CELLS, {**_PROBES, "reorder_k": "reorder_k"}, ("reorder_k", 100)),
    Index("DISKANN", (2, 3), {}, {"search_list": "search_list"}, ("search_list", 100)),
)  # fmt: skip

INDEXES: Mapping[str, Index] = MappingProxyType({index.name: index for index in _ALL})
INDEX_OPTIONS: tuple[str, ...] = tuple(dict.fromkeys(name for index in _ALL for name in (*index.build, *index.search)))
"""Every option that belongs to one index or another."""
