"""What `knnseg calibrate --keys` chooses on the reference half of both photograph sets, and what that gives.

    python benchmarks/keys.py                    # the preset photo; on $KNNSEG_REAL_DATA or ../shared/real
    python benchmarks/keys.py --extractor mobilenet
    python benchmarks/keys.py --choose           # only choose: the query half is not looked at
    python benchmarks/keys.py --every 3          # every third query image
    python benchmarks/keys.py --database FOLDER  # keep the databases, and do not choose again what was chosen in them

Prints what is chosen, and what its own folds expect; then the query half with the preset as it is, with other numbers
alone, and with the keys. Writes benchmarks/results/keys.json, after every set what there is by then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from common import real_folder
from mobilenet import MobileNetFeatures, Remembered, RememberedProposals, photographs

from knnseg import ConceptDatabase, Config, FeatureExtractor, Segmenter, Vocabulary, Whitened, WithContext
from knnseg.calibration.fitting import Calibration, calibrate
from knnseg.config import RetrievalConfig
from knnseg.database.reembedding import reembed
from knnseg.datasets import LabelledImages
from knnseg.evaluation import evaluate
from knnseg.models.efficientnet import EfficientNetFeatures
from knnseg.models.regions import RegionProposer
from knnseg.stages.protocols import Adjustable

RESULTS = Path(__file__).parent / "results" / "keys.json"


def extractor_of(name: str, folder: Path, config: Config) -> FeatureExtractor:
    return MobileNetFeatures(folder) if name == "mobilenet" else EfficientNetFeatures.load(**config.features.options)


def segmenter(database: ConceptDatabase, proposer: Any, config: Config) -> Segmenter:
    return Segmenter(database.extractor, proposer, None, database, config=config)


def measured(made: Segmenter, query: LabelledImages, vocabulary: Vocabulary) -> dict[str, float]:
    report = evaluate(made, query, vocabulary, progress=sys.stderr.isatty()).final.semantic
    return {"miou": float(report.mean_iou()), "pixel_accuracy": float(report.pixel_accuracy)}


def told(found: Calibration) -> dict[str, Any]:
    keys = found.keys
    return {
        "before": asdict(found.before), "best": asdict(found.best), "gain": found.gain, "spread": found.spread,
        "keys_gain": found.keys_gain, "keys_spread": found.keys_spread, "images": found.images, "asked": found.asked,
        "recipe": None if keys is None else keys.recipe.described, "sections": {} if keys is None else keys.sections,
    }  # fmt: skip


def one_set(name: str, folder: Path, options: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    reference, query = photographs(folder, "reference", name), photographs(folder, "query", name)
    config = Config.preset("photo")
    proposer = RememberedProposals(RegionProposer(**config.masks.options))
    with tempfile.TemporaryDirectory() as place:
        url = f"faiss://{options.database or place}/{name}-{options.extractor}"
        extractor = extractor_of(options.extractor, folder, config)
        with ConceptDatabase.open(url, extractor, parts=config.keys.parts) as database:
            database.add(reference, progress=sys.stderr.isatty())
            row = before if before.get("database") == str(options.database) else chosen(database, proposer, config)
            row["database"] = str(options.database)
            print(name, row, flush=True)
            if options.choose:
                return row
            some, vocabulary = query[:: options.every], query.vocabulary
            row["query_images"] = len(some)
            row["preset"] = measured(segmenter(database, proposer, config), some, vocabulary)
            # T stays the preset's, so that only what is chosen by the mean IoU is compared.
            own = replace(config, retrieval=RetrievalConfig(**row["best"]["retrieval"]))
            if row["recipe"] is None:
                row["chosen"] = measured(segmenter(database, proposer, own), some, vocabulary)
            else:
                with ConceptDatabase.open(url, Remembered(keys_of(database.extractor, row))) as other:
                    reembed(database.store, other, progress=sys.stderr.isatty())
                    row["chosen"] = measured(segmenter(other, proposer, own), some, vocabulary)
    return row


def chosen(database: ConceptDatabase, proposer: Any, config: Config) -> dict[str, Any]:
    """What calibrate says; a whitening is kept beside the database."""
    start = time.perf_counter()
    found = calibrate(segmenter(database, proposer, config), keys=True, progress=sys.stderr.isatty())
    row = {**told(found), "seconds": time.perf_counter() - start}
    if found.keys is not None and found.keys.whitening is not None:
        row["whitening"] = str(Path(tempfile.gettempdir()) / f"whitening-{os.getpid()}-{len(found.keys.sections)}.npz")
        found.keys.whitening.save(row["whitening"])
    return row


def keys_of(extractor: FeatureExtractor, row: dict[str, Any]) -> FeatureExtractor:
    """Makes the keys that were chosen."""
    features, made = row["sections"].get("features", {}), extractor
    if isinstance(extractor, Adjustable):
        made = extractor.adjusted(
            features.get("long_side", extractor.long_side), features.get("layers", list(extractor.layers))
        )
    made = Whitened.load(row["whitening"], made) if "whitening" in row else made
    context = row["sections"].get("keys", {}).get("context", 0)
    return WithContext(made, context) if context else made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extractor", choices=["efficientnet", "mobilenet"], default="efficientnet")
    parser.add_argument("--set", choices=["msrc", "camvid"], action="append", help="only this set")
    parser.add_argument("--every", type=int, default=1, help="measure on every n-th query image")
    parser.add_argument("--choose", action="store_true", help="do not measure on the query half")
    parser.add_argument("--database", type=Path, help="a folder to keep the databases in")
    parser.add_argument("--threads", type=int, default=0, help="for torch; 0 leaves it to torch")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file to write")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    folder = real_folder()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    there = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    for name in options.set or ["msrc", "camvid"]:
        key = f"{name} {options.extractor}"
        there[key] = one_set(name, folder, options, there.get(key, {}))
        options.results.write_text(json.dumps(there, indent=1), encoding="utf-8")
        print(name, there[key], flush=True)


if __name__ == "__main__":
    main()
