"""What the method gives on photographs, and what each part of it adds; concepts in steps; the preset photo.

    python benchmarks/real.py                # everything, on $KNNSEG_REAL_DATA or ../shared/real
    python benchmarks/real.py --every 4      # every fourth query image only
    python benchmarks/real.py --only preset  # the preset photo, on both sets

Prints tables and writes benchmarks/results/real.json, after every part what there is by then.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import real_folder
from mobilenet import FirstChannels, MobileNetFeatures, Remembered, RememberedProposals, photographs
from scipy.ndimage import find_objects, label

from knnseg import (
    ConceptDatabase,
    Config,
    FeatureExtractor,
    LabelledImage,
    LabelledSegment,
    Masks,
    Segmenter,
    Vocabulary,
    Whitened,
    WithContext,
)
from knnseg.config import RetrievalConfig, StageConfig
from knnseg.datasets import LabelledImages
from knnseg.evaluation import evaluate
from knnseg.evaluation.metrics import ConfusionMatrix
from knnseg.method.boxes import outline
from knnseg.models.regions import RegionProposer

RECIPE = RetrievalConfig(k=20, weighting="exponential", temperature=0.07, class_balance=0.2)
PLAIN = RetrievalConfig(k=10, weighting="uniform")
CONTEXT = 0.5
RESULTS = Path(__file__).parent / "results" / "real.json"


@dataclass
class Bench:
    """The photographs, what has been computed from them, and what has been measured."""

    source: FeatureExtractor
    reference: LabelledImages
    query: LabelledImages
    vocabulary: Vocabulary
    proposers: dict[Any, RememberedProposals] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    path: Path = RESULTS

    def proposer(self, scales: Sequence[float], superpixels: Sequence[int]) -> RememberedProposals:
        key = (tuple(scales), tuple(superpixels))
        return self.proposers.setdefault(
            key, RememberedProposals(RegionProposer(scales=scales, superpixels=superpixels))
        )

    def keep(self, name: str, value: Any) -> None:
        self.results[name] = value
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=1), encoding="utf-8")


@contextmanager
def segmenter(
    bench: Bench,
    keys: FeatureExtractor,
    retrieval: RetrievalConfig = RECIPE,
    scales: Sequence[float] = (100, 400),
    superpixels: Sequence[int] = (150,),
) -> Iterator[Segmenter]:
    """With an empty database in a folder that goes away."""
    config = Config(StageConfig("none"), StageConfig("none"), retrieval=retrieval)
    with tempfile.TemporaryDirectory() as folder, ConceptDatabase.open(f"faiss://{folder}/db", keys) as database:
        yield Segmenter(keys, bench.proposer(scales, superpixels), None, database, config=config)


def images(examples: LabelledImages) -> Iterator[Any]:
    return (example.image for example in examples)


def centred(source: FeatureExtractor, examples: LabelledImages) -> Whitened:
    """The mean taken off, and nothing else."""
    mean = Whitened.fit(source, images(examples)).mean
    return Whitened(source, mean, np.eye(source.dim, dtype=np.float32))


def quality(bench: Bench, made: Segmenter) -> dict[str, float]:
    assert made.database is not None
    made.database.add(bench.reference)
    report = evaluate(made, bench.query, bench.vocabulary, progress=sys.stderr.isatty()).final
    semantic, boundaries = report.semantic, report.boundaries.mean_iou(report.semantic.occurring.tolist())
    return {
        "miou": semantic.mean_iou(), "pixel_accuracy": semantic.pixel_accuracy, "boundary_miou": boundaries
    }  # fmt: skip


def whole(bench: Bench) -> None:
    """The recipe on automatic regions and on true masks."""
    keys = WithContext(Whitened.fit(bench.source, images(bench.reference)), CONTEXT)
    with segmenter(bench, keys) as made:
        start = time.perf_counter()
        bench.keep("recipe", quality(bench, made))
        bench.results["recipe"]["seconds"] = time.perf_counter() - start
        bench.keep("true_masks", on_true_masks(bench, made))
    print("recipe", bench.results["recipe"], "\ntrue masks", bench.results["true_masks"], flush=True)


def on_true_masks(bench: Bench, made: Segmenter) -> dict[str, float]:
    """Accuracy over the annotated class regions, by votes and by the nearest entry alone."""
    truth, voted, nearest = [], [], []
    for example in bench.query:
        result = made.predict(example.image, bench.vocabulary, masks=true_masks(example))
        found = result.evidence.neighbours
        assert found is not None
        truth += [segment.label for segment in example.info]
        voted += [result.vocabulary.names[i] for i in result.scores.probabilities.argmax(axis=1)]
        nearest += found.labels[:, 0].tolist()
    right = {"votes": np.array(truth) == np.array(voted), "nearest": np.array(truth) == np.array(nearest)}
    labels = np.array(truth)
    scores: dict[str, float] = {"regions": len(truth)}
    for name, ok in right.items():
        scores[f"{name}_micro"] = float(ok.mean())
        scores[f"{name}_macro"] = float(np.mean([ok[labels == label].mean() for label in set(truth)]))
    return scores


def true_masks(example: LabelledImage) -> Masks:
    return Masks.from_partition(np.where(example.segments > 0, example.segments, -1))


def parts(bench: Bench) -> None:
    """One part after another, each row with all the parts above it."""
    middle = FirstChannels(bench.source, 576)
    plain = centred(middle, bench.reference)
    white, both = (Whitened.fit(source, images(bench.reference)) for source in (middle, bench.source))
    weighted = replace(RECIPE, class_balance=0.0)
    rows: list[tuple[str, FeatureExtractor, RetrievalConfig, Sequence[float], Sequence[int]]] = [
        ("one layer, centred; one partition; 10 equal votes", plain, PLAIN, (100,), ()),
        ("whitening", white, PLAIN, (100,), ()),
        ("20 votes, weighted", white, weighted, (100,), ()),
        ("second scale of regions", white, weighted, (100, 400), ()),
        ("superpixels", white, weighted, (100, 400), (150,)),
        ("second layer", both, weighted, (100, 400), (150,)),
        ("context", WithContext(both, CONTEXT), weighted, (100, 400), (150,)),
        ("class balance", WithContext(both, CONTEXT), RECIPE, (100, 400), (150,)),
    ]
    measured: list[dict[str, Any]] = []
    for name, keys, retrieval, scales, superpixels in rows:
        with segmenter(bench, keys, retrieval, scales, superpixels) as made:
            measured.append({"part": name, **quality(bench, made)})
        bench.keep("parts", measured)
        print(f"{name:52s} {measured[-1]['miou']:.3f} {measured[-1]['pixel_accuracy']:.3f}", flush=True)


def steps(bench: Bench) -> None:
    """Eleven classes first, the others in three steps; the whitening has seen only images of the first eleven."""
    names = bench.vocabulary.names
    groups = [names[:11], names[11:15], names[15:19], names[19:]]
    first = Vocabulary(names[:11], bench.vocabulary.things & set(names[:11]))
    seen = (e.image for e in bench.reference if any(segment.label in first.names for segment in e.info))
    keys = WithContext(Whitened.fit(bench.source, seen), CONTEXT)
    rows: list[dict[str, Any]] = []
    before: list[np.ndarray[Any, Any]] = []
    with segmenter(bench, keys) as made:
        assert made.database is not None
        for step in range(len(groups)):
            added = made.database.add(bench.reference, classes=groups[step]).added
            known = tuple(name for group in groups[: step + 1] for name in group)
            after = [made.predict(example.image, first).semantic for example in bench.query]
            moved = sum(int((a != b).sum()) for a, b in zip(after, before or after, strict=True))
            assert not moved, f"{moved} pixels of the first classes moved"
            before = after
            rows.append(
                {"classes": len(known), "added": added, "moved": moved, **by_age(bench, made, known, groups[0])}
            )
            bench.keep("steps", rows)
            print(rows[-1], flush=True)


def by_age(bench: Bench, made: Segmenter, known: tuple[str, ...], first: Sequence[str]) -> dict[str, float | None]:
    """Mean IoU of the first classes and of the later ones, with everything known in one vocabulary."""
    matrix = ConfusionMatrix(len(known))
    for example in bench.query:
        matrix.add(example.semantic(known), made.predict(example.image, known).semantic)
    later = [i for i in range(len(known)) if known[i] not in first]
    return {
        "miou": float(matrix.mean_iou()),
        "miou_first": float(matrix.mean_iou([known.index(name) for name in first])),
        "miou_later": float(matrix.mean_iou(later)) if later else None,
    }


def preset(folder: Path, every: int, bench: Bench) -> None:
    """The preset photo as it is, on both sets."""
    rows: dict[str, Any] = {}
    for name in ("msrc", "camvid"):
        reference, query = photographs(folder, "reference", name), photographs(folder, "query", name)
        with tempfile.TemporaryDirectory() as place, Segmenter.from_config("photo", f"faiss://{place}/db") as made:
            one = Bench(made.extractor, reference, query[::every], query.vocabulary, path=bench.path)
            rows[name] = {"query_images": len(one.query), **quality(one, made), **on_true_masks(one, made)}
        bench.keep("preset", rows)
        print(name, rows[name], flush=True)


class Boxed(LabelledImages):
    """The same images, whose things are known by boxes alone: one around each connected piece.

    Args:
        whole: the images.
        boxes: ``"outline"`` for the likely outline inside of a box, ``"filled"`` for the box itself.
    """

    def __init__(self, whole: LabelledImages, boxes: str) -> None:
        self._whole, self._boxes = whole, boxes

    @property
    def vocabulary(self) -> Vocabulary:
        return self._whole.vocabulary

    def __len__(self) -> int:
        return len(self._whole)

    def load(self, index: int) -> LabelledImage:
        example = self._whole[index]
        segments = example.segments.copy()
        for segment in (s for s in example.info if s.thing):
            segments[segments == segment.id] = 0
        info = [segment for segment in example.info if not segment.thing]
        for segment in (s for s in example.info if s.thing):
            for part in find_objects(label(example.segments == segment.id)[0]):
                y, x = part
                if (y.stop - y.start) * (x.stop - x.start) < 0.002 * segments.size:
                    continue
                info.append(LabelledSegment(1000 + len(info), segment.label, True))
                if self._boxes == "filled":
                    segments[part] = info[-1].id
                else:
                    segments[outline(example.image, (x.start, y.start, x.stop, y.stop))] = info[-1].id
        return LabelledImage(example.image, segments, tuple(info), example.uri, example.image_id)


def boxed(folder: Path, every: int, bench: Bench) -> None:
    """What it costs the preset photo to know things by their boxes."""
    rows: dict[str, Any] = {}
    reference, query = photographs(folder, "reference"), photographs(folder, "query")[::every]
    with Segmenter.from_config("photo") as made:
        keys, proposer, config = Remembered(made.extractor), RememberedProposals(made.proposer), made.config
    ways = {
        "true masks": reference,
        "outlines": Boxed(reference, "outline"),
        "filled boxes": Boxed(reference, "filled"),
    }
    for name, taught in ways.items():
        with (
            tempfile.TemporaryDirectory() as place,
            ConceptDatabase.open(f"faiss://{place}/db", keys, parts=config.keys.parts) as database,
        ):
            own = Segmenter(keys, proposer, None, database, config=config)
            database.add(taught)
            scores = evaluate(own, query, query.vocabulary, progress=sys.stderr.isatty()).final.semantic
        things = [i for i, c in enumerate(query.vocabulary) if c in query.vocabulary.things]
        rows[name] = {"miou": float(scores.mean_iou()), "things": float(scores.mean_iou(things))}
        bench.keep("boxes", rows)
        print(name, rows[name], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th query image")
    parser.add_argument("--threads", type=int, default=0, help="for torch; 0 leaves it to torch")
    parser.add_argument(
        "--only", choices=["whole", "steps", "parts", "preset", "boxes"], action="append", help="measure only this"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to write")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = real_folder()
    reference, query = photographs(folder, "reference"), photographs(folder, "query")
    classes = list(query.classes.values())
    vocabulary = Vocabulary(tuple(name for name, _ in classes), frozenset(name for name, thing in classes if thing))
    source = Remembered(MobileNetFeatures(folder))
    bench = Bench(source, reference, query[:: options.every], vocabulary, path=options.results)
    bench.keep("query_images", len(bench.query))
    for name, part in {"whole": whole, "steps": steps, "parts": parts}.items():
        if not options.only or name in options.only:
            part(bench)
    for name, on_folder in {"preset": preset, "boxes": boxed}.items():
        if not options.only or name in options.only:
            on_folder(folder, options.every, bench)


if __name__ == "__main__":
    main()
