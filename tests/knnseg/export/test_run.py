"""What `knnseg segment` writes, as others read it: our own reader, pycocotools, and what panopticapi asks for."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from knnseg import Segmenter
from knnseg.cli.commands import app
from knnseg.data.reading import load_label_map
from knnseg.datasets import ImageLabelPairs, RenderedScenes, open_annotations
from knnseg.export import Export


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
    arguments += ["-f", "overlay,semantic", "-f", "panoptic,instances", "-f", "yolo"]
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 3, done.output
    return root, images, json.loads(done.stdout)


def test_our_readers_take_the_run(run):
    """Each by the one door, with the folder of the photographs."""
    root, images, result = run
    maps = [load_label_map(shown["files"]["semantic"]) - 1 for shown in result["images"]]
    pairs = ImageLabelPairs(root, root / "out" / "semantic", root / "out" / "semantic.json", stems=["c"])
    assert np.array_equal(pairs[0].semantic(result["classes"]), maps[2])
    for name in ("panoptic", "instances"):
        whole = open_annotations(result["files"][name], root)
        assert [one.uri for one in whole] == [path.as_uri() for path in images]
        assert len({one.image_id for one in whole}) == 3 and whole.vocabulary.names == tuple(result["classes"])
        for example, semantic in zip(whole, maps, strict=True):
            assert np.array_equal(example.semantic(result["classes"]), semantic)
    beside = root / "out" / "yolo" / "images"
    beside.mkdir()
    for name, path in zip(("photo", "photo-2", "c"), images, strict=True):
        (beside / f"{name}.png").write_bytes(path.read_bytes())
    found = {Path(example.uri).stem: example for example in open_annotations(root / "out" / "yolo")}
    for shown, semantic in zip(result["images"], maps, strict=True):
        example = found[Path(shown["files"]["yolo"]).stem]
        assert np.array_equal(example.semantic(result["classes"]), semantic)


def test_pycocotools_takes_it_with_the_segments_as_results(run):
    root, images, result = run
    file = root / "out" / "instances.json"
    truth = COCO(file)
    loaded = truth.loadRes(json.loads(file.read_text())["annotations"])
    assert len(truth.imgs) == len(images) and len(loaded.anns) == len(truth.anns) > 3
    assert sum(len(shown["segments"]) for shown in result["images"]) == len(truth.anns)
    for shown in result["images"]:
        classes = load_label_map(shown["files"]["semantic"]) - 1
        for annotation in (*truth.imgToAnns[shown["image_id"]], *loaded.imgToAnns[shown["image_id"]]):
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
        rgb = np.asarray(Image.open(root / "out" / "panoptic" / annotation["file_name"]), np.uint32)
        numbers, areas = np.unique(rgb @ np.array([1, 256, 65536], np.uint32), return_counts=True)
        assert rgb.shape[:2] == (image["height"], image["width"]) and (root / image["file_name"]).is_file()
        listed = {s["id"]: s["area"] for s in annotation["segments_info"]}
        assert {n: a for n, a in zip(numbers.tolist(), areas.tolist(), strict=True) if n} == listed
        assert {s["category_id"] for s in annotation["segments_info"]} <= categories


def test_a_file_may_have_a_name_that_is_no_text(tmp_path):
    """As archives of old have it, in Latin-1; or where the locale is C, and any other letter is no text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = folder / os.fsdecode(b"K\xfche.png")
    try:
        photo.touch()
    except OSError:
        pytest.skip("this file system has no such names")
    Image.fromarray(RenderedScenes(1, seed=5, size=(64, 96))[0].image).save(photo)
    formats = ["overlay", "semantic", "panoptic", "instances", "yolo", "label-studio"]
    with Segmenter.from_config("tiny") as segmenter, Export(tmp_path / "out", formats) as export:
        export.write(segmenter.predict(photo, ["grass", "sand"]))
    for name in ("panoptic", "instances"):
        (example,) = open_annotations(tmp_path / "out" / f"{name}.json", folder)
        assert example.uri == photo.as_uri()
    (task,) = json.loads((tmp_path / "out" / "label-studio.json").read_text())
    assert task["data"]["image"].endswith("?d=K%FChe.png")
