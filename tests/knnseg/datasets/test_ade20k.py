import numpy as np
import pytest

from knnseg.datasets import benchmarks, open_dataset

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
