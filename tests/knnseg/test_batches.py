"""Several images at a time: the same results as one by one, one search, bounded memory, and errors of one image."""

import threading
import warnings

import numpy as np
import pytest
from PIL import Image as Files

from knnseg import ConceptDatabase, Config, Image, Segmenter
from knnseg.errors import ConfigError, ImageError, KnnSegWarning
from knnseg.later import Later, ahead, batched, each
from knnseg.models.regions import RegionProposer

NAMES = ["sky", "grass", "sand", "ball", "kettle"]


def same(one, other):
    assert np.array_equal(one.scores.probabilities, other.scores.probabilities)
    assert np.array_equal(one.panoptic, other.panoptic) and np.array_equal(one.semantic, other.semantic)
    assert one.evidence.neighbours.ids.tolist() == other.evidence.neighbours.ids.tolist()
    assert np.array_equal(one.evidence.neighbours.scores, other.evidence.neighbours.scores)


@pytest.fixture
def pictures(scene):
    """Of two sizes in turn."""
    return [scene(20 + i, size=(48, 64) if i % 2 else (40, 56)).image for i in range(11)]


def test_a_batch_is_its_images_one_by_one(database, scene, make_segmenter, pictures):
    database.add([scene(i) for i in range(6)])
    segmenter = make_segmenter(database)
    alone = [segmenter.predict(picture, NAMES) for picture in pictures]
    for together in (segmenter.predict(pictures, NAMES), list(segmenter.stream(iter(pictures), NAMES, batch=4))):
        assert len(together) == len(alone)
        for one, other in zip(alone, together, strict=True):
            same(one, other)
    everything = np.ones((1, 48, 64), bool)
    masked = segmenter.predict([pictures[1], pictures[3]], NAMES, masks=[everything, everything])
    same(segmenter.predict(pictures[3], NAMES, masks=everything), masked[1])
    assert segmenter.predict([], NAMES) == [] == list(segmenter.stream([], NAMES))


def test_a_batch_is_one_search(database, scene, make_segmenter, pictures, monkeypatch):
    database.add([scene(i) for i in range(6)])
    segmenter, calls = make_segmenter(database), []
    search = database.store.search
    monkeypatch.setattr(
        type(database.store), "search", lambda self, *a, **k: calls.append(len(a[0])) or search(*a, **k), raising=False
    )
    results = segmenter.predict(pictures[:8], NAMES)
    assert calls == [sum(len(result.masks) for result in results)]


def test_an_example_gets_the_same_vector_in_any_batch(extractor, scene, tmp_path):
    examples, stored = [scene(i) for i in range(7)], []
    for batch in (1, 3, 16):
        with ConceptDatabase.open(f"memory://{tmp_path}/{batch}", extractor) as database:
            database.add(examples, batch=batch)
            (records,) = database.store.scan(with_vectors=True)
            order = np.argsort(records.ids)
            stored.append((records.ids[order].tolist(), records.vectors[order]))
    assert stored[0][0] == stored[1][0] == stored[2][0]
    assert np.array_equal(stored[0][1], stored[1][1]) and np.array_equal(stored[0][1], stored[2][1])


def test_a_stream_asks_for_little_more_than_it_works_on(make_segmenter, pictures):
    asked = []

    def endless():
        while True:
            asked.append(1)
            yield pictures[0]

    stream = make_segmenter().stream(endless(), NAMES, batch=2)
    for _ in range(5):
        next(stream)
    stream.close()
    assert len(asked) <= 8  # the batch, the one that is read ahead, and the one that is asked for


def test_a_bad_file_in_a_stream(make_segmenter, pictures, tmp_path):
    paths = []
    for i, picture in enumerate(pictures[:5]):
        paths.append(tmp_path / f"{i}.png")
        Files.fromarray(picture).save(paths[-1])
    paths[2].write_bytes(b"no image")
    segmenter, failed = make_segmenter(), []
    results = list(segmenter.stream(paths, NAMES, batch=2, failed=failed))
    assert [result.source for result in results] == [str(path) for path in paths if path != paths[2]]
    assert len(failed) == 1 and "2.png" in failed[0]
    with pytest.raises(ImageError, match=r"2\.png"):
        list(segmenter.stream(paths, NAMES))
    with pytest.raises(ConfigError, match="at least 1 image"):
        segmenter.stream(paths, NAMES, batch=0)


def test_a_stage_that_refuses_one_image_costs_only_that_one(make_segmenter, pictures):
    segmenter, failed = make_segmenter(), []
    propose = segmenter.proposer.propose

    class Refusing:
        def propose(self, images):
            if any(np.array_equal(image.pixels, pictures[3]) for image in images):
                raise ImageError("sides of a more usual ratio")
            return propose(images)

    segmenter.proposer = Refusing()
    results = list(segmenter.stream(pictures[:6], NAMES, failed=failed))
    assert len(results) == 5 and failed == ["image 4: sides of a more usual ratio"]


def test_what_is_raised_while_reading_ahead_arrives(database, scene):
    def broken():
        yield scene(1)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        database.add(broken(), batch=1)
    assert database.store.count()  # of the batch before


def test_threads_share_one_model_and_one_store(extractor, tmp_path, scene):
    """Sixteen threads ask a segmenter that has opened nothing yet."""
    made, start, results = [], threading.Barrier(16), []
    url = f"faiss://{tmp_path}/db"
    with ConceptDatabase.open(url, extractor) as database:
        database.add([scene(i) for i in range(4)])

    def model():
        made.append("model")
        return extractor

    def store():
        made.append("store")
        return ConceptDatabase.open(url, later.get())

    later = Later(model)
    segmenter = Segmenter(
        later, RegionProposer(scales=(60,), superpixels=()), None, Later(store), config=Config.preset("tiny")
    )

    def ask():
        start.wait()
        results.append(segmenter.predict(scene(9).image, ["sky", "grass", "ball"]))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == ["model", "store"] and len(results) == 16
    for result in results:
        same(results[0], result)
    segmenter.close()


def test_making_it_later_is_tried_again_after_a_failure():
    tries = []

    def make():
        tries.append(1)
        if len(tries) == 1:
            raise OSError("away")
        return "there"

    later = Later(make)
    assert later.made is None
    with pytest.raises(OSError, match="away"):
        later.get()
    assert later.get() == later.get() == later.made == "there" and len(tries) == 2


def test_reading_in_threads_leaves_the_warnings_of_others_alone(tmp_path):
    """Pillow is silenced while files are read, in any number of threads; nothing else is, then or later."""
    before = list(warnings.filters)
    path = tmp_path / "a.png"
    Files.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    for image in ahead(each(Image.read, [path] * 4) for _ in range(50)):
        with pytest.warns(KnnSegWarning):
            warnings.warn("heard", KnnSegWarning, stacklevel=1)
        assert len(image) == 4
    assert [entry for entry in warnings.filters if entry not in before] == []


def test_an_image_is_immutable_and_known_once():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image(pixels, "photo.png")
    with pytest.raises(ValueError, match="read-only"):
        image.pixels[0, 0] = 0
    assert image.size == (5, 7) and Image.read(image) is image and repr(image) == "<Image 5×7 photo.png>"
    for i in range(20):
        image.keep(f"key {i}", i)
    assert image.result("key 19") == 19 and image.result("key 0") is None


def test_items_in_order():
    assert [*batched(range(7), 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [*ahead(range(5), 3)] == [0, 1, 2, 3, 4] and each(lambda n: n * n, range(5)) == [0, 1, 4, 9, 16]
    with pytest.raises(ZeroDivisionError):
        each(lambda n: 1 // n, [2, 1, 0])
