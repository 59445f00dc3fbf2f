"""Errors in parts that a program can read, the same in both packages."""

import inspect
import pickle

import pytest

import knnseg
from knnseg import errors
from knnseg.errors import ConfigError, DatasetError, ImageError, KnnSegError
from knnstore.errors import ExplainedError, KnnStoreError

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, KnnSegError)]


@pytest.mark.parametrize("kind", TREE)
def test_every_error_has_the_parts_of_those_of_the_store(kind):
    error = kind("masks", expected="a bool array", got="text", hint="Convert it.")
    assert str(error) == str(KnnStoreError("masks", expected="a bool array", got="text", hint="Convert it."))
    same = pickle.loads(pickle.dumps(error))
    assert type(same) is kind and str(same) == "masks: expected a bool array, got text. Convert it."
    assert (same.what, same.expected, same.got, same.hint) == ("masks", "a bool array", "text", "Convert it.")


def test_an_error_may_become_one_of_another_kind_and_place():
    inner = ImageError("label map", expected="one channel", got="3", hint="Save one.")
    outer = DatasetError.of(inner, "a.png")
    assert isinstance(outer, DatasetError) and isinstance(outer, ExplainedError)
    assert str(outer) == "a.png: label map: expected one channel, got 3. Save one."
    assert str(DatasetError.of(inner)) == str(inner)


def test_parts_survive_the_way_out():
    with pytest.raises(ConfigError) as caught:
        knnseg.Config.from_dict({"preset": "tiny", "retrieval": {"k": 0}})
    assert (caught.value.expected, caught.value.got) == ("a whole number of at least 1", "0")
    with pytest.raises(ImageError) as missing:
        knnseg.load_image("gone.jpg")
    assert (missing.value.what, missing.value.got) == ("gone.jpg", "no such file")
