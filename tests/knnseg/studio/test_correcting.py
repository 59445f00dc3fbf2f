"""What is changed from the page, and taking it back."""

import numpy as np
import pytest

from knnseg import ConceptDatabase
from knnseg.studio.review import review


@pytest.fixture
def taught(api, runs, kettle):
    """A kettle that was taught as a lamp, in a photograph that is segmented."""
    image = api.get("images")[0]["id"]
    api.post("teach", {"image": image, "mask": {"runs": runs(kettle(0))}, "name": "lamp", "thing": True})
    return image


def counts(api):
    return {concept["name"]: concept["count"] for concept in api.get("state")["concepts"]}


def only(api, concept):
    (example,) = api.get("examples", params={"concept": concept})
    return example


def test_a_segment_is_corrected_in_one_click(api, taught, kettle, segment_at):
    """What was taught of nearly the same as something else is moved, so that it does not go on to contradict."""
    seen = api.get(f"images/{taught}/segmentation")
    number = segment_at(seen, kettle(0))["id"]
    done = api.post("teach", {"image": taught, "mask": {"segment": number, "seen": seen["seen"]}, "name": "kettle"})
    assert (done["moved"], done["added"]) == (1, 1) and counts(api) == {"kettle": 2}
    labels = {s["label"] for s in api.get(f"images/{taught}/segmentation")["segments"]}
    assert "kettle" in labels and "lamp" not in labels
    assert api.post("undo", {}) == {"undone": "kettle taught"}
    assert counts(api) == {"lamp": 1}


def test_steps_are_taken_back_one_by_one(api, taught, runs, kettle):
    first = only(api, "lamp")
    assert (first["writer"], first["image"]) == ("ada", "0.png")
    api.post("examples/relabel", {"ids": [first["id"]], "name": "pot"})
    assert counts(api) == {"pot": 1} and only(api, "pot")["id"] == first["id"]
    api.post("concepts/rename", {"name": "pot", "to": "kettle"})
    api.post("concepts/kind", {"name": "kettle", "thing": False})
    api.post("examples/delete", {"ids": [first["id"]]})
    assert counts(api) == {}
    for text, there in [
        ("example removed", {"kettle": 1}), ("kettle made stuff", {"kettle": 1}), ("pot renamed to kettle", {"pot": 1}),
        ("example moved to pot", {"lamp": 1}), ("lamp taught", {}),
    ]:  # fmt: skip
        assert api.get("state")["undo"] == text and api.post("undo", {}) == {"undone": text} and counts(api) == there
    assert "nothing was changed" in api.post("undo", {}, 400)["error"]
    again = api.post("teach", {"image": taught, "mask": {"runs": runs(kettle(0))}, "name": "lamp"})
    assert again["added"] == 1 and counts(api) == {"lamp": 1}


def test_a_concept_is_removed_and_comes_back(api, taught):
    api.post("concepts/remove", {"name": "lamp"})
    assert counts(api) == {} and api.get("concepts") == []
    api.post("undo", {})
    (concept,) = api.get("concepts")
    assert (concept["name"], concept["count"], len(concept["examples"])) == ("lamp", 1, 1)


def test_twins_and_odd_examples_are_found(scene, colour_features, tmp_path):
    """Grass under two names, and a patch of sand that was taken for sky."""
    with ConceptDatabase.open(f"memory://{tmp_path}", colour_features()) as database:
        for seed in range(12):
            example = scene(seed, ("sky", "grass", "sand"))
            masks = np.stack([example.segments == s.id for s in example.info])
            names = [s.label for s in example.info]
            names = ["lawn" if name == "grass" and seed % 2 else name for name in names]
            names = ["sky" if name == "sand" and seed == 5 else name for name in names]
            report = database.add_masks(example.image, masks, names, uri=f"scene:{seed}")
            if seed == 5:
                odd = report.ids[2]
        found = review(database)
    assert found.asked == 36
    assert [set(twins.names) for twins in found.twins] == [{"grass", "lawn"}] and "look alike" in found.twins[0].why
    assert [(one.id, one.label, one.rather) for one in found.odd] == [(odd, "sky", "sand")]


def test_names_that_are_spelt_alike_are_twins(scene, database):
    example = scene(1, ("sky", "sand"))
    masks = np.stack([example.segments == s.id for s in example.info])
    database.add_masks(example.image, masks, ["Cloudy sky", "cloudy sky"])
    (twins,) = review(database).twins
    assert set(twins.names) == {"Cloudy sky", "cloudy sky"} and "spelt alike" in twins.why


def test_nothing_is_odd_in_an_empty_database(api):
    assert api.get("review") == {"asked": 0, "twins": [], "odd": []}
