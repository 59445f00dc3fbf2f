"""What `knnseg segment` writes, as others read it: our own reader, pycocotools, and what panopticapi asks for."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from knnseg.cli.commands import app
from knnseg.data.reading import load_label_map
from knnseg.datasets import CocoPanoptic, RenderedScenes


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Photographs of one name in two folders, one of them given twice, and one that cannot be read; segmented."""
    root = tmp_path_factory.mktemp("run")
    images = [root / "a" / "photo.png", root / "b" / "photo.png", root / "c.png"]
    for path, scene in zip(images, RenderedScenes(3, seed=5, size=(64, 96)), strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(scene.image).save(path)
    (root / "bad.png").write_bytes(b"no picture")
    given = [images[0], root / "bad.png", images[1], images[0], images[2]]
    arguments = ["segment", *given, "-c", "grass,sand,water,wooden floor,ball", "-o", root / "out", "--json"]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 3, done.output
    return root, images, json.loads(done.stdout)


def test_our_reader_takes_the_run_and_each_image(run):
    root, images, result = run
    whole = CocoPanoptic(root, root / "out", result["coco"])
    assert whole.files[0] == ["a/photo.png", "b/photo.png", "c.png"] and len({e.image_id for e in whole}) == 3
    for example, path, shown in zip(whole, images, result["images"], strict=True):
        assert example.uri == path.as_uri() and shown["image"] == str(path)
        assert np.array_equal(example.semantic(result["classes"]), load_label_map(shown["files"][1]) - 1)
        alone = CocoPanoptic(root, root / "out", shown["files"][3])
        assert len(alone) == 1 and np.array_equal(alone[0].segments, example.segments)


def test_pycocotools_takes_it_with_the_segments_as_results(run):
    root, images, result = run
    truth, data = COCO(), json.loads((root / "out" / "panoptic.json").read_text())
    truth.dataset = {
        "images": data["images"],
        "categories": data["categories"],
    }  # what else there is it takes for boxes
    truth.createIndex()
    entries = [segment for shown in result["images"] for segment in shown["segments"]]
    loaded = truth.loadRes(entries)
    assert len(truth.imgs) == len(images) and len(loaded.anns) == len(entries) > 3
    for shown in result["images"]:
        classes = load_label_map(shown["files"][1]) - 1
        for annotation in loaded.imgToAnns[shown["image_id"]]:
            mask = loaded.annToMask(annotation).astype(bool)
            assert mask.any() and (classes[mask] == annotation["category_id"] - 1).all()


def test_it_is_as_panopticapi_asks(run):
    """Its evaluation refuses numbers in the PNG that are not listed, and listed ones that are not in the PNG."""
    root, *_ = run
    data = json.loads((root / "out" / "panoptic.json").read_text())
    images = {image["id"]: image for image in data["images"]}
    categories = {category["id"] for category in data["categories"]}
    assert [annotation["image_id"] for annotation in data["annotations"]] == list(images)
    for annotation in data["annotations"]:
        image = images[annotation["image_id"]]
        rgb = np.asarray(Image.open(root / "out" / annotation["file_name"]), np.uint32)
        numbers, areas = np.unique(rgb @ np.array([1, 256, 65536], np.uint32), return_counts=True)
        assert rgb.shape[:2] == (image["height"], image["width"]) and (root / image["file_name"]).is_file()
        listed = {s["id"]: s["area"] for s in annotation["segments_info"]}
        assert {n: a for n, a in zip(numbers.tolist(), areas.tolist(), strict=True) if n} == listed
        assert {s["category_id"] for s in annotation["segments_info"]} <= categories
