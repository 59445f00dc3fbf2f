"""Nothing is forgotten: concepts arrive in steps, and several ways of learning them stand side by side.

    python benchmarks/continual.py                                        # the tables and the plots in docs
    python benchmarks/continual.py --sets tiny --quick --out /tmp/continual    # a look, in a minute

The photographs are in $KNNSEG_REAL_DATA or ../shared/real; ``tiny`` needs none. The first step has half of the classes,
three more have the rest. Images of a step are those that show a class of it, and only its classes are labelled there
("overlapped": Cermelli et al., MiB, CVPR 2020, arXiv 2002.00718). Measured is on query images, with the classes
seen so far as the vocabulary; pixels of other classes do not count.

Every way gets the same pooled features, of the same true masks to learn and of the same regions to answer; only those
that train the last block make features of their own of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import put, real_folder
from continual_page import Row, page, picture
from continual_ways import Base, Means, Memory, Ours, Recipe, Step, Trained, Way, step_of, steps
from continual_world import Floats, Ints, Scenes, World, look
from mobilenet import photographs
from tqdm import tqdm

from knnseg import Config, Segmenter
from knnseg.data.masks import nearest
from knnseg.datasets import LabelledImages

RESULTS = Path(__file__).parent / "results" / "continual.json"
"""Unless --out names another folder; sets that are not measured again stay in it and on the page."""
PRESETS = {"tiny": "tiny", "msrc": "photo-words", "camvid": "photo-words"}
EVERY = {"msrc": 3, "camvid": 6}
"""Learnt is from every n-th photograph of the reference half; a street scene shows nearly all classes."""
HEAD_RATES, BLOCK_RATES, DISTIL = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (1e-1, 1e-2, 1e-3), (1.0, 10.0, 100.0)
"""Rates of SGD, and weights of LwF. The best on images of the first two steps that are kept back, of equals the first:
a head that forgets least, and a block that is trained at all.
"""

RECIPES = {
    "head": Recipe(),
    "head from the base": Recipe(from_base=True),
    "head and block": Recipe(block=True),
    "head, replay": Recipe(replay=True),
    "head and block, replay": Recipe(block=True, replay=True),
    "head, LwF": Recipe(distil=True),
    "head and block, LwF": Recipe(block=True, distil=True),
}
JOINT = {"joint head": Recipe(), "joint head and block": Recipe(block=True)}
"""All classes at once: what training could reach."""


# -- measuring ---------------------------------------------------------------------------------------------------------


class Course:
    """What one way gave after each step."""

    def __init__(self, world: World, order: list[Step]) -> None:
        self._world, self._order = world, order
        self._before, self._by_group = np.array([], np.int64), list[list[float]]()

    def measure(self, way: Way, number: int) -> Row:
        asked, taught = self._world.asked, self._order[: number + 1]
        old, new = (np.sort(np.concatenate([[], *(s.classes for s in part)])).astype(np.int64)
                    for part in (taught[:-1], taught[-1:]))  # fmt: skip
        seen = np.union1d(old, new)
        found = asked.found(way.scores(seen), seen)
        ious = asked.ious(found, seen)
        self._by_group.append([float(np.nanmean(ious[s.classes])) for s in taught])
        row: Row = {"groups": self._by_group[-1], "bytes": way.stored()}
        row |= {"new": float(np.nanmean(ious[new])), "all": float(np.nanmean(ious))}
        if number:
            earlier = [[groups[j] for groups in self._by_group[j:]] for j in range(number)]
            row["old"] = float(np.nanmean(ious[old]))
            row["backward"] = float(np.mean([values[-1] - values[0] for values in earlier]))
            row["forgetting"] = float(np.mean([max(values[:-1]) - values[-1] for values in earlier]))
            row["changed"] = asked.differ(asked.found(way.scores(old), old), self._before, old)
            row["moved"] = asked.differ(found, self._before, old)
        self._before = found
        return row


def run(world: World, seed: int, epochs: int, numbers: dict[str, float]) -> Iterator[Row]:
    """Every way through the same steps: a row for each way and step."""
    order = steps(world, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(world, Path(folder))
        plain: dict[str, Way] = {"base": Base(world), "class means": Means(world)}
        plain |= {"ours": Ours(world, memory, base=False), "ours with the base": Ours(world, memory, base=True)}
        courses, exact = {name: Course(world, order) for name in plain}, Exact(world, memory)
        budgets, seconds = list[int](), dict[str, float]()
        for step in order:
            for name, way in plain.items():
                start = time.perf_counter()
                way.learn(step)
                seconds[name] = time.perf_counter() - start
                row = courses[name].measure(way, step.number)
                shared = seconds["ours" if name.startswith("ours") else name]
                yield row | {"way": name, "step": step.number, "seconds": shared / len(step.classes)}
            budgets.append(memory.stored())
            exact.follow(order[: step.number + 1])
        yield {"way": "check", **exact.result(plain["ours with the base"], world.present)}
        memory.database.close()
    firsts: dict[tuple[bool, bool], tuple[Trained, float]] = {}
    for name, recipe in (RECIPES | JOINT).items():
        course = [step_of(world, 0, world.present)] if name in JOINT else order
        yield from _trained(world, name, recipe, course, budgets, numbers, epochs, seed, firsts)


def _trained(
    world: World, name: str, recipe: Recipe, order: list[Step], budgets: list[int], numbers: dict[str, float],
    epochs: int, seed: int, firsts: dict[tuple[bool, bool], tuple[Trained, float]],
) -> Iterator[Row]:  # fmt: skip
    course, way = Course(world, order), Trained(world, recipe, numbers, epochs, seed)
    for step in order:
        way.budget, kind, start = budgets[step.number], (recipe.block, recipe.from_base), time.perf_counter()
        if step.number == 0 and len(order) > 1 and kind in firsts:
            first, spent = firsts[kind]
            way = first.after_first_step(recipe, step)
        else:
            way.learn(step)
            spent = time.perf_counter() - start
        if step.number == 0 and len(order) > 1:
            firsts.setdefault(kind, (way.after_first_step(recipe, step), spent))
        row = course.measure(way, step.number)
        yield row | {"way": name, "step": step.number, "seconds": spent / len(step.classes)}


class Exact:
    """A few images by the whole pipeline: is what it gives what is measured here, and does the old stay to the bit."""

    def __init__(self, world: World, memory: Memory) -> None:
        self._world, self._made = world, world.segmenter
        base, proposer = self._made.base, self._made.proposer
        self._made = Segmenter(self._made.extractor, proposer, base, memory.database, config=world.config)
        self._before: list[Floats] = []
        self._same: list[bool] = []

    def follow(self, taught: list[Step]) -> None:
        """Ask for the old classes again after a step, and then for all."""
        if self._before:
            again = self._probabilities(taught[:-1])
            self._same += [np.array_equal(*pair) for pair in zip(self._before, again, strict=True)]
        self._before = self._probabilities(taught)

    def result(self, way: Way, classes: Ints) -> Row:
        """Per cent of pixels that are the same here, and whether all probabilities of old classes stayed."""
        found, names = self._world.asked.found(way.scores(classes), classes), self._world.vocabulary.names
        same = []
        for image, at in self._world.asked.checked:
            semantic = self._made.predict(image, [names[c] for c in classes]).semantic
            same.append(float(np.mean(nearest(found[at], semantic.shape) == np.append(classes, -1)[semantic])))
        return {"agree": 100 * float(np.mean(same)), "exact": all(self._same), "compared": len(self._same)}

    def _probabilities(self, taught: list[Step]) -> list[Floats]:
        names = [self._world.vocabulary.names[c] for c in np.sort(np.concatenate([s.classes for s in taught]))]
        images = [image for image, _ in self._world.asked.checked]
        return [made.scores.probabilities for made in self._made.predict(images, names)]


def choose(world: World, order: list[Step], epochs: int) -> tuple[dict[str, float], list[Row]]:
    """The numbers that are best on the true masks of images that are kept back, and how good all were.

    Rates by the first step, the weight of LwF by the first two. Of every fifteen images of the reference half the last
    five are kept back, since neighbouring shots look alike.
    """
    kept = {i for i in range(len(world.taught)) if i // 5 % 3 == 2}
    learnt = [Step(s.number, s.classes, [i for i in s.images if i not in kept]) for s in order[:2]]
    candidates = {"head": HEAD_RATES, "block": BLOCK_RATES, "distil": DISTIL, "distil with the block": DISTIL}
    numbers, tried = {what: values[0] for what, values in candidates.items()}, list[Row]()
    for what, values in candidates.items():
        recipe = Recipe(block="block" in what, distil="distil" in what)
        part = learnt[: 1 + recipe.distil]
        classes = np.sort(np.concatenate([s.classes for s in part]))
        for value in values:
            way = Trained(world, recipe, numbers | {what: value}, epochs, 0)
            for step in part:
                way.learn(step)
            tried.append({"number": what, "value": value, "accuracy": 100 * way.accuracy(sorted(kept), classes)})
        numbers[what] = max((row for row in tried if row["number"] == what), key=lambda row: row["accuracy"])["value"]
    return numbers, tried


# -- the command -------------------------------------------------------------------------------------------------------


def halves(name: str, every: tuple[int, int], quick: bool) -> tuple[LabelledImages, LabelledImages]:
    """The images to learn from and those to answer."""
    if name == "tiny":
        return (Scenes(48, 1), Scenes(6, 2)) if quick else (Scenes(96, 1), Scenes(32, 2))
    folder = real_folder()
    reference, query = (photographs(folder, half, name) for half in ("reference", "query"))
    return reference[:: (every[0] or EVERY[name]) * (4 if quick else 1)], query[:: every[1] * (6 if quick else 1)]


def configuration(preset: str) -> Config:
    """A preset with one key for each example, regions alone and no sizes, so that all ways have the same."""
    config = Config.preset(preset)
    keys, painting = replace(config.keys, parts=0), replace(config.painting, cells=0)
    return replace(config, keys=keys, painting=painting, retrieval=replace(config.retrieval, size_match=0.0))


def measure(name: str, reference: LabelledImages, query: LabelledImages, seeds: int, epochs: int) -> dict[str, Any]:
    """All about one set."""
    start = time.perf_counter()
    world = look(configuration(PRESETS[name]), reference, query)
    looked, order = time.perf_counter() - start, steps(world, np.random.default_rng(0))
    numbers, tried = choose(world, order, epochs)
    rows = [row | {"seed": seed} for seed in tqdm(range(seeds), desc=name) for row in run(world, seed, epochs, numbers)]
    facts = {"reference": len(reference), "query": len(query), "dim": world.asked.keys.shape[1], "epochs": epochs}
    facts |= {"groups": [len(s.classes) for s in order], "seeds": seeds}
    facts |= {"looking": looked / (len(reference) + len(query)), "seconds": time.perf_counter() - start}
    return {"facts": facts, "chosen": numbers, "tried": tried, "rows": rows}


def tell(results: dict[str, Any], out: Path) -> None:
    """The page and the plots."""
    (out / "assets").mkdir(exist_ok=True)
    put(out / "nothing-forgotten.md", page(results), "continual.py")
    for name, result in results.items():
        picture(result["rows"], name, out / "assets" / f"continual-{name}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    docs = Path(__file__).parents[1] / "docs"
    parser.add_argument("--sets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--seeds", type=int, default=3, help="orders of classes and of images")
    parser.add_argument("--epochs", type=int, default=6, help="of each step of training")
    parser.add_argument("--reference", type=int, default=0, help="learn from every n-th photograph, 0: see EVERY")
    parser.add_argument("--query", type=int, default=4, help="measure on every n-th photograph of the half")
    parser.add_argument("--quick", action="store_true", help="a few images, one seed, two epochs")
    parser.add_argument("--threads", type=int, default=0, help="for torch; 0 leaves it to torch")
    parser.add_argument("--page", action="store_true", help="measure nothing, make page and plots of what is there")
    parser.add_argument("--out", type=Path, default=docs, help="folder of the page and the plots")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = RESULTS if options.out == docs else options.out / RESULTS.name
    kept.parent.mkdir(exist_ok=True)
    results = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}  # of other sets
    for name in [] if options.page else options.sets:
        parts = halves(name, (options.reference, options.query), options.quick)
        seeds, epochs = (1, 2) if options.quick else (options.seeds, options.epochs)
        results[name] = measure(name, *parts, seeds, epochs)
        kept.write_text(json.dumps(results, indent=1), encoding="utf-8")
    results = {name: results[name] for name in PRESETS if name in results}
    tell(results, options.out)
    print(page(results))


if __name__ == "__main__":
    main()
