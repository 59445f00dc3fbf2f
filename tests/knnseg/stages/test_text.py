"""Prompt ensembles by name, and words encoded in batches."""

import numpy as np
import open_clip
import pytest
import torch

from knnseg import Image, Masks, Vocabulary
from knnseg.errors import ConfigError
from knnseg.models.base import DenseClip
from knnseg.models.open_clip import OpenClipModel, OpenClipText, dense_clip, load_model
from knnseg.stages.text import ENSEMBLES, VILD, ensemble, word_embeddings


class Letters:
    """Something unit-norm that depends on every letter."""

    def __init__(self):
        self.batches = []

    def encode(self, prompts):
        self.batches.append(list(prompts))
        codes = [[(ord(letter) * (i + 1)) % 97 for i, letter in enumerate(text.ljust(60))] for text in prompts]
        return (np.array(codes) / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float32)


def test_the_ensembles():
    assert {name: len(make()) for name, make in ENSEMBLES.items()} == {"simple": 5, "vild": 14, "imagenet80": 80}
    assert all(prompt.count("{}") == 1 for make in ENSEMBLES.values() for prompt in make())
    assert all(len(set(make())) == len(make()) for make in ENSEMBLES.values())
    assert VILD[0] == "a photo of a {}." and VILD[6] == "a photo of a medium {}."
    assert VILD[-1] == "There is a large {} in the scene."
    assert {"a bad photo of a {}.", "a origami {}.", "itap of my {}."} <= set(ensemble("imagenet80"))


def test_ensembles_are_named_or_given():
    assert ensemble("vild") == VILD and ensemble(["a {} there"]) == ("a {} there",)
    with pytest.raises(ConfigError, match=r"simple.*vild.*imagenet80.*got 'a photo of a \{\}'"):
        ensemble("a photo of a {}")
    for wrong in ([], ["a photo"], ["{} and {}"]):
        with pytest.raises(ConfigError, match=r"one \{\}"):
            ensemble(wrong)


@pytest.mark.parametrize("most", [1, 7, 14, 30, 1000])
def test_words_are_means_over_the_prompts_in_bounded_batches(most):
    words, encoder = ["cat", "dog", "a very long name", "sky"], Letters()
    rows = word_embeddings(encoder, words, VILD, most)
    assert rows.dtype == np.float32 and rows.shape == (4, 60)
    assert max(len(batch) for batch in encoder.batches) <= max(most, len(VILD))
    for row, word in zip(rows, words, strict=True):
        mean = Letters().encode([prompt.replace("{}", word) for prompt in VILD]).mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_real_text_tower_says_the_same_in_any_company():
    encoder = OpenClipText(load_model("bundled:tiny", "", "cpu"))
    words = [f"word {i}" for i in range(40)]
    together = word_embeddings(encoder, words, ensemble("simple"))
    alone = np.concatenate([word_embeddings(encoder, [word], ensemble("simple")) for word in words])
    np.testing.assert_allclose(together, alone, atol=2e-6)


@pytest.mark.parametrize("text", [{}, {"no_causal_mask": True}, {"proj_bias": True}, {"pool_type": "last"}])
def test_padding_is_left_out_only_where_it_cannot_matter(text):
    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2, **text}
    vision = {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}
    clip = open_clip.CLIP(8, vision, text, quick_gelu=True).eval()
    encoder = OpenClipText(OpenClipModel("small", clip, open_clip.SimpleTokenizer(), (0,), (1,), torch.device("cpu")))
    for prompts in (["cat"], ["cat", "a dog and " * 5], ["word " * 90, "sky"]):  # the last fills the context
        with torch.no_grad():
            expected = clip.encode_text(encoder._model.tokenizer(prompts), normalize=True)
        np.testing.assert_allclose(encoder.encode(prompts), expected.numpy(), atol=1e-6)


class Grid:
    """Features of the letters' width."""

    dim = 60

    def __init__(self, space):
        self.space = space

    def extract(self, images):
        from knnseg.data.features import Features

        return [
            Features(np.random.default_rng(0).normal(size=(60, 4, 4)).astype(np.float32), image.size)
            for image in images
        ]


def test_only_words_that_are_new_are_encoded(extractor):
    encoder = Letters()
    base = DenseClip(Grid(extractor.space), encoder, 10.0, ["a {}."])
    image = Image(np.zeros((16, 16, 3), np.uint8))
    masks = Masks.from_dense(np.ones((1, 16, 16), bool))
    first = base.predict(
        [image], [masks], Vocabulary(("car, automobile", "sky"), wording={"sky": ("sky", "heaven", "automobile")})
    )[0]
    again = base.predict([image], [masks], Vocabulary.of(["sky", "lava", "car"]))[0]
    assert encoder.batches == [["a car.", "a automobile.", "a sky.", "a heaven."], ["a lava."]]
    assert first.probabilities.shape == (1, 2) and again.probabilities.shape == (1, 3)


def test_a_configuration_names_an_ensemble(scene):
    image = Image(scene(0).image)
    masks = Masks.from_dense(np.ones((1, *image.size), bool))
    options = {"model": "bundled:tiny", "short_side": 64, "device": "cpu"}
    named, listed, default = (
        dense_clip(**options, **extra).predict([image], [masks], Vocabulary.of(["kettle", "grass"]))[0].probabilities
        for extra in ({"templates": "vild"}, {"templates": list(VILD)}, {})
    )
    assert np.array_equal(named, listed) and not np.array_equal(named, default)
