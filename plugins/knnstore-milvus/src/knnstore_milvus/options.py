"""The options of a ``milvus://`` URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from knnstore.errors import InvalidURLError
from knnstore.options import flag, integer, matching, number, one_of, option, read_options, seconds, secret
from knnstore.remote import Patience
from knnstore.url import Secret, StoreURL
from knnstore_milvus.connection import Credentials
from knnstore_milvus.indexes import INDEXES, Index

__all__ = ["CREATING", "PORT", "Options"]

PORT = 19530
"""Where a server listens, unless it was told otherwise."""

_FILE = matching(r".+", "a file in PEM format")
_CHOSEN = "a whole number, 0 to let the server choose"


@dataclass(frozen=True, slots=True)
class Options:
    """How to reach a server, how to create a collection, how to search it.

    What is stored with a collection when it is created (:data:`CREATING`) cannot be changed by opening it: a URL that
    says otherwise is refused.

    Args:
        timeout: seconds for one request, with its retries.
        retries: how often a request is repeated after an error that may pass, at most; time decides.
        build_timeout: seconds that opening waits for the collection to be loaded, and ``optimize`` for its index.
        tls: encrypt; implied by ``ca``, ``cert``, ``key`` and ``server_name``.
        ca: file with the certificate authorities to trust.
        cert: file with the client's certificate chain, for mutual TLS.
        key: file with the client's private key.
        server_name: the name in the server's certificate, where it is not the host of the URL.
        token: API key or ``user:password``.
        password: of the user in the URL.
        index: the type of the vector index.
        m: HNSW: links of a node.
        ef_construction: HNSW: candidates while building.
        nlist: IVF, SCANN: cells.
        pq_m: IVF_PQ, HNSW_PQ: sub-vectors of a vector; must divide its width.
        nbits: IVF_PQ, HNSW_PQ: bits of the code of a sub-vector.
        sq_type: HNSW_SQ: SQ6, SQ8, BF16 or FP16.
        refine_type: HNSW_SQ, HNSW_PQ, IVF_RABITQ: keep the vectors in this precision too, to score the best again.
        shards: channels that writes are spread over.
        partition_key: a declared field whose values are kept apart (a tenant); filters with == on it read one part.
        num_partitions: how many parts there are for a partition key.
        mmap: map data from disk instead of holding it in memory.
        replicas: copies that are loaded for searching.
        ef: HNSW: candidates while searching; at least k is used.
        nprobe: IVF, SCANN: cells that are searched.
        search_list: DISKANN: candidates while searching; at least k is used.
        reorder_k: SCANN: candidates that are scored again; at least k is used.
        refine_k: where there is a refine_type: candidates for each hit that are scored again.
        batch_bytes: of one request, about.
        batch_rows: records of one request.
    """

    timeout: float = option(60.0, seconds())
    retries: int = option(1000, integer(0, 1000))
    build_timeout: float = option(3600.0, seconds())
    tls: bool = option(False, flag())
    ca: str = option("", _FILE)
    cert: str = option("", _FILE)
    key: str = option("", _FILE)
    server_name: str = option("", matching(r"[\w.-]+", "a host name"))
    token: Secret = secret()
    password: Secret = secret()
    index: str = option("AUTOINDEX", one_of(*INDEXES))
    m: int = option(0, integer(0, 2048, expected=_CHOSEN))
    ef_construction: int = option(0, integer(0, 10**6, expected=_CHOSEN))
    nlist: int = option(0, integer(0, 65_536, expected=_CHOSEN))
    pq_m: int = option(0, integer(0, 65_536, expected=_CHOSEN))
    nbits: int = option(0, integer(0, 64, expected=_CHOSEN))
    sq_type: str = option("", one_of("SQ6", "SQ8", "BF16", "FP16"))
    refine_type: str = option("", one_of("SQ6", "SQ8", "BF16", "FP16", "FP32"))
    shards: int = option(1, integer(1, 64))
    partition_key: str = option("", matching(r"[A-Za-z][A-Za-z0-9_]*", "a declared field"))
    num_partitions: int = option(0, integer(0, 4096, expected=_CHOSEN))
    mmap: bool = option(False, flag())
    replicas: int = option(1, integer(1, 1024))
    ef: int = option(0, integer(0, 32_768, expected=_CHOSEN))
    nprobe: int = option(0, integer(0, 65_536, expected=_CHOSEN))
    search_list: int = option(0, integer(0, 65_535, expected=_CHOSEN))
    reorder_k: int = option(0, integer(0, 65_535, expected=_CHOSEN))
    refine_k: float = option(0.0, number(0, 1000, expected="a number from 1, 0 to let the server choose"))
    batch_bytes: int = option(16 << 20, integer(1 << 10, 60 << 20))
    batch_rows: int = option(10_000, integer(1, 16_384))

    @classmethod
    def parse(cls, url: StoreURL) -> Options:
        """The options of ``url``.

        Raises:
            InvalidURLError: an unknown option, a bad value, or options that exclude each other.
        """
        options = read_options(cls, url)
        wrong = options._contradiction(url)
        if wrong:
            raise InvalidURLError(f"{url}", expected=wrong)
        return options

    def _contradiction(self, url: StoreURL) -> str:
        password = url.password or self.password
        if self.token and (url.user or password):
            return "a token or a user with a password, not both"
        if url.password and self.password:
            return "the password once"
        if bool(url.user) != bool(password):
            return "a user and a password, as in milvus://user@host/…?password_env=VARIABLE"
        if bool(self.cert) != bool(self.key):
            return "cert and key, or neither"
        if self.num_partitions and not self.partition_key:
            return "num_partitions together with partition_key"
        return ""

    @property
    def vector_index(self) -> Index:
        """The kind of index that is asked for."""
        return INDEXES[self.index]

    @property
    def patience(self) -> Patience:
        """For the requests of one connection."""
        return Patience(self.timeout, self.retries)

    def credentials(self, url: StoreURL) -> Credentials:
        """Who we are and whom we trust."""
        user = Secret(f"{url.user}:{(url.password or self.password).reveal()}" if url.user else "")
        tls = self.tls or any((self.ca, self.cert, self.key, self.server_name))
        return Credentials(self.token or user, tls, self.ca, self.cert, self.key, self.server_name)

    @classmethod
    def as_created(cls, created: Mapping[str, Any]) -> Options:
        """The options that :meth:`created` has told, and the default of the others."""
        return cls(**{name: value for name, value in created.items() if name in CREATING})

    def created(self) -> dict[str, str | int | bool]:
        """The options that a collection keeps from its creation."""
        return {name: getattr(self, name) for name in CREATING}


CREATING = (
    "index", "m", "ef_construction", "nlist", "pq_m", "nbits", "sq_type", "refine_type", "shards", "partition_key",
    "num_partitions", "mmap",
)  # fmt: skip
"""The options that count when a collection is created, and only then."""
