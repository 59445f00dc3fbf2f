"""Real servers for tests: the fixtures ``milvus_url`` and ``qdrant_url``, and the programs behind them.

In the ``conftest.py`` at the root of your tests::

    pytest_plugins = ["knnstore.testing.servers"]

A fixture looks, in this order, for

1. a URL in ``KNNSTORE_MILVUS_URL`` or ``KNNSTORE_QDRANT_URL``;
2. a docker engine, which runs the published image of :data:`IMAGES` through testcontainers;
3. a server program on this machine: the one in the wheel ``milvus`` (x86-64 Linux), or a ``qdrant`` on the PATH or in
   ``KNNSTORE_QDRANT_BIN``.

Where there is none the test is skipped with the reasons; a name in ``KNNSTORE_REQUIRE=milvus,qdrant`` makes that a
failure. The URL has no path, and options only if the environment gives some; :func:`below` makes the URL of a
collection, and :func:`remove` takes away what a test has made there. A server is started once for a test run, with a
folder of its own; a Milvus that is started here must have no collection left in the end. :class:`MilvusProgram` and
:class:`QdrantProgram` start further ones, to be killed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.error import URLError
from urllib.parse import urlencode

import pytest

from knnstore._plugins import collections, drop_store
from knnstore.url import StoreURL

__all__ = [
    "IMAGES",
    "MilvusProgram",
    "QdrantProgram",
    "ServerNotFound",
    "ServerProgram",
    "below",
    "milvus_url",
    "qdrant_url",
    "remove",
]

IMAGES = {"milvus": "milvusdb/milvus:v2.6.16", "qdrant": "qdrant/qdrant:v1.19.0"}
"""The published images that testcontainers runs."""

_START_SECONDS = 120
_MILVUS_INTERVALS = {
    "proxy.timeTickInterval": 20,
    "queryCoord.checkInterval": 50,
    "queryCoord.distPullInterval": 50,
    "queryCoord.checkChannelInterval": 50,
    "queryCoord.checkSegmentInterval": 50,
    "common.session.ttl": 10,
}
"""Milliseconds, and seconds for the last, in the environment of the program. On one node the coordinators may look more
often than in a cluster: a new collection is ready in 2 s instead of 3, a read waits 20 ms for the write before it
instead of 200, and after a kill the new server is ready in 15 s instead of 35, when the session of the old one ends."""


class ServerNotFound(Exception):  # noqa: N818  # a finding, not a fault
    """There is no such server here; the text says what was looked for."""


class ServerProgram(ABC):
    """A server on free ports of the loopback interface, with its data in a folder; a context manager.

    Args:
        folder: its data, configuration and logs; it may be killed and started again on the same ones.

    Raises:
        ServerNotFound: the program is not on this machine.
    """

    scheme: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._ran = False
        self.port, self._health = self._prepare()

    @abstractmethod
    def _prepare(self) -> tuple[int, str]:
        """Choose ports and write what the program reads: the port of the service, and the URL that tells its health."""

    @abstractmethod
    def _command(self) -> tuple[list[str], dict[str, str]]:
        """What to run, and what to add to the environment."""

    @property
    def url(self) -> str:
        """The store URL of the server, without a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the program has printed."""
        return self.folder / "server.log"

    def start(self) -> Self:
        """Start it, and wait until it says that it is healthy.

        Raises:
            RuntimeError: it ended, or did not become healthy in two minutes; with the end of its log.
        """
        try:
            self._run()
        except RuntimeError:
            if self._ran:  # its ports are known to others by now
                raise
            self.port, self._health = self._prepare()  # somebody else may have taken a port since
            self._run()
        self._ran = True
        return self

    def _run(self) -> None:
        command, added = self._command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  # the program that we have found
                command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **added}
            )
        deadline = time.monotonic() + _START_SECONDS
        while not _healthy(self._health):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{command[0]} did not start:\n{self._log_end()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it without any warning (SIGKILL), as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ask it to end, and insist after some seconds."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self.kill()

    @property
    def process_id(self) -> int | None:
        """Its process, None while it does not run; for who wants to stop it with signals."""
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _log_end(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]


class MilvusProgram(ServerProgram):
    """Milvus standalone out of the wheel ``milvus``, with etcd and the message queue in the same process."""

    scheme = "milvus"

    def _prepare(self) -> tuple[int, str]:
        if find_spec("milvus") is None:
            raise ServerNotFound("no wheel `milvus` (pip install milvus==2.3.5, x86-64 Linux only)")
        from milvus import MilvusServerConfig

        self._programs = _unpacked_milvus()
        config = MilvusServerConfig(data_dir=str(self.folder))
        # Its own choice begins at the same numbers in every process that starts one.
        config.update(**{name: free_port() for name in config.configurable_items if name.endswith("_port")})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves the sockets open that it has tried ports with
            config.resolve()  # chooses free ports and writes the configuration
        # etcd, in the same process, would listen on the same two ports in every server.
        peer, client = (f"http://127.0.0.1:{port}" for port in (free_port(), config.get("etcd_port")))
        (self.folder / "etcd.yaml").write_text(
            f"listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: default={peer}\n"
            f"listen-client-urls: {client}\nadvertise-client-urls: {client}\n",
            encoding="utf-8",
        )
        self._metrics_port = free_port()
        return int(config.get("proxy_port")), f"http://127.0.0.1:{self._metrics_port}/healthz"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        libraries = os.pathsep.join(filter(None, [str(self._programs), os.environ.get("LD_LIBRARY_PATH", "")]))
        return [str(self._programs / "milvus"), "run", "standalone"], {
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self._metrics_port),
            "ETCD_CONFIG_PATH": str(self.folder / "etcd.yaml"),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": libraries,
            **{name.replace(".", "_").upper(): str(value) for name, value in _MILVUS_INTERVALS.items()},
        }


class QdrantProgram(ServerProgram):
    """Qdrant from the PATH or from ``KNNSTORE_QDRANT_BIN``; :attr:`port` speaks gRPC, :attr:`http_port` HTTP."""

    scheme = "qdrant"

    def _prepare(self) -> tuple[int, str]:
        named = os.environ.get("KNNSTORE_QDRANT_BIN", "")
        found = shutil.which(named or "qdrant")
        if found is None:
            raise ServerNotFound(f"no program {named or 'qdrant'!r} (set KNNSTORE_QDRANT_BIN)")
        self._program, self.http_port = found, free_port()
        return free_port(), f"http://127.0.0.1:{self.http_port}/readyz"

    def _command(self) -> tuple[list[str], dict[str, str]]:
        return [self._program], {
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self.http_port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.port),
            "QDRANT__STORAGE__STORAGE_PATH": str(self.folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self.folder / "snapshots"),
            "QDRANT__TELEMETRY_DISABLED": "true",
        }


# -- fixtures ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def milvus_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``milvus://host:port`` of a real Milvus server; one that was started here must be empty in the end."""
    with _found("milvus", lambda: MilvusProgram(tmp_path_factory.mktemp("milvus"))) as url:
        yield url
        left = [] if url == os.environ.get("KNNSTORE_MILVUS_URL") else _left_on_milvus(url)
        if left:  # each takes memory and threads of the server, which slows down the tests that come after
            pytest.fail(f"{len(left)} collections left on {url}, to be removed by the tests that made them: {left}")


@pytest.fixture(scope="session")
def qdrant_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``qdrant://host:port`` (gRPC) of a real Qdrant server."""
    with _found("qdrant", lambda: QdrantProgram(tmp_path_factory.mktemp("qdrant"))) as url:
        yield url


@contextlib.contextmanager
def _found(name: str, program: Callable[[], ServerProgram]) -> Iterator[str]:
    """The first server that can be had; the test is skipped or fails where there is none."""
    given = os.environ.get(f"KNNSTORE_{name.upper()}_URL", "")
    if given:
        yield given
        return
    missing = [f"KNNSTORE_{name.upper()}_URL is not set"]
    for start in (lambda: _container(name), program):
        try:
            server = start()
        except ServerNotFound as reason:
            missing.append(str(reason))
            continue
        with server:
            yield server.url
        return
    text = f"no {name} server: {'; '.join(missing)}"
    if name in os.environ.get("KNNSTORE_REQUIRE", "").split(","):
        pytest.fail(text)
    pytest.skip(text)


class _Container:
    """A started container with the face of a :class:`ServerProgram`."""

    def __init__(self, container: Any, url: str) -> None:
        self._container, self.url = container, url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.stop()


def _container(name: str) -> Any:
    """Run the published image.

    Raises:
        ServerNotFound: no testcontainers, no docker engine, or a container that does not get healthy; with its log.
    """
    try:
        import docker
        from testcontainers.community.milvus import MilvusContainer
        from testcontainers.community.qdrant import QdrantContainer
    except ImportError as error:
        raise ServerNotFound(f"no testcontainers ({error})") from None
    if not _answers(docker):
        raise ServerNotFound("no docker engine answers")
    kind, port = {"milvus": (MilvusContainer, 19530), "qdrant": (QdrantContainer, 6334)}[name]
    container = kind(IMAGES[name])
    try:
        container.start()  # awaits its health
    except Exception as error:  # docker, the registry and the wait each have their own
        logs = _logs(container)
        container.stop()
        raise ServerNotFound(f"{IMAGES[name]} did not start: {error}\n{logs}") from error
    return _Container(container, f"{name}://{container.get_container_host_ip()}:{container.get_exposed_port(port)}")


def _answers(docker: Any) -> bool:
    """Whether there is an engine. The client leaves the sockets open that it has asked in vain: no fault of a test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with contextlib.closing(docker.from_env()) as client:
                return bool(client.ping())
        except docker.errors.DockerException:
            return False
        finally:
            gc.collect()


def _logs(container: Any) -> str:
    try:
        return "\n".join(part.decode(errors="replace")[-3000:] for part in container.get_logs())
    except Exception as error:  # a container that was never made has none
        return f"(no log: {error})"


def below(url: str, path: str, **options: object) -> str:
    """The URL of a collection on a server: its path appended, and options beside those that are there.

    >>> below("qdrant://db:6334?tls=1&api_key_env=KEY", "scratch/one", exact=1)
    'qdrant://db:6334/scratch/one?tls=1&api_key_env=KEY&exact=1'
    """
    server, _, given = url.partition("?")
    query = "&".join(filter(None, [given, urlencode(options)]))
    return f"{server.rstrip('/')}/{path}{'?' if query else ''}{query}"


def remove(url: str | StoreURL) -> None:
    """Remove the collection at a URL and those one name below it, with all that they hold."""
    for found in collections(url):
        drop_store(found)


# -- helpers -----------------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _left_on_milvus(url: str) -> list[str]:
    """The collections on a server, by database."""
    from pymilvus import MilvusClient

    address, left = f"http://{StoreURL.parse(url).host}:{StoreURL.parse(url).port}", []
    with contextlib.closing(MilvusClient(address)) as client:
        databases = client.list_databases()
    for database in databases:
        with contextlib.closing(MilvusClient(address, db_name=database)) as client:
            left += [f"{database}/{name}" for name in client.list_collections()]
    return left


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  # our own loopback address
            return bool(reply.status == 200)
    except (URLError, OSError, HTTPException):
        return False


def _unpacked_milvus() -> Path:
    """The programs of the wheel, unpacked once for this user: they take some 300 MB and ten seconds."""
    import milvus

    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knnstore" / f"milvus-{milvus.__version__}"
    )
    if not cache.is_dir():
        cache.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=cache.parent))
        milvus._initialize_data_files(str(fresh))
        try:
            fresh.rename(cache)  # whole or not at all, whoever else does the same
        except OSError:
            shutil.rmtree(fresh)
    return cache / "bin"
