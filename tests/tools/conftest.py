"""Label Studio itself, started once for the tests on it, and the scenes that the other tests are on."""

import importlib.util
import os
import secrets
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from knnseg import ConceptDatabase, Config, Segmenter
from knnseg.config import StageConfig
from knnseg.models.regions import RegionProposer

TOOLS = Path(__file__).parents[2] / ".tools"
PASSWORD, TOKEN = secrets.token_hex(8), secrets.token_hex(20)


@pytest.fixture(scope="session")
def port():
    """A port that is free, for whatever is started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="session")
def scenes():
    """The conftest of knnseg's tests, which pytest does not load here: scenes, an extractor and a base."""
    path = Path(__file__).parents[1] / "knnseg" / "conftest.py"
    spec = importlib.util.spec_from_file_location("knnseg_scenes", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def segmenter(scenes, tmp_path):
    extractor, config = scenes.ColourFeatures(), Config(StageConfig("none"), StageConfig("none"))
    proposer = RegionProposer(scales=(30, 100), min_area=10, superpixels=())
    with ConceptDatabase.open(f"memory://{tmp_path}/db", extractor) as database:
        yield Segmenter(extractor, proposer, scenes.HashBase(), database, config=config)


class LabelStudio:
    """Its API, with the token of its first user."""

    def __init__(self, url, token, files):
        self.url, self.token, self.files = url, token, files
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60)

    def call(self, method, path, **how):
        answer = self.http.request(method, path, **how)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def project(self, xml, title="test of a project"):
        return self.call("POST", "/api/projects", json={"title": title, "label_config": xml})["id"]

    def upload(self, project, name, data):
        """Upload an image or a file of tasks; returns the tasks of the project."""
        self.call("POST", f"/api/projects/{project}/import", files={"file": (name, data)})
        return self.call("GET", "/api/tasks", params={"project": project, "page_size": 100})["tasks"]

    def task(self, number):
        return self.call("GET", f"/api/tasks/{number}/")

    def annotate(self, task, result):
        return self.call("POST", f"/api/tasks/{task}/annotations/", json={"result": result})["id"]

    def export(self, project, kind="JSON"):
        answer = self.http.get(f"/api/projects/{project}/export", params={"exportType": kind})
        assert answer.status_code == 200, answer.text[:500]
        return answer.content


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory, port):
    program = TOOLS / "label-studio" / "bin" / "label-studio"
    if not program.exists():
        pytest.skip("Label Studio is not installed; `make test-tools` does it")
    folder = tmp_path_factory.mktemp("label-studio")
    files = folder / "files"
    files.mkdir()
    environment = {
        **os.environ, "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files), "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
    }  # fmt: skip
    user = ["--username", "test@example.com", "--password", PASSWORD, "--user-token", TOKEN]
    command = [
        program,
        "start",
        "--no-browser",
        *user,
        "--port",
        str(port),
        "--data-dir",
        folder / "data",
        "--internal-host",
        "127.0.0.1",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            tool = LabelStudio(started(process, f"http://127.0.0.1:{port}", folder / "log"), TOKEN, files)
            with tool.http:
                yield tool
        finally:
            process.terminate()
            process.wait(30)


def started(process, url, log, seconds=900):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"Label Studio ended: {log.read_text()[-2000:]}")
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return url
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    pytest.fail(f"Label Studio does not answer: {log.read_text()[-2000:]}")
