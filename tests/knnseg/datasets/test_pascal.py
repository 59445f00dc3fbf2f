import numpy as np
import pytest
from scipy.io import savemat

from knnseg.datasets import benchmarks, open_dataset
from knnseg.errors import DatasetError

VOC = np.array(["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
                "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
                "tvmonitor", *[""] * 235], object)  # fmt: skip
IDS = ["2007_000032", "2008_000123", "2011_003256"]


@pytest.fixture
def voc(tmp_path, trees):
    """Three images: two of val, one of train; maps of classes and of objects."""
    home, maps, objects = tmp_path / "VOCdevkit/VOC2012", {}, {}
    for i, (stem, size) in enumerate(zip(IDS, trees.SIZES, strict=True)):
        maps[stem] = trees.areas([0, 0, 1, 15, 15, 20, 255], i, size)
        number = np.where(maps[stem] == 1, 1, np.where(maps[stem] == 20, 2, 0))
        persons = np.argwhere(maps[stem] == 15)
        for k, (row, column) in enumerate(persons):
            number[row, column] = 3 + k * 2 // len(persons)  # two persons, 3 and 4
        number[maps[stem] == 255] = 255
        objects[stem] = number
        trees.photo(home / f"JPEGImages/{stem}.jpg", size)
        trees.palette(home / f"SegmentationClass/{stem}.png", maps[stem])
        trees.palette(home / f"SegmentationObject/{stem}.png", number)
    trees.photo(home / "JPEGImages/2009_000001.jpg", (4, 4))  # most images of VOC have no masks
    lists = home / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, stems in (("train", IDS[2:]), ("val", IDS[:2]), ("trainval", IDS)):
        (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return tmp_path, maps, objects


def test_classes():
    voc21, voc20 = (benchmarks()[f"voc-{n}"].vocabulary() for n in (21, 20))
    assert voc21.names == tuple(VOC[:21]) and voc20.names == tuple(VOC[1:21])
    assert voc21.things == voc20.things == set(VOC[1:21])
    assert voc20.words("diningtable") == ("dining table",) and voc20.words("sofa") == ("sofa",)


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
@pytest.mark.parametrize("name", ["voc-20", "voc-21"])
def test_voc_pixel_by_pixel(voc, trees, name, below):
    root, maps, objects = voc
    for split, stems in (("", IDS[:2]), ("train", IDS[2:]), ("trainval", IDS)):
        dataset = open_dataset(name, root / below, split)
        assert [e.image_id for e in dataset] == stems
        for example in dataset:
            wanted = VOC[maps[example.image_id]]
            if name == "voc-20":
                wanted = np.where(wanted == "background", "", wanted)
            assert (trees.names_of(example) == wanted).all()
            assert (trees.classes_of(example, dataset.vocabulary) == wanted).all()
            things = [s.label for s in example.info if s.thing]
            assert sorted(things) == ["aeroplane", "person", "person", "tvmonitor"]
            assert [s.label for s in example.info if not s.thing] == ["background"] * (name == "voc-21")
            for number in (1, 2, 3, 4):
                assert len(np.unique(example.segments[objects[example.image_id] == number])) == 1
            assert example.class_names == dataset.vocabulary.names


def test_voc_without_objects_has_a_segment_for_each_class(voc, trees):
    root, maps, _ = voc
    for path in (root / "VOCdevkit/VOC2012/SegmentationObject").iterdir():
        path.unlink()
    (root / "VOCdevkit/VOC2012/SegmentationObject").rmdir()
    example = open_dataset("voc-21", root)[0]
    assert (trees.names_of(example) == VOC[maps[IDS[0]]]).all()
    assert [s.label for s in example.info] == ["background", "aeroplane", "person", "tvmonitor"]


def test_pixels_of_a_thing_that_no_object_has(voc, trees):
    root, _, objects = voc
    numbers = objects[IDS[0]] * (objects[IDS[0]] != 3)
    trees.palette(root / f"VOCdevkit/VOC2012/SegmentationObject/{IDS[0]}.png", numbers)
    example = open_dataset("voc-20", root)[0]
    lost = objects[IDS[0]] == 3
    assert (trees.names_of(example)[lost] == "").all() and (example.semantic(["person"])[lost] == 0).all()


def test_broken_voc(voc, trees):
    root, _, _ = voc
    home = root / "VOCdevkit/VOC2012"
    trees.palette(home / f"SegmentationObject/{IDS[0]}.png", np.ones((3, 3)))
    with pytest.raises(DatasetError, match=rf"{IDS[0]}\.png: expected a map of 7×9 pixels .* got 3×3"):
        open_dataset("voc-20", root)[0]
    trees.palette(home / f"SegmentationClass/{IDS[0]}.png", np.full((7, 9), 21))
    with pytest.raises(DatasetError, match=r"got \[21\]"):
        open_dataset("voc-20", root)[0]
    (home / f"SegmentationClass/{IDS[1]}.png").unlink()
    with pytest.raises(DatasetError, match=f"1 of 2 maps of SegmentationClass are missing: {IDS[1]}"):
        open_dataset("voc-20", root)
    (home / "ImageSets/Segmentation/val.txt").write_text("\n")
    with pytest.raises(DatasetError, match="no images of JPEGImages"):
        open_dataset("voc-20", root)
    (home / "ImageSets/Segmentation/val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match=r"val\.txt cannot be read"):
        open_dataset("voc-20", root)


# -- PASCAL Context: 0 other, 1 accordion, 2 aeroplane, 232 light, 397 table, 458 wood, 459 wool ----------------------

NUMBERS = {0: "", 1: "accordion", 2: "aeroplane", 232: "light", 397: "table", 458: "wood", 459: "wool"}
FREQUENT = {2: 1, 232: 33, 397: 50, 458: 59}  # among the 59


@pytest.fixture
def context(tmp_path, trees):
    home, maps = tmp_path / "VOCdevkit/VOC2010", {}
    for i, (stem, size) in enumerate(zip(IDS, trees.SIZES, strict=True)):
        maps[stem] = trees.areas(list(NUMBERS), i, size)
        trees.photo(home / f"JPEGImages/{stem}.jpg", size)
    return home, maps


def lists(home, folder):
    (home / folder).mkdir(parents=True)
    (home / folder / "train.txt").write_text(f"{IDS[2]}\n")
    (home / folder / "val.txt").write_text(f"{IDS[0]}\n{IDS[1]}\n")


def named(values, count):
    kept = NUMBERS if count == 459 else {n: name for n, name in NUMBERS.items() if n in FREQUENT}
    return np.vectorize(lambda n: kept.get(n, ""), otypes=[object])(values)


def renumbered(values):
    """1 to 59, 0 for the rest."""
    return np.vectorize(lambda n: FREQUENT.get(n, 0))(values)


def check(trees, root, maps, count):
    for split, stems in (("", IDS[:2]), ("train", IDS[2:])):
        dataset = open_dataset(f"pascal-context-{count}", root, split)
        assert [e.image_id for e in dataset] == stems
        for example in dataset:
            assert (trees.names_of(example) == named(maps[example.image_id], count)).all()
            assert not any(s.thing for s in example.info) and example.class_map is None


def test_context_classes():
    large, small = (benchmarks()[f"pascal-context-{n}"].vocabulary() for n in (459, 59))
    assert len(large) == 459 and len(small) == 59 and set(small) < set(large) and not large.things | small.things
    assert [large.names[n - 1] for n in NUMBERS if n] == [name for name in NUMBERS.values() if name]
    assert [small.names[n - 1] for n in FREQUENT.values()] == ["aeroplane", "light", "table", "wood"]
    assert large.words("horse-drawncarriage") == ("horse-drawn carriage",)
    assert small.words("pottedplant") == ("potted plant",)


@pytest.mark.parametrize("count", [59, 459])
@pytest.mark.parametrize("listed", ["ImageSets/Main", "pascalcontext_"])
def test_context_as_released(context, trees, count, listed):
    home, maps = context
    (home / "trainval").mkdir()
    for stem, values in maps.items():
        savemat(home / f"trainval/{stem}.mat", {"LabelMap": values.astype(np.uint16)})
    lists(home, "ImageSets/Main" if listed == "ImageSets/Main" else "ImageSets/other")
    if listed != "ImageSets/Main":
        for split in ("train", "val"):
            (home / "ImageSets/other" / f"{split}.txt").rename(home / f"pascalcontext_{split}.txt")
    check(trees, home.parents[1], maps, count)


def test_59_classes_as_prepared_for_mmsegmentation(context, trees):
    home, maps = context
    for stem, values in maps.items():
        trees.gray(home / f"SegmentationClassContext/{stem}.png", renumbered(values))
    lists(home, "ImageSets/SegmentationContext")
    check(trees, home, maps, 59)


@pytest.mark.parametrize("count", [59, 459])
@pytest.mark.parametrize("layout", ["annotations_detectron2", "pascal_ctx_d2"])
def test_context_as_prepared_for_detectron2(context, trees, count, layout):
    home, maps = context
    root = home if layout == "annotations_detectron2" else home.parents[1] / "pascal_ctx_d2"
    for stem, values in maps.items():
        short, long = ("train", "training") if stem == IDS[2] else ("val", "validation")
        moved = (renumbered(values) if count == 59 else values) - 1
        kind, ending = (np.uint8, "png") if count == 59 else (np.uint16, "tif")
        name = f"pc{count}_{short}" if layout == "annotations_detectron2" else f"annotations_ctx{count}/{long}"
        path = root / (f"{layout}/{name}" if layout == "annotations_detectron2" else name) / f"{stem}.{ending}"
        trees.gray(path, moved % (np.iinfo(kind).max + 1), kind)
        if layout == "pascal_ctx_d2":
            trees.photo(root / f"images/{long}/{stem}.jpg", values.shape)
    check(trees, home.parents[1], maps, count)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"LabelMap": np.full((7, 9), 460, np.uint16)}, r"got \[460\]"),
        ({"LabelMap": np.ones((7, 9))}, "LabelMap as integers .* got float64"),
        ({"Other": np.ones((7, 9), np.uint16)}, "with the array LabelMap, got KeyError"),
        ({"LabelMap": np.ones((7, 8), np.uint16)}, "map of 7×9 pixels .* got 7×8"),
        (None, "expected a MATLAB file with the array LabelMap"),
    ],
)
def test_broken_mat_files(context, content, message):
    home, maps = context
    (home / "trainval").mkdir()
    lists(home, "ImageSets/Main")
    for stem, values in maps.items():
        savemat(home / f"trainval/{stem}.mat", {"LabelMap": values.astype(np.uint16)})
    path = home / f"trainval/{IDS[0]}.mat"
    path.write_bytes(b"nothing of the kind") if content is None else savemat(path, content)
    with pytest.raises(DatasetError, match=rf"{IDS[0]}\.mat: .*{message}"):
        open_dataset("pascal-context-459", home)[0]


def test_context_without_label_maps(context):
    with pytest.raises(DatasetError, match="no label maps of the split val are there"):
        open_dataset("pascal-context-59", context[0])
