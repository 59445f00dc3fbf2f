import numpy as np
import pytest
from PIL import Image

from knnseg.datasets import benchmarks, open_dataset
from knnseg.errors import DatasetError

NAMES = benchmarks()["ade20k"].vocabulary().names
VALUES = [0, 1, 3, 13, 15, 150]  # other, wall, sky, person, door, flag


@pytest.fixture
def ade(tmp_path, trees):
    """Three images of each split; the maps, by split and stem."""
    home, maps = tmp_path / "ADEChallengeData2016", {}
    for split, short in (("training", "train"), ("validation", "val")):
        for i, size in enumerate(trees.SIZES):
            stem = f"ADE_{short}_{i + 1:08d}"
            maps[split, stem] = trees.areas(VALUES, i, size)
            trees.photo(home / "images" / split / f"{stem}.jpg", size)
            trees.gray(home / "annotations" / split / f"{stem}.png", maps[split, stem])
    (home / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n")
    return tmp_path, maps


def test_classes_as_published():
    vocabulary = benchmarks()["ade20k"].vocabulary()
    assert len(vocabulary) == 150 and len(vocabulary.things) == 100
    assert vocabulary.words("person") == ("person", "individual", "someone", "somebody", "mortal", "soul")
    assert [NAMES[i] for i in (0, 7, 8, 149)] == ["wall", "bed", "windowpane", "flag"]
    assert "bed" in vocabulary.things and "wall" not in vocabulary.things


@pytest.mark.parametrize("below", [True, False])
def test_semantic_maps_pixel_by_pixel(ade, trees, below):
    root, maps = ade
    for split in ("training", "validation"):
        dataset = open_dataset("ade20k", root if below else root / "ADEChallengeData2016", split)
        assert [e.image_id for e in dataset] == [stem for s, stem in maps if s == split]
        for example in dataset:
            expected = np.array(["", *NAMES], object)[maps[split, example.image_id]]
            assert (trees.names_of(example) == expected).all()
            assert (trees.classes_of(example, dataset.vocabulary) == expected).all()
            assert {s.label: s.thing for s in example.info} == {
                "wall": False, "sky": False, "person": True, "door": True, "flag": True}  # fmt: skip
            assert example.class_map is None


def test_the_default_split_is_validation(ade):
    assert open_dataset("ade20k", ade[0])[0].image_id == "ADE_val_00000001"


@pytest.fixture
def objects(ade):
    """Two persons, a door that the label map calls wall, and a third person without an instance."""
    root, maps = ade
    numbers = {}
    for (split, stem), labels in maps.items():
        found = np.zeros(labels.shape, int)
        rows, columns = np.nonzero(labels == 13)
        half = len(rows) // 3
        found[rows[:half], columns[:half]], found[rows[half : 2 * half], columns[half : 2 * half]] = 3, 7
        found[tuple(np.argwhere(labels == 1)[0])] = 200
        numbers[split, stem] = found
    return root, maps, numbers


OWNERS = {0: "", 3: "person", 7: "person", 200: "door"}


def expected(labels, found):
    """What segments must say, as published: stuff of the label map, and the objects above it."""
    names = np.array(["", *NAMES], object)
    things = benchmarks()["ade20k"].vocabulary().things
    stuff = np.array(["" if name in things else name for name in names], object)[labels]
    return np.where(found > 0, np.array([OWNERS[n] for n in found.reshape(-1)], object).reshape(found.shape), stuff)


def check_objects(trees, root, maps, numbers):
    dataset = open_dataset("ade20k", root)
    for example in dataset:
        key = "validation", example.image_id
        assert (trees.names_of(example) == expected(maps[key], numbers[key])).all()
        semantic = np.array(["", *NAMES], object)[maps[key]]
        assert (trees.classes_of(example, dataset.vocabulary) == semantic).all(), "mean IoU is of the label map"
        for number in (3, 7, 200):
            assert len(np.unique(example.segments[numbers[key] == number])) == 1, "an object is one segment"
        assert len({s.id for s in example.info}) == len(example.info) == len(set(np.unique(example.segments)) - {0})
        assert [s.label for s in example.info if s.thing] == ["person", "person", "door"]
        assert not example.crowds, "what the annotation of objects leaves out is void"


def test_objects_of_the_instance_release(objects, trees):
    root, maps, numbers = objects
    release = {0: 0, 3: 4, 7: 4, 200: 5}  # persons are 4 there, doors 5
    for (split, stem), found in numbers.items():
        red = np.vectorize(release.get)(found)
        trees.rgb(root / f"ADEChallengeData2016/annotations_instance/{split}/{stem}.png", red, found, 0 * found)
    check_objects(trees, root, maps, numbers)


def test_objects_of_the_prepared_panoptic_annotations(objects, trees):
    root, maps, numbers = objects
    home = root / "ADEChallengeData2016"
    positions = {n: i for i, n in enumerate(NAMES)}
    data = {"images": [], "annotations": [], "categories": [
        {"id": i, "name": n, "isthing": int(n in benchmarks()["ade20k"].vocabulary().things)} for n, i in positions.items()]}  # fmt: skip
    for (split, stem), found in numbers.items():
        if split == "training":
            continue
        stuff = np.where(np.isin(maps[split, stem], [1, 3]), maps[split, stem] * 70000, 0)
        trees.coco_png(home / "ade20k_panoptic_val" / f"{stem}.png", np.where(found > 0, found, stuff))
        rows = [{"id": n, "category_id": positions[OWNERS[n]], "iscrowd": 0} for n in (3, 7, 200)]
        rows += [{"id": n * 70000, "category_id": n - 1, "iscrowd": 0} for n in (1, 3)]
        data["images"].append({"id": stem, "file_name": f"{stem}.jpg"})
        data["annotations"].append({"image_id": stem, "file_name": f"{stem}.png", "segments_info": rows})
    trees.dump(home / "ade20k_panoptic_val.json", data)
    check_objects(trees, root, maps, numbers)
    data["annotations"][0]["segments_info"][0]["category_id"] = 150
    data["categories"].append({"id": 150, "name": "one more", "isthing": 1})
    del data["annotations"][1]
    trees.dump(home / "ade20k_panoptic_val.json", data)
    with pytest.raises(DatasetError, match=r"categories 0 to 149, got \[150\]"):
        open_dataset("ade20k", root)[0]
    with pytest.raises(DatasetError, match=r"ADE_val_00000002\.png: expected segments"):
        open_dataset("ade20k", root)[1]


@pytest.mark.parametrize(
    ("red", "green", "message"),
    [(101, 1, r"\(R, G\) \[\(101, 1\)\]"), (0, 9, r"\[\(0, 9\)\]"), ("two", 9, "for each object of the image")],
)
def test_instance_maps_that_make_no_sense(ade, trees, red, green, message):
    root, maps = ade
    for (split, stem), labels in maps.items():
        one = np.ones(labels.shape, int)
        reds = np.arange(labels.size).reshape(labels.shape) % 2 + 1 if red == "two" else one * red
        trees.rgb(root / f"ADEChallengeData2016/annotations_instance/{split}/{stem}.png", reds, one * green, one * 0)
    with pytest.raises(DatasetError, match=message):
        open_dataset("ade20k", root)[0]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda trees, path: trees.gray(path, np.full((7, 9), 151)), r"1 to 150, or of ignored pixels, got \[151\]"),
        (lambda trees, path: trees.gray(path, np.ones((7, 8))), "map of 7×9 pixels like ADE_val_00000001.jpg, got 7×8"),
        (lambda trees, path: trees.rgb(path, *np.ones((3, 7, 9))), "one channel, got mode RGB"),
        (
            lambda trees, path: path.write_bytes(path.read_bytes()[:-24]),
            "ADE_val_00000001.png: unreadable or truncated",
        ),
        (lambda trees, path: path.write_bytes(b""), "ADE_val_00000001.png: expected an image"),
        (
            lambda trees, path: Image.fromarray(np.full((7, 9), 70000, np.int32)).save(path, "TIFF"),
            "numbers from 0 to 65535, got 70000",
        ),
    ],
)
def test_files_that_are_not_as_published(ade, trees, broken, message):
    root, _ = ade
    broken(trees, root / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png")
    dataset = open_dataset("ade20k", root)
    with pytest.raises(DatasetError, match=message):
        dataset[0]
    assert dataset[1].image_id == "ADE_val_00000002"


def test_a_broken_image(ade):
    path = ade[0] / "ADEChallengeData2016/images/validation/ADE_val_00000001.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"ADE_val_00000001\.jpg: expected an image"):
        open_dataset("ade20k", ade[0])[0]


@pytest.mark.parametrize("over", ["stored", "turned"])
def test_photographs_that_lie_on_their_side(ade, trees, over):
    """The EXIF orientation 6 is a quarter turn; the map may have been drawn over the pixels as stored, or as seen."""
    root, _ = ade
    home, stem = root / "ADEChallengeData2016", "validation/ADE_val_00000001"
    stored, exif = np.zeros((7, 9, 3), np.uint8), Image.Exif()
    stored[:, :4], exif[0x0112] = 255, 6
    Image.fromarray(stored).save(home / f"images/{stem}.jpg", exif=exif, quality=100)
    trees.gray(home / f"annotations/{stem}.png", np.ones((7, 9) if over == "stored" else (9, 7)))
    image = open_dataset("ade20k", root)[0].image
    expected = stored if over == "stored" else np.rot90(stored, -1)
    assert image.shape == expected.shape and np.abs(image.astype(int) - expected).mean() < 20


# -- 847 classes ------------------------------------------------------------------------------------------------------


def test_847_classes_with_distinct_names():
    vocabulary = benchmarks()["ade20k-847"].vocabulary()
    assert len(vocabulary) == 847 and not vocabulary.things
    assert {name for name in vocabulary if name.partition(",")[0] == "bag"} == {
        "bag",
        "bag, handbag",
        "bag, traveling bag",
    }
    assert vocabulary.words("bag, handbag") == ("bag", "handbag", "pocketbook", "purse")
    assert vocabulary.words("bag") == ("bag",)
    assert vocabulary.names[846] == "adding machine"


def test_847_as_prepared_in_16_bits(tmp_path, trees):
    home = tmp_path / "ADE20K_2021_17_01"
    names = np.array(benchmarks()["ade20k-847"].vocabulary().names, object)
    maps = {f"ADE_val_{i}": trees.areas([0, 255, 256, 846, 65535], i, size) for i, size in enumerate(trees.SIZES)}
    for stem, values in maps.items():
        trees.photo(home / f"images_detectron2/validation/{stem}.jpg", values.shape)
        trees.gray(home / f"annotations_detectron2/validation/{stem}.tif", values, np.uint16)
    dataset = open_dataset("ade20k-847", tmp_path)
    assert [e.image_id for e in dataset] == list(maps)
    for example in dataset:
        values = maps[example.image_id]
        assert (trees.names_of(example) == np.where(values < 847, names[values % 847], "")).all()
        assert not any(s.thing for s in example.info)
    trees.gray(home / "annotations_detectron2/validation/ADE_val_0.tif", np.full(trees.SIZES[0], 847), np.uint16)
    with pytest.raises(DatasetError, match=r"0 to 846, or of ignored pixels, got \[847\]"):
        dataset[0]
    with pytest.raises(DatasetError, match=r"annotations_detectron2/training is missing"):
        open_dataset("ade20k-847", tmp_path, "training")


def test_847_as_released(tmp_path, trees):
    folder = tmp_path / "ADE20K_2021_17_01/images/ADE/training"
    numbers = {2978: "wall", 976: "floor", 2420: "sky", 5: "", 0: ""}  # as in the release's index; 5 is not among 847
    maps = {}
    for i, size in enumerate(trees.SIZES):
        values, scene = trees.areas(list(numbers), i, size), ("urban/street", "home/attic", "urban/alley")[i]
        maps[f"ADE_train_{i}"] = values
        trees.photo(folder / scene / f"ADE_train_{i}.jpg", size)
        trees.rgb(folder / scene / f"ADE_train_{i}_seg.png", values // 256 * 10 + 3, values % 256, values * 0 + 9)
        trees.gray(folder / scene / f"ADE_train_{i}_parts_1.png", values * 0)
        trees.gray(folder / scene / f"ADE_train_{i}/instance_000_ADE_train_{i}.png", values * 0)
    dataset = open_dataset("ade20k-847", tmp_path, "training")
    assert [e.image_id for e in dataset] == list(maps)
    for example in dataset:
        wanted = np.vectorize(numbers.get, otypes=[object])(maps[example.image_id])
        assert (trees.names_of(example) == wanted).all()
    (folder / "home/attic/ADE_train_1_seg.png").unlink()
    with pytest.raises(
        DatasetError, match=r"1 of 3 label maps of images/ADE/training are missing: ADE_train_1: expected"
    ):
        open_dataset("ade20k-847", tmp_path, "training")


def test_the_release_may_not_have_one_name_twice(tmp_path, trees):
    folder = tmp_path / "ADE20K_2021_17_01/images/ADE/validation"
    for scene in ("urban/street", "home/attic"):
        trees.photo(folder / scene / "ADE_val_1.jpg", (4, 4))
        trees.rgb(folder / scene / "ADE_val_1_seg.png", *np.zeros((3, 4, 4)))
    with pytest.raises(DatasetError, match=r"ADE_val_1\.jpg is in two folders"):
        open_dataset("ade20k-847", tmp_path)
