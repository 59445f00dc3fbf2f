"""Choosing how keys are made: in memory exactly what a database with those keys would find, and only what images confirm."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import knnseg
from knnseg import ConceptDatabase, Config, Segmenter, WithContext
from knnseg.calibration.fitting import calibrate
from knnseg.calibration.leave_one_out import ProposalAsker
from knnseg.calibration.recipes import KeysAsker, Workshop
from knnseg.cli.calibrating import _keep
from knnseg.config import StageConfig
from knnseg.data.features import Features
from knnseg.database.originals import Originals
from knnseg.database.reembedding import reembed
from knnseg.database.settings import settings_of
from knnseg.errors import ConfigError
from knnseg.models.base import NoBase
from knnseg.models.regions import RegionProposer
from knnstore import EmbeddingSpace

NAMES = ("sky", "grass", "ball", "coal")
REGIONS = {"scales": (30, 100), "min_area": 10, "superpixels": ()}


class TwoLayers:
    """Colours as layer 7, and as layer 5 numbers that go with the image alone, or hardly any."""

    def __init__(self, colours, loud=3.0, long_side=640, layers=(5, 7)):
        self._colours, self._loud = colours, loud
        self.long_side, self.layers = long_side, {layer: {5: 6, 7: 9}[layer] for layer in layers}
        self._cells = colours(cell=round(8 * 640 / long_side))
        self.dim = sum(self.layers.values())
        self.space = EmbeddingSpace("two", f"sha256:{loud} {long_side} {list(layers)}")

    def adjusted(self, long_side, layers):
        return TwoLayers(self._colours, self._loud, long_side, tuple(layers))

    def extract(self, images):
        return [self._one(image) for image in images]

    def _one(self, image):
        (seen,) = self._cells.extract([image])
        noise = np.random.default_rng(int(image.pixels.sum())).normal(size=(6, *seen.grid)).astype(np.float32)
        parts = {5: self._loud * noise, 7: seen.data}
        return Features(np.concatenate([parts[layer] for layer in self.layers]), seen.image_size, seen.extent)


@pytest.fixture
def files(tmp_path, scene):
    (tmp_path / "images").mkdir()
    examples = []
    for i in range(12):
        example = scene(i, NAMES if i % 2 else ("sky", "grass", "ball"))
        path = tmp_path / "images" / f"{i}.png"
        Image.fromarray(example.image).save(path)
        examples.append(replace(example, uri=path.as_uri()))
    return examples


@pytest.fixture
def opened(tmp_path, files):
    """A function that makes a database with an extractor, and a segmenter on it."""
    made = []

    def make(extractor, url=f"memory://{tmp_path}/keys"):
        database = ConceptDatabase.open(url, extractor)
        made.append(database)
        database.add(files)
        config = Config(StageConfig("none"), StageConfig("none"))
        return Segmenter(extractor, RegionProposer(**REGIONS), NoBase(), database, config=config)

    yield make
    for database in made:
        database.close()


def recipes(start):
    return [
        start,
        replace(start, layers=(7,), side=480),
        replace(start, whitening=0.0, context=0.6),
        replace(start, layers=(5,), whitening=0.5, side=800),
        replace(start, whitening=1.0, context=0.35),
    ]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("context", [0.0, 0.5])
def test_a_recipe_finds_what_a_database_with_its_keys_finds(opened, colour_features, number, context):
    plain = TwoLayers(colour_features)
    segmenter = opened(WithContext(plain, context) if context else plain)
    workshop = Workshop(segmenter.extractor)
    rest = (segmenter, segmenter.database, Originals())
    asker = KeysAsker(*rest, neighbours=8, workshop=workshop)
    recipe = recipes(workshop.start)[number]
    found = asker.queries(asker.ask(100), recipe).neighbours
    extractor, _ = asker.extractor(recipe)
    other = opened(extractor)
    true = ProposalAsker(other, other.database, Originals(), neighbours=8).ask(100).neighbours
    assert found.scores.shape == true.scores.shape and np.allclose(found.scores, true.scores, atol=2e-5)
    clear = np.abs(np.diff(true.scores, axis=1)).min(axis=1) > 1e-4
    assert clear.mean() > 0.5 and np.array_equal(found.labels[clear], true.labels[clear])


def test_a_layer_without_sense_is_left_out_and_nothing_is_written(opened, colour_features, files):
    segmenter = opened(TwoLayers(colour_features))
    before = segmenter.database.revision()
    found = calibrate(segmenter, keys=True)
    assert found.keys is not None and found.keys.recipe.layers == (7,)
    assert found.keys.gain > found.keys.spread > 0 and found.best.iou > found.before.iou + 0.05
    assert found.keys.sections["features"]["layers"] == [7]
    assert segmenter.database.revision() == before and settings_of(segmenter.database.store) == ()
    assert calibrate(segmenter).keys is None
    with ConceptDatabase.open(segmenter.database.store.url, found.keys.extractor) as target:
        assert target.store.url != segmenter.database.store.url
        assert reembed(segmenter.database.store, target).added == segmenter.database.store.count()


def test_keys_that_suit_stay(opened, colour_features):
    """Whatever else is best on some images is no better on the others."""
    segmenter = opened(TwoLayers(colour_features, loud=0.0))
    found = calibrate(segmenter, keys=True)
    assert found.before.iou > 0.9 and found.keys is None
    assert found.keys_gain <= found.keys_spread or found.best.iou == found.before.iou


def test_an_extractor_that_offers_no_choice_keeps_its_size_and_layers(opened, colour_features):
    segmenter = opened(colour_features())
    start = Workshop(segmenter.extractor).start
    assert (start.side, start.layers) == (0, ())
    sides, layers, whitenings, contexts = Workshop(segmenter.extractor).others(start)
    assert {one.side for one in sides} == {0} and {one.layers for one in layers} == {()}
    assert len(whitenings) == 5 and len(contexts) == 3
    assert calibrate(segmenter, keys=True).asked > 0


def test_the_whitening_that_is_in_use_is_where_it_starts(opened, colour_features, files):
    plain = TwoLayers(colour_features)
    white = knnseg.Whitened.fit(plain, [example.image for example in files])
    workshop = Workshop(WithContext(white, 0.35))
    start = workshop.start
    assert (start.whitening, start.context) == (-1.0, 0.35)
    assert start in workshop.others(start)[2]
    assert all(one.whitening is None for one in workshop.others(start)[0] if one.side != start.side)
    segmenter = opened(WithContext(white, 0.35))
    asker = KeysAsker(segmenter, segmenter.database, Originals(), neighbours=8, workshop=workshop)
    asked = asker.ask(100)
    true = ProposalAsker(segmenter, segmenter.database, Originals(), neighbours=8).ask(100).neighbours
    assert np.allclose(asker.queries(asked, start).neighbours.scores, true.scores, atol=2e-5)


def test_keys_are_chosen_on_proposals(opened, colour_features):
    with pytest.raises(ConfigError, match="proposals, which keys are chosen on"):
        calibrate(opened(colour_features()), on="examples", keys=True)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def mine(colour_features, tmp_path):
    """A configuration of a stage of one's own that offers a choice."""

    class Plugin:
        @knnseg.hookimpl
        def knnseg_register(self, register):
            def make(long_side: int = 640, layers: list = (5, 7)):
                return TwoLayers(colour_features, 3.0, long_side, tuple(layers))

            register("features", "two", make)

    knnseg.register(Plugin())
    path = tmp_path / "mine.toml"
    path.write_text(
        '[features]\nname = "two"  # mine\n[masks]\nname = "regions"\nscales = [30, 100]\nmin_area = 10\nsuperpixels = []\n'
    )
    return path


def test_the_command_says_what_to_run_next_and_keeps_what_was_found(mine, files, tmp_path, run):
    store, out = f"faiss://{tmp_path}/db", tmp_path / "chosen" / "keys.toml"
    with Segmenter.from_config(str(mine), store) as segmenter:
        segmenter.database.add(files)
        count = segmenter.database.store.count()
    found = json.loads(run("calibrate", "-s", store, "-p", mine, "--keys", "--out", out, "--json").stdout)
    assert found["keys"]["features"]["layers"] == [7] and found["kept"] == 1 and "# mine" in out.read_text()
    words = shlex.split(found["next"])
    assert words[:3] == ["knnseg", "concepts", "reembed"]
    assert f"examples added: {count}" in run(*words[1:]).stdout
    shown = json.loads(run("info", "-s", store, "--json").stdout)
    (settings,) = [one for space in shown for one in space["settings"]]
    assert settings["numbers"]["retrieval"]["k"] == found["best"]["retrieval"]["k"] and settings["version"] == 1
    assert settings["keys"]["features"]["layers"] == [7] and settings["measured"]["iou"] == found["best"]["iou"]
    text = run("info", "-s", store).stdout
    assert "settings 1" in text and "layers = [7]" in text and "in use" in text
    with Segmenter.from_config(str(out), store, create=False) as segmenter:
        assert (
            segmenter.database.store.count() == count
            and segmenter.config.retrieval.k == settings["numbers"]["retrieval"]["k"]
        )


def test_one_flag_embeds_again(mine, files, tmp_path, run):
    store, out = f"faiss://{tmp_path}/db", tmp_path / "keys.toml"
    with Segmenter.from_config(str(mine), store) as segmenter:
        segmenter.database.add(files)
        count = segmenter.database.store.count()
    text = run("calibrate", "-s", store, "-p", mine, "--keys", "--apply", "--out", out).stdout
    assert f"embedded again: {count} examples" in text and "layers [7]" in text
    with Segmenter.from_config(str(out), store, create=False) as segmenter:
        assert segmenter.database.store.count() == count


def test_mistakes_of_the_command(mine, tmp_path, run):
    run("calibrate", "-s", f"faiss://{tmp_path}/db", "-p", mine, "--keys", code=2)
    run("calibrate", "-s", f"faiss://{tmp_path}/db", "-p", mine, "--apply", "--out", tmp_path / "a.toml", code=2)


@pytest.mark.parametrize(("gain", "kept"), [(0.1, True), (-0.1, False)])
def test_a_gain_is_kept_with_what_it_is_the_gain_of(gain, kept, mine, files, tmp_path, run):
    """Where T alone has changed, the gain is that of numbers that stay as they were."""
    store = f"faiss://{tmp_path}/db"
    with Segmenter.from_config(str(mine), store) as segmenter:
        segmenter.database.add(files)
        found = calibrate(segmenter, on="examples")
        best = replace(found.best, fusion=replace(found.best.fusion, threshold=0.123))
        assert _keep(replace(found, best=best, gain=gain, spread=0.05), segmenter.database.store) == 1
        (settings,) = settings_of(segmenter.database.store)
    assert ("gain" in settings.measured) is ("spread" in settings.measured) is kept
    shown = run("info", "-s", store).stdout
    assert "threshold = 0.123" in shown and "on 12 images of the database" in shown
    assert ("+0.100 ± 0.050 on those that did not choose" in shown) is kept
