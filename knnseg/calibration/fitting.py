"""Choosing numbers, and keys, on the database itself: every image of it is asked about as if it were not there.

No test labels are needed. The stored masks say what is where in an image. What the proposer cuts out of it is embedded,
its neighbours are taken from the other images, and the fused votes are added up at some pixels, as in painting. What
decides is the mean IoU of that map with what is stored. (Mean -ln P of single masks decided before. It prefers other
numbers than the map does, and other keys: see docs/design/calibration.md.)

What is best of many choices looks better than it is on the images that chose it. So the gain is measured apart: each
fifth of the images is judged by what the others choose, and only a gain above its standard error changes anything. Keys
are judged against the best numbers with the keys of now, since to change them takes embedding again.

Where there is no base and the configuration knows the class ``unknown``, T keeps most of the right answers, and nearly
all of the map. What becomes of a class that nobody taught is asked as if the examples of its own were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from knnseg.calibration.judging import NEIGHBOURS, Axis, Choice, Judge, Trial
from knnseg.calibration.leave_one_out import Asker, ExampleAsker, ProposalAsker, Queries
from knnseg.calibration.recipes import KeysAsker, Recipe, Workshop
from knnseg.config import Config
from knnseg.database.originals import Originals
from knnseg.errors import ConfigError
from knnseg.segmenter import Segmenter
from knnseg.stages.keys import Whitened
from knnseg.stages.protocols import FeatureExtractor

__all__ = ["Calibration", "KeysFound", "Trial", "calibrate"]


@dataclass(frozen=True, slots=True)
class KeysFound:
    """Other keys that the images speak for.

    Args:
        recipe: how they are made.
        gain: how much higher the mean IoU is than with the best numbers for the keys of now, on images that had no
            part in the choice.
        spread: standard error of ``gain``.
        extractor: makes them.
        whitening: what of them has to be kept in a file; None where nothing has.
        sections: what a configuration has to say for them, beside that file.
    """

    recipe: Recipe
    gain: float
    spread: float
    extractor: FeatureExtractor
    whitening: Whitened | None
    sections: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What :func:`calibrate` found.

    Args:
        config: the segmenter's, with the best numbers. Where ``keys`` are found, they go with those.
        before: the numbers that the segmenter has.
        best: the best ones; those of ``before`` where no gain is above its spread.
        gain: how much higher the mean IoU is with other numbers alone, on images that had no part in the choice.
        spread: standard error of ``gain``. Both are 0 where all masks come from one image.
        base: what the base alone gets right, as a share like :attr:`Trial.accuracy`; 0 without a base.
        asked: how many masks were asked about.
        images: how many images they are in.
        alone: masks left out because their class has no example in another image.
        missing: examples left out because their image has to be seen, or their mask, and it was not found.
        unknown: share of the masks that the best numbers would call ``unknown`` if their class had not been taught; 0
            where nothing is called so.
        keys: better keys; None where they were not looked for, or no others are better by more than their spread.
        keys_gain: as :attr:`KeysFound.gain`, also where it was not enough.
        keys_spread: its standard error.
    """

    config: Config
    before: Trial
    best: Trial
    gain: float
    spread: float
    base: float
    asked: int
    images: int
    alone: int
    missing: int
    unknown: float = 0.0
    keys: KeysFound | None = None
    keys_gain: float = 0.0
    keys_spread: float = 0.0


def calibrate(
    segmenter: Segmenter,
    originals: Originals | None = None,
    *,
    on: Literal["proposals", "examples"] = "proposals",
    keys: bool = False,
    most: int = 300,
    seed: int = 0,
    progress: bool = False,
) -> Calibration:
    """Choose k, τ, γ, λ and T by leave-one-image-out, and how keys are made.

    One after the other is changed to what is best, until nothing is better; T is tried at the twentieths of the
    confidences met. The rest of the configuration stays. Without a base predictor λ and T have no effect, and stay too.
    So does everything where the choice is not better by more than its spread.

    Args:
        segmenter: with a database; its stages are used as for a prediction.
        originals: finds the images that have to be seen; by default where they were when they were added.
        on: ``"proposals"`` asks about what the proposer cuts out of the images, which is what a prediction will meet,
            at pixels of which the stored masks say what is there. ``"examples"`` asks about the stored masks
            themselves: quicker, right for masks that are given, and needs no images where there is no base; but parts
            of objects are less certain than whole ones, so its numbers are too sharp for region proposals.
        keys: choose also the layers and the input size of an :class:`~knnseg.stages.protocols.Adjustable` extractor,
            whether keys are centred or whitened and how strongly, and the weight of the context. That needs the images,
            and compares them with no others. Nothing is written; see :func:`knnseg.database.reembedding.reembed`.
        most: images to ask about; from a larger database they are drawn at random.
        seed: of that draw, and of the pixels.
        progress: show a progress bar on standard error.

    Raises:
        ConfigError: no database, no mask that can be asked about, or keys without proposals.
    """
    database = segmenter.database
    if database is None:
        raise ConfigError("calibrate", expected="a segmenter with a concept database", got="none")
    if on not in ("proposals", "examples"):
        raise ConfigError("on", expected="proposals or examples", got=repr(on))
    if keys and on != "proposals":
        raise ConfigError("on", expected="proposals, which keys are chosen on", got=repr(on))
    rest = (segmenter, database, originals or Originals())
    workshop = Workshop(segmenter.extractor) if keys else None
    asker: Asker
    if workshop is not None:
        asker = KeysAsker(*rest, neighbours=NEIGHBOURS[-1], workshop=workshop)
    else:
        asker = (ProposalAsker if on == "proposals" else ExampleAsker)(*rest, neighbours=NEIGHBOURS[-1])
    asked = asker.ask(most, seed=seed, progress=progress)

    def look(recipe: Recipe | None) -> Queries:
        return asked if recipe is None or not isinstance(asker, KeysAsker) else asker.queries(asked, recipe)

    judge = Judge(look, None if workshop is None else workshop.start, segmenter, asker)
    first, gain, spread = judge.improved(judge.start, judge.numbers())
    found = _Found(first)
    if workshop is not None and isinstance(asker, KeysAsker):
        found = _keys_found(judge, first, workshop, asker)
    best, untaught = judge.with_unknown(found.choice)
    return Calibration(
        replace(segmenter.config, retrieval=best.retrieval, fusion=best.fusion), judge.trial(judge.start), best, gain,
        spread, judge.base_accuracy, judge.asked, int(asked.image.max()) + 1, asked.alone, asked.missing, untaught,
        found.keys, found.gain, found.spread,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Found:
    choice: Choice
    keys: KeysFound | None = None
    gain: float = 0.0
    spread: float = 0.0


def _keys_found(judge: Judge, first: Choice, workshop: Workshop, asker: KeysAsker) -> _Found:
    """Keys, with the numbers that go with them, if they are better than the best numbers alone."""
    best, gain, spread = judge.improved(first, [*_parts_of_keys(workshop), *judge.numbers()])
    recipe = best.recipe
    if recipe is None or recipe == workshop.start:
        return _Found(first, None, gain, spread)
    extractor, whitening = asker.extractor(recipe)
    kept = None if recipe.whitening == -1 else whitening
    keys = KeysFound(recipe, gain, spread, extractor, kept, workshop.sections(recipe))
    return _Found(best, keys, gain, spread)


def _parts_of_keys(workshop: Workshop) -> list[Axis]:
    def part(number: int) -> Axis:
        def others(choice: Choice) -> list[Choice]:
            recipes = workshop.others(choice.recipe or workshop.start)[number]
            return [replace(choice, recipe=recipe) for recipe in recipes]

        return others

    return [part(number) for number in range(len(workshop.others(workshop.start)))]
