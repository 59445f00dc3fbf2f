import numpy as np
import pytest

from knnseg.datasets import benchmarks, open_dataset
from knnseg.datasets._classes import benchmark_classes
from knnseg.errors import DatasetError

# -- COCO -------------------------------------------------------------------------------------------------------------

PERSON, RUG, DOOR = 1, 200, 112  # category ids


@pytest.fixture
def coco(tmp_path, trees):
    """Two images of val2017 with two persons, a rug and a crowd of persons."""
    home, maps = tmp_path / "coco", {}
    categories = [
        {"id": n, "name": name, "isthing": int(name in COCO.things), "supercategory": "x"}
        for n, name in zip(NUMBERS, COCO, strict=True)
    ]
    data = {"images": [], "annotations": [], "categories": categories}
    for i, size in enumerate(trees.SIZES[:2]):
        values = trees.areas([0, 258, 3226956, 70000, 16000001], i, size)
        maps[str(139 + i)] = values
        stem = f"{139 + i:012d}"
        trees.photo(home / f"val2017/{stem}.jpg", size)
        trees.coco_png(home / f"annotations/panoptic_val2017/{stem}.png", values)
        rows = [(258, PERSON, 0), (3226956, PERSON, 0), (70000, RUG, 0), (16000001, PERSON, 1)]
        rows = [{"id": n, "category_id": c, "iscrowd": crowd} for n, c, crowd in rows]
        data["images"].append({"id": 139 + i, "file_name": f"{stem}.jpg"})
        data["annotations"].append({"image_id": 139 + i, "file_name": f"{stem}.png", "segments_info": rows})
    trees.dump(home / "annotations/panoptic_val2017.json", data)
    return tmp_path, maps, data


COCO = benchmarks()["coco-panoptic"].vocabulary()
# The published ids run from 1 to 200 with gaps.
NUMBERS = benchmark_classes("coco-panoptic").numbers


def test_coco_classes():
    assert len(COCO) == 133 and len(COCO.things) == 80
    published = dict(zip(NUMBERS, COCO, strict=True))
    assert {n: published[n] for n in (1, 13, 90, 92, 112, 184, 200)} == {
        1: "person", 13: "stop sign", 90: "toothbrush", 92: "banner", 112: "door-stuff", 184: "tree-merged",
        200: "rug-merged"}  # fmt: skip
    assert COCO.words("door-stuff") == ("door",) and COCO.words("wall-brick") == ("brick wall",)
    assert COCO.words("person") == ("person",) and COCO.names[132] == "rug-merged"


@pytest.mark.parametrize("moved", [False, True])
def test_coco_pixel_by_pixel(coco, trees, moved):
    root, maps, _ = coco
    if moved:  # detectron2 has the PNGs beside the annotations
        (root / "coco/annotations/panoptic_val2017").rename(root / "coco/panoptic_val2017")
    dataset = open_dataset("coco-panoptic", root)
    assert [e.image_id for e in dataset] == ["139", "140"] and dataset.vocabulary == COCO
    for example in dataset:
        values = maps[example.image_id]
        known = {0: "", 258: "person", 3226956: "person", 70000: "rug-merged", 16000001: ""}
        wanted = np.vectorize(known.get, otypes=[object])(values)
        assert (trees.names_of(example) == wanted).all()
        assert (example.segments == np.where(values == 16000001, 0, values)).all()
        semantic = np.where(values == 16000001, "person", wanted)
        assert (trees.classes_of(example, COCO) == semantic).all(), "a crowd has a class"
        assert [(s.label, s.thing) for s in example.info] == [("person", True), ("person", True), ("rug-merged", False)]


def test_broken_coco(coco, trees):
    root, _, data = coco
    (root / "coco/annotations/panoptic_val2017/000000000140.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 maps of panoptic_val2017 are missing: 000000000140\.png"):
        open_dataset("coco-panoptic", root)
    (root / "coco/val2017/000000000139.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 images of val2017 are missing: 000000000139\.jpg"):
        open_dataset("coco-panoptic", root)
    data["categories"][0]["name"] = "human"
    trees.dump(root / "coco/annotations/panoptic_val2017.json", data)
    with pytest.raises(DatasetError, match="has other categories than the published ones: 1 'human'"):
        open_dataset("coco-panoptic", root)
    with pytest.raises(DatasetError, match=r"annotations/panoptic_train2017\.json is missing"):
        open_dataset("coco-panoptic", root, "train2017")


# -- Cityscapes -------------------------------------------------------------------------------------------------------

# labelIds: 4 static and 29 caravan are ignored; 7 road, 24 person, 26 car are classes
CLASSES = {4: "", 7: "road", 24: "person", 26: "car", 29: ""}


@pytest.fixture
def cityscapes(tmp_path, trees):
    home, maps = tmp_path / "cityscapes", {}
    cities = ["frankfurt", "lindau", "munster"]
    for i, (city, size) in enumerate(zip(cities, trees.SIZES, strict=True)):
        ids = trees.areas([4, 7, 24, 26, 24000, 24001, 26000, 29000], i, size)
        stem = f"{city}_{i:06d}_000019"
        maps[stem] = ids
        trees.photo(home / f"leftImg8bit/val/{city}/{stem}_leftImg8bit.png", size)
        trees.gray(home / f"gtFine/val/{city}/{stem}_gtFine_labelIds.png", np.where(ids < 1000, ids, ids // 1000))
        trees.gray(home / f"gtFine/val/{city}/{stem}_gtFine_instanceIds.png", ids, np.uint16)
        trees.rgb(home / f"gtFine/val/{city}/{stem}_gtFine_color.png", *[ids * 0] * 3)
        trees.dump(home / f"gtFine/val/{city}/{stem}_gtFine_polygons.json", {})
    (home / "README").write_text("")
    return home, maps


def test_cityscapes_classes():
    vocabulary = benchmarks()["cityscapes"].vocabulary()
    assert len(vocabulary) == 19
    assert vocabulary.things == {"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}


def test_cityscapes_pixel_by_pixel(cityscapes, trees):
    home, maps = cityscapes
    dataset = open_dataset("cityscapes", home.parent)
    assert [e.image_id for e in dataset] == list(maps)
    for example in dataset:
        ids = maps[example.image_id]
        semantic = np.vectorize(lambda n: CLASSES[n if n < 1000 else n // 1000], otypes=[object])(ids)
        assert (trees.classes_of(example, dataset.vocabulary) == semantic).all(), "groups have a class"
        grouped = np.isin(ids, [24, 26])
        assert (trees.names_of(example) == np.where(grouped, "", semantic)).all(), "groups are no object"
        assert example.crowds
        labels = [(s.label, s.thing) for s in example.info]
        assert labels == [("road", False), ("person", True), ("person", True), ("car", True)]
        for number in (24000, 24001, 26000):
            assert len(np.unique(example.segments[ids == number])) == 1


def test_cityscapes_without_instances(cityscapes, trees):
    home, maps = cityscapes
    for path in home.rglob("*_instanceIds.png"):
        path.unlink()
    for example in open_dataset("cityscapes", home):
        semantic = np.vectorize(lambda n: CLASSES[n if n < 1000 else n // 1000], otypes=[object])(
            maps[example.image_id]
        )
        assert (trees.names_of(example) == semantic).all()
        assert [s.label for s in example.info] == ["road", "person", "car"]


def test_broken_cityscapes(cityscapes, trees):
    home, _ = cityscapes
    with pytest.raises(DatasetError, match=r"gtFine/train is missing"):
        open_dataset("cityscapes", home, "train")
    path = next((home / "gtFine/val/lindau").glob("*_labelIds.png"))
    trees.gray(path, np.full((12, 5), 34))
    with pytest.raises(DatasetError, match=r"got \[34\]"):
        open_dataset("cityscapes", home)[1]
    next((home / "gtFine/val/lindau").glob("*_instanceIds.png")).unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 maps of instances of gtFine/val are missing: lindau_000001_000019"):
        open_dataset("cityscapes", home)
    path.unlink()
    with pytest.raises(DatasetError, match=r"1 of 3 label maps of gtFine/val are missing"):
        open_dataset("cityscapes", home)
    next((home / "leftImg8bit/val/munster").iterdir()).unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 images of leftImg8bit/val are missing"):
        open_dataset("cityscapes", home)
