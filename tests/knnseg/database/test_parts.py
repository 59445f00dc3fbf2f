"""Examples in parts: which they are, that they are found, and that they go where their whole goes."""

from dataclasses import replace

import numpy as np
import pytest

from knnseg import ConceptDatabase, Config, Masks, Segmenter
from knnseg.config import KeysConfig
from knnseg.data.features import Embeddings
from knnseg.data.image import Image
from knnseg.database.parts import with_parts
from knnseg.database.reembedding import reembed
from knnseg.database.schema import described
from knnseg.method.pooling import pool
from tests.knnseg.conftest import ColourFeatures, make_scene

SIZE = (60, 90)
TILES = 3  # of 30 × 30 pixels


def rows_of(database, *fields):
    """The rows of the store as dictionaries, by id."""
    found = {}
    for records in database.store.scan():
        for i, identity in enumerate(records.ids.tolist()):
            found[identity] = {name: records.fields[name][i] for name in fields or records.fields}
    return found


def masks_of_four():
    """Everything; two tiles and a bit of a third; a spot in one tile; and the same spot over the corner of four."""
    masks = np.zeros((4, *SIZE), bool)
    masks[0] = True
    masks[1, :30, :65] = True
    masks[2, 5:15, 5:15] = True
    masks[3, 25:35, 25:35] = True
    return masks


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), np.uint8)


def test_parts_are_what_a_mask_covers_of_each_tile():
    masks = Masks.from_dense(masks_of_four())
    names = ["all", "wide", "spot", "corner"]
    own = described(Image(picture()), masks, names, [False] * 4, {name: name for name in names})
    found = with_parts(own, TILES)
    assert found.ids[:4] == own.ids and found.wholes[:4] == [""] * 4
    assert found.wholes[4:] == [own.ids[0]] * 6 + [own.ids[1]] * 2
    assert found.labels[4:] == ["all"] * 6 + ["wide"] * 2
    assert len({*found.ids}) == 12 and len(found.masks) == len(found.rles) == len(found.things) == 12
    dense = found.masks.dense()
    for number, (y, x) in enumerate([(0, 0), (0, 30), (0, 60), (30, 0), (30, 30), (30, 60), (0, 0), (0, 30)], 4):
        tile = np.zeros(SIZE, bool)
        tile[y : y + 30, x : x + 30] = True
        assert np.array_equal(dense[number], tile)
        assert [column[number] for column in found.boxes] == [x, y, x + 30, y + 30, 900]
    again = with_parts(own, TILES)
    assert again.ids == found.ids and again.first_ids == found.first_ids == found.ids
    assert with_parts(own, 0) is own


@pytest.fixture
def database(request):
    with ConceptDatabase.open(f"memory:///{request.node.name}", ColourFeatures(), parts=TILES) as opened:
        yield opened


def test_parts_are_stored_found_and_not_counted(database):
    image, names = picture(), ["all", "wide", "spot", "corner"]
    report = database.add_masks(image, masks_of_four(), names)
    assert report.added == 4 and len(report.ids) == 4
    assert {c.label: c.count for c in database.concepts()} == dict.fromkeys(names, 1)
    assert sorted(database.examples().id) == sorted(report.ids)
    rows = rows_of(database)
    assert len(rows) == 12 and sum(row["whole"] == report.ids[0] for row in rows.values()) == 6
    part = next(identity for identity, row in rows.items() if row["whole"] == report.ids[1])
    assert database.examples(ids=[part]).concept.tolist() == ["wide"]
    mask = Masks.from_rle([rows[part]["rle"]], SIZE)
    key = pool(database.extractor.extract([Image(image)])[0], mask)
    best = database.neighbours(key, 3)
    assert best.scores[0, 0] == pytest.approx(1, abs=1e-6) and part in best.ids[0]
    assert set(database.neighbours(key, 9, parts=False).ids[0]) == {*report.ids, ""}
    again = database.add_masks(image, masks_of_four(), names)
    assert (again.added, again.present) == (0, 4) and len(rows_of(database)) == 12


def test_a_configuration_says_whether_there_are_parts():
    counts = []
    for tiles in (0, 3):
        config = replace(Config.preset("tiny"), keys=KeysConfig(parts=tiles))
        with Segmenter.from_config(config, f"memory:///parts-{tiles}") as segmenter:
            assert segmenter.database.add(make_scene(3, size=(60, 90))).added == 3
            counts.append(segmenter.database.store.count())
            assert [c.count for c in segmenter.database.concepts()] == [1, 1, 1]
            assert sum(c.keys for c in segmenter.database.concepts()) == counts[-1]
    assert counts[0] == 3 and counts[1] > 3


def test_regions_are_compared_with_parts_and_the_callers_masks_with_wholes(database, make_segmenter):
    scene = make_scene(3, size=(60, 90))
    wholes = {*database.add(make_scene(i, size=(60, 90)) for i in range(4)).ids, *database.examples().id}
    segmenter = make_segmenter(database)
    found = segmenter.predict(scene.image, ["sky", "grass", "ball"]).evidence.neighbours
    assert not wholes.issuperset(found.ids[found.found]) and not wholes.isdisjoint(found.ids[found.found])
    given = Masks.from_partition(scene.segments)
    for masks in (given, given.dense()):
        found = segmenter.predict(scene.image, ["sky", "grass", "ball"], masks=masks).evidence.neighbours
        assert wholes.issuperset(found.ids[found.found]) and found.found.any()


def test_a_part_goes_where_its_whole_goes(database):
    (whole,) = database.add_masks(picture(), masks_of_four()[1:2], ["wide"]).ids
    database.add_masks(picture(1), masks_of_four()[2:3], ["spot"])
    parts = [identity for identity, row in rows_of(database).items() if row["whole"] == whole]
    assert len(parts) == 2
    assert database.relabel([whole], "spot") == 1
    assert {row["label"] for row in rows_of(database).values()} == {"spot"}
    assert [(c.label, c.count) for c in database.concepts()] == [("spot", 2)]
    database.undo()
    assert {c.label: c.count for c in database.concepts()} == {"spot": 1, "wide": 1}
    assert database.delete_examples([parts[0]]) == 1  # one of its parts stands for it
    assert [c.label for c in database.concepts()] == ["spot"]
    found = database.neighbours(Embeddings(np.ones((1, 9), np.float32) / 3, np.ones(1, np.float32)), 5)
    assert set(found.labels[found.found]) == {"spot"}
    assert database.add_masks(picture(), masks_of_four()[1:2], ["wide"]).ids == (whole,)
    assert {c.label: c.count for c in database.concepts()} == {"spot": 1, "wide": 1}
    assert {row["label"] for row in rows_of(database).values() if row["whole"]} == {"wide"}
    assert database.remove("wide") == 1 and len(rows_of(database)) == 1


def test_parts_come_along_into_another_space(database, tmp_path):
    scene = make_scene(3, size=(90, 60))
    path = tmp_path / "scene.png"
    from PIL import Image as Picture

    Picture.fromarray(scene.image).save(path)
    database.add(replace(scene, uri=path.as_uri()))
    with ConceptDatabase.open("memory:///other-space", ColourFeatures(name="other")) as other:
        report, again = reembed(database.store, other), reembed(database.store, other)
        count = sum(concept.count for concept in database.concepts())
        assert (report.added, report.present) == (again.present, again.added) == (count, 0)
        assert database.store.count() > count
        theirs, ours = rows_of(other, "whole", "rle", "label"), rows_of(database, "whole", "rle", "label")
        assert theirs == ours and any(row["whole"] for row in ours.values())
        assert {c.label: c.count for c in other.concepts()} == {c.label: c.count for c in database.concepts()}
