"""A studio of the preset `tiny` on rendered scenes, and its API without a network."""

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from knnseg import Segmenter
from knnseg.datasets import RenderedScenes
from knnseg.studio.gallery import Gallery
from knnseg.studio.server import make_app
from knnseg.studio.session import Studio

NAMES = frozenset({"localhost", "127.0.0.1"})
CLASSES = ["metal plate", "clock", "ball", "grass", "sky"]


@pytest.fixture(scope="session")
def scenes():
    return list(RenderedScenes(3, seed=3, size=(144, 192), including=["kettle"]))


@pytest.fixture
def photos(tmp_path, scenes):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def tiny():
    """The stages, loaded once."""
    return Segmenter.from_config("tiny")


@pytest.fixture
def make_studio(tiny, photos, tmp_path):
    from knnseg import ConceptDatabase

    opened = []

    def make(**options):
        database = ConceptDatabase.open(f"faiss://{tmp_path}/db", tiny.extractor)
        opened.append(database)
        segmenter = Segmenter(tiny.extractor, tiny.proposer, tiny.base, database, config=tiny.config)
        return Studio(segmenter, Gallery(photos), **{"classes": CLASSES, "writer": "ada", **options})

    yield make
    for database in opened:
        database.close()


@pytest.fixture
def studio(make_studio):
    return make_studio()


class Api:
    """The API, as the page speaks to it."""

    def __init__(self, studio, **options):
        options = {"names": NAMES, **options}
        self.client = TestClient(make_app(studio, **options), "http://localhost:8765", raise_server_exceptions=False)

    def get(self, path, code=200, **options):
        return self.answer(self.client.get(f"/api/{path}", **options), code)

    def post(self, path, body, code=200, **options):
        return self.answer(self.client.post(f"/api/{path}", json=body, **options), code)

    @staticmethod
    def answer(response, code):
        assert response.status_code == code, response.text
        return response.json() if response.headers["content-type"] == "application/json" else response.content


@pytest.fixture
def make_api():
    return Api


@pytest.fixture
def api(studio):
    return Api(studio)


@pytest.fixture
def runs():
    """A mask as the page sends it."""

    def code(mask):
        from knnseg.studio.maps import to_runs

        return to_runs(np.asarray(mask, np.int32))

    return code


@pytest.fixture
def kettle(scenes):
    """Where the kettle of a scene is, bool (H, W)."""

    def find(number):
        scene = scenes[number]
        return scene.segments == next(s.id for s in scene.info if s.label == "kettle")

    return find


@pytest.fixture
def segment_at():
    """The segment that most pixels of a mask have in a segmentation; an empty one for none."""

    def find(answer, mask):
        values, counts = np.array(answer["runs"]).reshape(-1, 2).T
        number = np.bincount(np.repeat(values, counts).reshape(answer["size"])[mask]).argmax()
        return next((s for s in answer["segments"] if s["id"] == number), {"label": ""})

    return find
