"""The demonstration: scenes, or a folder of labelled photographs, before and after adding examples."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from knnseg.data.annotations import LabelledImage
from knnseg.data.arrays import IGNORE
from knnseg.data.masks import nearest
from knnseg.data.reading import resize, within
from knnseg.data.vocabulary import Vocabulary
from knnseg.datasets.folders import ImageLabelPairs
from knnseg.datasets.rendered import CONCEPTS, RenderedScenes
from knnseg.drawing import paint_classes, side_by_side, stack
from knnseg.errors import DatasetError
from knnseg.evaluation import evaluate
from knnseg.evaluation.counts import without_unknown
from knnseg.result import Segmentation
from knnseg.segmenter import Segmenter
from knnstore import StoreURL

__all__ = ["run_demo", "run_photos"]

SIZE = (192, 192)
PICTURES = 3
SIDE = 320
"""Pixels of the longer side of a photograph on the sheet, at most."""
LEGEND_SHARE = 0.01
"""A class that is only predicted is in the legend where it takes at least this share of a picture."""


def run_demo(out: Path, *, scenes: int = 32, examples: int = 6, progress: bool = False) -> dict[str, Any]:
    """Run it.

    Args:
        out: folder for the store, the picture and one scene; made where it does not exist. A store that is there from
            an earlier run is emptied first.
        scenes: how many scenes to measure on.
        examples: how many example scenes of each held-back concept to add.
        progress: show progress bars.

    Returns:
        ``report`` of :func:`knnseg.evaluation.evaluate`, the ``groups`` of classes, the ``store`` URL, the ``picture``
        path, ``added``, ``seconds_adding``, and the command to ``try_next``.
    """
    new = [concept.name for concept in CONCEPTS if concept.held_back]
    old = [concept.name for concept in CONCEPTS if not concept.held_back]
    vocabulary = Vocabulary(tuple(c.name for c in CONCEPTS), frozenset(c.name for c in CONCEPTS if c.thing))
    test = RenderedScenes(scenes, seed=2, size=SIZE, including=new)
    taught = RenderedScenes(examples * len(new), seed=1, size=SIZE, including=new)
    groups = {"old concepts": old, "new concepts": new}
    result = _before_and_after("tiny", out, taught, test, vocabulary, groups, progress=progress)
    scene = out / "scene.png"
    Image.fromarray(test[0].image).save(scene)
    names = ", ".join(sorted({segment.label for segment in test[0].info}))
    command = ["knnseg", "segment", str(scene), "--preset", "tiny", "--store", result["store"], "--classes", names]
    command += ["--out", str(out)]
    return result | {"try_next": shlex.join(command)}


def run_photos(photos: Path, out: Path, *, progress: bool = False) -> dict[str, Any]:
    """Run it on labelled photographs with the preset ``photo-words``: every other one is taught, the rest is measured.

    Args:
        photos: folder with ``images``, label maps of the same stems in ``labels``, and ``classes.json``.
        out: as for :func:`run_demo`.
        progress: show progress bars.

    Returns:
        As :func:`run_demo`, without groups.

    Raises:
        DatasetError: a folder or file is missing, or there are not two photographs.
    """
    examples = ImageLabelPairs(photos / "images", photos / "labels", photos / "classes.json")
    if len(examples) < 2:
        raise DatasetError(photos, expected="at least two labelled photographs", got=len(examples))
    taught, test = examples[::2], examples[1::2]
    result = _before_and_after("photo-words", out, taught, test, examples.vocabulary, None, progress=progress)
    command = ["knnseg", "segment", str(photos / "images"), "--preset", "photo-words", "--store", result["store"]]
    return result | {"try_next": shlex.join([*command, "--out", str(out)])}


def _before_and_after(
    preset: str, out: Path, taught: Sequence[LabelledImage], test: Sequence[LabelledImage], vocabulary: Vocabulary,
    groups: dict[str, list[str]] | None, *, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Segment, teach, segment again, and measure."""
    out.mkdir(parents=True, exist_ok=True)
    store = str(StoreURL("faiss", path=str((out / "store").resolve())))
    with Segmenter.from_config(preset, store) as segmenter:
        database = segmenter.database
        assert database is not None  # a store was given
        for concept in database.concepts():
            database.remove(concept.label)
        shown = [test[i] for i in range(min(PICTURES, len(test)))]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "classes: .* are known to nobody")  # that is what "before" shows
            before = [segmenter.predict(example.image, vocabulary) for example in shown]
        start = time.perf_counter()
        report = database.add(taught, progress=progress)
        seconds = time.perf_counter() - start
        after = [segmenter.predict(example.image, vocabulary) for example in shown]
        measured = evaluate(segmenter, test, vocabulary, progress=progress)
        database.store.flush()
    picture = out / "before-and-after.png"
    _sheet(shown, before, after, vocabulary).save(picture)
    return {
        "report": measured.to_dict(groups), "groups": groups, "store": store, "picture": str(picture),
        "added": report.added, "seconds_adding": seconds,
    }  # fmt: skip


def _sheet(
    shown: list[LabelledImage], before: list[Segmentation], after: list[Segmentation], vocabulary: Vocabulary
) -> Image.Image:
    """Image, ground truth, before, after; a row and a legend for each scene."""
    names = list(vocabulary)
    rows = []
    for example, first, last in zip(shown, before, after, strict=True):
        truth = example.semantic(names)
        size = within((example.image.shape[0], example.image.shape[1]), SIDE)
        found = {"ground truth": truth, "before": first.semantic, "after adding examples": last.semantic}
        maps = {title: nearest(without_unknown(m, vocabulary), size) for title, m in found.items()}
        pictures = ((title, paint_classes(m, len(names))) for title, m in maps.items())
        columns = [("image", resize(example.image, size)), *pictures]
        shares = [np.bincount(m[m != IGNORE], minlength=len(names)) / m.size for m in maps.values()]
        present = np.flatnonzero((shares[0] > 0) | (np.max(shares, axis=0) >= LEGEND_SHARE)).tolist()
        rows.append(side_by_side(columns, names, present))
    return stack(rows)
