"""A feature extractor without a network, small scenes, and stores of both in-process kinds."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from knnseg import ConceptDatabase, Config, LabelledImage, LabelledSegment, Segmenter
from knnseg.config import FusionConfig, StageConfig
from knnseg.data.features import Features
from knnseg.data.scores import ClassScores
from knnseg.models.regions import RegionProposer
from knnstore import EmbeddingSpace


class ColourFeatures:
    """Mean colour and its products over cells of 8 pixels, as real numbers in many bits."""

    dim = 9

    def __init__(self, cell=8, name="colour"):
        self.cell, self.calls = cell, 0
        self.space = EmbeddingSpace(name, f"sha256:{name}-{cell}")

    def extract(self, images):
        return [self._one(image.pixels) for image in images]

    def _one(self, image):
        self.calls += 1
        height, width = image.shape[:2]
        rows, columns = -(-height // self.cell), -(-width // self.cell)
        padded = np.pad(image, ((0, rows * self.cell - height), (0, columns * self.cell - width), (0, 0)), "edge")
        mean = padded.reshape(rows, self.cell, columns, self.cell, 3).mean((1, 3)) / 255 - 0.45
        r, g, b = np.moveaxis(mean, -1, 0)
        data = np.stack([r, g, b, r * g, g * b, b * r, r - g, g - b, np.full_like(r, 0.05)]).astype(np.float32)
        return Features(data, (height, width), (float(rows * self.cell), float(columns * self.cell)))


class HashBase:
    """Some fixed opinion on every mask, unrelated to the picture, as a base predictor."""

    branches = ("final",)

    def predict(self, images, masks, vocabulary):
        return [self._one(own, vocabulary) for own in masks]

    def _one(self, masks, vocabulary):
        rows = []
        for i in range(len(masks)):
            seeds = [int.from_bytes(hashlib.sha256(f"{i}{n}".encode()).digest()[:4], "big") for n in vocabulary]
            rows.append(np.array(seeds, np.float64) / sum(seeds))
        return ClassScores(np.array(rows, np.float32).reshape(-1, len(vocabulary)), vocabulary.names)


PALETTE = {
    "sky": (90, 150, 230), "grass": (60, 170, 60), "sand": (220, 200, 130), "ball": (220, 40, 40),
    "kettle": (150, 150, 160), "coal": (30, 30, 35),
}  # fmt: skip
THINGS = frozenset({"ball", "kettle"})


def make_scene(seed, names=("sky", "grass", "ball"), size=(48, 64)):
    """Bands of stuff with squares of things on them, in noisy colour."""
    rng = np.random.default_rng(seed)
    stuff = [n for n in names if n not in THINGS]
    segments = np.repeat(np.arange(len(stuff)), -(-size[0] // len(stuff)))[: size[0], None] * np.ones(size[1], int) + 1
    info = [LabelledSegment(i + 1, n) for i, n in enumerate(stuff)]
    for n in (n for n in names if n in THINGS):
        y, x = rng.integers(0, size[0] - 16), rng.integers(0, size[1] - 16)
        info.append(LabelledSegment(len(info) + 1, n, True))
        segments[y : y + 16, x : x + 16] = len(info)
    info = [s for s in info if (segments == s.id).any()]
    colour = np.zeros((len(names) + 1, 3))
    for s in info:
        colour[s.id] = PALETTE[s.label]
    noisy = colour[segments] + rng.normal(0, 12, (*size, 3))
    image = np.clip(noisy, 0, 255).astype(np.uint8)
    return LabelledImage(image, segments.astype(np.int32), tuple(info), f"scene:{seed}", str(seed))


@pytest.fixture
def extractor():
    return ColourFeatures()


@pytest.fixture
def scene():
    return make_scene


@pytest.fixture
def colour_features():
    return ColourFeatures


@pytest.fixture(params=["memory", "faiss"])
def store_url(request, tmp_path):
    return f"memory://{tmp_path}/db" if request.param == "memory" else f"faiss://{tmp_path}/db"


@pytest.fixture
def database(store_url, extractor):
    with ConceptDatabase.open(store_url, extractor) as database:
        yield database


@pytest.fixture
def make_segmenter(extractor):
    def make(database=None, base=None, **fusion):
        config = Config(StageConfig("none"), StageConfig("none"), fusion=FusionConfig(**fusion))
        proposer = RegionProposer(scales=(30, 100), min_area=10, superpixels=())
        return Segmenter(extractor, proposer, base or HashBase(), database, config=config)

    return make


def real_data() -> Path | None:
    """The optional folder of real photographs."""
    import os

    for folder in (os.environ.get("KNNSEG_REAL_DATA"), Path(__file__).parents[3] / "shared" / "real"):
        if folder and Path(folder).is_dir():
            return Path(folder)
    return None


@pytest.fixture(scope="session")
def real_folder():
    folder = real_data()
    if folder is None:
        pytest.skip("no photographs: expected a folder in $KNNSEG_REAL_DATA or at ../shared/real")
    return folder


@pytest.fixture(scope="session")
def run():
    """Runs ``knnseg`` in this process; what it printed and how it ended."""
    from knnseg.cli.commands import app

    def call(*arguments, code=0):
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        assert result.exit_code == code, result.output
        return result

    return call
