"""`knnseg calibrate` and `knnseg concepts reembed` as a person and as a program would use them, with the bundled model."""

import json
import tomllib
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from knnseg import Config
from knnseg.cli.commands import app
from knnseg.datasets import RenderedScenes
from knnseg.errors import ConfigError


@pytest.fixture(scope="module")
def store(tmp_path_factory, run):
    """Six rendered scenes with their label maps as pairs of files, added."""
    root = tmp_path_factory.mktemp("a database")
    scenes = RenderedScenes(6, seed=5, size=(96, 96), including=["kettle", "lava"])
    names = list(scenes.classes)
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(root / "images" / f"{i}.png")
        Image.fromarray((scene.semantic(names) + 1).astype("uint8")).save(root / "labels" / f"{i}.png")
    classes = [{"id": i, "name": n, "isthing": n in scenes.thing_classes} for i, n in enumerate(names, 1)]
    (root / "classes.json").write_text(json.dumps(classes))
    pairs = ["--pairs", root / "images", root / "labels", "--class-file", root / "classes.json"]
    run("add", "-s", f"faiss://{root}/store", *pairs)
    return f"faiss://{root}/store"


def test_calibrating_writes_a_configuration_that_works(store, tmp_path, run):
    out = tmp_path / "fitted.toml"
    result = json.loads(run("calibrate", "-s", store, "--out", out, "--json").stdout)
    assert result["asked"] > 50 and result["best"]["loss"] <= result["before"]["loss"]
    fitted = Config.from_toml(out)
    for section in ("retrieval", "fusion"):
        for key, value in result["best"][section].items():
            assert getattr(getattr(fitted, section), key) == value
    assert fitted.features == Config.preset("tiny").features
    again = json.loads(run("calibrate", "-s", store, "--preset", out, "--json").stdout)
    assert again["before"] == again["best"] == result["best"]


def test_a_configuration_of_ones_own_keeps_its_comments_and_other_keys(store, tmp_path, run):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'preset = "tiny" # bundled\n\n[retrieval]\nk = 3 # few\n\n[painting]\nmin_area = 7\n', encoding="utf-8"
    )
    out = tmp_path / "elsewhere" / "fitted.toml"
    output = run("calibrate", "-s", store, "--preset", mine, "--on", "examples", "--out", out).stdout
    assert "base alone" in output and "fitted" in output and "accuracy" in output
    text = out.read_text(encoding="utf-8")
    assert "# bundled" in text and "# few" in text
    assert tomllib.loads(text)["painting"] == {"min_area": 7}
    assert Config.from_toml(out).painting.min_area == 7


def test_calibrate_mistakes(store, tmp_path, run):
    run("calibrate", "-s", store, "--on", "masks", code=2)
    with pytest.raises(ConfigError, match="preset"):
        CliRunner().invoke(app, ["calibrate", "-s", store, "-p", "nonsense"], catch_exceptions=False)


def test_calibrating_without_the_images_says_how_to_give_them(store, tmp_path):
    images = Path(store.removeprefix("faiss://")).parent / "images"
    images.rename(tmp_path / "moved")
    try:
        with pytest.raises(ConfigError, match=r"not found: give the folder .*--images"):
            CliRunner().invoke(app, ["calibrate", "-s", store], catch_exceptions=False)
    finally:
        (tmp_path / "moved").rename(images)


@pytest.fixture
def smaller(tmp_path):
    path = tmp_path / "smaller.toml"
    path.write_text('preset = "tiny"\n[features]\nshort_side = 96\n', encoding="utf-8")
    return path


def test_reembedding_brings_every_example_into_another_space(store, smaller, tmp_path, run):
    there = {c["label"]: c["count"] for c in json.loads(run("concepts", "list", "-s", store, "--json").stdout)}
    elsewhere = f"faiss://{tmp_path}/other"
    report = json.loads(run("concepts", "reembed", "-s", store, "-p", smaller, "--into", elsewhere, "--json").stdout)
    assert report["added"] == sum(there.values()) and report["images"] == 6 and not report["missing"]
    listed = json.loads(run("concepts", "list", "-s", elsewhere, "-p", smaller, "--json").stdout)
    assert {c["label"]: c["count"] for c in listed} == there
    output = run("concepts", "reembed", "-s", store, "-p", smaller, "--into", elsewhere).stdout
    assert f"examples added: 0, there already: {report['added']}" in output


def test_the_space_to_read_must_be_clear(store, smaller, tmp_path):
    def message(*arguments):
        with pytest.raises(ConfigError) as caught:
            CliRunner().invoke(app, ["concepts", "reembed", *arguments], catch_exceptions=False)
        return str(caught.value)

    assert "got none" in message("-s", store)  # it holds the space of tiny alone, which is the one to write
    assert "expected nonsense" in message("-s", store, "-p", str(smaller), "--source", "nonsense")
