"""Photographs, and a pretrained encoder that is a user's own object: what the method gives is held, and the old stays.

A subset of what ``benchmarks/real.py`` measures, so that it runs in two minutes on two busy cores. Examples come from
the reference half alone, and measurements from the query half alone.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from knnseg import ConceptDatabase, Config, Masks, Segmenter, Vocabulary, Whitened, WithContext
from knnseg.config import RetrievalConfig, StageConfig
from knnseg.evaluation import evaluate
from knnseg.models.regions import RegionProposer

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.timeout(900),
    # Retrieval alone, and a subset that has no example of some classes.
    pytest.mark.filterwarnings("ignore:classes. .* are known to nobody"),
]

MIOU, PIXEL_ACCURACY, TRUE_MASKS = 0.752, 0.896, 0.9625
"""Measured on this subset, which is easier than the whole half: docs/design/real-photographs.md has that."""

CONFIG = Config(
    StageConfig("none"), StageConfig("none"), retrieval=RetrievalConfig(k=20, temperature=0.07, class_balance=0.2)
)


@pytest.fixture(scope="module")
def mobilenet():
    path = Path(__file__).parents[2] / "benchmarks" / "mobilenet.py"
    spec = importlib.util.spec_from_file_location("knnseg_benchmarks_mobilenet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(mobilenet, real_folder):
    return mobilenet.photographs(real_folder, "reference")[::3]


@pytest.fixture(scope="module")
def query(mobilenet, real_folder):
    return mobilenet.photographs(real_folder, "query")[::5]


@pytest.fixture(scope="module")
def vocabulary(mobilenet, real_folder):
    classes = mobilenet.photographs(real_folder, "query").classes.values()
    return Vocabulary(tuple(name for name, _ in classes), frozenset(name for name, thing in classes if thing))


@pytest.fixture(scope="module")
def keys(mobilenet, real_folder, reference):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads on busy cores wait for one another
    source = mobilenet.Remembered(mobilenet.MobileNetFeatures(real_folder))
    yield WithContext(Whitened.fit(source, (example.image for example in reference)), 0.5)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def segmenter(mobilenet, keys, reference, tmp_path_factory):
    with ConceptDatabase.open(f"faiss://{tmp_path_factory.mktemp('real')}/db", keys) as database:
        database.add(reference)
        yield Segmenter(keys, mobilenet.RememberedProposals(RegionProposer()), None, database, config=CONFIG)


def test_automatic_regions(segmenter, query, vocabulary):
    scores = evaluate(segmenter, query, vocabulary).final.semantic
    print(f"mIoU {scores.mean_iou():.4f}, pixel accuracy {scores.pixel_accuracy:.4f}")
    assert scores.mean_iou() >= MIOU - 0.02 and scores.pixel_accuracy >= PIXEL_ACCURACY - 0.01


def test_labels_are_those_of_a_photograph_four_times_as_large(segmenter, query, vocabulary):
    same = []
    for example in query[::6]:
        height, width = example.segments.shape
        large = np.asarray(Image.fromarray(example.image).resize((4 * width, 4 * height), Image.Resampling.BICUBIC))
        one, other = (segmenter.predict(image, vocabulary).semantic for image in (example.image, large))
        same.append(np.mean(one.repeat(4, 0).repeat(4, 1) == other))
    print(f"the same labels on {np.mean(same):.4f} of the pixels of {len(same)} photographs")
    assert np.mean(same) >= 0.95  # 0.969 over a third of the query half; a region may flip on another processor


def test_true_masks(segmenter, query, vocabulary):
    right = []
    for example in query:
        masks = Masks.from_partition(np.where(example.segments > 0, example.segments, -1))
        best = segmenter.predict(example.image, vocabulary, masks=masks).scores.probabilities.argmax(axis=1)
        right += [vocabulary.names[i] == segment.label for i, segment in zip(best, example.info, strict=True)]
    print(f"accuracy on {len(right)} true masks {np.mean(right):.4f}")
    assert np.mean(right) >= TRUE_MASKS - 0.02


def test_teaching_new_classes_moves_no_pixel_of_the_old(segmenter, reference, query, vocabulary, tmp_path):
    groups = [vocabulary.names[:11], vocabulary.names[11:15], vocabulary.names[15:19], vocabulary.names[19:]]
    old, pictures = Vocabulary(groups[0]), [example.image for example in query[::4]]
    with ConceptDatabase.open(f"faiss://{tmp_path}/db", segmenter.extractor) as database:
        growing = Segmenter(segmenter.extractor, segmenter.proposer, None, database, config=CONFIG)
        database.add(reference, classes=groups[0])
        before = [growing.predict(picture, old) for picture in pictures]
        for group in groups[1:]:
            assert database.add(reference, classes=group).added > 0
            for picture, first in zip(pictures, before, strict=True):
                again = growing.predict(picture, old)
                assert np.array_equal(again.semantic, first.semantic)
                assert np.array_equal(again.scores.probabilities, first.scores.probabilities)
        # All classes by now, added in steps: the same predictions as all at once.
        for picture in pictures[::3]:
            one, other = (made.predict(picture, vocabulary) for made in (growing, segmenter))
            assert np.array_equal(one.semantic, other.semantic)
