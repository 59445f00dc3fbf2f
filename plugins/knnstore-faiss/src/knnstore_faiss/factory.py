"""FAISS factory strings: which are usable, what they need to be trained, how they are searched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnstore.errors import InvalidURLError
from knnstore.types import Metric
from knnstore_faiss.library import load_faiss

__all__ = ["Effort", "make_index", "search_parameters", "training_size"]

_PER_CENTROID = 39
"""Training vectors for each centroid below which FAISS itself warns."""

_ALLOWED = (
    "Flat (exact), HNSW32, IVF256,Flat, IVF256,SQ8, IVF256,PQ16 or SQ8 with numbers of your own, "
    "or one of them after OPQ16 or PCA64, as in PCA64,IVF256,Flat"
)
_PARTS = "The parts of PQ and OPQ must divide the width of the vectors, dim={dim}. See docs/backends/faiss.md."


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard an approximate index looks.

    Args:
        nprobe: cells visited (IVF).
        ef_search: candidates kept (HNSW).
        refine: candidates nominated for each of the k wanted.
    """

    nprobe: int
    ef_search: int
    refine: int

    def doubled(self) -> Effort:
        """Twice as hard."""
        return Effort(2 * self.nprobe, 2 * self.ef_search, 2 * self.refine)


def make_index(text: str, dim: int, metric: Metric) -> Any:
    """An empty FAISS index.

    Raises:
        InvalidURLError: not a factory string, or one whose index cannot do what a store needs.
    """
    faiss = load_faiss()
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    try:
        index = faiss.index_factory(dim, text, kind)
    except RuntimeError as error:
        raise InvalidURLError(f"index={text}", expected=_ALLOWED, hint=_PARTS.format(dim=dim)) from error
    core = _core(faiss, index)
    if core is None or core.metric_type != kind:
        raise InvalidURLError(
            f"index={text}",
            expected=_ALLOWED,
            got=f"{type(faiss.downcast_index(index)).__name__}, which cannot search a selection by metric {metric}",
            hint="For PQ use IVF1,PQ…; re-scoring (RFlat) is done by the store, see refine=.",
        )
    if isinstance(core, faiss.IndexIVFPQ):
        core.do_polysemous_training = False  # takes most of the time of training, for a search that is never asked for
    if isinstance(core, faiss.IndexIVFScalarQuantizer) and core.sq.qtype == faiss.ScalarQuantizer.QT_fp16:
        core.by_residual = False  # what is left beside a centre is no better in halves, but vectors of halves are
    return index


def _core(faiss: Any, index: Any) -> Any:
    """What is behind the transforms, where it can search a selection; None where it cannot."""
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _core(faiss, index.index)
    kinds = (faiss.IndexHNSW, faiss.IndexIVF, faiss.IndexScalarQuantizer, faiss.IndexFlat)
    return index if isinstance(index, kinds) else None


def search_parameters(index: Any, selector: Any, effort: Effort) -> Any:
    """FAISS's search parameters for ``index``; the caller keeps ``selector`` alive."""
    faiss = load_faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = search_parameters(index.index, selector, effort)
        return faiss.SearchParametersPreTransform(index_params=inner)
    if isinstance(index, faiss.IndexIVF):
        product = isinstance(index, faiss.IndexIVFPQ)
        parameters = faiss.IVFPQSearchParameters if product else faiss.SearchParametersIVF
        return parameters(sel=selector, nprobe=min(effort.nprobe, index.nlist))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=effort.ef_search)
    return faiss.SearchParameters(sel=selector)


def training_size(text: str, dim: int, wanted: int = 0) -> int:
    """How many vectors to train with what a factory string describes: ``wanted``, but never fewer than centroids.

    Where nothing is wanted, as many as FAISS recommends.
    """
    centroids = [1]
    centroids += [int(cells) for cells in re.findall(r"IVF(\d+)", text)]
    centroids += [2 ** int(bits or 8) for bits in re.findall(r"PQ\d+(?:x(\d+))?", text)]
    if wanted:
        return max(wanted, *centroids, 1)
    needs = [_PER_CENTROID * max(centroids)]
    needs += [2 * dim] * bool(re.search(r"PCA|OPQ|ITQ", text))
    needs += [256] * bool(re.search(r"SQ\d", text))
    return max(needs)


def bitmap(chosen: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Bool (N,) as FAISS's selector wants it."""
    return np.packbits(chosen, bitorder="little")
