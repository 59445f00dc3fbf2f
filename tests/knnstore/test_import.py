"""What an import costs, as a set of modules; and what is public."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys

import pytest

import knnstore


def loaded_by(code: str) -> set[str]:
    """Top-level packages, outside the standard library, that running ``code`` loads."""
    script = (
        "import sys, json; before = set(sys.modules)\n"
        f"{code}\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)\n"
        "print(json.dumps(sorted(new)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_numpy_and_pluggy_only() -> None:
    assert loaded_by("import knnstore") <= {"knnstore", "numpy", "pluggy", "_distutils_hack", "cython_runtime"}


def test_using_the_memory_store_loads_nothing_more() -> None:
    code = "import knnstore; knnstore.backends(); knnstore.open_store('memory:///x', knnstore.StoreSpec(2))"
    assert loaded_by(code) <= {"knnstore", "numpy", "pluggy", "_distutils_hack", "cython_runtime"}


def test_public_names() -> None:
    assert sorted(knnstore.__all__) == [
        "Backend", "BackendInfo", "Capabilities", "CopyReport", "EmbeddingSpace", "EmbeddingStore", "ExportReport",
        "F", "Filter", "Hits", "KnnStoreError", "OpenRequest", "Records", "Secret", "StoreSpec", "StoreStats", "StoreURL",
        "VectorRecords", "backends", "collections", "content_checksum", "copy_store", "drop_store", "export_parquet", "get_backend", "hookimpl",
        "import_parquet", "open_store", "parse_filter", "ping", "register",
    ]  # fmt: skip
    assert all(hasattr(knnstore, name) for name in knnstore.__all__)


@pytest.mark.parametrize("name", ["knnstore", "knnstore.filters", "knnstore.testing.live"])
def test_examples_in_docstrings(name: str) -> None:
    module = __import__(name, fromlist=["_"])
    results = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
