"""The invariants of docs/how-it-works.md, bit for bit, on both in-process stores and with every fusion.

Once with whole examples and regions alone, and once with parts of examples and a grid of cells beside them, and with
votes that hang on the sizes of classes and examples.
"""

from dataclasses import replace

import numpy as np
import pytest

from knnseg import ConceptDatabase, Vocabulary
from knnseg.config import RetrievalConfig

CLASSES = Vocabulary(("sky", "grass", "sand", "ball", "kettle"), frozenset({"ball", "kettle"}))


def same(one, other):
    assert np.array_equal(one.scores.probabilities.view(np.uint32), other.scores.probabilities.view(np.uint32))
    assert np.array_equal(one.semantic, other.semantic)
    assert np.array_equal(one.panoptic, other.panoptic)


@pytest.fixture(params=[(0, 0), (4, 6)], ids=["wholes", "parts, cells and sizes"])
def fine(request):
    """Tiles of an example, and cells of an image."""
    return request.param


@pytest.fixture
def database(store_url, extractor, fine):
    with ConceptDatabase.open(store_url, extractor, parts=fine[0]) as database:
        yield database


@pytest.fixture
def make_segmenter(make_segmenter, fine):
    def make(*args, **fusion):
        made = make_segmenter(*args, **fusion)
        painting, retrieval = replace(made.config.painting, cells=fine[1]), RetrievalConfig()
        if fine[1]:
            retrieval = RetrievalConfig(class_balance=0.2, size_match=0.5)
        made.config = replace(made.config, painting=painting, retrieval=retrieval)
        return made

    return make


@pytest.fixture(params=["supported", "evidence", "late"])
def mode(request):
    return request.param


@pytest.fixture
def image(scene):
    return scene(100, ("sky", "sand", "ball", "kettle")).image


def test_an_empty_database_reproduces_the_base(database, make_segmenter, image, mode):
    same(make_segmenter(database, mode=mode).predict(image, CLASSES), make_segmenter(mode=mode).predict(image, CLASSES))


def test_a_threshold_above_every_confidence_reproduces_the_base(database, make_segmenter, image, scene, mode):
    database.add(scene(i) for i in range(4))
    alone = make_segmenter(mode=mode).predict(image, CLASSES)
    same(make_segmenter(database, mode=mode, threshold=1.5).predict(image, CLASSES), alone)
    moved = make_segmenter(database, mode=mode, threshold=-1).predict(image, CLASSES)
    assert not np.array_equal(moved.scores.probabilities, alone.scores.probabilities), "the threshold had nothing to do"


def test_adding_and_removing_a_concept_restores_every_prediction(database, make_segmenter, image, scene, mode):
    database.add(scene(i, ("sky", "grass", "ball")) for i in range(5))
    segmenter = make_segmenter(database, mode=mode)
    before = segmenter.predict(image, CLASSES)
    database.add(scene(i, ("sand", "kettle")) for i in range(20, 26))
    between = segmenter.predict(image, CLASSES)
    assert not np.array_equal(before.scores.probabilities, between.scores.probabilities), "adding had no effect"
    for label in ("sand", "kettle"):
        database.remove(label)
    same(segmenter.predict(image, CLASSES), before)


def test_the_order_of_insertion_does_not_matter(store_url, extractor, make_segmenter, image, scene, mode, fine):
    results = []
    for name, order in (("a", range(8)), ("b", reversed(range(8))), ("c", [3, 1, 4, 0, 5, 2, 7, 6])):
        with ConceptDatabase.open(f"{store_url}-{name}", extractor, parts=fine[0]) as database:
            for i in order:
                database.add(scene(i, ("sky", "sand", "ball")))
            results.append(make_segmenter(database, mode=mode).predict(image, CLASSES))
    same(results[0], results[1])
    same(results[0], results[2])


def test_concepts_outside_the_vocabulary_change_nothing(database, make_segmenter, image, scene, mode):
    database.add(scene(i) for i in range(5))
    segmenter = make_segmenter(database, mode=mode)
    before = segmenter.predict(image, CLASSES)
    database.add(scene(i, ("coal",)) for i in range(40, 60))
    same(segmenter.predict(image, CLASSES), before)


def test_supported_fusion_leaves_classes_without_examples_alone(database, make_segmenter, image, scene):
    database.add(scene(i, ("sky", "grass", "ball")) for i in range(4))
    base = make_segmenter().predict(image, CLASSES).scores.probabilities
    fused = make_segmenter(database, mode="supported").predict(image, CLASSES).scores.probabilities
    without = [CLASSES.names.index(name) for name in ("sand", "kettle")]
    assert np.array_equal(fused[:, without], base[:, without])
    assert np.allclose(fused.sum(axis=1), 1, atol=1e-6)


def test_both_stores_give_the_same_bits(tmp_path, extractor, make_segmenter, image, scene, fine):
    results = []
    for url in (f"memory://{tmp_path}/m", f"faiss://{tmp_path}/f"):
        with ConceptDatabase.open(url, extractor, parts=fine[0]) as database:
            database.add(scene(i, ("sky", "sand", "ball")) for i in range(6))
            assert bool(fine[0]) == (database.store.count() > sum(c.count for c in database.concepts()))
            results.append(make_segmenter(database).predict(image, CLASSES))
    same(*results)
