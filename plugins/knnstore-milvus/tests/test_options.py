"""What a URL may say, what it may not, and what becomes of it."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from knnstore_milvus import MilvusBackend
from knnstore_milvus.errors import is_too_large, map_error, retriable
from knnstore_milvus.indexes import INDEX_OPTIONS, INDEXES
from knnstore_milvus.options import CREATING, Options
from knnstore_milvus.schema import Meta
from knnstore_milvus.versions import check_options, check_server, parse_version
from pymilvus.exceptions import MilvusException

import knnstore
from knnstore import errors
from knnstore.errors import InvalidURLError, UnsupportedOperationError
from knnstore.url import StoreURL


def parse(query, head="milvus://db/default/x"):
    return Options.parse(StoreURL.parse(f"{head}?{query}"))


def test_defaults():
    options = parse("")
    assert (options.index, options.shards, options.replicas, options.retries) == ("AUTOINDEX", 1, 1, 1000)
    assert not options.credentials(StoreURL.parse("milvus://db/default/x")).metadata()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("index=FAST", "one|AUTOINDEX"),
        ("shards=0", "from 1"),
        ("shard=2", "Did you mean 'shards'"),
        ("num_partitions=4", "together with partition_key"),
        ("batch_bytes=90000000", "batch_bytes"),
        ("batch_rows=20000", "16384"),
        ("token=a:b&password=c", "not both"),
        ("password=c", "a user and a password"),
        ("cert=/a.pem", "cert and key"),
        ("token_env=NO_SUCH_VARIABLE", "environment variable"),
    ],
)
def test_refused(query, said):
    with pytest.raises(InvalidURLError, match=said):
        parse(query)


@pytest.mark.parametrize(
    ("query", "said"),
    [("index=IVF_PQ&pq_m=3", "pq_m= that divides.*8"), ("index=HNSW&m=1", "m= of at least 2")],
)
def test_an_index_that_cannot_be_built_leaves_no_collection(tmp_path, query, said):
    url, spec = f"milvus+lite://{tmp_path}/lite.db/x", knnstore.StoreSpec(8)
    with pytest.raises(InvalidURLError, match=said):
        knnstore.open_store(f"{url}?{query}", spec)
    assert knnstore.collections(url) == []
    with knnstore.open_store(f"{url}?{query.replace('=3', '=4').replace('=1', '=2')}", spec) as store:
        assert store.count() == 0


@pytest.mark.parametrize("page", ["plugins/knnstore-milvus/README.md", "docs/backends/milvus.md"])
def test_every_option_is_documented(page):
    rows = re.findall(r"^\| (`.*?) \|", (Path(__file__).parents[3] / page).read_text(encoding="utf-8"), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    secrets = {f"{name}{suffix}" for name in ("token", "password") for suffix in ("", "_env", "_file")}
    assert {f.name for f in dataclasses.fields(Options)} | secrets == documented


def test_a_user_needs_a_password_and_only_one():
    with pytest.raises(InvalidURLError, match="a user and a password"):
        parse("", "milvus://me@db/default/x")
    with pytest.raises(InvalidURLError, match="once"):
        parse("password=two", "milvus://me:one@db/default/x")


def test_secrets_come_from_variables_and_files(monkeypatch, tmp_path):
    monkeypatch.setenv("MILVUS_PASSWORD", "geheim!")
    url = StoreURL.parse("milvus://me@db/default/x?password_env=MILVUS_PASSWORD&tls=1")
    credentials = Options.parse(url).credentials(url)
    assert credentials.metadata() == [("authorization", "bWU6Z2VoZWltIQ==")]
    (tmp_path / "token").write_text("abc\n")
    url = StoreURL.parse(f"milvus://db/default/x?token_file={tmp_path}/token")
    options = Options.parse(url)
    assert options.credentials(url).token.reveal() == "abc"
    for text in (repr(options), repr(options.credentials(url)), str(url), repr(credentials)):
        assert "abc" not in text and "geheim" not in text and "bWU6" not in text


def test_a_password_over_a_plain_line_is_warned_of():
    url = StoreURL.parse("milvus://me:pw@db.example:1/default/x?timeout=0.2&retries=0")
    with pytest.warns(UserWarning, match=r"db\.example:1.*plain text") as caught, pytest.raises(knnstore.KnnStoreError):
        knnstore.open_store(url)
    assert "pw" not in str(caught[0].message).replace("password", "")


@pytest.mark.parametrize("option", ["tls=1", "ca=/x.pem", "server_name=db.example"])
def test_tls_is_implied_by_its_options(option):
    url = StoreURL.parse(f"milvus://db/default/x?{option}")
    assert Options.parse(url).credentials(url).tls


def test_a_certificate_that_is_not_there():
    with pytest.raises(InvalidURLError, match="option ca: expected a readable file"):
        knnstore.open_store("milvus://127.0.0.1:1/default/x?ca=/no/such.pem&timeout=1")


# -- indexes and versions ---------------------------------------------------------------------------------------------


def test_each_index_takes_its_own_options_only():
    for name, index in INDEXES.items():
        for option in INDEX_OPTIONS:
            value = {"sq_type": "SQ8", "refine_type": "FP32"}.get(option, "16")
            said = index.contradiction(parse(f"index={name}&{option}={value}"))
            assert (said == "") == (option in {**index.build, **index.search}), (name, option)


def test_parameters():
    options = parse("index=HNSW&m=24&ef=80")
    hnsw = options.vector_index
    assert hnsw.build_parameters(options) == {"M": 24, "efConstruction": 200}
    assert hnsw.search_parameters(options, 10) == {"ef": 80}
    assert hnsw.search_parameters(options, 500) == {"ef": 500}
    options = parse("index=HNSW_SQ&sq_type=SQ8&refine_type=FP16&refine_k=2")
    built = options.vector_index.build_parameters(options)
    assert built == {"M": 16, "efConstruction": 200, "sq_type": "SQ8", "refine_type": "FP16", "refine": True}
    assert options.vector_index.search_parameters(options, 10) == {"ef": 64, "refine_k": 2.0}
    options = parse("index=FLAT")
    assert options.vector_index.build_parameters(options) == options.vector_index.search_parameters(options, 9) == {}
    options = parse("index=SCANN&nlist=64&nprobe=8")
    assert options.vector_index.search_parameters(options, 200) == {"nprobe": 8, "reorder_k": 200}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v2.3.5-lite", (2, 3)),
        ("2.6.16", (2, 6)),
        ("v2.10.0", (2, 10)),
        ("master-20260101", None),
        ("milvus_lite-3.2.2", None),
    ],
)
def test_versions(text, version):
    assert parse_version(text) == version


def test_what_a_version_lacks():
    check_server("v2.3.0", "here")
    with pytest.raises(UnsupportedOperationError, match=r"2\.3 or later, got v2\.2\.16"):
        check_server("v2.2.16", "here")
    for query, last, first in [
        ("index=HNSW_SQ&sq_type=SQ8", "v2.4.23", "v2.5.0"),
        ("index=HNSW_PQ&pq_m=4", "v2.4.0", "v2.5.0"),
        ("index=IVF_RABITQ", "v2.5.9", "v2.6.0"),
        ("mmap=1", "v2.3.9", "v2.4.0"),
        ("partition_key=tenant", "v2.3.9", "v2.4.0"),
    ]:
        with pytest.raises(UnsupportedOperationError, match=last):
            check_options(parse(query), last, "here")
        check_options(parse(query), first, "here")
        check_options(parse(query), "master-abc", "here")


def test_the_description_is_the_same_for_the_same_content():
    spec = knnstore.StoreSpec(3, "l2", {"é" if False else "label": str}, knnstore.EmbeddingSpace("e", "sha256:1", "ü"))
    meta = Meta("a/ü", spec, parse("index=HNSW&m=8").created())
    assert Meta.from_text(meta.to_text(), "here") == meta
    assert meta.to_text() == Meta("a/ü", spec, dict(reversed(meta.created.items()))).to_text()
    assert Options.as_created({**meta.created, "of a later version": 1}) == parse("index=HNSW&m=8")
    assert set(CREATING) == set(meta.created)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mine",
        "[]",
        '{"knnstore": 99}',
        '{"knnstore": 1}',
        '{"knnstore": 1, "path": "x", "spec": {}, "created": {}}',
    ],
)
def test_other_descriptions(text):
    with pytest.raises(errors.StoreCorruptError):
        Meta.from_text(text, "here")


# -- errors -----------------------------------------------------------------------------------------------------------


class Rpc(grpc.RpcError):
    def __init__(self, code, details="because"):
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details


CODES = {
    grpc.StatusCode.UNAVAILABLE: errors.StoreConnectionError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.StoreTimeoutError,
    grpc.StatusCode.CANCELLED: errors.StoreClosedError,
    grpc.StatusCode.UNAUTHENTICATED: errors.StoreAuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: errors.StoreAuthenticationError,
}


@pytest.mark.parametrize("code", grpc.StatusCode)
def test_every_grpc_code_becomes_one_of_ours(code):
    mapped = map_error(Rpc(code), "milvus://db/default/x")
    assert type(mapped) is CODES.get(
        code, errors.StoreConnectionError if code is grpc.StatusCode.ABORTED else errors.BackendError
    )
    assert "milvus://db/default/x" in str(mapped)


@pytest.mark.parametrize(
    ("code", "message", "expected", "again"),
    [
        (100, "collection not found", errors.StoreNotFoundError, False),
        (65535, "database:x not found", errors.StoreNotFoundError, False),
        (65535, "InvalidateCollectionMetaCache failed, proxyID = 4", errors.StoreConnectionError, True),
        (65535, "empty grpc client: failed to connect 10.0.0.1:1", errors.StoreConnectionError, True),
        (65535, "proxy TaskCondition context Done", errors.StoreTimeoutError, False),
        (65535, "fail to search: context deadline exceeded", errors.StoreTimeoutError, False),
        (800, "database not found", errors.StoreNotFoundError, False),
        (3, "memory limit exceeded", errors.StoreFullError, False),
        (9, "quota exceeded", errors.StoreFullError, False),
        (8, "rate limit exceeded", errors.StoreTimeoutError, True),
        (106, "collection on recovering", errors.StoreConnectionError, True),
        (503, "channel not available", errors.StoreConnectionError, True),
        (1401, "permission denied", errors.StoreAuthenticationError, False),
        (1100, "invalid parameter", errors.BackendError, False),
        (424242, "never heard of", errors.BackendError, False),
    ],
)
def test_codes_of_milvus(code, message, expected, again):
    error = MilvusException(code, message)
    mapped = map_error(error, "here")
    assert type(mapped) is expected
    assert message in str(mapped)
    assert retriable(error) == again


def test_what_is_too_large_is_told_from_what_is_wrong():
    assert is_too_large(Rpc(grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert not is_too_large(Rpc(grpc.StatusCode.UNAVAILABLE))
    assert is_too_large(MilvusException(65535, "query results exceed the maxOutputSize Limit 104857600"))
    assert not is_too_large(MilvusException(1100, "invalid parameter"))


def test_an_unknown_exception_is_left_to_the_front():
    assert map_error(KeyError("x"), "here") is None
    assert MilvusBackend().map_error(ImportError("pymilvus"), StoreURL.parse("milvus://db/default/x")) is None


# -- importing --------------------------------------------------------------------------------------------------------


def test_importing_the_plugin_imports_no_client():
    code = "import sys, knnstore_milvus; assert not {'pymilvus', 'grpc', 'google.protobuf'} & set(sys.modules), sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_client_is_told_with_the_command_that_installs_it():
    code = """
import sys
sys.modules["pymilvus"] = sys.modules["grpc"] = None
import knnstore
for use in (knnstore.open_store, knnstore.collections):
    try:
        use("milvus://127.0.0.1:1/default/x")
    except knnstore.errors.BackendUnavailableError as error:
        assert "pip install knnstore-milvus" in str(error), error
    else:
        raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
