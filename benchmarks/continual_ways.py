"""Ways of learning concepts step after step, for ``continual.py``."""

from __future__ import annotations

from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from continual_world import Floats, Ints, World, among
from torch import Tensor

from knnseg import ClassScores, ConceptDatabase, Vocabulary
from knnseg.data.features import Embeddings
from knnseg.data.scores import Neighbours
from knnseg.method.fusion import fuse
from knnseg.method.voting import confidence, vote, vote_weights

__all__ = ["Base", "Means", "Memory", "Ours", "Recipe", "Step", "Trained", "Way", "step_of", "steps"]

BATCH, SCALE, SOFT = 4, 10.0, 2.0
"""Images of a step of the optimiser; what unit keys are multiplied by; the temperature of LwF."""


@dataclass(frozen=True)
class Step:
    """Some classes, and the images of the reference half that show them."""

    number: int
    classes: Ints
    images: list[int]


def steps(world: World, rng: np.random.Generator) -> list[Step]:
    """Half of the classes, and the rest in three parts."""
    order = rng.permutation(world.present)
    parts = [order[: len(order) // 2], *np.array_split(order[len(order) // 2 :], 3)]
    return [step_of(world, number, np.sort(part)) for number, part in enumerate(parts)]


def step_of(world: World, number: int, classes: Ints) -> Step:
    shown = [i for i, one in enumerate(world.taught) if np.isin(one.labels.numpy(), classes).any()]
    return Step(number, classes, shown)


class Way(Protocol):
    """One way of learning."""

    def learn(self, step: Step) -> None: ...

    def scores(self, classes: Ints) -> Floats:
        """Of all regions asked about, (N, C), where these classes are asked for."""

    def stored(self) -> int:
        """Bytes kept from step to step, besides network and words as they were."""


class Base:
    """The zero-shot line."""

    def __init__(self, world: World) -> None:
        self._asked = world.asked

    def learn(self, step: Step) -> None: ...

    def scores(self, classes: Ints) -> Floats:
        return among(self._asked.base, classes).numpy()

    def stored(self) -> int:
        return 0


class Means:
    """The nearest class mean; how alike keys are counts as in the votes."""

    def __init__(self, world: World) -> None:
        self._world, self._means = world, torch.zeros(len(world.vocabulary), world.asked.keys.shape[1])

    def learn(self, step: Step) -> None:
        keys, labels = (torch.cat([getattr(self._world.taught[i], a) for i in step.images]) for a in ("keys", "labels"))
        for c in step.classes:
            self._means[c] = F.normalize(keys[labels == int(c)].mean(dim=0), dim=0)

    def scores(self, classes: Ints) -> Floats:
        likeness = self._world.asked.keys @ self._means[classes].T / self._world.config.retrieval.temperature
        return _spread(likeness.softmax(dim=1), classes, len(self._means))

    def stored(self) -> int:
        return 4 * int(self._means.any(dim=1).sum()) * self._means.shape[1]


class Memory:
    """The concept database in a folder, with the votes of the library; shared by ours with and without the base."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world, self._folder = world, folder
        self.database = ConceptDatabase.open(f"faiss://{folder}/db", world.segmenter.extractor)
        self._known: tuple[Any, Neighbours] | None = None

    def learn(self, step: Step) -> None:
        names = [self._world.vocabulary.names[c] for c in step.classes]
        self.database.add([self._world.taught[i].example for i in step.images], classes=names)
        self.database.store.flush()

    def neighbours(self, vocabulary: Vocabulary) -> Neighbours:
        asked = vocabulary.names, self.database.revision()
        if self._known is None or self._known[0] != asked:
            keys = self._world.asked.keys.numpy()
            embeddings = Embeddings(keys, np.zeros(len(keys), np.float32))  # sizes are off
            self._known = asked, self.database.neighbours(embeddings, self._world.config.retrieval.k, vocabulary)
        return self._known[1]

    def stored(self) -> int:
        return sum(file.stat().st_size for file in self._folder.rglob("*") if file.is_file())


class Ours:
    """Equations 2 to 4; with or without a base."""

    def __init__(self, world: World, memory: Memory, *, base: bool) -> None:
        self._world, self._memory, self._base = world, memory, base

    def learn(self, step: Step) -> None:
        if not self._base:  # the other one finds it done
            self._memory.learn(step)

    def scores(self, classes: Ints) -> Floats:
        world, config = self._world, self._world.config
        vocabulary = Vocabulary(tuple(world.vocabulary.names[c] for c in classes))
        found = self._memory.neighbours(vocabulary)
        counts = {concept.label: concept.count for concept in self._memory.database.concepts()}
        voted = vote(found, vote_weights(found, config.retrieval, counts), vocabulary)
        opinion = among(world.asked.base, classes)[:, classes].numpy() * np.float32(self._base)
        supported = np.array([counts.get(name, 0) > 0 for name in vocabulary])
        certainty = confidence(found, voted, config.fusion)
        fused = fuse(ClassScores(opinion, vocabulary.names), voted, certainty, supported, config.fusion)
        return _spread(torch.from_numpy(fused.probabilities), classes, len(world.vocabulary))

    def stored(self) -> int:
        return self._memory.stored()


def _spread(scores: Tensor, classes: Ints, count: int) -> Floats:
    full = torch.zeros(len(scores), count)
    full[:, classes] = scores
    return full.numpy()


@dataclass(frozen=True)
class Recipe:
    """How a head is trained.

    Args:
        block: the last block is trained too.
        replay: what was learnt before is learnt again: keys, or pictures where the block changes the keys.
        distil: what was known of the old classes is held by LwF (Li and Hoiem, ECCV 2016, arXiv 1606.09282).
        from_base: the head adds to what the base says, so that the untrained one is the zero-shot line.
    """

    block: bool = False
    replay: bool = False
    distil: bool = False
    from_base: bool = False


class Trained:
    """A linear head, all of it trained in every step, by cross-entropy over the classes seen so far.

    Args:
        world: the set.
        recipe: how.
        numbers: rates of SGD for the ``head`` and the ``block``, and ``distil``, how much LwF counts, without and
            ``with the block``.
        epochs: of each step.
        seed: of the initialisation and of the order of images.
    """

    def __init__(self, world: World, recipe: Recipe, numbers: dict[str, float], epochs: int, seed: int) -> None:
        self._world, self._recipe, self._numbers, self._epochs = world, recipe, numbers, epochs
        self._rng, classes = np.random.default_rng(seed), len(world.vocabulary)
        start = self._rng.normal(0, 0.01, (world.asked.keys.shape[1], classes)).astype(np.float32)
        self._weight, self._bias = torch.from_numpy(start).requires_grad_(), torch.zeros(classes, requires_grad=True)
        self._block, self._seen = deepcopy(world.block) if recipe.block else None, np.array([], np.int64)
        self._buffer: dict[int, set[int]] = {}
        self._answering: Tensor | None = None  # the keys of what is asked about, until the next step
        self.budget = 0  # bytes of the buffer, set before a step

    def after_first_step(self, recipe: Recipe, step: Step) -> Trained:
        """The same network, to go on in another way: before there is something old, all ways are the same."""
        other = copy(self)
        other._recipe, other._rng, other._block = recipe, deepcopy(self._rng), deepcopy(self._block)
        other._weight, other._bias = (p.detach().clone().requires_grad_() for p in (self._weight, self._bias))
        if recipe.replay:
            other._keep({i: self._rows(i, step.classes) for i in step.images})
        return other

    def learn(self, step: Step) -> None:
        old, self._seen = self._seen, np.union1d(self._seen, step.classes)
        rows = {i: self._rows(i, step.classes) for i in step.images}
        for i, again in self._buffer.items():
            rows[i] = sorted({*rows.get(i, []), *again})
        soft = {i: self._soft(i, old) for i in step.images} if self._recipe.distil and len(old) else {}
        self._train(rows, soft, old)
        self._answering = None
        if self._recipe.replay:
            self._keep(rows)

    def scores(self, classes: Ints) -> Floats:
        asked = self._world.asked
        with torch.no_grad():
            if self._answering is None:
                block = self._block
                self._answering = asked.keys if block is None else torch.cat([one.keys(block) for one in asked.pooled])
            keys = self._answering
            return _spread(self._logits(keys, asked.base, classes).softmax(dim=1), classes, len(self._world.vocabulary))

    def accuracy(self, images: list[int], classes: Ints) -> float:
        """Mean over the classes, on true masks of images to learn from."""
        right: dict[int, list[bool]] = {}
        with torch.no_grad():
            for i in images:
                rows, one = self._rows(i, classes), self._world.taught[i]
                best = classes[self._logits(self._keys(i), one.base, classes)[rows].argmax(dim=1).numpy()]
                for c, found in zip(one.labels[rows].tolist(), best.tolist(), strict=True):
                    right.setdefault(c, []).append(c == found)
        return float(np.mean([np.mean(own) for own in right.values()]))

    def stored(self) -> int:
        size = 4 * len(self._seen) * (len(self._weight) + 1)
        if self._block is not None:
            size += 4 * sum(p.numel() for p in self._block.parameters())
        return size + sum(self._cost(i) * (1 if self._recipe.block else len(rows)) for i, rows in self._buffer.items())

    def _rows(self, image: int, classes: Ints) -> list[int]:
        return np.flatnonzero(np.isin(self._world.taught[image].labels.numpy(), classes)).tolist()

    def _keys(self, image: int) -> Tensor:
        one = self._world.taught[image]
        return one.keys if self._block is None else one.pooled.keys(self._block)

    def _logits(self, keys: Tensor, base: Tensor, classes: Ints) -> Tensor:
        logits = SCALE * keys @ self._weight[:, classes] + self._bias[classes]
        return logits + (among(base, classes)[:, classes] + 1e-6).log() if self._recipe.from_base else logits

    def _soft(self, image: int, old: Ints) -> Tensor:
        with torch.no_grad():
            logits = self._logits(self._keys(image), self._world.taught[image].base, old)
            return (logits / SOFT).softmax(dim=1)

    def _train(self, rows: dict[int, list[int]], soft: dict[int, Tensor], old: Ints) -> None:
        labels = torch.cat([self._world.taught[i].labels[own] for i, own in rows.items()])
        share = 1 / torch.bincount(labels, minlength=len(self._bias)).clamp(min=1)[self._seen]  # classes count alike
        place = torch.full((len(self._bias),), -1)
        place[self._seen] = torch.arange(len(self._seen))
        groups = [{"params": [self._weight, self._bias], "lr": self._numbers["head"]}]
        if self._block is not None:
            groups.append({"params": list(self._block.parameters()), "lr": self._numbers["block"]})
        weight = self._numbers["distil" if self._block is None else "distil with the block"]
        optimiser = torch.optim.SGD(groups, momentum=0.9)  # Adam forgets more
        for _ in range(self._epochs):
            order = self._rng.permutation(list(rows)).tolist()
            for batch in (order[start : start + BATCH] for start in range(0, len(order), BATCH)):
                keys = {i: self._keys(i) for i in batch}
                right = place[torch.cat([self._world.taught[i].labels[rows[i]] for i in batch])]
                base = torch.cat([self._world.taught[i].base[rows[i]] for i in batch])
                logits = self._logits(torch.cat([keys[i][rows[i]] for i in batch]), base, self._seen)
                loss = F.cross_entropy(logits, right, share)
                if distilled := [i for i in batch if i in soft]:
                    loss = loss + weight * self._distance(distilled, keys, soft, old)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    def _distance(self, images: list[int], keys: dict[int, Tensor], soft: dict[int, Tensor], old: Ints) -> Tensor:
        """Of the old classes' probabilities to those before the step, on all masks of the images."""
        base = torch.cat([self._world.taught[i].base for i in images])
        logits = self._logits(torch.cat([keys[i] for i in images]), base, old)
        return F.cross_entropy(logits / SOFT, torch.cat([soft[i] for i in images]))

    def _cost(self, image: int) -> int:
        """Bytes of one picture with its labels, or of one key with its label."""
        return self._world.taught[image].size if self._recipe.block else 4 * (len(self._weight) + 1)

    def _keep(self, rows: dict[int, list[int]]) -> None:
        """Draw from the classes in turn until the buffer is full."""
        queues = []
        for c in self._seen:
            own = [(i, row) for i, many in rows.items() for row in many if self._world.taught[i].labels[row] == int(c)]
            queues.append([own[n] for n in self._rng.permutation(len(own))])
        self._buffer, left = {}, self.budget
        for i, row in (queue[n] for n in range(max(map(len, queues))) for queue in queues if n < len(queue)):
            free = self._recipe.block and i in self._buffer
            if free or self._cost(i) <= left:
                left -= 0 if free else self._cost(i)
                self._buffer.setdefault(i, set()).update(rows[i] if self._recipe.block else {row})
