"""The options of a ``faiss://`` URL."""

from __future__ import annotations

from dataclasses import dataclass

from knnstore.errors import InvalidURLError
from knnstore.options import integer, matching, one_of, option, read_options, seconds
from knnstore.url import StoreURL

__all__ = ["Options"]


@dataclass(frozen=True, slots=True)
class Options:
    """How a store is searched and written. None of it is stored with the data: each opening chooses.

    Args:
        index: ``Flat`` (exact, the default) or a FAISS factory string such as ``HNSW32`` or ``IVF256,Flat``.
        device: ``auto`` (the CPU, for now), ``cpu``, ``cuda`` or ``cuda:1``; only ``Flat`` runs on a GPU.
        timeout: seconds to wait for another writer.
        sync: ``normal`` survives the death of the process, ``full`` also a power cut right after a write.
        nprobe: cells that an IVF index visits; 0 measures and chooses.
        ef_search: candidates that an HNSW index keeps; 0 measures and chooses.
        refine: how many times k candidates an approximate index nominates for exact scoring.
        train_at: records before an index that needs training is trained; 0 takes FAISS's recommendation.
        seed: for the sample that an index is trained on.
    """

    index: str = option("Flat", matching(r"[A-Za-z][\w,()+.\[\]-]*", "a FAISS factory string"))
    device: str = option("auto", matching(r"auto|cpu|cuda(:\d{1,3})?", "auto, cpu, cuda or cuda:N"))
    timeout: float = option(5.0, seconds())
    sync: str = option("normal", one_of("normal", "full"))
    nprobe: int = option(0, integer(expected="a whole number, 0 to let the store choose"))
    ef_search: int = option(0, integer(expected="a whole number, 0 to let the store choose"))
    refine: int = option(4, integer(1))
    train_at: int = option(0, integer(expected="a whole number, 0 for the recommended one"))
    seed: int = option(0, integer())

    @classmethod
    def parse(cls, url: StoreURL) -> Options:
        """The options of ``url``.

        Raises:
            InvalidURLError: a variant, an unknown option or a value that is not one.
        """
        if url.variant:
            raise InvalidURLError(f"{url}", expected="faiss:///folder", got=f"faiss+{url.variant}")
        return read_options(cls, url)

    @property
    def exact(self) -> bool:
        """Whether the index finds the true neighbours."""
        return self.index.lower() == "flat"
