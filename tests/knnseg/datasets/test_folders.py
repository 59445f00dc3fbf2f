import json

import numpy as np
import pytest
from PIL import Image

from knnseg import Vocabulary
from knnseg.cli.sources import examples
from knnseg.data.reading import load_image, load_label_map
from knnseg.datasets import CocoPanoptic, ImageLabelPairs, read_classes
from knnseg.errors import DatasetError, ImageError

CLASSES = [{"id": 0, "name": "sky"}, {"id": 1, "name": "ball", "isthing": True}, {"id": 300, "name": "sand"}]


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    for i in range(3):
        Image.fromarray(np.full((6, 8, 3), i, np.uint8)).save(tmp_path / "images" / f"{i}.jpg")
        labels = np.zeros((6, 8), np.uint16)
        labels[2:4], labels[4:], labels[:, 0] = 1, 300, 255
        Image.fromarray(labels).save(tmp_path / "labels" / f"{i}.png")
    return tmp_path


def opened(folder, **options):
    return ImageLabelPairs(folder / "images", folder / "labels", folder / "classes.json", **options)


def test_pairs(pairs):
    dataset = opened(pairs, ignore=[255])
    assert len(dataset) == 3
    example = dataset[1]
    assert [(s.label, s.thing) for s in example.info] == [("sky", None), ("ball", True), ("sand", None)]
    semantic = example.semantic(["sky", "ball", "sand"])
    assert (semantic[:, 0] == -1).all() and semantic[0, 1] == 0 and semantic[3, 1] == 1 and semantic[5, 1] == 2
    assert example.uri.startswith("file://") and example.image_id == "1"
    assert dataset[1:].vocabulary == Vocabulary(("sky", "ball", "sand"), frozenset({"ball"}))
    assert [e.image_id for e in dataset[1:]] == ["1", "2"] and dataset[-1].image_id == "2"
    with pytest.raises(IndexError):
        dataset[3]


def test_unknown_numbers_are_an_error_that_names_them(pairs):
    with pytest.raises(DatasetError, match=r"0\.png.*\[255\]"):
        opened(pairs, ignore=[])[0]


def test_stems_choose_and_order(pairs):
    assert [e.image_id for e in opened(pairs, stems=["2", "0"])] == ["2", "0"]
    with pytest.raises(DatasetError, match="9"):
        opened(pairs, stems=["9"])


def test_a_label_map_without_an_image_is_an_error(pairs):
    (pairs / "images" / "1.jpg").unlink()
    with pytest.raises(DatasetError, match=r"\['1'\]"):
        opened(pairs)


def test_folders_that_are_missing_or_empty(pairs, tmp_path):
    with pytest.raises(DatasetError, match="expected a folder"):
        ImageLabelPairs(tmp_path / "nothing", pairs / "labels", {1: "a"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="any"):
        ImageLabelPairs(pairs / "images", tmp_path / "empty", {1: "a"})


def test_a_label_map_that_is_a_colour_image(pairs):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(pairs / "labels" / "0.png")
    with pytest.raises(ImageError, match="one channel"):
        opened(pairs)[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [('[{"id": 1}]', "name"), ('{"a": 1}', "the key 'categories'"), ("[]", "at least one class"), ("[1, 2]", r"\[0\]: expected an object with keys, got 1"), ("nonsense", "JSON"),
     ('[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]', "id once"), ('[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]', "name once")],
)  # fmt: skip
def test_class_files_that_are_none(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_classes(tmp_path / "c.json")


@pytest.fixture
def coco(tmp_path):
    """One image with two objects and a crowd, in COCO panoptic's published layout."""
    for name in ("val2017", "panoptic_val2017"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "val2017" / "000000000139.jpg")
    numbers = np.zeros((4, 6), np.int64)
    numbers[:2], numbers[2:, :3], numbers[2:, 3:5] = 3226956, 70000, 258
    Image.fromarray(np.stack([numbers // 256**i % 256 for i in range(3)], -1).astype(np.uint8)).save(
        tmp_path / "panoptic_val2017" / "000000000139.png"
    )
    data = {
        "images": [{"id": 139, "file_name": "000000000139.jpg", "height": 4, "width": 6}],
        "annotations": [{"image_id": 139, "file_name": "000000000139.png", "segments_info": [
            {"id": 3226956, "category_id": 1, "area": 12, "bbox": [0, 0, 6, 2], "iscrowd": 0},
            {"id": 70000, "category_id": 200, "area": 6, "bbox": [0, 2, 3, 2], "iscrowd": 0},
            {"id": 258, "category_id": 1, "area": 4, "bbox": [3, 2, 2, 2], "iscrowd": 1}]}],
        "categories": [{"id": 1, "name": "person", "isthing": 1}, {"id": 200, "name": "rug-merged", "isthing": 0}],
    }  # fmt: skip
    (tmp_path / "panoptic_val2017.json").write_text(json.dumps(data))
    return tmp_path, data


def test_coco_panoptic(coco):
    folder, _ = coco
    example = CocoPanoptic(folder / "val2017", folder / "panoptic_val2017", folder / "panoptic_val2017.json")[0]
    assert [(s.id, s.label, s.thing) for s in example.info] == [(3226956, "person", True), (70000, "rug-merged", False)]
    assert np.array_equal(example.segments[2], [70000, 70000, 70000, 0, 0, 0]), "a crowd is no segment"
    assert np.array_equal(example.semantic(["person", "rug-merged"])[2], [1, 1, 1, 0, 0, -1]), "but has a class"
    assert np.array_equal(example.semantic(["rug-merged"])[2], [0, 0, 0, -1, -1, -1])
    assert example.image_id == "139"


def test_coco_panoptic_goes_into_a_database(coco, database):
    folder, _ = coco
    dataset = CocoPanoptic(folder / "val2017", folder / "panoptic_val2017", folder / "panoptic_val2017.json")
    assert database.add(dataset).added == 2
    assert {c.label: c.thing for c in database.concepts()} == {"person": True, "rug-merged": False}


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda d: d.pop("annotations"), "annotations"),
        (lambda d: d["annotations"][0].pop("segments_info"), "segments_info"),
        (
            lambda d: d["annotations"][0]["segments_info"][0].update(category_id=9),
            r"annotations\[0\]\.segments_info\[0\]\.category_id: expected the id of a category.*got 9",
        ),
        (
            lambda d: d["annotations"][0].update(image_id=1),
            r"annotations\[0\]\.image_id: expected the id of an image.*got 1",
        ),
        (lambda d: d["annotations"][0].update(file_name="missing.png"), "missing.png"),
    ],
)
def test_broken_coco_files(coco, broken, message):
    folder, data = coco
    broken(data)
    (folder / "panoptic_val2017.json").write_text(json.dumps(data))
    with pytest.raises((DatasetError, ImageError), match=message):
        CocoPanoptic(folder / "val2017", folder / "panoptic_val2017", folder / "panoptic_val2017.json")[0]


def test_capital_endings_count_and_companions_of_macos_do_not(pairs):
    (pairs / "images" / "1.jpg").rename(pairs / "images" / "1.JPG")
    (pairs / "labels" / "1.png").rename(pairs / "labels" / "1.PNG")
    for name in ("images/._1.JPG", "labels/._1.PNG", "labels/.DS_Store"):
        (pairs / name).write_bytes(b"\0\5\x16\7")
    assert [e.image_id for e in opened(pairs)] == ["0", "1", "2"]
    assert opened(pairs).left_out == ()


def test_files_without_a_part_are_told(pairs):
    for name in ("images/notes.txt", "labels/0_preview.jpg"):
        (pairs / name).write_bytes(b"")
    (pairs / "labels" / "2.png").unlink()
    assert opened(pairs).left_out == tuple(
        str(pairs / name) for name in ("images/2.jpg", "images/notes.txt", "labels/0_preview.jpg")
    )
    assert opened(pairs, stems=["0"]).left_out == tuple(
        str(pairs / name) for name in ("images/notes.txt", "labels/0_preview.jpg")
    )


def test_a_label_map_is_never_read_as_the_photograph(pairs):
    """Neither beside it, nor where both lie in one folder."""
    (pairs / "images" / "1.png").write_bytes((pairs / "labels" / "1.png").read_bytes())
    with pytest.raises(DatasetError, match=r"one file for 1, got 1\.jpg and 1\.png.*folders of their own"):
        opened(pairs)
    with pytest.raises(DatasetError, match=r"got 1\.jpg and 1\.png"):
        ImageLabelPairs(pairs / "images", pairs / "images", pairs / "classes.json")


def test_label_maps_may_be_tiff_and_may_not_be_jpeg(pairs):
    values = load_label_map(pairs / "labels" / "1.png")
    Image.fromarray(values.astype(np.uint16)).save(pairs / "labels" / "1.tif")
    (pairs / "labels" / "1.png").unlink()
    assert np.array_equal(opened(pairs, ignore=[255])[1].segments, opened(pairs, ignore=[255])[0].segments)
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(pairs / "labels" / "0.png", "JPEG")
    with pytest.raises(ImageError, match=r"0\.png.*PNG, got JPEG"):
        opened(pairs)[0]


def test_a_negative_number_that_is_ignored_is_no_class(pairs):
    """It once was the last class, since an index of -1 finds the last entry."""
    values = np.array([[-1, 0], [1, 300]], np.int32)
    Image.fromarray(values).save(pairs / "labels" / "0.tif")
    (pairs / "labels" / "0.png").unlink()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(pairs / "images" / "0.jpg")
    semantic = opened(pairs, ignore=[-1])[0].semantic(["sky", "ball", "sand"])
    assert semantic.tolist() == [[-1, 0], [1, 2]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn_on", ["stored", "seen"])
@pytest.mark.parametrize("source", ["pairs", "coco"])
def test_a_photograph_on_its_side_fits_its_label_map(tmp_path, orientation, drawn_on, source):
    """Drawn on the pixels as stored, or on what a person sees; where both have one size, it is taken as the latter."""
    stored = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    tags = Image.Exif()
    tags[0x0112] = orientation
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(stored).save(tmp_path / "images" / "a.png", exif=tags)
    seen = load_image(tmp_path / "images" / "a.png")
    photo = stored if drawn_on == "stored" and orientation >= 5 else seen
    labels = (photo[..., 0] > 127).astype(np.uint8) + 1
    if source == "pairs":
        Image.fromarray(labels).save(tmp_path / "labels" / "a.png")
        dataset = ImageLabelPairs(tmp_path / "images", tmp_path / "labels", {1: "dark", 2: "light"})
    else:
        Image.fromarray(np.stack([labels, labels * 0, labels * 0], -1)).save(tmp_path / "labels" / "a.png")
        rows = [{"id": i, "category_id": i} for i in (1, 2)]
        data = {
            "images": [{"id": 1, "file_name": "a.png"}],
            "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": rows}],
            "categories": [{"id": 1, "name": "dark"}, {"id": 2, "name": "light"}],
        }
        (tmp_path / "coco.json").write_text(json.dumps(data))
        dataset = CocoPanoptic(tmp_path / "images", tmp_path / "labels", tmp_path / "coco.json")
    example = dataset[0]
    assert np.array_equal(example.image, photo)
    assert np.array_equal(example.semantic(["dark", "light"]), example.image[..., 0] > 127)


def test_the_command_line_says_which_files_have_no_part(pairs, capsys):
    (pairs / "images" / "notes.txt").write_bytes(b"")
    (pairs / "labels" / "2.png").unlink()
    examples((pairs / "images", pairs / "labels"), pairs / "classes.json", None, "0,255")
    assert f"2 files have no part in a pair: {pairs / 'images' / '2.jpg'}, " in capsys.readouterr().err
