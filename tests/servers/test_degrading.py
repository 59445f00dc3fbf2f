"""A segmenter over a real server that goes away and comes back."""

import time
import uuid

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import knnseg
import knnstore
from knnseg.cli.commands import app
from knnseg.datasets import RenderedScenes
from knnstore.errors import StoreConnectionError, StoreTimeoutError
from knnstore.testing.servers import MilvusProgram, below

pytestmark = pytest.mark.server
SPEC = knnstore.StoreSpec(4)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MilvusProgram(tmp_path_factory.mktemp("milvus")) as program:
        yield program


def when_back(segmenter, image):
    """The first prediction that is not degraded: a server that comes back needs some time to be ready."""
    deadline = time.monotonic() + 60
    while True:
        result = segmenter.predict(image, ["kettle", "lava", "grass"])
        if not result.degraded or time.monotonic() > deadline:
            return result


@pytest.fixture
def url(server):
    if server.process_id is None:
        server.start()
        knnstore.open_store(below(server.url, f"default/ready_{uuid.uuid4().hex[:8]}", index="FLAT"), SPEC).close()
    return below(server.url, f"default/down_{uuid.uuid4().hex[:8]}", index="FLAT")


def impatient(url):
    return f"{url}&timeout=5&retries=1"


def filled(url, scenes, classes):
    """Add some scenes, with all patience that a server wants that has just started; what is predicted then."""
    with knnseg.Segmenter.from_config("tiny", store=url) as segmenter:
        segmenter.database.add(list(scenes)[:3])
        return segmenter.predict(scenes[3].image, classes)


@pytest.fixture(scope="module")
def scenes():
    return RenderedScenes(4, seed=5, size=(96, 96), including=["kettle", "lava"])


def test_degrades_while_the_server_is_away_and_recovers(server, url, scenes):
    new, base = scenes[3].image, knnseg.Segmenter.from_config("tiny")
    filled(url, scenes, ["kettle"])
    with knnseg.Segmenter.from_config("tiny", store=impatient(url), on_store_error="base") as segmenter:
        whole = segmenter.predict(new, ["kettle", "lava", "grass"])
        alone = base.predict(
            new, whole.vocabulary
        )  # what is a thing was known before the server went away, and still is
        assert whole.degraded == "" and not np.array_equal(whole.panoptic, alone.panoptic)
        server.kill()
        result = segmenter.predict(new, ["kettle", "lava", "grass"])
        assert f"127.0.0.1:{server.port}" in result.degraded
        assert np.array_equal(result.panoptic, alone.panoptic)
        server.start()
        again = when_back(segmenter, new)
        assert again.degraded == "" and np.array_equal(again.panoptic, whole.panoptic)


def test_raises_by_default(server, url, scenes):
    filled(url, scenes, ["kettle"])
    with knnseg.Segmenter.from_config("tiny", store=impatient(url)) as segmenter:
        server.kill()
        with pytest.raises((StoreConnectionError, StoreTimeoutError), match=str(server.port)):
            segmenter.predict(scenes[3].image, ["kettle", "grass"])
    with pytest.raises((StoreConnectionError, StoreTimeoutError), match=str(server.port)):
        knnseg.Segmenter.from_config("tiny", store=impatient(url))


def test_a_server_that_is_away_at_the_start(server, url, scenes):
    whole = filled(url, scenes, ["kettle", "lava", "grass"])
    server.kill()
    with knnseg.Segmenter.from_config("tiny", store=impatient(url), create=False, on_store_error="base") as segmenter:
        assert segmenter.predict(scenes[3].image, ["kettle", "lava", "grass"]).degraded
        server.start()
        again = when_back(segmenter, scenes[3].image)
        assert again.degraded == "" and np.array_equal(again.panoptic, whole.panoptic)


def test_the_command_degrades_and_says_so(server, url, scenes, tmp_path):
    Image.fromarray(scenes[3].image).save(tmp_path / "new.png")
    server.kill()
    command = [
        "segment",
        str(tmp_path / "new.png"),
        "--store",
        impatient(url),
        "-c",
        "kettle,grass",
        "-o",
        str(tmp_path / "out"),
    ]
    failed = CliRunner().invoke(app, command)
    assert failed.exit_code != 0 and isinstance(failed.exception, StoreConnectionError | StoreTimeoutError)
    done = CliRunner().invoke(app, [*command, "--on-store-error", "base"])
    assert done.exit_code == 0, done.output
    assert "base prediction only" in done.stderr and str(server.port) in done.stderr
