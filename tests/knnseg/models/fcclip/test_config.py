"""The configuration: published values by default, others from TOML, mistakes named."""

import pytest

from knnseg.errors import ConfigError
from knnseg.models.fcclip import FCCLIP, SIZES, FcClipConfig
from knnseg.models.fcclip.backbone import build_clip


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
        ({"std": [1, 0, 1]}, "std: expected numbers above 0"),
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
