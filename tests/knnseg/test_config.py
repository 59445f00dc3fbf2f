import dataclasses
import json

import pytest

from knnseg.config import Config, FusionConfig, KeysConfig, PaintingConfig, RetrievalConfig, presets
from knnseg.errors import ConfigError


def written(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_presets_load():
    assert {"base", "tiny"} <= set(presets())
    for name in presets():
        assert Config.preset(name).features.name


def test_a_preset_can_be_changed_key_by_key(tmp_path):
    config = Config.from_toml(written(tmp_path, 'preset = "tiny"\n[retrieval]\nk = 5\n[features]\nshort_side = 96\n'))
    tiny = Config.preset("tiny")
    assert config.retrieval == dataclasses.replace(tiny.retrieval, k=5)
    assert config.features.options == {**tiny.features.options, "short_side": 96}
    assert config.fusion == tiny.fusion


def test_another_stage_does_not_inherit_the_options_of_the_old_one():
    config = Config.from_dict({"preset": "tiny", "base": {"name": "none"}})
    assert config.base.name == "none" and not config.base.options


def test_every_constant_is_readable_from_toml(tmp_path):
    text = 'preset = "tiny"\n'
    kinds = {"keys": KeysConfig, "retrieval": RetrievalConfig, "fusion": FusionConfig, "painting": PaintingConfig}
    for name, kind in kinds.items():
        text += f"[{name}]\n"
        for key, value in dataclasses.asdict(kind()).items():
            text += f"{key} = {json.dumps(value)}\n"
    config = Config.from_toml(written(tmp_path, text))
    assert {name: getattr(config, name) for name in kinds} == {name: kind() for name, kind in kinds.items()}


def test_the_whitening_lies_beside_the_file(tmp_path):
    text = 'preset = "tiny"\n[keys]\ncontext = 0.5\n'
    assert Config.from_toml(written(tmp_path, text)).keys == KeysConfig("", 0.5)
    beside = Config.from_toml(written(tmp_path, text + 'whitening = "w.npz"\n'))
    assert beside.keys == KeysConfig(str(tmp_path / "w.npz"), 0.5)
    assert Config.from_toml(written(tmp_path, text + 'whitening = "/w.npz"\n')).keys.whitening == "/w.npz"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('preset = "tiny"\n[retrieval]\ntemprature = 1', "Did you mean 'temperature'"),
        ('preset = "tiny"\n[retreival]\nk = 1', "Did you mean 'retrieval'"),
        ('preset = "tinny"', r"expected one of \['base'"),
        ('preset = "tiny"\n[fusion]\nweight = 1.5', "fusion.weight: expected 0 to 1, got 1.5"),
        ('preset = "tiny"\n[fusion]\nmode = "early"', "'evidence' or 'late'"),
        ('preset = "tiny"\n[fusion]\nbranch = ""', "fusion.branch: expected the name of a branch"),
        ('preset = "tiny"\n[retrieval]\nk = 0', "at least 1"),
        ('preset = "tiny"\n[retrieval]\nk = "many"', "retrieval.k"),
        ('preset = "tiny"\n[retrieval]\ntemperature = "hot"', "retrieval"),
        ('preset = "tiny"\n[keys]\ncontext = -1', "keys.context: expected a number of at least 0, got -1"),
        ('preset = "tiny"\n[keys]\ncontext = "far"', "keys"),
        ('preset = "tiny"\n[keys]\nwhitening = 3', "keys.whitening: expected a path"),
        ('preset = "tiny"\nretrieval = 3', "a section with keys"),
        ('preset = "tiny"\n[retrieval]\nk = true', "retrieval.k"),
        ('preset = "tiny"\n[fusion]\nthreshold = nan', "fusion.threshold"),
        ('preset = "tiny"\n[painting]\nmin_area = 2.5', "painting.min_area"),
        ("[retrieval]\nk = 3", "features and masks"),
        ("[features]\nmodel = 3", "`name`"),
        ("not toml at all", "expected TOML"),
    ],
)
def test_mistakes_are_explained(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        Config.from_toml(written(tmp_path, text))


def test_a_missing_file():
    with pytest.raises(ConfigError, match="no such file"):
        Config.from_toml("/nowhere/c.toml")


def test_numbers_stay_as_they_were_given():
    """1 and 1.0 may be part of a fingerprint."""
    assert type(KeysConfig(context=1).context) is int
    with pytest.raises(ConfigError, match=r"retrieval.k: expected a whole number of at least 1, got 2.0"):
        dataclasses.replace(RetrievalConfig(), k=2.0)


def test_an_argument_that_does_not_exist_is_named_in_python_too():
    with pytest.raises(ConfigError, match=r"retrieval: unknown key 'temprature': .* Did you mean 'temperature'"):
        RetrievalConfig(temprature=1)
