"""The configuration: published values by default, others from TOML, mistakes named."""

import json

import numpy as np
import pytest

from knnseg.errors import ConfigError
from knnseg.models.fcclip import FCCLIP, SIZES, FcClipConfig
from knnseg.models.fcclip.backbone import build_clip
from knnseg.models.fcclip.preprocessing import shortest_edge


def test_the_defaults_are_the_published_model():
    config = FcClipConfig()
    assert config.open_clip_name == "convnext_large_d_320"
    assert (config.width, config.queries, config.encoder_layers, config.decoder_layers) == (256, 250, 6, 9)
    assert (config.alpha, config.beta) == (0.4, 0.8)


def test_from_toml(tmp_path):
    (tmp_path / "sizes.toml").write_text('clip = "clip.json"\nqueries = 20\nmean = [1, 2, 3]\n')
    config = FcClipConfig.from_toml(tmp_path / "sizes.toml")
    assert config.queries == 20 and config.mean == (1.0, 2.0, 3.0)
    assert config.open_clip_name == str(tmp_path / "clip.json")
    with pytest.raises(ConfigError, match="expected a TOML file"):
        FcClipConfig.from_toml(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"querys": 20}, "Did you mean 'queries'"),
        ({"queries": 0}, "queries: expected a whole number of at least 1"),
        ({"alpha": 1.5}, "alpha: expected 0 to 1"),
        ({"width": 48}, "width: expected a multiple of 32"),
        ({"width": 32, "heads": 5}, "heads: expected a divisor"),
        ({"multiple": 16}, "multiple: expected a multiple of 32"),
        ({"std": [1, 0, 1]}, "std: expected three numbers above 0"),
        ({"mean": [1]}, "mean: expected three numbers"),
        ({"short_side": 2000}, "long_side: expected at least short_side"),
        ({"valid_masks_only": 1}, "valid_masks_only: expected true or false"),
    ],
)
def test_mistakes_are_named(values, said):
    with pytest.raises(ConfigError, match=said):
        FcClipConfig.from_dict(values)


def test_clip_must_be_a_convnext(tmp_path):
    with pytest.raises(ConfigError, match="expected a ConvNeXt that open_clip knows"):
        build_clip("no-such-model")
    with pytest.raises(ConfigError, match="expected a JSON file"):
        build_clip(str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="expected a ConvNeXt, got VisionTransformer"):
        build_clip("ViT-S-32-alt")


def test_precision_must_be_known(small_config):
    with pytest.raises(ConfigError, match="precision"):
        FCCLIP(small_config, "int8")


def test_every_size_is_a_convnext_of_open_clip():
    import open_clip

    for name in SIZES.values():
        assert open_clip.get_model_config(name)["vision_cfg"]["timm_model_name"].startswith("convnext")


@pytest.fixture
def written(recipe, tmp_path):
    def write(**changes):
        path = tmp_path / "clip.json"
        path.write_text(json.dumps({key: value for key, value in (recipe.CLIP | changes).items() if value is not ...}))
        return str(path)

    return write


def test_every_key_of_the_clip_counts(written):
    kinds = {quick: {type(m).__name__ for m in build_clip(written(quick_gelu=quick))[0].transformer.modules()} for quick in (False, True)}  # fmt: skip
    assert "QuickGELU" in kinds[True] - kinds[False] and "GELU" in kinds[False] - kinds[True]
    assert float(build_clip(written(init_logit_scale=1.5))[0].logit_scale.detach()) == 1.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_cfg": ...}, "no usable text_cfg"),
        ({"text_cfg": 7}, "no usable text_cfg"),
        ({"embed_dim": ...}, "no usable embed_dim"),
        ({"custom_text": True}, "custom_text: expected false"),
        ({"quick_gelu": "true"}, "quick_gelu: expected true or false, got 'true'"),
        ({"quickgelu": True}, "'quickgelu'.*nothing here uses"),
        ({"text_cfg": {"hf_tokenizer_name": "x"}}, r"text_cfg\.hf_tokenizer_name"),
        ({"text_cfg": {"context_lenght": 16}}, "values that open_clip takes.*context_lenght"),
    ],
)
def test_keys_that_are_missing_or_of_no_use_are_named(written, changes, said):
    with pytest.raises(ConfigError, match=said):
        build_clip(written(**changes))


def test_a_file_that_is_no_object(tmp_path):
    (tmp_path / "clip.json").write_text("[1]")
    with pytest.raises(ConfigError, match="expected a JSON object"):
        build_clip(str(tmp_path / "clip.json"))


def test_however_narrow_an_image_is_a_pixel_is_left(network):
    assert shortest_edge((1, 2667), 800, 1333) == (1, 1333) and shortest_edge((9000, 2), 800, 1333) == (1333, 1)
    words = network.classifier(["cat", "dog"])
    for size in ((1, 700), (700, 1), (1, 1)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        assert network.predict([image], words)[0].masks.shape[1:] == size
