"""A store may see what others write a moment late. A database asks for its revision, and is up to date from then on."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

import knnstore
from knnseg import ConceptDatabase, Image
from knnseg.data.features import Embeddings
from knnseg.database import changes
from knnseg.database.originals import Originals
from knnseg.database.reembedding import reembed
from knnstore import OpenRequest
from knnstore.memory import MemoryBackend, MemoryStore, _Collection
from knnstore.types import Batch

places = itertools.count()


class Late(MemoryStore):
    """Reads what was there when it was opened, wrote, or was last asked for its revision."""

    def __init__(self, request, collection):
        super().__init__(request, collection)
        self._catch_up()

    @property
    def capabilities(self):
        return replace(super().capabilities, conditional=False, consistency=("session",))

    def _catch_up(self):
        then, now = _Collection(self.spec), self._data.view()
        then.write(Batch(now.ids.tolist(), now.vectors, now.fields), list(range(len(now.ids))))
        self._then = MemoryStore(OpenRequest(self.url, self.spec), then)

    def _upsert(self, batch, on_conflict):
        stored = set(self._then._data.rows) if on_conflict == "skip" else set()
        with self._data.lock:
            fresh = [i for i, value in enumerate(batch.ids) if value not in stored]
            self._data.write(batch, fresh)
        self._catch_up()
        return len(fresh)

    def _delete_ids(self, ids):
        there = [value for value in ids if value in self._then._data.rows]
        super()._delete_ids(there)
        self._catch_up()
        return len(there)

    def _delete_where(self, where):
        return self._delete_ids([value for part in self._scan(where, [], False, 100) for value in part.ids.tolist()])

    def _search(self, *arguments):
        return self._then._search(*arguments)

    def _get(self, *arguments):
        return self._then._get(*arguments)

    def _count(self, where):
        return self._then._count(where)

    def _scan(self, *arguments):
        return self._then._scan(*arguments)

    def _revision(self):
        self._catch_up()
        return super()._revision()


class LateBackend(MemoryBackend):
    name, store_type = "late", Late


class Plugin:
    backend = LateBackend()

    @knnstore.hookimpl
    def knnstore_register(self, register):
        register(self.backend)


@pytest.fixture(scope="module", autouse=True)
def late():
    knnstore.register(Plugin())


@pytest.fixture
def opened(extractor, monkeypatch):
    """Two who have the same database open for long."""
    monkeypatch.setattr(changes, "_SETTLING", 0)
    url = f"late:///{next(places)}"
    with ConceptDatabase.open(url, extractor) as one, ConceptDatabase.open(url, extractor) as other:
        assert one.concepts() == other.concepts() == ()
        add(one, 0, "stone")
        one.rename("stone", "lava")
        yield one, other


def picture(number):
    return np.full((16, 16, 3), number, np.uint8)


def add(database, number, label="kettle"):
    return database.add_masks(picture(number), np.ones((1, 16, 16), bool), [label], things=[])


def counts(database):
    return {concept.label: concept.count for concept in database.concepts()}


def test_what_another_has_added_is_there(opened):
    one, other = opened
    for number in range(1, 4):
        assert add(one, number).added == 1
        assert add(other, number).present == 1
        assert counts(other) == {"kettle": number, "lava": 1}


def test_an_example_is_known_under_another_name(opened):
    """By its content, since the two keys of the concept give it two ids."""
    one, other = opened
    add(one, 1, "kettle"), add(one, 2, "pot")
    one.merge(["kettle", "pot"], "teapot")
    add(other, 1, "teapot")
    assert counts(one) == counts(other) == {"teapot": 2, "lava": 1}


def test_names_are_those_that_another_has_given(opened):
    one, other = opened
    add(one, 1)
    assert other.name("kettle") == "kettle"
    for old, new in (("kettle", "teapot"), ("teapot", "pot")):
        one.rename(old, new)
        assert other.name("kettle") == new
        assert other.named(["kettle"]).tolist() == [new]
        assert counts(other) == {new: 1, "lava": 1}


def test_a_search_finds_what_another_has_added_by_the_name_that_another_has_given(opened, extractor):
    one, other = opened
    question = Embeddings(np.ones((1, extractor.dim), np.float32), np.ones(1, np.float32))
    for number, name in ((1, "teapot"), (2, "pot")):
        add(one, number, "kettle" if number == 1 else "teapot")
        one.rename("kettle" if number == 1 else "teapot", name)
        assert sorted(other.neighbours(question, number + 1).labels[0]) == ["lava", *[name] * number]


def test_what_another_has_added_is_embedded_again(opened, extractor):
    one, other = opened
    source = knnstore.open_store(other.store.url, read_only=True)
    add(one, 1)

    class Here(Originals):
        def find(self, image):
            return next(Image(picture(n)) for n in range(3) if Image(picture(n)).content_hash == image.image_hash)

    with ConceptDatabase.open(f"late:///{next(places)}", type(extractor)(name="another")) as target:
        assert reembed(source, target, Here()).added == 2
        assert counts(target) == {"kettle": 1, "lava": 1}
