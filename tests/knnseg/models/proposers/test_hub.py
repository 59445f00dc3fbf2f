"""Published checkpoints that are absent, foreign, incomplete or broken, and silence when all is well."""

import json
import shutil
import sys

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file

from knnseg import Image
from knnseg.config import StageConfig
from knnseg.errors import ConfigError, WeightsError
from knnseg.models.proposers.points import load_sam, load_sam2
from knnseg.models.proposers.queries import load_eomt, load_mask2former
from knnseg.stages import registry as stages

LOADERS = {"mask2former": load_mask2former, "eomt": load_eomt, "sam": load_sam, "sam2": load_sam2}


@pytest.fixture
def folders(m2f_folder, eomt_folder, sam_folder, sam2_folder):
    return {"mask2former": m2f_folder, "eomt": eomt_folder, "sam": sam_folder, "sam2": sam2_folder}


@pytest.fixture
def copied(m2f_folder, tmp_path):
    return shutil.copytree(m2f_folder, tmp_path / "copy")


def test_each_stage_loads_its_own_type_and_names_the_stage_of_another(folders):
    for stage, folder in folders.items():
        made = stages.make("masks", StageConfig(stage, {"model": str(folder)}), device="cpu")
        assert hasattr(made, "propose")
        for other, load in LOADERS.items():
            if other != stage:
                found = json.loads((folder / "config.json").read_text())["model_type"]
                with pytest.raises(ConfigError, match=rf'expected .*{other}.*, got {found} in .*name = "{stage}"'):
                    load(str(folder), device="cpu")


def test_preprocessing_as_published_loads(eomt_folder, image, tmp_path):
    """As in tue-mps/coco_panoptic_eomt_base_640_2x: an older name of the processor, and keys without a value."""
    folder = shutil.copytree(eomt_folder, tmp_path / "published")
    own = json.loads((folder / "preprocessor_config.json").read_text())
    empty = ["crop_size", "data_format", "device", "disable_grouping", "do_center_crop", "do_convert_rgb", "ignore_index",
             "input_data_format", "return_tensors"]  # fmt: skip
    published = dict.fromkeys(empty) | own | {"image_processor_type": "EomtImageProcessorFast"}
    published |= {"data_format": "channels_first", "default_to_square": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    one, other = (
        load_eomt(str(f), min_score=0.0, device="cpu").propose([Image(image)])[0] for f in (eomt_folder, folder)
    )
    assert len(one) > 0 and (one.matrix != other.matrix).nnz == 0


def test_a_type_of_no_stage_is_named(copied):
    (copied / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="expected a checkpoint of type mask2former, got bert"):
        load_mask2former(str(copied))


def test_loading_and_proposing_is_silent(folders, image, capfd, recwarn):
    for stage, folder in folders.items():
        LOADERS[stage](str(folder), device="cpu").propose([Image(image)])[0]
    assert capfd.readouterr() == ("", "") and not list(recwarn)


def test_verbosity_is_put_back(folders):
    from transformers import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_eomt(str(folders["eomt"]), device="cpu")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize("stage", LOADERS)
def test_without_a_hub_the_message_says_what_to_fetch_and_where_to_put_it(monkeypatch, tmp_path, stage):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    told = (
        "put config.json, preprocessor_config.json and model.safetensors of https://huggingface.co/some/where "
        "into a folder and give its path as `model`"
    )
    with pytest.raises(WeightsError, match=told):
        LOADERS[stage]("some/where", device="cpu")


def test_what_was_fetched_before_is_found_without_a_network(monkeypatch, tmp_path, m2f_folder, image):
    """The cache of the hub's client, as it lays it out."""
    cache = tmp_path / "models--some--where"
    shutil.copytree(m2f_folder, cache / "snapshots" / "0123abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    one, other = (load_mask2former(model, device="cpu") for model in ("some/where", str(m2f_folder)))
    assert (one.propose([Image(image)])[0].matrix != other.propose([Image(image)])[0].matrix).nnz == 0


def test_a_path_that_does_not_exist_is_no_id(tmp_path):
    for path in (str(tmp_path / "nothing"), "nothing", ""):
        with pytest.raises(WeightsError, match="expected a folder that exists or an id of the hub"):
            load_sam(path)


def test_mask2former_needs_one_of_two():
    with pytest.raises(ConfigError, match=r"`model`.*mask2former-swin-tiny-coco-panoptic.*`checkpoint`"):
        load_mask2former()


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_or_broken_file_is_a_weights_error(copied, file):
    (copied / file).write_text("not what it says")
    with pytest.raises(WeightsError, match="give its path as `model`"):
        load_mask2former(str(copied))
    (copied / file).unlink()
    with pytest.raises(WeightsError, match="give its path as `model`"):
        load_mask2former(str(copied))


def test_incomplete_and_misshapen_weights_are_refused_by_name(copied):
    state = load_file(copied / "model.safetensors")
    lacking = {key: value for key, value in state.items() if not key.startswith(("class_predictor", "criterion"))}
    save_file(lacking, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"class_predictor\.bias, class_predictor\.weight missing"):
        load_mask2former(str(copied))
    state["class_predictor.weight"] = state["class_predictor.weight"][:, :-1].contiguous()
    save_file(state, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=r"class_predictor\.weight|mismatch"):
        load_mask2former(str(copied))


def test_without_transformers_the_message_says_what_to_install(monkeypatch, m2f_folder):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'knnseg\[transformers\]'"):
        load_mask2former(str(m2f_folder))


@pytest.mark.parametrize("content", ["{}", "[]", '{"model_type": 3}'])
def test_a_configuration_without_a_type_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="model_type of transformers"):
        load_mask2former(str(tmp_path))
