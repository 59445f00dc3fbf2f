"""SAM and SAM 2 asked by boxes and points: the masks of transformers' own way, in order, and from a file of boxes."""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from knnseg.cli import main
from knnseg.datasets import open_annotations
from knnseg.models.proposers.prompted import load_sam, load_sam2
from knnseg.stages.protocols import Prompted

BOXES = [np.array(box, float) for box in ([3, 5, 30, 40.5], [40, 2, 71, 20], [10, 10, 14, 16])]
POINTS = [np.array([[9, 30]], float), np.array([[60, 8], [50, 12]], float)]


@pytest.fixture(scope="module", params=["sam", "sam2"])
def both(request, sam_folder, sam2_folder):
    """Ours, and the network and the processor of transformers."""
    if request.param == "sam":
        network, processor = transformers.SamModel.from_pretrained(sam_folder), transformers.SamProcessor
        return load_sam(str(sam_folder), "cpu"), network, processor.from_pretrained(sam_folder)
    network, images = transformers.Sam2Model.from_pretrained(sam2_folder), transformers.Sam2ImageProcessor
    processor = transformers.Sam2Processor(images.from_pretrained(sam2_folder))
    return load_sam2(str(sam2_folder), "cpu"), network, processor


@torch.inference_mode()
def expected(network, processor, image, multimask, **prompts):
    """The mask that transformers' processor and network make of one prompt."""
    inputs = processor(images=Image.fromarray(image), return_tensors="pt", **prompts)
    outputs = network(**inputs, multimask_output=multimask)
    sizes = {key: inputs[key] for key in ("reshaped_input_sizes",) if key in inputs}
    masks = processor.image_processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"], **sizes)[0]
    return masks[0, int(outputs.iou_scores[0, 0].argmax())].numpy()


def test_boxes_and_points_give_the_masks_of_transformers_own_way(both, image):
    ours, network, processor = both
    assert isinstance(ours, Prompted)
    found = ours.masks(image, BOXES, POINTS)
    assert found.shape == (5, 45, 71) and found.dtype == bool
    theirs = [expected(network, processor, image, False, input_boxes=[[box.tolist()]]) for box in BOXES]
    theirs += [
        expected(network, processor, image, len(group) == 1, input_points=[[group.tolist()]]) for group in POINTS
    ]
    assert max((mask != other).mean() for mask, other in zip(found, theirs, strict=True)) < 1e-3
    assert len({mask.tobytes() for mask in found}) == 5


def test_the_order_is_that_of_the_boxes_and_nothing_asked_is_nothing(both, image):
    ours = both[0]
    assert (ours.masks(image, BOXES[::-1]) == ours.masks(image, BOXES)[::-1]).all()
    assert ours.masks(image).shape == (0, 45, 71)


@pytest.fixture
def labelled(tmp_path, image):
    """A file of labelme with a box and a point."""
    Image.fromarray(image).save(tmp_path / "photo.png")
    shapes = [
        {"label": "kettle", "points": [[3, 5], [30, 40]], "group_id": None, "shape_type": "rectangle", "flags": {}},
        {"label": "cup", "points": [[60, 8]], "group_id": None, "shape_type": "point", "flags": {}},
    ]
    document = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": "photo.png", "imageData": None}
    (tmp_path / "photo.json").write_text(json.dumps(document | {"imageHeight": 45, "imageWidth": 71}))
    return tmp_path / "photo.json"


def test_a_file_of_boxes_and_points_becomes_masks(labelled, image, sam_folder):
    sam = load_sam(str(sam_folder), "cpu")
    one = open_annotations(labelled, boxes=sam)
    assert one.outlined == 1 and one.left_out == ("1 points of 'cup'",)
    assert ((one[0].segments == 1) == sam.masks(image, [np.array([3, 5, 30, 40], float)])[0]).all()
    assert open_annotations(labelled, boxes=sam, points=sam).outlined == 2


def command(monkeypatch, labelled, *options):
    store = f"faiss://{labelled.parent}/db"
    monkeypatch.setattr(
        sys,
        "argv",
        ["knnseg", "add", "-s", store, "-a", str(labelled), "--preset", "tiny", "--device", "cpu", *options],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_through_the_command_line(labelled, sam_folder, monkeypatch, capfd):
    sam = ("--outlines-by", "sam", str(sam_folder))
    assert command(monkeypatch, labelled, *sam, "--guess-points", "--json") == 0
    said = capfd.readouterr()
    assert "outlines were made by sam in 2 boxes or around points; --leave-boxes uses no boxes" in said.err
    assert json.loads(said.out)["added"] == 2
    assert command(monkeypatch, labelled, *sam, "--leave-boxes") == 2
    assert "--outlines-by has nothing to do" in capfd.readouterr().err


def test_without_weights_it_says_so_and_makes_no_database(labelled, tmp_path, monkeypatch, capfd):
    assert command(monkeypatch, labelled, "--outlines-by", "sam", str(tmp_path / "nowhere")) == 1
    assert "model: expected a folder that exists or an id of the hub" in capfd.readouterr().err
    assert not (tmp_path / "db").exists()
