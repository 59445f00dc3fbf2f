"""Single examples: looked at, moved, deleted, and what was done taken back."""

import json
import time
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pytest

from knnseg import ConceptDatabase, Image
from knnseg.data.masks import Masks
from knnseg.database.correcting import Corrections
from knnseg.database.examples import Example
from knnseg.database.originals import Originals
from knnseg.database.reembedding import reembed
from knnseg.errors import ConfigError, KnnSegWarning, VocabularyError
from knnseg.method.pooling import pool

MASK = np.ones((1, 16, 16), bool)


def picture(number):
    return np.full((16, 16, 3), (number * 37 % 251, number * 91 % 241, number * 53 % 239), np.uint8)


def add(database, number, label, writer=""):
    (identity,) = database.add_masks(picture(number), MASK, [label], things=[], uri=f"n:{number}", writer=writer).ids
    return identity


def counts(database):
    return {concept.label: concept.count for concept in database.concepts()}


def votes(database, number, k=9):
    pooled = pool(database.extractor.extract([Image(picture(number))])[0], Masks.from_dense(MASK))
    found = database.neighbours(pooled, k)
    return found.labels[found.found].tolist()


# -- looking -----------------------------------------------------------------------------------------------------------


def test_examples_are_found_by_what_they_are(database, tmp_path):
    ids = [add(database, n, label, writer) for n, (label, writer) in enumerate([("a", "ann"), ("b", "bob"), ("a", "")])]
    assert database.examples().id.tolist() == ids[::-1], "newest first"
    assert database.examples(concept="a").id.tolist() == [ids[2], ids[0]]
    assert database.examples(writer="bob").id.tolist() == [ids[1]]
    assert database.examples(writer="").id.tolist() == [ids[2]]
    assert database.examples(image="n:0").id.tolist() == [ids[0]]
    hashed = database.examples(image="n:0").image_hash[0]
    assert database.examples(image=hashed).id.tolist() == [ids[0]]
    assert database.examples(image=Image(picture(1))).id.tolist() == [ids[1]]
    assert database.examples(ids=[ids[0], "nothing", ids[1], ids[0]]).id.tolist() == [ids[1], ids[0]]
    assert database.examples(ids=ids, concept="b").id.tolist() == [ids[1]]
    assert database.examples(limit=2).id.tolist() == [ids[2], ids[1]]
    assert len(database.examples(ids=[])) == len(database.examples(limit=0)) == 0
    middle = float(database.examples(ids=[ids[1]]).added[0])
    assert database.examples(since=middle).id.tolist() == [ids[2], ids[1]]
    assert database.examples(since=datetime.fromtimestamp(middle) + timedelta(days=1)).id.tolist() == []
    with pytest.raises(VocabularyError, match="'c'"):
        database.examples(concept="c")
    with pytest.raises(ConfigError, match="limit"):
        database.examples(limit=-1)


def test_an_example_says_everything_in_plain_types(database):
    before = time.time()
    identity = add(database, 1, "a", "ann")
    (example,) = database.examples()
    assert example == Example(
        identity, "a", False, "n:1", Image(picture(1)).content_hash, (0, 0, 16, 16), 256, 4.0, "ann", example.added
    )
    assert before <= example.added <= time.time()
    json.dumps([getattr(example, name) for name in Example.__slots__])


def test_an_image_is_found_by_its_path(database, tmp_path, monkeypatch):
    import PIL.Image

    PIL.Image.fromarray(picture(1)).save(tmp_path / "one.png")
    (identity,) = database.add_masks(tmp_path / "one.png", MASK, ["a"], things=[]).ids
    monkeypatch.chdir(tmp_path)
    for image in (tmp_path / "one.png", "one.png", (tmp_path / "one.png").as_uri()):
        assert database.examples(image=image).id.tolist() == [identity]


# -- moving and deleting -----------------------------------------------------------------------------------------------


def test_an_example_goes_to_another_concept_and_stays_there(database):
    one, two = add(database, 1, "kettle"), add(database, 2, "kettle")
    assert database.relabel([one, "nothing"], "pot") == 1
    assert counts(database) == {"kettle": 1, "pot": 1} and votes(database, 1)[0] == "pot"
    assert database.examples(concept="pot").id.tolist() == [one]
    assert database.add_masks(picture(1), MASK, ["pot"], things=[]).present == 1
    assert database.add_masks(picture(1), MASK, ["kettle"], things=[]).present == 1
    assert counts(database) == {"kettle": 1, "pot": 1}
    assert database.relabel([one, two], "pot") == 1, "the other is there already"
    assert counts(database) == {"pot": 2}
    for wrong in ("", " "):
        with pytest.raises(VocabularyError, match="non-empty"):
            database.relabel([one], wrong)
    with pytest.raises(VocabularyError, match="list of ids"):
        database.relabel(one, "x")


def test_a_deleted_example_is_seen_by_nobody_and_not_added_by_its_data_set(database, scene):
    database.add(scene(1))
    ball = database.examples(concept="ball").id.tolist()
    assert database.delete_examples([*ball, "nothing"]) == 1
    assert "ball" not in counts(database)
    assert len(database.examples()) == 2 and len(database.examples(ids=ball)) == 0
    assert database.delete_examples(ball) == database.relabel(ball, "sky") == 0
    again = database.add([scene(1)])
    assert (again.added, again.present, again.deleted) == (0, 2, 1) and "ball" not in counts(database)
    mask = (scene(1).segments == 3)[None]
    assert database.add_masks(scene(1).image, mask, ["ball"], things=["ball"]).ids == tuple(ball)
    assert counts(database)["ball"] == 1 and database.add([scene(1)]).present == 3
    assert database.delete_examples(ball) == 1 and database.purge() == 1
    assert database.store.count() == 2 and database.add([scene(1)]).deleted == 1
    assert database.add_masks(scene(1).image, mask, ["ball"], things=["ball"]).added == 1
    assert counts(database)["ball"] == 1


def test_a_deleted_example_does_not_vote(database):
    one = add(database, 1, "kettle")
    add(database, 2, "pot")
    database.delete_examples([one])
    assert votes(database, 1) == ["pot"] and votes(database, 1, k=1) == ["pot"]


def test_every_space_is_corrected(store_url, colour_features):
    with (
        ConceptDatabase.open(store_url, colour_features()) as one,
        ConceptDatabase.open(store_url, colour_features(name="other")) as other,
    ):
        ids = [(add(one, n, "kettle"), add(other, n, "kettle"))[0] for n in range(3)]
        one.relabel(ids[:1], "pot")
        other.delete_examples(ids[1:2])
        assert counts(one) == counts(other) == {"kettle": 1, "pot": 1}
        assert one.purge() == 1 and one.store.count() == other.store.count() == 2


def test_what_the_concept_has_already_is_not_there_twice(database):
    one, two = add(database, 1, "kettle"), add(database, 1, "pot")
    add(database, 2, "kettle")
    assert database.relabel([one], "pot") == 0
    assert counts(database) == {"kettle": 1, "pot": 1}
    assert database.examples(concept="pot").id.tolist() == [two]
    database.undo()
    assert counts(database) == {"kettle": 2, "pot": 1}
    assert database.relabel([one, two], "vessel") == 1, "nor do both go there"
    assert counts(database) == {"kettle": 1, "vessel": 1}


def test_many_examples_need_several_changes_and_are_one_correction(database, monkeypatch):
    monkeypatch.setattr("knnseg.database.correcting._ROOM", 100)
    ids = [add(database, n, "kettle") for n in range(7)]
    assert database.relabel(ids, "pot") == 7
    (made,) = (one for one in database.history() if one.examples)
    assert made.examples == 7 and made.what == "examples moved to 'pot'"
    assert database.undo().number == made.number
    assert counts(database) == {"kettle": 7}


def test_what_a_killed_correction_left_is_finished_by_who_comes_next(store_url, extractor, monkeypatch):
    with ConceptDatabase.open(store_url, extractor) as database:
        ids = [add(database, n, "kettle") for n in range(3)]
        with monkeypatch.context() as killed:
            killed.setattr(Corrections, "tidy_up", lambda self: 0)
            database.relabel(ids[:1], "pot")
            database.delete_examples(ids[1:2])
            assert counts(database) == {"kettle": 1, "pot": 1}, "what is decided holds before it is written"
            assert {e.id: e.concept for e in database.examples()} == {ids[0]: "pot", ids[2]: "kettle"}
            assert sorted(votes(database, 0)) == ["kettle", "pot"]
    with ConceptDatabase.open(store_url, extractor) as database:
        add(database, 4, "kettle"), database.add([])
        assert counts(database) == {"kettle": 2, "pot": 1}


# -- undoing -----------------------------------------------------------------------------------------------------------


def test_undo_takes_the_last_corrections_back(database):
    ids = [add(database, n, label) for n, label in enumerate(["kettle", "kettle", "ball", "sky"])]
    before = counts(database)
    database.rename("kettle", "pot")
    database.merge(["pot", "ball"], "all")
    database.relabel(ids[:1], "sky")
    database.delete_examples(ids[1:2])
    database.set_kind("all", thing=True)
    assert counts(database) == {"all": 1, "sky": 2}
    said = [database.undo().what for _ in range(5)]
    assert said == [
        "'all' made a thing",
        "examples deleted",
        "examples moved to 'sky'",
        "'ball', 'pot' renamed to 'all'",
        "'kettle' renamed to 'pot'",
    ]
    assert counts(database) == before and not any(concept.thing for concept in database.concepts())
    with pytest.raises(VocabularyError, match="made through this database"):
        database.undo()
    assert len(database.history()) == 10 and len(database.history(3)) == 3


def test_the_last_correction_is_known_by_its_number(database):
    identity = add(database, 1, "cat")
    assert database.last_correction == 0
    database.relabel([identity], "dog")
    first = database.last_correction
    database.rename("dog", "hound")
    assert database.history(1)[0].number == database.last_correction > first > 0
    database.undo()
    assert database.last_correction == first


def test_an_undo_can_be_undone(database):
    one = add(database, 1, "kettle")
    database.delete_examples([one])
    database.undo()
    assert counts(database) == {"kettle": 1}
    database.undo(database.history(1)[0].number)
    assert counts(database) == {} and [bool(c.undone) for c in database.history()] == [False, True, True]


def test_what_others_have_done_since_is_not_undone(store_url, extractor):
    with ConceptDatabase.open(store_url, extractor) as one, ConceptDatabase.open(store_url, extractor) as other:
        ids = [add(one, n, "kettle") for n in range(3)]
        one.relabel(ids[:2], "pot")
        (number,) = (c.number for c in one.history() if c.examples)
        other.relabel(ids[1:2], "sky")
        with pytest.raises(VocabularyError, match="later correction"):
            one.undo()
        assert counts(one) == {"kettle": 1, "pot": 1, "sky": 1}
        other.undo()
        add(other, 3, "pot")
        assert one.undo().number == number and counts(other) == {"kettle": 3, "pot": 1}
        one.rename("kettle", "jug")
        other.rename("jug", "can")
        with pytest.raises(VocabularyError, match="later correction"):
            one.undo()
        with pytest.raises(VocabularyError, match="already"):
            one.undo(number)
        with pytest.raises(VocabularyError, match="expected the number"):
            one.undo(999)


def test_what_cannot_be_undone_says_why(database):
    one, _ = add(database, 1, "kettle"), add(database, 2, "ball")
    database.delete_examples([one])
    database.purge()
    with pytest.raises(VocabularyError, match="purged"):
        database.undo()
    database.remove("ball")
    with pytest.raises(VocabularyError, match=r"'ball' removed.*for good"):
        database.undo()


def test_a_merge_that_is_undone_brings_back_what_both_had(database):
    masks = [add(database, 1, label) for label in ("kettle", "pot")]
    add(database, 2, "pot")
    assert database.merge(["kettle", "pot"], "pot") == 0 and counts(database) == {"pot": 2}
    database.undo()
    assert counts(database) == {"kettle": 1, "pot": 2}
    assert {e.id: e.concept for e in database.examples(ids=masks)} == dict(zip(masks, ("kettle", "pot"), strict=True))


# -- names from before -------------------------------------------------------------------------------------------------


def aliases(database):
    return {concept.label: concept.aliases for concept in database.concepts()}


def test_a_name_from_before_means_the_concept_that_had_it(database, scene):
    database.add([scene(1), scene(2)])
    database.rename("ball", "football")
    database.rename("football", "soccer ball")
    database.merge(["grass", "sky"], "all the rest")
    assert aliases(database) == {"all the rest": ("grass", "sky"), "soccer ball": ("ball", "football")}
    with pytest.warns(KnnSegWarning) as said:
        again = database.add([scene(1), scene(2)])
    assert "'ball' is called 'soccer ball' now, and taken as that" in [str(one.message) for one in said]
    assert (again.added, again.present) == (0, 6)
    with pytest.warns(KnnSegWarning, match="'football' is called"):
        assert len(database.examples(concept="football")) == 2
    with pytest.warns(KnnSegWarning, match="'grass' is called"):
        assert database.set_kind("grass", thing=True) == 4
    with pytest.warns(KnnSegWarning, match="'sky' is called"):
        assert database.relabel(database.examples(concept="soccer ball").id.tolist(), "sky") == 2
    assert counts(database) == {"all the rest": 6}


def test_a_name_from_before_can_be_given_anew(database):
    add(database, 1, "kettle"), add(database, 2, "ball")
    database.rename("kettle", "teapot")
    database.rename("ball", "kettle")
    assert aliases(database) == {"kettle": ("ball",), "teapot": ()}
    database.rename("teapot", "ball")
    assert aliases(database) == {"ball": ("teapot",), "kettle": ()}
    database.remove("ball")
    assert add(database, 1, "teapot") and counts(database) == {"kettle": 1, "teapot": 1}


def test_an_undone_name_is_not_one_from_before(database):
    add(database, 1, "kettle")
    database.rename("kettle", "teapot")
    database.undo()
    assert aliases(database) == {"kettle": ()}
    add(database, 2, "teapot")
    assert counts(database) == {"kettle": 1, "teapot": 1}


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_a_few_deleted_examples_put_no_filter_before_a_search(database, monkeypatch):
    ids = [add(database, n, "kettle") for n in range(9)]
    asked, search = [], database.store._search
    monkeypatch.setattr(database.store, "_search", lambda q, k, w, f: asked.append((k, w)) or search(q, k, w, f))
    database.delete_examples(ids[:4])
    assert votes(database, 0, k=5) == ["kettle"] * 5 and asked == [(9, None)]
    monkeypatch.setattr("knnseg.database.searching._SPARE", 3)
    assert votes(database, 0, k=5) == ["kettle"] * 5 and asked[1][0] == 5 and asked[1][1] is not None


def test_what_is_deleted_between_the_look_and_the_search_is_not_missed(database, monkeypatch):
    ids = [add(database, n, "kettle") for n in range(6)]
    other, seen = ConceptDatabase(database.store, database.extractor), database._looking.now()
    other.delete_examples(ids[:3])
    look = iter([replace(seen, names=other._looking.now().names)])
    now = database._looking.now
    monkeypatch.setattr(database._looking, "now", lambda: next(look, None) or now())
    assert votes(database, 0, k=3) == ["kettle"] * 3


def test_bringing_examples_to_another_space_goes_by_what_was_corrected_meanwhile(store_url, colour_features):
    class Corrected(Originals):
        def find(self, image):
            one.relabel(ids[:1], "pot"), one.delete_examples(ids[1:2])
            return Image(picture(int(image.uris[0][2:])))

    with (
        ConceptDatabase.open(store_url, colour_features()) as one,
        ConceptDatabase.open(store_url, colour_features(name="other")) as other,
    ):
        ids = [add(one, n, "kettle") for n in range(3)]
        reembed(one.store, other, Corrected())
        assert counts(one) == counts(other) == {"kettle": 1, "pot": 1}


def test_the_ids_of_people_are_beginnings(database):
    ids = [add(database, n, "kettle") for n in range(3)]
    assert database.ids([ids[0], ids[1][:12]]) == ids[:2]
    for text in ("", "xyz"):
        with pytest.raises(VocabularyError, match="beginning of one"):
            database.ids([text])
    database.delete_examples(ids[:1])
    with pytest.raises(VocabularyError, match="got none"):
        database.ids([ids[0][:12]])
