"""The paper's first figure on photographs: customise, harvest and discover with the preset photo.

    python benchmarks/first_figure.py                            # everything, on $KNNSEG_REAL_DATA or ../shared/real
    python benchmarks/first_figure.py --only harvest --set msrc

Examples come from the reference half, measurements from every third query image. Writes
benchmarks/results/first_figure.json after every part, and docs/assets/customise.svg of what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import real_folder
from mobilenet import Remembered, RememberedProposals, photographs
from numpy.typing import NDArray

from knnseg import ConceptDatabase, Config, LabelledImage, Segmenter
from knnseg.data.masks import nearest
from knnseg.data.scores import ClassScores
from knnseg.datasets import LabelledImages
from knnseg.evaluation import evaluate
from knnseg.method.painting import paint_semantic
from knnseg.mining.discovering import discover
from knnseg.mining.harvesting import harvest
from knnseg.mining.sources import NamedImage
from knnseg.stages import registry as stages

RESULTS = Path(__file__).parent / "results" / "first_figure.json"
PLOT = Path(__file__).parents[1] / "docs" / "assets" / "customise.svg"
SIMILARITIES = (0.0, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
VOTES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
QUALITIES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6)
HIDDEN = {"msrc": ("cow", "car", "flower", "book"), "camvid": ("car", "tree", "fence", "pedestrian")}
FITTED = {"msrc": 0.43, "camvid": 0.51}
"""T of `knnseg calibrate` on the reference halves, see docs/design/photo.md."""


class Bench:
    """The stages of the preset, each image once."""

    def __init__(self) -> None:
        self.config = Config.preset("photo")
        self.extractor = Remembered(stages.make_extractor(self.config, device="cpu"))
        self.proposer = RememberedProposals(stages.make("masks", self.config.masks))

    @contextmanager
    def segmenter(self, threshold: float | None = None) -> Iterator[Segmenter]:
        config = self.config
        if threshold is not None:
            config = replace(config, fusion=replace(config.fusion, threshold=threshold))
        with (
            tempfile.TemporaryDirectory() as folder,
            ConceptDatabase.open(f"memory://{folder}/db", self.extractor, parts=self.config.keys.parts) as database,
        ):
            yield Segmenter(self.extractor, self.proposer, None, database, config=config)


def customise(bench: Bench, reference: LabelledImages, query: LabelledImages) -> dict[str, Any]:
    """Precision and coverage of the labelled area as both thresholds move."""
    with bench.segmenter(-1.0) as made:
        assert made.database is not None
        made.database.add(reference)
        seen = [(example, made.predict(example.image, query.vocabulary)) for example in query]
    rows: dict[str, Any] = {}
    prepared = [(e.semantic(query.vocabulary.names), r, agreement(r.masks.matrix)) for e, r in seen]
    for kind, thresholds in (("similarity", SIMILARITIES), ("vote", VOTES)):
        rows[kind] = [(t, *labelled(prepared, kind, t, 0.0)) for t in thresholds]
    rows["quality"] = [(q, *labelled(prepared, "similarity", bench.config.fusion.threshold, q)) for q in QUALITIES]
    return rows


def agreement(masks: Any) -> NDArray[np.float32]:
    """How well a region is found again in the other partitions: its best IoU with another one."""
    shared = (masks @ masks.T).toarray()
    areas = shared.diagonal().copy()
    overlap = shared / (areas[:, None] + areas[None] - shared)
    np.fill_diagonal(overlap, 0)
    return overlap.max(axis=1)


def labelled(prepared: list[Any], kind: str, threshold: float, quality: float) -> tuple[float, float]:
    right = shown = pixels = 0
    for truth, result, agreed in prepared:
        retrieved = result.evidence.retrieved.probabilities
        sure = result.evidence.confidence if kind == "similarity" else retrieved.max(axis=1)
        kept = np.flatnonzero(agreed >= quality)
        scores = ClassScores(np.where(sure[:, None] >= threshold, retrieved, 0)[kept], result.vocabulary.names[:-1])
        semantic = nearest(paint_semantic(result.masks.select(kept), scores.with_unknown())[0], truth.shape)
        known = truth >= 0
        said = known & (semantic >= 0) & (semantic < len(scores.classes))
        counted = ((semantic == truth) & said, said, known)
        right, shown, pixels = (n + int(c.sum()) for n, c in zip((right, shown, pixels), counted, strict=True))
    return right / max(shown, 1), shown / pixels


def harvested(bench: Bench, reference: LabelledImages, query: LabelledImages) -> dict[str, Any]:
    """Mean IoU of concepts from image-level labels alone, and from true masks."""
    with tempfile.TemporaryDirectory() as folder, bench.segmenter() as made, bench.segmenter() as true:
        found = harvest(made, map(named, reference), folder, progress=sys.stderr.isatty())
        results = {"kept": len(found.kept), "dropped": len(found.dropped)}
        assert made.database is not None and true.database is not None
        true.database.add(reference)
        if found.kept:
            made.database.add(found.labelled())
            results["harvested"] = quality(made, query)
        results["true masks"] = quality(true, query)
    return results


def named(example: LabelledImage) -> NamedImage:
    """All that is known of an image is which classes are in it."""
    return NamedImage(Path(example.uri.removeprefix("file://")), tuple(segment.label for segment in example.info))


def quality(made: Segmenter, query: LabelledImages) -> dict[str, float]:
    report = evaluate(made, query, query.vocabulary).final.semantic
    return {"miou": float(report.mean_iou()), "pixel_accuracy": float(report.pixel_accuracy)}


def discovered(bench: Bench, reference: LabelledImages, query: LabelledImages, name: str) -> dict[str, Any]:
    """Clusters where four classes were not taught; purity is the share of labelled pixels of their main class."""
    hidden, names = HIDDEN[name], query.vocabulary.names
    with bench.segmenter(FITTED[name]) as made:
        assert made.database is not None
        made.database.add(reference, classes=[n for n in names if n not in hidden])
        paths = {Path(example.uri.removeprefix("file://")): example.semantic(names) for example in query}
        found = discover(made, list(paths))
    rows, right, pixels = [], 0, 0
    for cluster in found.clusters:
        truth = np.concatenate([paths[region.image][region.mask()] for region in cluster.regions])
        counts = np.bincount(truth[truth >= 0], minlength=len(names))
        right, pixels = right + int(counts.max()), pixels + int(counts.sum())
        rows.append(
            {"regions": len(cluster.regions), "area": cluster.area, "class": names[int(counts.argmax())],
             "purity": float(counts.max() / max(counts.sum(), 1)), "labelled": float((truth >= 0).mean())}
        )  # fmt: skip
    return {"clusters": len(found.clusters), "purity": right / max(pixels, 1), "largest": rows[:12]}


LEFT, TOP, WIDTH, HEIGHT, LOW = 50, 20, 420, 260, 0.8
"""Of the plot: its place in pixels, and the precision at its bottom."""


def plot(results: dict[str, Any]) -> str:
    """Precision over coverage, a line for each set and kind of confidence, as SVG."""
    bottom = TOP + HEIGHT
    parts = [f'<path d="M{LEFT} {across(t):.0f}h{WIDTH}" stroke="#ccc"/>' for t in (0.8, 0.85, 0.9, 0.95, 1.0)]
    parts += [text(LEFT - 6, across(t) + 4, f"{t:g}", "end") for t in (0.8, 0.85, 0.9, 0.95, 1.0)]
    parts += [text(LEFT + t * WIDTH, bottom + 18, f"{t:g}", "middle") for t in (0, 0.25, 0.5, 0.75, 1)]
    lines = [(name, kind) for name in results for kind in ("similarity", "vote")]
    for i, (name, kind) in enumerate(lines):
        points = " ".join(f"{LEFT + c * WIDTH:.1f},{across(max(p, LOW)):.1f}" for _, p, c in results[name][kind])
        colour, dashes = ("#0b5cad", "#b3261e")[i // 2], ("", "5 4")[i % 2]
        look = f'fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"'
        row = bottom - 70 + 16 * i
        parts += [f'<polyline points="{points}" {look}/>', f'<path d="M{LEFT + 12} {row}h28" {look}/>']
        parts.append(text(LEFT + 46, row + 4, f"{name}, {kind}", "start"))
    parts.append(
        text(LEFT + WIDTH / 2, bottom + 36, "coverage: share of the labelled pixels that get a class", "middle")
    )
    parts.append(text(LEFT, 12, "precision: share of those that is right", "start"))
    size = f"0 0 {LEFT + WIDTH + 20} {bottom + 46}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>\n"])


def across(precision: float) -> float:
    return TOP + (1 - precision) / (1 - LOW) * HEIGHT


def text(x: float, y: float, said: str, anchor: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{said}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["customise", "harvest", "discover"], action="append")
    parser.add_argument("--set", choices=["msrc", "camvid"], action="append")
    parser.add_argument("--every", type=int, default=3, help="measure on every n-th query image")
    parser.add_argument("--reference", type=int, default=1, help="examples from every n-th reference image")
    parser.add_argument("--threads", type=int, default=0, help="for torch; 0 leaves it to torch")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to write")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = real_folder()
    results: dict[str, dict[str, Any]] = {"customise": {}, "harvest": {}, "discover": {}}
    for name in options.set or ("msrc", "camvid"):
        bench, query = Bench(), photographs(folder, "query", name)[:: options.every]
        reference = photographs(folder, "reference", name)[:: options.reference]
        for part in options.only or results:
            if part == "discover":
                results[part][name] = discovered(bench, reference, query, name)
            else:
                results[part][name] = (customise if part == "customise" else harvested)(bench, reference, query)
            print(part, name, results[part][name], flush=True)
            options.results.parent.mkdir(parents=True, exist_ok=True)
            options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if results["customise"]:
        PLOT.write_text(plot(results["customise"]), encoding="utf-8")


if __name__ == "__main__":
    main()
