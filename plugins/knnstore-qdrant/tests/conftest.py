"""Bridges: processes that speak Qdrant's protocols, see ``bridge.py``."""

import itertools
import json
import os
import signal
import subprocess
import sys
import urllib.request
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest
from knnstore_qdrant.connection import Connection
from knnstore_qdrant.options import read

from knnstore.testing.servers import below
from knnstore.url import StoreURL


class Bridge:
    """A running bridge; can be frozen, killed and started again on the same ports."""

    def __init__(self, **options):
        self.options = options
        self.start()

    def start(self):
        script = Path(__file__).with_name("bridge.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script), json.dumps(self.options)], stdout=subprocess.PIPE, text=True
        )
        ports = json.loads(self.process.stdout.readline())
        self.options |= ports
        self.ports = ports

    def server(self, transport="grpc"):
        return f"qdrant://127.0.0.1:{self.ports[transport]}?transport={transport}"

    def url(self, path, transport="grpc", **options):
        given = "".join(f"&{name}={value}" for name, value in options.items())
        return f"qdrant://127.0.0.1:{self.ports[transport]}/{path}?transport={transport}{given}"

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # until it stands still: the signal takes its time

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def play(self, *faults, **more):
        """Tell it what happens from now on; see ``Service.play``."""
        body = json.dumps({"faults": faults, **more}).encode()
        key = {"api-key": self.options.get("api_key", "")}
        asked = urllib.request.Request(f"http://127.0.0.1:{self.ports['http']}/bridge", body, key, method="PUT")
        with urllib.request.urlopen(asked, timeout=30):
            pass

    def requests(self):
        return [json.loads(line) for line in Path(self.options["record"]).read_text().splitlines()]


@pytest.fixture(scope="session")
def shared_bridge():
    """One for all checks that only need a place of their own."""
    bridge = Bridge()
    yield bridge
    bridge.kill()


@pytest.fixture
def make_bridge(tmp_path):
    made = []

    def make(**options):
        made.append(Bridge(record=str(tmp_path / f"requests{len(made)}"), **options))
        return made[-1]

    yield make
    for bridge in made:
        if bridge.process.poll() is None:
            bridge.thaw()
            bridge.kill()


@contextmanager
def places(server):
    """Makes URLs of places on a server where nothing is stored; what is stored there is removed, whatever happens."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    try:
        yield lambda path="", **options: below(server, f"{name}{path}", **options)
    finally:
        for found in collections_of(server):
            if found.startswith(name):
                asked(server, lambda client: client.delete_collection(found))  # noqa: B023


def collections_of(server):
    return [found.name for found in asked(server, lambda client: client.get_collections()).collections]


def asked(server, question):
    url = StoreURL.parse(server)
    connection = Connection(url, read(url))
    try:
        return connection.call(question)
    finally:
        connection.close()


# Test modules cannot import this one, so what they make for themselves comes as a fixture.


@pytest.fixture(scope="session")
def new_bridge():
    return Bridge


@pytest.fixture(scope="session")
def places_on():
    return places


@pytest.fixture(scope="session")
def collections_on():
    return collections_of


@pytest.fixture
def place(qdrant_url):
    """Of the real server."""
    with places(qdrant_url) as make:
        yield make


@pytest.fixture(scope="session")
def numbers():
    return itertools.count()
