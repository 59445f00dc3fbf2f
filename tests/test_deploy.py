"""The compose files of docs/deploy: valid by the Compose specification, pinned, and consistent with themselves and the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from knnstore.testing.servers import IMAGES

FOLDER = Path(__file__).parents[1] / "docs" / "deploy"
FILES = sorted(FOLDER.glob("*.yml"))


def services(path: Path) -> dict:
    return yaml.safe_load(path.read_text())["services"]


def test_both_clusters_are_there():
    assert [path.stem for path in FILES] == ["milvus-cluster", "qdrant-cluster"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_valid_by_the_compose_specification(path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_invalid_one_is_found(tmp_path):
    """The check above can fail."""
    broken = tmp_path / "broken.yml"
    broken.write_text(FILES[0].read_text().replace("healthcheck:", "heathcheck:"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(broken)]
    assert subprocess.run(command, capture_output=True).returncode != 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_consistent(path):
    found = services(path)
    declared = yaml.safe_load(path.read_text()).get("volumes", {})
    published = [port.split(":")[1] for service in found.values() for port in service.get("ports", [])]
    assert len(published) == len(set(published)), "two services publish one port"
    for name, service in found.items():
        assert re.search(r":v?[\w.-]*\d", service["image"]), f"{name}: an image without a version"
        assert "latest" not in service["image"]
        assert set(service.get("depends_on", {})) <= set(found), f"{name} waits for a service that is not there"
        for needed in service.get("depends_on", {}):
            assert "healthcheck" in found[needed], f"{name} waits for the health of {needed}, which has no check"
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in declared
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), "open to the network by default"


@pytest.mark.parametrize("name", IMAGES)
def test_the_same_servers_as_in_the_tests(name):
    images = {service["image"] for path in FILES for service in services(path).values()}
    assert IMAGES[name] in images


def test_qdrant_nodes_find_each_other():
    found = services(FOLDER / "qdrant-cluster.yml")
    assert len(found) == 3
    for name, service in found.items():
        command = service["command"]
        assert command[command.index("--uri") + 1] == f"http://{name}:6335"
        if "--bootstrap" in command:
            assert command[command.index("--bootstrap") + 1] == "http://node1:6335"
    assert ["--bootstrap" in service["command"] for service in found.values()] == [False, True, True]


def test_milvus_has_every_role():
    commands = [service["command"][-1] for service in services(FOLDER / "milvus-cluster.yml").values()]
    for role in ("mixcoord", "proxy", "datanode", "querynode", "streamingnode"):
        assert role in commands
