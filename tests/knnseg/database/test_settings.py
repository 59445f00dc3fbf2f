"""Numbers that are kept with an embedding space: the newest counts, for whoever opens it, where nobody states another."""

import dataclasses

import pytest

from knnseg import ConceptDatabase, Config, Segmenter
from knnseg.database.settings import Settings, keep_settings, settings_of, with_settings

FEW = {"retrieval": {"k": 3, "temperature": 0.2}, "fusion": {"threshold": 0.4}}
MANY = {"retrieval": {"k": 33}}


def test_the_newest_counts_and_older_ones_stay_listed(database, scene):
    database.add(scene(0))
    assert settings_of(database.store) == ()
    first = keep_settings(database.store, Settings("none", FEW, {"keys": {"context": 0.5}}, {"iou": 0.7}))
    second = keep_settings(database.store, Settings("none", MANY))
    assert settings_of(database.store) == (first, second)
    assert (first.version, second.version) == (1, 2) and 0 < first.time <= second.time
    assert (first.numbers, first.keys, first.measured) == (FEW, {"keys": {"context": 0.5}}, {"iou": 0.7})
    assert not database.history() and database.concepts(), "names stay what they were"
    config = dataclasses.replace(Config.preset("photo"))
    assert with_settings(config, database.store).retrieval.k == 33
    assert with_settings(config, database.store).retrieval.temperature == config.retrieval.temperature


def test_each_space_and_each_base_has_its_own(store_url, colour_features, scene):
    fine, coarse = colour_features(cell=4), colour_features(cell=16)
    with ConceptDatabase.open(store_url, fine) as one, ConceptDatabase.open(store_url, coarse) as other:
        one.add(scene(0))
        before = one.revision()
        keep_settings(one.store, Settings("conse", MANY))
        assert one.revision() != before, "what is cached hangs on it"
        keep_settings(one.store, Settings("none", FEW), space=other.store.url.path.rpartition("/")[2])
        photo, words = Config.preset("photo"), Config.preset("photo-words")
        assert with_settings(words, one.store).retrieval.k == 33
        assert with_settings(photo, one.store) == photo and with_settings(words, other.store) == words
        assert with_settings(photo, other.store).retrieval.k == 3


def test_what_a_person_states_comes_before_what_is_kept(database, tmp_path):
    keep_settings(database.store, Settings("none", FEW))
    mine = tmp_path / "mine.toml"
    mine.write_text('preset = "photo"\n[retrieval]\nk = 10  # that of the preset, and stated all the same\n')
    found = with_settings(Config.from_toml(mine), database.store)
    assert (found.retrieval.k, found.retrieval.temperature, found.fusion.threshold) == (10, 0.2, 0.4)
    changed = Config.preset("photo")
    changed = dataclasses.replace(changed, retrieval=dataclasses.replace(changed.retrieval, k=7))
    assert with_settings(changed, database.store).retrieval.k == 7
    whole = Config(changed.features, changed.masks)
    assert with_settings(whole, database.store) == whole, "what is made in Python is stated"


@pytest.mark.parametrize("kind", ["memory", "faiss"])
def test_a_segmenter_uses_them_unless_it_is_told_not_to(kind, tmp_path, scene):
    url = f"{kind}://{tmp_path}/tiny"
    with Segmenter.from_config("tiny", url) as segmenter:
        segmenter.database.add(scene(0))
        assert segmenter.config == Config.preset("tiny")
        keep_settings(segmenter.database.store, Settings(segmenter.config.base.name, MANY))
        with Segmenter.from_config("tiny", url) as later:
            assert later.config.retrieval.k == 33 != segmenter.config.retrieval.k
            assert len(later.predict(scene(1).image).evidence.neighbours.ids[0]) == 33
        with Segmenter.from_config("tiny", url, settings=False) as plain:
            assert plain.config == Config.preset("tiny")
