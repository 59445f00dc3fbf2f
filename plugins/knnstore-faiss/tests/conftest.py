"""FAISS on one thread: for jobs this small, threads that wait for each other cost far more than they bring."""

import faiss
import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    faiss.omp_set_num_threads(1)
