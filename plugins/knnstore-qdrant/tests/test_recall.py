"""An approximate search behind filters that go with the vectors, against brute force; the exact way out kept for the end."""

import numpy as np
import pytest

import knnstore
from knnstore import F
from knnstore.testing._data import make_clusters, make_spec
from knnstore.testing._oracle import assert_hits

ROWS, CLUSTERS, DIM = 6000, 200, 448  # so wide that the engine makes a graph
FILTERS = {
    "int": F("area") < 100,
    "most": F("area") < 190,
    "few": F("area") < 20,
    "not": ~(F("area") >= 60),
    "list": F("area").isin(range(40, 110)),
    "text": (F("area") < 100) & (F("label") != "sky"),
    "float": (F("area") < 120) & (F("weight") <= 0.7),
    "bool": (F("area") < 150) | (F("thing") == True),  # noqa: E712  # builds an expression
}


@pytest.fixture(scope="module")
def sample():
    return make_clusters(ROWS, CLUSTERS, dim=DIM)


@pytest.fixture(scope="module")
def edge(tmp_path_factory, sample):
    url = f"qdrant+edge://{tmp_path_factory.mktemp('edge')}/s?full_scan_threshold=10&m=8"
    with knnstore.open_store(url, make_spec(dim=DIM)) as store:
        sample.write(store, batch=2000)
        store.optimize()
        assert store.stats().details["indexed_vectors"] == ROWS
        yield store


def check(store, sample, where, **more):
    queries = make_clusters(100, CLUSTERS, dim=store.spec.dim, seed=1).vectors
    columns = {name: np.array(column) for name, column in sample.fields.items()}
    rows = np.flatnonzero(where.mask(columns)).tolist()
    assert_hits(store.search(queries, 16, where=where), queries, sample, "cosine", 16, rows=rows, **more)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("scan", [0, 8000], ids=["through the graph", "as it is"])
def test_recall(edge, sample, name, scan, monkeypatch):
    """The graph alone, walked under such a filter, finds three quarters of them."""
    monkeypatch.setattr("knnstore_qdrant.searching._SCAN", scan)
    check(edge, sample, FILTERS[name], recall=0.95)


@pytest.mark.parametrize("transport", ["grpc", "http"])
def test_on_a_server(shared_bridge, transport, monkeypatch):
    """A server that is exact, and whose searches are taken for approximate, as those of every server are."""
    monkeypatch.setattr("knnstore_qdrant.searching._SCAN", 0)
    sample = make_clusters(1000, CLUSTERS, dim=16)
    with knnstore.open_store(shared_bridge.url("recall", transport), make_spec(dim=16)) as store:
        sample.write(store)
        for where in FILTERS.values():
            check(store, sample, where)
        store.delete(sample.ids)


def test_only_queries_without_enough_are_searched_exactly(edge, monkeypatch):
    """Of 200 clusters the filter leaves 150, so at most a quarter of the queries, and some at their borders."""
    monkeypatch.setattr("knnstore_qdrant.searching._SCAN", 0)
    asked, query = [], edge._engine.query

    def noted(vectors, limit, where, payload, *, exact):
        asked.append((len(vectors), limit, exact))
        return query(vectors, limit, where, payload, exact=exact)

    monkeypatch.setattr(edge._engine, "query", noted)
    edge.search(make_clusters(200, CLUSTERS, dim=DIM, seed=1).vectors, 16, where=F("area") < 150)
    assert asked[0] == (200, int(2 * 16 * ROWS / edge.count(F("area") < 150)), False)
    assert all(count < 70 for count, _, _ in asked[1:])


def test_more_than_the_graph_gives_is_searched_exactly(edge, sample, monkeypatch):
    """An empty slot means that there are no more records."""
    query = edge._engine.query

    def lost(vectors, limit, where, payload, *, exact):
        answers = query(vectors, limit, where, payload, exact=exact)
        return answers if exact else [answer[: limit // 2] for answer in answers]

    monkeypatch.setattr(edge._engine, "query", lost)
    queries = make_clusters(20, CLUSTERS, dim=DIM, seed=1).vectors
    assert_hits(edge.search(queries, 30), queries, sample, "cosine", 30)
