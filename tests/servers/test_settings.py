"""What calibration has found stays with a database on every engine, for other processes, writers and houses."""

import json
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from knnseg import Config, Segmenter
from knnseg.database.settings import Settings, keep_settings, settings_of
from knnseg.datasets import RenderedScenes
from knnstore._commands import app
from knnstore.testing.servers import below, remove

pytestmark = pytest.mark.server


@pytest.fixture(params=["milvus", "qdrant+edge"])
def place(request, tmp_path):
    if request.param != "milvus":
        yield f"{request.param}://{tmp_path}/edge?exact=1"
        return
    url = request.getfixturevalue("milvus_url")
    place = below(url, f"default/settings_{uuid.uuid4().hex[:8]}", index="FLAT")
    yield place
    remove(place)


def told(url):
    """What ``knnseg info`` says in a process of its own: versions and numbers of the one space that has any."""
    words = [sys.executable, "-m", "knnseg", "info", "--store", url, "--all", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    (space,) = [space for space in json.loads(done.stdout) if space["settings"]]
    return [(one["version"], one["numbers"]) for one in space["settings"]]


def of(k):
    return Settings("none", {"retrieval": {"k": k}})


def test_settings_are_kept_used_and_moved(place, tmp_path):
    scenes = RenderedScenes(3, seed=5, size=(96, 96))
    config = Config.preset("tiny")
    with Segmenter.from_config("tiny", place) as segmenter:
        database = segmenter.database
        database.add([scenes[0], scenes[1]])
        base = config.base.name
        keep_settings(database.store, Settings(base, {"retrieval": {"k": 3}}))
        database.rename(database.concepts()[0].label, "another name")
        keep_settings(database.store, Settings(base, {"retrieval": {"k": 5}}))
        picture = segmenter.predict(scenes[2].image)
    kept = [(1, {"retrieval": {"k": 3}}), (2, {"retrieval": {"k": 5}})]
    assert told(place) == kept
    with Segmenter.from_config("tiny", place) as later:
        assert later.config.retrieval.k == 5 != config.retrieval.k
        assert later.predict(scenes[2].image).evidence.neighbours.ids.shape[1] == 5
    with Segmenter.from_config("tiny", place, settings=False) as plain:
        assert plain.config == config
        assert (plain.predict(scenes[2].image).semantic == picture.semantic).all()

    home = f"faiss://{tmp_path}/home"
    result = CliRunner().invoke(app, ["copy", str(place), home])
    assert result.exit_code == 0, result.output
    assert told(home) == kept


def test_two_who_keep_settings_at_once_get_two_versions(place):
    """Who keeps something last is used, by everyone; nothing of the other is lost."""
    scene = RenderedScenes(1, seed=5, size=(96, 96))[0]
    with Segmenter.from_config("tiny", place) as first, Segmenter.from_config("tiny", place) as second:
        first.database.add([scene])

        def keep(segmenter, numbers):
            return {k: keep_settings(segmenter.database.store, of(k)).version for k in numbers}

        with ThreadPoolExecutor(2) as pool:
            made = list(pool.map(keep, (first, second), (range(1, 6), range(11, 16))))
        found = settings_of(first.database.store)
        assert found == settings_of(second.database.store)
    versions = {one.numbers["retrieval"]["k"]: one.version for one in found}
    assert sorted(versions.values()) == list(range(1, 11))
    assert versions == made[0] | made[1], "one of them was lost, or said to be another"
