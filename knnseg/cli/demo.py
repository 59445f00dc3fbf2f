"""The demonstration: scenes with concepts that the bundled model has never seen, before and after adding examples."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from knnseg.data.annotations import LabelledImage
from knnseg.data.arrays import IGNORE
from knnseg.data.vocabulary import Vocabulary
from knnseg.datasets.rendered import CONCEPTS, RenderedScenes
from knnseg.drawing import paint_classes, side_by_side, stack
from knnseg.evaluation import evaluate
from knnseg.result import Segmentation
from knnseg.segmenter import Segmenter
from knnstore import StoreURL

__all__ = ["run_demo"]

SIZE = (192, 192)
PICTURES = 3
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
    out.mkdir(parents=True, exist_ok=True)
    new = [concept.name for concept in CONCEPTS if concept.held_back]
    old = [concept.name for concept in CONCEPTS if not concept.held_back]
    vocabulary = Vocabulary(tuple(c.name for c in CONCEPTS), frozenset(c.name for c in CONCEPTS if c.thing))
    store = str(StoreURL("faiss", path=str((out / "store").resolve())))
    test = RenderedScenes(scenes, seed=2, size=SIZE, including=new)
    with Segmenter.from_config("tiny", store) as segmenter:
        database = segmenter.database
        assert database is not None  # a store was given
        for concept in database.concepts():
            database.remove(concept.label)
        shown = [test[i] for i in range(min(PICTURES, scenes))]
        before = [segmenter.predict(example.image, vocabulary) for example in shown]
        start = time.perf_counter()
        report = database.add(RenderedScenes(examples * len(new), seed=1, size=SIZE, including=new), progress=progress)
        seconds = time.perf_counter() - start
        after = [segmenter.predict(example.image, vocabulary) for example in shown]
        measured = evaluate(segmenter, test, vocabulary, progress=progress)
        database.store.flush()
    picture = out / "before-and-after.png"
    _sheet(shown, before, after, vocabulary).save(picture)
    scene = out / "scene.png"
    Image.fromarray(shown[0].image).save(scene)
    groups = {"old concepts": old, "new concepts": new}
    names = ", ".join(sorted({segment.label for segment in shown[0].info}))
    command = ["knnseg", "segment", str(scene), "--store", store, "--classes", names, "--out", str(out)]
    return {
        "report": measured.to_dict(groups), "groups": groups, "store": store, "picture": str(picture),
        "added": report.added, "seconds_adding": seconds, "try_next": shlex.join(command),
    }  # fmt: skip


def _sheet(
    shown: list[LabelledImage], before: list[Segmentation], after: list[Segmentation], vocabulary: Vocabulary
) -> Image.Image:
    """Image, ground truth, before, after; a row and a legend for each scene."""
    names = list(vocabulary)
    rows = []
    for example, first, last in zip(shown, before, after, strict=True):
        truth = example.semantic(names)
        maps = {"ground truth": truth, "before": first.semantic, "after adding examples": last.semantic}
        columns = [("image", example.image), *((title, paint_classes(m, len(names))) for title, m in maps.items())]
        shares = [np.bincount(m[m != IGNORE], minlength=len(names)) / m.size for m in maps.values()]
        present = np.flatnonzero((shares[0] > 0) | (np.max(shares, axis=0) >= LEGEND_SHARE)).tolist()
        rows.append(side_by_side(columns, names, present))
    return stack(rows)
