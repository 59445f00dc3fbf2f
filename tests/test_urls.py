"""Every store URL that a reader may copy, from docs, help, messages and docstrings, is one that its backend takes."""

import re
from pathlib import Path

import knnstore_faiss.options
import knnstore_milvus.names
import knnstore_milvus.options
import knnstore_qdrant.names
import knnstore_qdrant.options
import pytest

from knnstore import StoreURL
from knnstore.errors import InvalidURLError
from knnstore.folders import folder_of

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/deploy/*"), *ROOT.glob("kn*/README.md"), *ROOT.glob("plugins/*/README.md"),
    *ROOT.glob("knnstore/**/*.py"), *ROOT.glob("knnseg/**/*.py"), *ROOT.glob("plugins/*/src/**/*.py"),
]  # fmt: skip
FOUND = re.compile(r"\b(?:memory|faiss|milvus|qdrant)(?:\+\w+)?://[^\s`'\"<>)|\\]+")
PATTERN = re.compile(r"[\[{]|host:port|option=value|://…")  # the form of a URL, or one that a program completes


def faiss(url):
    knnstore_faiss.options.Options.parse(url)
    folder_of(url)


def milvus(url):
    knnstore_milvus.options.Options.parse(url)
    if url.path.strip("/"):  # the server as a whole, for KNNSTORE_MILVUS_URL
        knnstore_milvus.names.place_of(url)
    assert url.port in (None, knnstore_milvus.options.PORT)


def qdrant(url):
    options = knnstore_qdrant.options.read(url)
    if url.variant:
        assert url.path.strip("/") and not url.host
        return
    knnstore_qdrant.names.collection_path(url)
    assert url.port in (None, knnstore_qdrant.options.PORTS[options.transport])


def memory(url):
    url.check_options(())


PARSERS = {"faiss": faiss, "milvus": milvus, "qdrant": qdrant, "memory": memory}


def urls():
    for page in PAGES:
        if page.is_file():
            for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
                for text in FOUND.findall(line):
                    shown = text.rstrip(".,;:").replace("…", "x").replace("***", "x")
                    if not PATTERN.search(text) and not shown.endswith("://"):
                        yield f"{page.relative_to(ROOT)}:{number}", shown


def test_every_url_is_one_that_its_backend_takes(monkeypatch):
    wrong, seen = [], 0
    for place, text in urls():
        for variable in re.findall(r"_env=(\w+)", text):
            monkeypatch.setenv(variable, "a secret")
        try:
            url = StoreURL.parse(text)
            PARSERS[url.backend](url)
            seen += 1
        except (InvalidURLError, AssertionError) as error:
            wrong.append(f"{place}: {text}: {error}")
    assert wrong == []
    assert seen > 100


@pytest.mark.parametrize(
    "text",
    [
        "qdrant://localhost:6333/concepts", "qdrant://localhost:6334/concepts?transport=http", "qdrant://me@host/c",
        "qdrant://host/c?token=x", "milvus://host:6334/default/c", "milvus://host/default/c?api_key=x",
        "faiss:///data?indx=Flat", "memory:///x?y=1",
    ],
)  # fmt: skip
def test_this_would_notice(text):
    url = StoreURL.parse(text)
    with pytest.raises((InvalidURLError, AssertionError)):
        PARSERS[url.backend](url)
