"""Loading FAISS, late and in one place."""

from __future__ import annotations

import os
import sys
from typing import Any

from knnstore.errors import BackendUnavailableError

__all__ = ["load_faiss"]


def load_faiss() -> Any:
    """The module ``faiss``.

    Raises:
        BackendUnavailableError: it is not installed, or cannot be loaded here.
    """
    try:
        import faiss
    except ImportError as error:
        raise BackendUnavailableError(
            "the faiss backend needs FAISS",
            got=str(error) or "an ImportError",
            hint='Install it with: pip install "knnstore-faiss[cpu]" (or [gpu], with CUDA 12)',
        ) from error
    return faiss


def _single_threaded() -> None:
    """A forked child has none of its parent's OpenMP threads, and libgomp would wait for them for ever."""
    if faiss := sys.modules.get("faiss"):
        faiss.omp_set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_single_threaded)
