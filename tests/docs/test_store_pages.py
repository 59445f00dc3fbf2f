"""Every Python block of the pages about stores is run, block after block, in one namespace for each page."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from knnstore import errors
from knnstore.testing import StoreTests
from knnstore.testing.live import check_store

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["store/contract.md", "store/errors.md", "store/writing-a-backend.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[int, str]]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found.group(1)) for found in BLOCK.finditer(text)]


def run(page: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "a_page"}
    for line, code in blocks(page):
        exec(compile("\n" * line + code, str(DOCS / page), "exec", dont_inherit=True), namespace)
    return namespace


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_the_page_runs(page: str) -> None:
    assert blocks(page)
    run(page)


def test_the_backend_of_the_page_passes_the_whole_kit() -> None:
    namespace = run("store/writing-a-backend.md")
    assert issubclass(namespace["TestShelf"], StoreTests)
    report = check_store("shelf:///whole")
    assert report.ok, report.summary()
    assert len(report.results) > 150


def test_the_tree_of_errors_is_the_one_in_the_code() -> None:
    page = (DOCS / "store/errors.md").read_text(encoding="utf-8")
    assert errors.__doc__ is not None
    tree = errors.__doc__[errors.__doc__.index("KnnStoreError\n") :].strip()
    assert tree in page
    named = set(re.findall(r"(\w+Error)(?=[( ])", tree)) - {
        name for name in dir(__builtins__) if name.endswith("Error")
    }
    assert set(errors.__all__) <= named | {"KnnStoreError", "ExplainedError", "did_you_mean"}
    builtins = re.findall(r"(\w+)\((\w+)\)", tree)
    for name, builtin in builtins:
        assert issubclass(getattr(errors, name), __import__("builtins").__dict__[builtin])
    assert len(list(itertools.chain(builtins))) >= 17
