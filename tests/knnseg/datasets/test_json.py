"""JSON of annotations as many tools write it: what can mean one thing only is taken, the rest is named by its place."""

import json

import numpy as np
import pytest
from PIL import Image

from knnseg.datasets import CocoPanoptic, read_classes
from knnseg.errors import DatasetError


def content():
    return {
        "images": [{"id": 139, "file_name": "a.png"}, {"id": 140, "file_name": "b.png"}],
        "annotations": [
            {"image_id": 139, "file_name": "a.png", "segments_info": [
                {"id": 5, "category_id": 1, "iscrowd": 0}, {"id": 6, "category_id": 2, "iscrowd": 0},
                {"id": 7, "category_id": 1, "iscrowd": 1}]},
            {"image_id": 140, "file_name": "b.png", "segments_info": []},
        ],
        "categories": [{"id": 1, "name": "ball", "isthing": 1}, {"id": 2, "name": "sand", "isthing": 0}],
    }  # fmt: skip


@pytest.fixture
def opened(tmp_path):
    numbers = np.array([[5, 5, 6], [6, 7, 0]])
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(np.stack([numbers, numbers * 0, numbers * 0], -1).astype(np.uint8)).save(
        tmp_path / "maps" / "a.png"
    )

    def open_it(data, encoding="utf-8"):
        text = data if isinstance(data, str) else json.dumps(data)
        (tmp_path / "coco.json").write_text(text, encoding=encoding)
        return CocoPanoptic(tmp_path / "images", tmp_path / "maps", tmp_path / "coco.json")

    return open_it


def said(dataset):
    example = dataset[0]
    return [(s.id, s.label, s.thing) for s in example.info], example.semantic(["ball", "sand"]).tolist()


WANTED = ([(5, "ball", True), (6, "sand", False)], [[0, 0, 1], [1, 0, -1]])


def as_text(value):
    if isinstance(value, dict):
        return {key: as_text(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [as_text(entry) for entry in value]
    return str(value) if isinstance(value, int) else value


def test_numbers_and_booleans_as_text_mean_the_same(opened):
    assert said(opened(content())) == WANTED
    assert said(opened(as_text(content()))) == WANTED
    data = content()
    data["categories"][0]["isthing"], data["categories"][1]["isthing"] = "True", "false"
    infos = data["annotations"][0]["segments_info"]
    infos[0]["iscrowd"], infos[1]["iscrowd"], infos[2]["iscrowd"] = False, "FALSE", True
    infos[0]["id"], data["images"][0]["id"] = 5.0, "139"
    assert said(opened(data)) == WANTED
    del infos[0]["iscrowd"], data["categories"][1]["isthing"]
    assert said(opened(data)) == ([(5, "ball", True), (6, "sand", None)], *WANTED[1:]), "nobody says"


def test_a_byte_order_mark_is_no_content(opened):
    assert said(opened(content(), encoding="utf-8-sig")) == WANTED


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("annotations", 0, "segments_info", 1, "iscrowd"), "no", r"annotations\[0\]\.segments_info\[1\]\.iscrowd: expected true or false, 1 or 0, got 'no'"),
        (("annotations", 0, "segments_info", 1, "iscrowd"), 2, r"iscrowd.*got 2"),
        (("annotations", 0, "segments_info", 1, "iscrowd"), None, r"iscrowd.*got None"),
        (("annotations", 0, "segments_info", 1, "iscrowd"), [], r"iscrowd.*got \[\]"),
        (("annotations", 0, "segments_info", 1, "category_id"), "one", r"category_id: expected a whole number, got 'one'"),
        (("annotations", 0, "segments_info", 1, "category_id"), 1.5, r"category_id: expected a whole number, got 1.5"),
        (("annotations", 0, "segments_info", 1, "category_id"), True, r"category_id: expected a whole number, got True"),
        (("annotations", 0, "segments_info", 1, "category_id"), 9, r"category_id: expected the id of a category"),
        (("annotations", 0, "segments_info", 1, "id"), 0, r"segments_info\[1\]\.id: expected a whole number from 1"),
        (("annotations", 0, "segments_info", 1, "id"), 2**24, r"segments_info\[1\]\.id: expected a whole number from 1"),
        (("annotations", 0, "segments_info"), {}, r"annotations\[0\]\.segments_info: expected a list"),
        (("annotations", 1, "image_id"), 7, r"annotations\[1\]\.image_id: expected the id of an image"),
        (("annotations", 1, "image_id"), None, r"annotations\[1\]\.image_id: expected a whole number"),
        (("annotations", 1, "file_name"), "a.png", r"one annotation, got a\.png in several"),
        (("annotations", 1, "file_name"), 3, r"annotations\[1\]\.file_name: expected a text"),
        (("annotations",), None, r"annotations: expected a list"),
        (("images", 1, "id"), "139", r"images\[1\]\.id: expected an id that no other image has"),
        (("categories", 1, "isthing"), "maybe", r"categories\[1\]\.isthing: expected true or false"),
        (("categories", 1, "name"), None, r"categories\[1\]\.name: expected a text"),
        (("categories", 1, "name"), 7, r"categories\[1\]\.name: expected a text"),
        (("categories", 1, "id"), "1", "each id once, got 1"),
    ],
)  # fmt: skip
def test_what_is_ambiguous_is_named_by_its_place(opened, path, value, place):
    data = content()
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(DatasetError, match=rf"coco\.json.*{place}"):
        opened(data)


@pytest.mark.parametrize(
    "text", ['{"images": [], "images": [], "annotations": [], "categories": []}', "[" * 100_000, "{", '"text"', "\x00"]
)
def test_files_that_are_no_such_json(opened, text):
    with pytest.raises(DatasetError, match=r"coco\.json"):
        opened(text)


def test_classes_of_a_mapping():
    assert read_classes({1: "ball", "2": "sand"}) == {1: ("ball", None), 2: ("sand", None)}
    for number in (1.5, True, "one", None):
        with pytest.raises(DatasetError, match=r"classes.*whole number"):
            read_classes({number: "ball"})
    with pytest.raises(DatasetError, match="each id once, got 1"):
        read_classes({1: "ball", "1": "sand"})
