"""FAISS on one thread: for jobs this small, threads that wait for each other cost far more than they bring."""

import faiss
import pytest
from knnstore_faiss.store import FaissStore


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    faiss.omp_set_num_threads(1)


@pytest.fixture
def eager(monkeypatch):
    """Approximate indexes take in every write at once, as if somebody optimised after each."""
    upsert = FaissStore._upsert

    def and_optimise(store, batch, on_conflict):
        written = upsert(store, batch, on_conflict)
        if not store._options.exact:
            store._optimize()
        return written

    monkeypatch.setattr(FaissStore, "_upsert", and_optimise)
