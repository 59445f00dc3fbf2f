"""Adding 200 photographs and segmenting 64, in batches, beside another commit.

    python benchmarks/batches.py --against REV

Both commits do the same work in turns, each turn in a process of its own, and the ratio of the medians is printed. The
photographs are rendered scenes of 320×240 pixels as PNG files. On a GPU it also says the share of the time in which no
kernel runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ADDED, SEGMENTED = 200, 64


def files(folder: Path) -> None:
    from PIL import Image

    from knnseg.datasets import RenderedScenes

    for name in ("images", "labels"):
        (folder / name).mkdir()
    scenes = RenderedScenes(ADDED, seed=5, size=(240, 320))
    names = sorted({segment.label for scene in scenes for segment in scene.info})
    for i, scene in enumerate(scenes):
        Image.fromarray(scene.image).save(folder / "images" / f"{i:03}.png")
        Image.fromarray((scene.semantic(names) + 1).astype("uint8")).save(folder / "labels" / f"{i:03}.png")
    classes = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    (folder / "classes.json").write_text(json.dumps(classes))


def work(folder: Path, store: str) -> dict[str, float]:
    """What one process measures, with whatever knnseg it imports; both commits have what it uses."""
    from knnseg import Segmenter
    from knnseg.datasets import ImageLabelPairs

    with Segmenter.from_config("tiny", store) as segmenter:
        segmenter.predict(next((folder / "images").iterdir()), ["sky"])  # everything is loaded
        pairs = ImageLabelPairs(folder / "images", folder / "labels", folder / "classes.json")
        start = time.perf_counter()
        segmenter.database.add(pairs)
        adding = time.perf_counter() - start
        photographs = sorted((folder / "images").iterdir())[:SEGMENTED]
        start = time.perf_counter()
        if hasattr(segmenter, "stream"):
            for _ in segmenter.stream(photographs):
                pass
        else:
            for photograph in photographs:
                segmenter.predict(photograph)
        return {"add": adding, "segment": time.perf_counter() - start, "waits": waiting()}


def waiting() -> float:
    """The share of the time of some predictions in which a GPU does nothing; 0 without one."""
    import torch

    if not torch.cuda.is_available():
        return 0.0
    from torch.profiler import ProfilerActivity, profile

    from knnseg import Segmenter
    from knnseg.datasets import RenderedScenes

    scenes = [scene.image for scene in RenderedScenes(16, seed=6, size=(240, 320))]
    with Segmenter.from_config("tiny", device="cuda") as segmenter:
        segmenter.predict(scenes, ["sky", "grass"])
        start = time.perf_counter()
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            segmenter.predict(scenes, ["sky", "grass"])
        seconds = time.perf_counter() - start
    return 1 - sum(event.device_time_total for event in seen.events()) / 1e6 / seconds


def measured(code: Path, folder: Path, store: str) -> dict[str, float]:
    """In another process, with the knnseg and knnstore of ``code``."""
    # What is installed says where our stages are registered, which another commit may not have there.
    lines = [
        f"import sys; sys.path[:0] = {[str(code), str(code / 'plugins/knnstore-faiss/src'), str(ROOT / 'benchmarks')]}",
        "import batches, json, pathlib, knnseg.stages as stages",
        "if hasattr(stages, '_BUILTIN'): stages.register(stages)",
        f"print(json.dumps(batches.work(pathlib.Path({str(folder)!r}), {store!r})))",
    ]
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True, cwd=folder)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="HEAD~1", help="a commit (default %(default)s)")
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, other = Path(place) / "data", Path(place) / "other"
        folder.mkdir()
        files(folder)
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(other), asked.against], cwd=ROOT, check=True
        )
        try:
            turns = [
                [measured(code, folder, f"faiss://{place}/{turn}-{n}") for n, code in enumerate((other, ROOT))]
                for turn in range(asked.turns)
            ]
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)
    for what, count in (("add", ADDED), ("segment", SEGMENTED)):
        before, now = (statistics.median(turn[n][what] for turn in turns) for n in (0, 1))
        print(
            f"{what} {count}: {before:.2f} s, now {now:.2f} s, {now / before:.2f} of before, {count / now:.1f} a second"
        )
    if share := turns[-1][1]["waits"]:
        print(f"the GPU waits {share:.0%} of the time")


if __name__ == "__main__":
    main()
