"""The preset ``photo-words``: it says something about words that nobody taught, and examples of some do no harm.

A subset of what ``benchmarks/no_harm.py`` measures. Examples come from the reference half alone, and measurements from
the query half alone.
"""

import json

import pytest

from knnseg import Segmenter
from knnseg.datasets import ImageLabelPairs
from knnseg.evaluation import evaluate

pytestmark = [pytest.mark.real_data, pytest.mark.slow, pytest.mark.timeout(900)]

BASE, SOME, ALL = 0.132, 0.391, 0.623
"""Mean IoU of the subset, over the classes that are there: of the base, with examples of every other class, and of all."""


@pytest.fixture(scope="module")
def halves(real_folder):
    folder = real_folder / "msrc"
    stems = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    reference, query = (
        ImageLabelPairs(folder / "images", folder / "labels", folder / "classes.json", ignore=[0], stems=stems[half])
        for half in ("reference", "query")
    )
    return reference[::15], query[::60]


def test_examples_of_some_classes_and_of_all(halves):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads on busy cores wait for one another
    reference, query = halves
    with Segmenter.from_config("photo-words", "memory:///words", device="cpu") as segmenter:
        segmenter.database.add(reference, classes=query.vocabulary.names[::2])
        some = evaluate(segmenter, query, query.vocabulary)
        segmenter.database.add(reference, classes=query.vocabulary.names[1::2])
        everything = evaluate(segmenter, query, query.vocabulary)
    torch.set_num_threads(threads)
    there = [i for i, pixels in enumerate(some.base.semantic.matrix.sum(axis=1)) if pixels]
    found = [float(scores.semantic.mean_iou(there)) for scores in (some.base, some.final, everything.final)]
    print("mIoU {:.4f}, {:.4f}, {:.4f}".format(*found))
    assert found[0] == float(everything.base.semantic.mean_iou(there))
    assert all(value >= measured - 0.03 for value, measured in zip(found, (BASE, SOME, ALL), strict=True))
    assert found[0] + 0.05 < found[1] < found[2]
