"""Where the time of a segmented image goes, stage by stage.

    python benchmarks/segment.py [--quick]
    python benchmarks/segment.py --megapixels 0.07 1 12 48    # what a photograph's size costs, each in its own process

Runs the ``tiny`` preset on rendered scenes and, to show what a larger model does to the shares, a randomly
initialised ViT-B/16 of open_clip at the size that people use, both with a FAISS store. Prints a table and writes JSON.
The shares are
what counts: absolute times depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import open_clip
from PIL import Image

from knnseg import ConceptDatabase, Config, Masks, Segmenter
from knnseg.data.features import Features
from knnseg.datasets import RenderedScenes
from knnseg.method.pooling import pool
from knnseg.models.base import DenseClip
from knnseg.models.open_clip import OpenClipFeatures, OpenClipModel, OpenClipText
from knnseg.models.regions import RegionProposer

MODELS = ("features", "base", "proposals")
OURS = ("pooling", "search", "fusion", "painting")


def large() -> OpenClipModel:
    """ViT-B/16 with random weights: the cost of a forward pass does not depend on what was learnt."""
    import torch

    clip = open_clip.create_model("ViT-B-16", load_weights=False).eval()
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return OpenClipModel("ViT-B-16", clip, open_clip.get_tokenizer("ViT-B-16"), mean, std, torch.device("cpu"))


def segmenters(folder: Path) -> dict[str, tuple[Segmenter, tuple[int, int]]]:
    """The two pipelines, and the size of image that each is given."""
    tiny = Segmenter.from_config("tiny", f"faiss://{folder}/tiny", device="cpu")
    model = large()
    features = OpenClipFeatures(model, short_side=336)
    base = DenseClip(features, OpenClipText(model), model.logit_scale)
    database = ConceptDatabase.open(f"faiss://{folder}/large", features)
    config = Config.preset("tiny")
    proposer = RegionProposer()
    return {
        "tiny": (tiny, (192, 192)),
        "ViT-B/16 at 336": (Segmenter(features, proposer, base, database, config=config), (426, 640)),
    }


def shares(segmenter: Segmenter, images: list[np.ndarray], names: list[str]) -> dict[str, float]:
    """Median seconds by stage."""
    seconds = [dict(segmenter.predict(image, names).seconds) for image in images]
    return {stage: statistics.median(entry[stage] for entry in seconds) for stage in (*MODELS, *OURS)}


def pooling_ratio(repeats: int) -> dict[str, float]:
    """Pooling as one product against the loop over masks that it replaces, interleaved."""
    rng = np.random.default_rng(0)
    regions = rng.integers(0, 300, (40, 60)).repeat(8, 0).repeat(8, 1)
    masks = Masks.from_partition(regions)
    features = Features(rng.standard_normal((768, 24, 36), np.float32), regions.shape)
    dense = masks.dense()
    upsampled = features.data.repeat(14, 1)[:, : regions.shape[0]].repeat(14, 2)[:, :, : regions.shape[1]]

    def loop() -> None:
        for mask in dense:
            mean = upsampled[:, mask].mean(axis=1)
            mean / np.linalg.norm(mean)

    pool(features, masks)
    times: dict[str, list[float]] = {"product": [], "loop": []}
    for _ in range(repeats):
        for name, run in (("product", lambda: pool(features, masks)), ("loop", loop)):
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    product, looped = (statistics.median(times[name]) for name in ("product", "loop"))
    return {"masks": len(masks), "product_ms": 1e3 * product, "loop_ms": 1e3 * looped, "ratio": looped / product}


SIZES = {0.07: (213, 320), 1: (852, 1280), 12: (3024, 4032), 48: (6048, 8064)}
"""Megapixels: height and width; the third is a phone's."""


def one_size(megapixels: float) -> dict[str, float]:
    """A photograph-like JPEG file of one size through the ``tiny`` preset: seconds by stage and peak memory."""
    height, width = SIZES[megapixels]
    scenes = RenderedScenes(21, seed=1, size=(192, 256))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        picture = Image.fromarray(scenes[20].image).resize((width, height), Image.Resampling.BICUBIC)
        noise = np.random.default_rng(0).integers(-6, 7, (height, width, 3), dtype=np.int16)
        Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        del picture, noise
        with Segmenter.from_config("tiny", f"faiss://{folder}/db", device="cpu") as segmenter:
            database, names = segmenter.database, list(scenes.classes)
            assert database is not None
            database.add(scenes[:20])
            segmenter.predict(scenes[20].image, names)  # text embeddings, first use of everything
            start, before = time.perf_counter(), _peak()
            result = segmenter.predict(path, names)
            found = {"predict": time.perf_counter() - start, **result.seconds}
            found["besides networks"] = found["predict"] - found["features"] - found["base"]
            found["masks"], found["peak MB"], found["above MB"] = len(result.masks), _peak(), _peak() - before
            for name, run in (("save", lambda: result.save(folder)), ("add", lambda: add_one(database, path))):
                start = time.perf_counter()
                run()
                found[name] = time.perf_counter() - start
    return found


def add_one(database: ConceptDatabase, path: Path) -> None:
    """One mask of a photograph."""
    with Image.open(path) as image:
        mask = np.zeros((1, image.height, image.width), bool)
    mask[:, mask.shape[1] // 4 : mask.shape[1] // 2, mask.shape[2] // 4 : mask.shape[2] // 2] = True
    database.add_masks(path, mask, ["kettle"])


def _peak() -> float:
    """Megabytes of this process, at most so far; the system counts kilobytes, on macOS bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def sizes(wanted: list[float]) -> dict[str, dict[str, float]]:
    """Each size in a process of its own, so that its peak of memory is its own."""
    rows = {}
    columns = ("masks", "proposals", "pooling", "painting", "besides networks", "save", "add", "above MB", "peak MB")
    print(f"{'MP':>5}", *(f"{name:>16}" for name in columns))
    for megapixels in wanted:
        command = [sys.executable, __file__, "--one", str(megapixels)]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{megapixels:>5}", *(f"{row[name]:16.{0 if row[name] > 50 else 3}f}" for name in columns), flush=True)
        rows[str(megapixels)] = row
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "segment.json")
    parser.add_argument("--megapixels", type=float, nargs="+", choices=list(SIZES), help="measure these sizes only")
    parser.add_argument("--one", type=float, choices=list(SIZES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_size(options.one)))
        return
    count = 4 if options.quick else 24
    result: dict[str, object] = {"sizes": sizes(options.megapixels or list(SIZES))}
    if options.megapixels:
        return
    with tempfile.TemporaryDirectory() as folder:
        scenes = RenderedScenes(60, seed=1, size=(192, 192))
        names = list(scenes.classes)
        for title, (segmenter, size) in segmenters(Path(folder)).items():
            assert segmenter.database is not None
            segmenter.database.add(scenes[: 20 if options.quick else 60])
            test = [scene.image for scene in RenderedScenes(count, seed=2, size=(192, 192))]
            resized = [np.asarray(Image.fromarray(image).resize(size[::-1])) for image in test]
            segmenter.predict(resized[0], names)  # text embeddings, first use of everything
            seconds = shares(segmenter, resized, names)
            total = sum(seconds.values())
            ours = sum(seconds[stage] for stage in OURS) / total
            result[title] = {"seconds": seconds, "share_of_ours": ours}
            print(f"{title}: {1e3 * total:.0f} ms an image, {size[0]}x{size[1]}, {len(names)} classes")
            for stage in (*MODELS, *OURS):
                print(f"  {stage:<10} {1e3 * seconds[stage]:8.1f} ms {seconds[stage] / total:7.1%}")
            print(f"  everything but models and proposals: {ours:.1%} (at most 10 % is wanted)\n")
            segmenter.close()
    result["pooling"] = ratio = pooling_ratio(5 if options.quick else 15)
    print(
        "pooling {masks} masks: one product {product_ms:.1f} ms, a loop {loop_ms:.0f} ms, ratio {ratio:.0f}".format(
            **ratio
        )
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
