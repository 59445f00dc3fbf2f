"""A stage that breaks its protocol is named, with what was expected of it and what came."""

import numpy as np
import pytest

import knnseg
from knnseg import Masks, Segmenter, Vocabulary
from knnseg.config import Config, StageConfig
from knnseg.data.features import Features
from knnseg.data.image import Image
from knnseg.data.scores import ClassScores
from knnseg.errors import ConfigError, StageError
from knnseg.stages.protocols import features_of, masks_of, scores_of
from knnseg.stages.registry import make
from knnstore import EmbeddingSpace

IMAGES = [Image(np.full((6, 8, 3), n, np.uint8)) for n in (1, 2)]
NAMES = Vocabulary.of(["sand", "lava"])


def features(width=3, size=(6, 8)):
    return Features(np.ones((width, 2, 2), np.float32), size)


def masks(size=(6, 8), count=2):
    return Masks.from_dense(np.ones((count, *size), bool))


def scores(rows=((0.5, 0.5), (1, 0)), classes=NAMES.names, **other):
    return ClassScores(np.array(rows, np.float32), classes, **other)


class Stage:
    dim, branches = 3, ("final",)

    def __init__(self, gives):
        self._gives, self.space = gives, EmbeddingSpace("wrong", f"sha256:{id(gives)}")

    def extract(self, images):
        return self._gives

    propose = extract

    def predict(self, images, masks, vocabulary):
        return self._gives


def made(kind, gives):
    stage, own = Stage(gives), [masks(), masks()]
    if kind == "features":
        return features_of([Image(image.pixels) for image in IMAGES], stage)
    return masks_of(IMAGES, stage) if kind == "masks" else scores_of(IMAGES, own, NAMES, stage)


WRONG = [
    (
        "features",
        [features()],
        r"Stage\.extract: expected a list of Features, one for each of 2 images, got 1: \['Features'\]",
    ),
    ("features", np.ones((2, 3)), r"one for each of 2 images, got ndarray"),
    ("features", [np.ones(3), np.ones(3)], r"got 2: \['ndarray', 'ndarray'\]"),
    ("features", [features(), features(size=(8, 6))], r"expected image_size \(6, 8\), got \(8, 6\)"),
    ("features", [features(), features(4)], r"expected features as wide as its dim, 3, got 4"),
    ("masks", [masks()], r"Stage\.propose: expected a list of Masks, one for each of 2 images"),
    ("masks", [masks(), masks((8, 6))], r"expected masks of the size \(6, 8\), got \(8, 6\)"),
    ("base", None, r"Stage\.predict: expected a list of ClassScores, one for each of 2 images, got NoneType"),
    (
        "base",
        [scores(), scores(classes=("sand", "other"))],
        r"expected the classes \('sand', 'lava'\), got \('sand', 'other'\)",
    ),
    ("base", [scores(), scores([(1, 0)])], r"expected rows for masks, in number 2, got 1"),
    (
        "base",
        [scores(), scores(branches=("final", "first"))],
        r"expected the branches \['final'\], got \['final', 'first'\]",
    ),
    ("base", [scores(), scores([(2, 1), (1, 0)])], r"expected probabilities that sum to 1 at most, got 0.0 to 3.0"),
    ("base", [scores(), scores([(np.nan, 1), (1, 0)])], r"expected probabilities that sum to 1 at most, got nan"),
    ("base", [scores(), scores([(-0.5, 1), (1, 0)])], r"expected probabilities that sum to 1 at most, got -0.5"),
]


@pytest.mark.parametrize(("kind", "gives", "message"), WRONG)
def test_what_a_stage_gives_is_checked_where_it_comes_from(kind, gives, message):
    with pytest.raises(StageError, match=message):
        made(kind, gives)


def test_what_it_should_give_goes_through_as_it_is():
    for kind, one in (("features", features()), ("masks", masks()), ("base", scores([(0, 0), (0.2, 0.3)]))):
        assert made(kind, (one, one)) == [one, one]
    empty = Masks.from_dense(np.ones((0, 6, 8), bool))
    assert len(scores_of(IMAGES[:1], [empty], NAMES, Stage([scores(np.ones((0, 2)))]))[0]) == 0


def test_a_segmenter_names_the_methods_that_are_missing():
    class Half:
        def predict(self, images, masks, vocabulary):
            return []

    with pytest.raises(ConfigError, match="base: expected a BasePredictor, got Half without branches"):
        Segmenter(None, Stage([]), Half(), config=Config(StageConfig("none"), StageConfig("none")))
    with pytest.raises(ConfigError, match="proposer: expected a MaskProposer, got object without propose"):
        Segmenter(None, object(), Stage([]), config=Config(StageConfig("none"), StageConfig("none")))


class Registers:
    def __init__(self, *given):
        self._given = given

    @knnseg.hookimpl
    def knnseg_register(self, register):
        register(*self._given)


class Unmarked:
    def knnseg_register(self, register):
        register("masks", "unmarked", object)


def test_a_plugin_that_registers_wrongly_is_refused():
    with pytest.raises(
        StageError,
        match="register: expected a kind of features, masks, base, annotations, named_images, prompted, got 'feature'",
    ):
        knnseg.register(Registers("feature", "a", object))
    with pytest.raises(
        StageError, match=r"plugin Unmarked: expected a function knnseg_register, marked with @knnseg\.hookimpl"
    ):
        knnseg.register(Unmarked())


@pytest.mark.parametrize("where", ["nowhere_at_all:Thing", "knnseg.nowhere:Thing", "knnseg.errors:Thing", "no colon"])
def test_a_factory_that_is_not_there_names_itself_and_no_package_to_install(where):
    knnseg.register(Registers("masks", "gone", where))
    with pytest.raises(
        StageError, match=f"masks stage 'gone': expected '{where}' to be a module and what it calls the stage, got "
    ):
        make("masks", StageConfig("gone"))
