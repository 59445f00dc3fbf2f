"""What approximate indexes find behind filters that go with the vectors, on a real server."""

import numpy as np
import pytest
from knnstore_milvus.connection import Connection
from pymilvus.exceptions import MilvusException

import knnstore
from knnstore import F

pytestmark = pytest.mark.server

DIM, CLUSTERS, K = 64, 100, 16
SPEC = knnstore.StoreSpec(DIM, "cosine", {"cluster": int, "few": bool})


def near(centres, chosen, rng):
    rows = centres[chosen] + 0.1 * rng.normal(size=(len(chosen), DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Clusters:
    """n unit rows around 100 centres, of which 18 are marked, and 100 queries from everywhere."""

    def __init__(self, n):
        rng = np.random.default_rng(0)
        centres = rng.normal(size=(CLUSTERS, DIM))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        self.cluster = rng.integers(0, CLUSTERS, n)
        self.rows = near(centres, self.cluster, rng)
        self.queries = near(centres, rng.integers(0, CLUSTERS, 100), rng)
        self.few = np.isin(np.arange(n), rng.choice(n, 18, replace=False))

    def write(self, store):
        columns = {"cluster": self.cluster.tolist(), "few": self.few.tolist()}
        store.upsert([f"r{i}" for i in range(len(self.rows))], self.rows, columns)

    def check(self, hits, allowed, least):
        """No empty slot while more match, and at least this share of the true neighbours."""
        scores = np.sort(self.queries @ self.rows[allowed].T)[:, ::-1]
        wanted = min(hits.ids.shape[1], scores.shape[1])
        assert ((hits.ids != "").sum(axis=1) == wanted).all()
        found = (hits.scores[:, :wanted] >= scores[:, wanted - 1 : wanted] - 1e-5).mean()
        assert found >= least, found


@pytest.mark.parametrize("index", ["HNSW", "IVF_FLAT", "AUTOINDEX"])
def test_an_index_keeps_its_recall_behind_a_filter(place, index):
    data = Clusters(20_000)
    with knnstore.open_store(place(index=index), SPEC) as store:
        data.write(store)
        store.optimize()
        data.check(store.search(data.queries, K), data.cluster >= 0, 0.95)
        for share in (0.9, 0.5, 0.2, 0.1, 0.05, 0.01):
            allowed = data.cluster < CLUSTERS * share
            hits = store.search(data.queries, K, where=F("cluster") < int(CLUSTERS * share), fields=["cluster"])
            data.check(hits, allowed, 0.95)
            assert (hits.fields["cluster"] < CLUSTERS * share).all()


def test_records_without_an_index_are_found_behind_a_filter(place):
    """Milvus searches an eighth of the temporary index that it puts over so many, whatever it is asked for."""
    data = Clusters(60_000)
    with knnstore.open_store(place(), SPEC) as store:
        data.write(store)
        assert store.stats().details["indexed_rows"] == 0
        hits = store.search(data.queries, 20, where=F("few") == True, fields=["few", "cluster"])  # noqa: E712
        data.check(hits, data.few, 1)
        assert hits.fields["few"][:, :18].all()
        for share in (0.5, 0.2, 0.05):
            hits = store.search(data.queries, K, where=F("cluster") < int(CLUSTERS * share))
            data.check(hits, data.cluster < CLUSTERS * share, 0.95)


@pytest.mark.parametrize("consistency", ["strong", "session"])
def test_all_that_a_search_reads_names_one_moment(place, monkeypatch, consistency):
    """Only the first request waits for the server's clock; the next search waits again, if it has to."""
    named, call = [], Connection.call

    def noted(self, method, request, **options):
        if method in ("Query", "Search"):
            named.append((method, request.guarantee_timestamp))
        return call(self, method, request, **options)

    data = Clusters(3000)
    with knnstore.open_store(place(), SPEC, consistency=consistency) as store:
        data.write(store)
        monkeypatch.setattr(Connection, "call", noted)
        moments = []
        for _ in range(2):
            named.clear()
            data.check(store.search(data.queries, K, where=F("cluster") < 50), data.cluster < 50, 1)
            assert {method for method, _ in named} == {"Query", "Search"}
            [moment] = {moment for _, moment in named}
            moments.append(moment)
        assert 0 < moments[0] < moments[1] if consistency == "strong" else moments[0] == moments[1]


def test_a_service_that_does_not_tell_what_is_indexed(place, monkeypatch):
    call = Connection.call

    def refused(self, method, request, **options):
        if method == "GetQuerySegmentInfo":
            raise MilvusException(65535, "permission deny")
        return call(self, method, request, **options)

    monkeypatch.setattr(Connection, "call", refused)
    data = Clusters(3000)
    with knnstore.open_store(place(), SPEC) as store:
        data.write(store)
        data.check(store.search(data.queries, K, where=F("cluster") < 50), data.cluster < 50, 1)
