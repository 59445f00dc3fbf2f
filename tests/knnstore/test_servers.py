"""What finds and starts servers. The stand-in is a program that does as little of a server as can be started and killed."""

from __future__ import annotations

import json
import os
import shlex
import socket
import stat
import sys
import urllib.request
from pathlib import Path

import pytest

from knnstore.testing import servers
from knnstore.testing.servers import MilvusProgram, QdrantProgram, ServerNotFound

STAND_IN = """
import http.server, json, os, sys
if os.path.exists("broken"):
    sys.exit("the disk is on fire")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({k: v for k, v in os.environ.items() if k.startswith("QDRANT__")}).encode())
http.server.HTTPServer(("127.0.0.1", int(os.environ["QDRANT__SERVICE__HTTP_PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Path:
    program = tmp_path / "bin" / "qdrant"
    program.parent.mkdir()
    (tmp_path / "qdrant.py").write_text(STAND_IN)
    # Not in the first line of the program: the path of the interpreter may have a space in it.
    program.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(tmp_path / 'qdrant.py'))}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("KNNSTORE_QDRANT_BIN", str(program))
    return program


@pytest.fixture
def nothing(monkeypatch):
    """A machine without servers, whatever this one has."""
    for name in ("KNNSTORE_QDRANT_URL", "KNNSTORE_MILVUS_URL", "KNNSTORE_QDRANT_BIN", "KNNSTORE_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("PATH", "/nowhere")


def test_a_program_is_started_killed_and_started_again(stand_in, tmp_path):
    server = QdrantProgram(tmp_path / "data")
    with server:
        assert server.url == f"qdrant://127.0.0.1:{server.port}"
        told = json.load(urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/readyz"))
        assert told["QDRANT__SERVICE__GRPC_PORT"] == str(server.port)
        assert told["QDRANT__SERVICE__HOST"] == "127.0.0.1"
        assert Path(told["QDRANT__STORAGE__STORAGE_PATH"]).is_relative_to(tmp_path / "data")
        first = server.process_id
        server.kill()
        assert server.process_id is None
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.http_port), timeout=1)
        server.start()
        assert server.process_id not in (None, first)
        last = server.process_id
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_a_program_that_ends_shows_its_log(stand_in, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken").touch()
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        QdrantProgram(tmp_path / "data").start()


def test_a_program_that_is_not_there(nothing, tmp_path, monkeypatch):
    with pytest.raises(ServerNotFound, match="KNNSTORE_QDRANT_BIN"):
        QdrantProgram(tmp_path)
    monkeypatch.setattr(servers, "find_spec", lambda name: None)
    with pytest.raises(ServerNotFound, match="pip install milvus"):
        MilvusProgram(tmp_path)


def test_a_given_url_comes_first(nothing, stand_in, monkeypatch, tmp_path):
    monkeypatch.setenv("KNNSTORE_QDRANT_URL", "qdrant://db.example:6334")
    with servers._found("qdrant", lambda: QdrantProgram(tmp_path / "d")) as url:
        assert url == "qdrant://db.example:6334"


def test_a_program_is_found_where_there_is_no_docker(nothing, stand_in, monkeypatch, tmp_path):
    monkeypatch.setenv("KNNSTORE_QDRANT_BIN", str(stand_in))
    monkeypatch.setenv("PATH", os.defpath)
    with servers._found("qdrant", lambda: QdrantProgram(tmp_path / "d")) as url:
        assert url.startswith("qdrant://127.0.0.1:")


@pytest.mark.parametrize(
    ("required", "outcome"), [("", "skip"), ("milvus", "skip"), ("qdrant", "fail"), ("milvus,qdrant", "fail")]
)
def test_not_found_is_a_skip_or_a_failure(nothing, monkeypatch, tmp_path, required, outcome):
    monkeypatch.setenv("KNNSTORE_REQUIRE", required)
    caught = {"skip": pytest.skip.Exception, "fail": pytest.fail.Exception}[outcome]
    with pytest.raises(caught) as reason, servers._found("qdrant", lambda: QdrantProgram(tmp_path)):
        pass
    for looked in ("KNNSTORE_QDRANT_URL is not set", "no docker engine", "no program"):
        assert looked in str(reason.value)


def test_a_container_that_does_not_start_is_a_reason(nothing, monkeypatch):
    """The engine answers; the image cannot be had. What is said then is tested with an engine that has no images."""
    docker = pytest.importorskip("docker")
    from testcontainers.community.qdrant import QdrantContainer

    class Engine:
        def ping(self) -> bool:
            return True

        def close(self) -> None: ...

    def start(self):
        raise docker.errors.ImageNotFound("no such image")

    stopped = []
    monkeypatch.setattr(docker, "from_env", lambda: Engine())
    monkeypatch.setattr(QdrantContainer, "__init__", lambda self, image: setattr(self, "image", image))
    monkeypatch.setattr(QdrantContainer, "start", start)
    monkeypatch.setattr(QdrantContainer, "stop", lambda self: stopped.append(self.image))
    monkeypatch.setattr(QdrantContainer, "get_logs", lambda self: (b"out of memory", b""))
    with pytest.raises(ServerNotFound, match=r"(?s)no such image.*out of memory"):
        servers._container("qdrant")
    assert stopped == [servers.IMAGES["qdrant"]]


def test_below():
    assert servers.below("milvus://h:1", "default/a") == "milvus://h:1/default/a"
    assert (
        servers.below("milvus://h:1/?token_env=T", "default/a", index="FLAT")
        == "milvus://h:1/default/a?token_env=T&index=FLAT"
    )


def test_images_are_pinned():
    assert all(image.count(":v") == 1 and "latest" not in image for image in servers.IMAGES.values())
