"""The options of a ``qdrant://`` or ``qdrant+edge://`` URL."""

from __future__ import annotations

from dataclasses import dataclass, fields

from knnstore.errors import InvalidURLError
from knnstore.options import flag, integer, matching, number, one_of, option, read_options, seconds, secret
from knnstore.remote import is_loopback
from knnstore.url import Secret, StoreURL

__all__ = [
    "CREATION", "PORTS", "EdgeOptions", "ServerOptions", "created_with",
    "read",
]  # fmt: skip

PORTS = {"grpc": 6334, "http": 6333}
"""Where a server listens for each transport, unless it was told otherwise."""
_MIB = 2**20
_FIELD = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """``qdrant+edge``, and what a server shares with it. None: not said, so the engine's default or what is stored.

    Args:
        batch_bytes: most bytes of one request; a server takes 32 MiB unless it is told otherwise.
        batch_rows: most records of one request.
        timeout: seconds that one request may take with its retries; for a folder, seconds to wait for its lock.
        exact: search without an approximate index.
        ef: how many candidates HNSW keeps; 0 takes the engine's default.
        rescore: whether quantised hits are scored again from the original vectors.
        oversampling: how many times k candidates are taken from quantised vectors before that.
        m, ef_construct, full_scan_threshold: of the HNSW graph, when creating.
        quantization: ``int8``, ``product`` or ``binary``, when creating.
        compression: of product quantisation, when creating.
        always_ram: keep quantised vectors in memory, when creating.
        on_disk: read vectors from disk as needed, when creating.
        on_disk_payload: the same for the payload, when creating.
        tenant: a declared ``str`` field by which searches are nearly always filtered, when creating.
    """

    batch_bytes: int = option(8 * _MIB, integer(64 * 1024, 30 * _MIB))
    batch_rows: int = option(1000, integer(1, 100_000))
    timeout: float = option(30.0, seconds())
    exact: bool = option(False, flag())
    ef: int = option(0, integer(0, 100_000))
    rescore: bool | None = option(None, flag())
    oversampling: float | None = option(None, number(1, 100))
    m: int | None = option(None, integer(0, 1024))
    ef_construct: int | None = option(None, integer(4, 100_000))
    full_scan_threshold: int | None = option(None, integer(10))
    quantization: str | None = option(None, one_of("int8", "product", "binary"))
    compression: str | None = option(None, one_of("x4", "x8", "x16", "x32", "x64"))
    always_ram: bool | None = option(None, flag())
    on_disk: bool | None = option(None, flag())
    on_disk_payload: bool | None = option(None, flag())
    tenant: str | None = option(None, matching(_FIELD, "the name of a declared field"))


@dataclass(frozen=True, slots=True)
class ServerOptions(EdgeOptions):
    """``qdrant``: a server or a cluster.

    Args:
        build_timeout: seconds that ``optimize`` waits for the server's optimisers.
        transport: ``grpc`` or ``http``; the port of the URL is that of the transport.
        tls: encrypt.
        ca: file with the certificate of the authority that signed the server's.
        cert, cert_key: files with our own certificate and its key, where the server asks for one.
        api_key: the key; better ``api_key_env`` or ``api_key_file``.
        insecure_key: send the key unencrypted to another machine all the same.
        retries: how often a request is sent again that failed for a reason that may pass, at most; time decides.
        shards, replication_factor, write_consistency_factor: of the collection, when creating.
        ordering: of writes; by default what ``consistency`` of ``open_store`` asks for.
    """

    build_timeout: float = option(3600.0, seconds())
    transport: str = option("grpc", one_of("grpc", "http"))
    tls: bool = option(False, flag())
    ca: str = option("", matching(r".+", "a file"))
    cert: str = option("", matching(r".+", "a file"))
    cert_key: str = option("", matching(r".+", "a file"))
    api_key: Secret = secret()
    insecure_key: bool = option(False, flag())
    retries: int = option(1000, integer(0, 1000))
    shards: int | None = option(None, integer(1, 10_000))
    replication_factor: int | None = option(None, integer(1, 100))
    write_consistency_factor: int | None = option(None, integer(1, 100))
    ordering: str | None = option(None, one_of("weak", "medium", "strong"))


CREATION = (
    "shards", "replication_factor", "write_consistency_factor", "m", "ef_construct", "full_scan_threshold",
    "quantization", "compression", "always_ram", "on_disk", "on_disk_payload", "tenant",
)  # fmt: skip
"""Options that decide how a collection is made. On one that exists they must say what is there, or nothing."""

_KINDS: dict[str, type[EdgeOptions]] = {"": ServerOptions, "edge": EdgeOptions}


def read(url: StoreURL) -> EdgeOptions:
    """The options of ``url``, of the class that its variant has.

    Raises:
        InvalidURLError: an unknown variant or option, a bad value, options that exclude each other.
    """
    if url.variant not in _KINDS:
        raise InvalidURLError(f"{url}", expected="qdrant:// or qdrant+edge://", got=url.variant)
    options = read_options(_KINDS[url.variant], url)
    _check_quantization(options)
    if isinstance(options, ServerOptions):
        _check_security(options, url)
    return options


def created_with(options: EdgeOptions) -> dict[str, object]:
    """The creation options that were given."""
    names = {f.name for f in fields(options)} & set(CREATION)
    return {name: value for name in sorted(names) if (value := getattr(options, name)) is not None}


def _check_quantization(options: EdgeOptions) -> None:
    if options.compression is not None and options.quantization != "product":
        raise InvalidURLError(
            f"compression={options.compression}", expected="quantization=product", got=options.quantization or "none"
        )
    if options.always_ram is not None and options.quantization is None:
        raise InvalidURLError("always_ram", expected="a quantization to keep in memory", got="none")


def _check_security(options: ServerOptions, url: StoreURL) -> None:
    if url.user or url.password:
        raise InvalidURLError(f"{url}", expected="an API key (api_key_env=…); Qdrant has no users", got="a user")
    if not options.tls and (options.ca or options.cert or options.cert_key):
        raise InvalidURLError(f"{url}", expected="tls=1 with ca, cert and cert_key", got="no tls")
    if bool(options.cert) != bool(options.cert_key):
        raise InvalidURLError(f"{url}", expected="cert and cert_key together", got="one of them")
    key = options.api_key.reveal()
    if not (key.isascii() and key.isprintable()):
        raise InvalidURLError(f"{url}: the API key", expected="printable ASCII characters, as in a header of HTTP")
    if options.api_key and not (options.tls or options.insecure_key or is_loopback(url.host)):
        raise InvalidURLError(
            f"{url}: an API key would travel unencrypted to {url.host}",
            hint="Add tls=1, or insecure_key=1 if the network itself is private.",
        )
