"""ConSE: photographs are told apart by words that nobody taught, with the weights that packages carry."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image as Picture

from knnseg import Image, Masks, Vocabulary
from knnseg.config import StageConfig
from knnseg.errors import ConfigError
from knnseg.models.conse import ConSE, _names, described, load_conse
from knnseg.models.efficientnet import EfficientNet, EfficientNetFeatures, load_network
from knnseg.models.minilm import MiniLM
from knnseg.models.weights import known
from knnseg.stages import registry
from knnseg.stages.protocols import features_of, scores_of

WORDS = Vocabulary(("cat", "rocket", "coffee", "motorcycle"))


def picture(name):
    """One that comes with scikit-image."""
    return Image(np.asarray(Picture.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")))


def whole(image):
    return Masks.from_dense(np.ones((1, *image.size), bool))


@pytest.fixture(scope="module")
def base():
    return load_conse(device="cpu", long_side=320)


def test_the_text_weights_are_those_of_the_package():
    published = known()["all-minilm-l6-v2"]
    path, content = published.read()
    assert hashlib.sha256(content).hexdigest() == published.sha256 and path == published.in_distribution


def test_words_that_mean_the_same_are_near():
    text = MiniLM.load("cpu")
    cat, tabby, lorry, truck = text.encode(["cat", "tabby, tabby cat", "lorry", "truck"])
    assert cat @ tabby > 0.5 > lorry @ cat and lorry @ truck > tabby @ truck + 0.2
    assert text.encode(["cat"]).shape == (1, 384) and np.allclose(text.encode(["cat"])[0], cat, atol=1e-5)


def test_the_vectors_of_the_classes_are_what_the_text_model_says():
    some = [0, 281, 404, 999]
    made = MiniLM.load("cpu").encode([described()[i] for i in some])
    assert np.allclose(_names()[some], made, atol=2e-3) and _names().shape == (1000, 384)


def test_photographs_are_named(base):
    images = [picture(name) for name in ("chelsea.png", "rocket.jpg", "coffee.png")]
    scores = scores_of(images, [whole(image) for image in images], WORDS, base)
    assert [one.classes[one.probabilities[0].argmax()] for one in scores] == ["cat", "rocket", "coffee"]


def test_what_no_word_is_near_to_is_none_of_them(base):
    image = picture("chelsea.png")
    near, far = (
        base.predict([image], [whole(image)], Vocabulary(words))[0].probabilities.sum()
        for words in (("cat", "dog"), ("tax", "prayer"))
    )
    assert near > 0.8 and far < 0.4


def test_the_best_of_several_words_speaks_for_a_class(base):
    image = picture("chelsea.png")
    vocabulary = Vocabulary(("animal", "rocket"), wording={"animal": ("truck", "cat")})
    (one,) = base.predict([image], [whole(image)], vocabulary)
    (other,) = base.predict([image], [whole(image)], Vocabulary(("cat", "rocket")))
    np.testing.assert_allclose(one.probabilities, other.probabilities, rtol=1e-5)


def test_the_network_runs_once_for_keys_and_base(base):
    looked = []

    class Counted(EfficientNet):
        def _look(self, image, long_side):
            looked.append(long_side)
            return super()._look(image, long_side)

    network = Counted("efficientnet-lite2", load_network(device="cpu").module, "cpu")
    image = picture("chelsea.png")
    features_of([image], EfficientNetFeatures(network, long_side=320))
    counted = ConSE(network, MiniLM.load("cpu"), long_side=320)
    (one,) = counted.predict([image], [whole(image)], WORDS)
    assert looked == [320]
    (other,) = base.predict([picture("chelsea.png")], [whole(image)], WORDS)
    assert np.array_equal(one.probabilities, other.probabilities)


def test_it_is_a_stage_whose_options_are_checked():
    made = registry.make("base", StageConfig("conse", {"top": 3}), device="cpu")
    assert isinstance(made, ConSE) and made.branches == ("final",)
    for option, value in (("top", 0), ("top", 1001), ("scale", 0.0), ("long_side", 16)):
        with pytest.raises(ConfigError, match=option):
            registry.make("base", StageConfig("conse", {option: value}), device="cpu")
