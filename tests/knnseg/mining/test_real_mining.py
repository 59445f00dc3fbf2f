"""Harvesting and discovering on photographs: a subset of what ``benchmarks/first_figure.py`` measures, with wide margins."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knnseg import Segmenter
from knnseg.datasets import ImageLabelPairs
from knnseg.evaluation import evaluate
from knnseg.mining.discovering import discover
from knnseg.mining.harvesting import harvest
from knnseg.mining.sources import NamedImage

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:classes. .* are known to nobody"),  # a subset has no example of some
]
HIDDEN = ("cow", "car", "flower", "book")
T = 0.43


@pytest.fixture(scope="module")
def halves(real_folder):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads on busy cores wait for one another
    folder = real_folder / "msrc"
    stems = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    yield [
        ImageLabelPairs(folder / "images", folder / "labels", folder / "classes.json", ignore=[0], stems=stems[half])[
            ::step
        ]
        for half, step in (("reference", 4), ("query", 12))
    ]
    torch.set_num_threads(threads)


def path(example):
    return Path(example.uri.removeprefix("file://"))


def test_names_alone_are_worth_most_of_what_masks_are(halves, tmp_path):
    reference, query = halves
    measured = []
    for truth in (True, False):
        with Segmenter.from_config("photo", f"memory://{tmp_path}/{truth}", device="cpu") as segmenter:
            if truth:
                segmenter.database.add(reference)
            else:
                named = (NamedImage(path(e), tuple(s.label for s in e.info)) for e in reference)
                segmenter.database.add(harvest(segmenter, named, tmp_path).labelled())
            measured.append(evaluate(segmenter, query, query.vocabulary).final.semantic.mean_iou())
    print(f"true masks {measured[0]:.3f}, names alone {measured[1]:.3f}, a share of {measured[1] / measured[0]:.2f}")
    assert measured[1] > 0.6 * measured[0]


def test_clusters_are_of_one_class(halves, tmp_path):
    reference, query = halves
    with Segmenter.from_config("photo", f"memory://{tmp_path}/db", device="cpu") as segmenter:
        segmenter.config = replace(segmenter.config, fusion=replace(segmenter.config.fusion, threshold=T))
        segmenter.database.add(reference, classes=[n for n in reference.vocabulary if n not in HIDDEN])
        truth = {path(example): example.semantic(query.vocabulary.names) for example in query}
        found = discover(segmenter, list(truth))
    right = pixels = 0
    for cluster in found.clusters:
        shown = np.concatenate([truth[region.image][region.mask()] for region in cluster.regions])
        counts = np.bincount(shown[shown >= 0], minlength=len(query.vocabulary))
        right, pixels = right + counts.max(), pixels + counts.sum()
    print(f"{len(found.clusters)} clusters, purity {right / pixels:.3f}")
    assert right / pixels > 0.5
