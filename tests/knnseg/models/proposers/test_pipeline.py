"""The proposers in the pipeline, with the bundled model: from Python, and from a TOML file through the command line."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from knnseg import ConceptDatabase, Segmenter
from knnseg.cli import main
from knnseg.config import Config
from knnseg.datasets import RenderedScenes
from knnseg.stages import registry as stages

CLASSES = ["kettle", "grass", "lava", "sky"]
OPTIONS = {
    "mask2former": {"min_score": 0.0},
    "eomt": {"min_score": 0.0},
    "sam": {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    "sam2": {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
}
NOTHING = {"mask2former": {"min_score": 1.0}, "sam": {"stability_score_thresh": 1.0, "remainder": False}}


@pytest.fixture(scope="module")
def folders(m2f_folder, eomt_folder, sam_folder, sam2_folder):
    return {"mask2former": m2f_folder, "eomt": eomt_folder, "sam": sam_folder, "sam2": sam2_folder}


@pytest.fixture(scope="module")
def scenes():
    return RenderedScenes(3, seed=5, size=(90, 112), including=["kettle", "lava"])


@pytest.fixture(scope="module")
def store(scenes, tmp_path_factory):
    url = f"faiss://{tmp_path_factory.mktemp('store')}/db"
    with ConceptDatabase.open(url, stages.make_extractor(Config.preset("tiny"), device="cpu")) as database:
        database.add(scenes)
    return url


def config(folders, name, **options):
    stage = {"name": name, "model": str(folders[name]), **OPTIONS[name], **options}
    return Config.from_dict({"preset": "tiny", "masks": stage})


@pytest.mark.parametrize("name", OPTIONS)
def test_a_proposer_segments_a_scene(folders, scenes, store, name):
    with Segmenter.from_config(config(folders, name), store, device="cpu") as segmenter:
        result = segmenter.predict(scenes[0].image, CLASSES)
        again = segmenter.predict(scenes[0].image, CLASSES)
    assert result.semantic.shape == (90, 112) and len(result.masks) > 0 and result.evidence.retrieved is not None
    assert (result.semantic == again.semantic).all() and (result.panoptic == again.panoptic).all()
    if name.startswith("sam"):
        assert (result.semantic >= 0).all(), "with a remainder there are no holes"


@pytest.mark.parametrize("name", NOTHING)
def test_no_masks_are_an_empty_segmentation(folders, scenes, store, name):
    with Segmenter.from_config(config(folders, name, **NOTHING[name]), store, device="cpu") as segmenter:
        result = segmenter.predict(scenes[0].image, CLASSES)
    assert len(result.masks) == 0 and list(result.segments_info) == []
    assert (result.semantic == -1).all() and (result.panoptic == 0).all()
    assert result.overlay(legend=False).size == (112, 90)


def test_from_a_file_through_the_command_line(folders, scenes, store, tmp_path, monkeypatch, capfd):
    Image.fromarray(scenes[0].image).save(tmp_path / "photo.png")
    (tmp_path / "my.toml").write_text(
        f'preset = "tiny"\n\n[masks]\nname = "mask2former"\nmodel = "{folders["mask2former"]}"\nmin_score = 0.0\n'
    )
    monkeypatch.chdir(tmp_path)
    command = [
        "knnseg",
        "segment",
        "photo.png",
        "--preset",
        "my.toml",
        "--store",
        store,
        "--classes",
        ", ".join(CLASSES),
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--out", "out", "--device", "cpu", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    assert ended.value.code == 0 and json.loads(said.out)["classes"] == CLASSES
    assert said.err.startswith("knnseg: no examples, so from the base alone: ") and said.err.count("\n") == 1
    assert np.asarray(Image.open(tmp_path / "out/semantic/photo.png")).shape == (90, 112)
