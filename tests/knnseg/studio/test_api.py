"""What the page asks for, from looking at a photograph to teaching on it."""

import io

import numpy as np
import pytest
from PIL import Image


def first(api):
    return api.get("images")[0]["id"]


def test_photographs_are_listed_and_shown(api):
    listed = api.get("images")
    assert [one["name"] for one in listed] == ["0.png", "1.png", "2.png"]
    assert all(one["kept"] for one in listed)
    for what in ("thumbnail", "picture"):
        with Image.open(io.BytesIO(api.get(f"images/{listed[0]['id']}/{what}"))) as picture:
            assert picture.size == (192, 144)


def test_proposals_cover_the_photograph_in_layers(api, tiny):
    found = api.get(f"images/{first(api)}/proposals")
    assert found["size"] == [144, 192] and len(found["layers"]) == 5  # three scales and two numbers of superpixels
    for layer in found["layers"]:
        assert sum(layer[1::2]) == 144 * 192 and 0 not in layer[::2]


def test_a_box_becomes_an_outline(api, kettle):
    truth = kettle(0)
    y, x = np.nonzero(truth)
    box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
    found = api.post(f"images/{first(api)}/outline", {"box": box})
    values, counts = np.array(found["runs"]).reshape(-1, 2).T
    mask = np.repeat(values, counts).reshape(found["size"]) > 0
    assert (mask & truth).sum() / (mask | truth).sum() > 0.6
    assert "expected a box inside" in api.post(f"images/{first(api)}/outline", {"box": [-9, -9, -1, -1]}, 400)["error"]


def test_teaching_changes_the_picture_and_says_why(api, runs, kettle, segment_at):
    image, truth = first(api), kettle(0)
    before = api.get(f"images/{image}/segmentation")
    assert segment_at(before, truth)["label"] != "kettle"
    done = api.post("teach", {"image": image, "mask": {"runs": runs(truth)}, "name": " kettle ", "thing": True})
    assert done == {"added": 1, "moved": 0, "name": "kettle"}
    after = api.get(f"images/{image}/segmentation")
    assert segment_at(after, truth)["label"] == "kettle" and after["seen"] != before["seen"]
    concept = api.get("state")["concepts"][0]
    assert (concept["name"], concept["count"], concept["thing"]) == ("kettle", 1, True)

    segment = segment_at(after, truth)
    why = api.get(f"images/{image}/segments/{segment['id']}", params={"seen": after["seen"]})
    (voter,) = why["voters"]
    assert (voter["label"], voter["writer"], voter["image"]) == ("kettle", "ada", "0.png")
    assert voter["similarity"] > 0.5 and voter["weight"] > 0.99 and voter["added"] > 1.7e9
    row = next(row for row in why["rows"] if row["name"] == "kettle")
    assert row["retrieved"] > 0.99 and 0 < row["base"] <= 1 and 0 < row["final"] <= 1
    with Image.open(io.BytesIO(api.get(f"examples/{voter['id']}/picture"))) as picture:
        assert 0 < max(picture.size) <= 144


def test_a_segment_of_an_older_picture_is_not_explained(api, runs, kettle):
    image = first(api)
    before = api.get(f"images/{image}/segmentation")
    api.post("teach", {"image": image, "mask": {"runs": runs(kettle(0))}, "name": "kettle"})
    api.get(f"images/{image}/segmentation")
    said = api.get(f"images/{image}/segments/1", 400, params={"seen": before["seen"]})
    assert "segmented again" in said["error"]


def test_without_a_class_there_is_nothing_to_segment(make_api, make_studio):
    api = make_api(make_studio(classes=[]))
    assert api.get(f"images/{first(api)}/segmentation")["segments"] == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"mask": {"runs": [0, 144 * 192]}, "name": "kettle"}, "selection: expected some of the photograph"),
        ({"mask": {"runs": [1, 5]}, "name": "kettle"}, "expected runs of 144×192 pixels, got 5"),
        ({"mask": {"runs": [1, 144 * 192]}, "name": "  "}, "name: expected what the selection shows"),
        ({"mask": {"runs": [1, 144 * 192]}, "name": "unknown"}, "expected another than 'unknown'"),
        ({"mask": {"runs": ["1"]}, "name": "kettle"}, "mask.runs.0"),
        ({"mask": {"segment": 1, "seen": "no"}, "name": "kettle"}, "segmented again"),
        ({"mask": {}, "name": "kettle", "colour": 1}, "colour"),
    ],
)
def test_what_cannot_be_taught_is_said(api, body, said):
    assert said in api.post("teach", {"image": first(api), **body}, 400)["error"]
    assert not api.get("state")["concepts"]


def test_an_unknown_photograph_is_named(api):
    assert "expected the id of one that is listed" in api.get("images/0.png/picture", 400)["error"]
