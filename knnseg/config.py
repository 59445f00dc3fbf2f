"""Every number of the method, in one place, readable from TOML.

A preset is nothing but such a file, in ``knnseg/presets``:

    [features]                       # keys for retrieval
    name = "open_clip"
    model = "ViT-B-16"

    [keys]                           # what is made of the features; optional
    whitening = "whitening.npz"      # a file of Whitened.save, relative to this one
    context = 0.7

    [retrieval]
    k = 16
    temperature = 0.1

Sections ``features``, ``masks`` and ``base`` name a registered stage and pass it the remaining keys, which are checked
against what that stage accepts. The other sections are the dataclasses below.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from knnseg.checked import AtLeast0, Count, Number, Positive, Share, checked
from knnseg.errors import ConfigError
from knnstore.errors import did_you_mean

__all__ = ["Config", "FusionConfig", "KeysConfig", "PaintingConfig", "RetrievalConfig", "StageConfig", "presets"]


@dataclass(frozen=True, slots=True)
class StageConfig:
    """A registered stage by name, and the options it is made with."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@checked("configuration keys")
@dataclass(frozen=True, slots=True)
class KeysConfig:
    """What is made of the features before they become keys, see :mod:`knnseg.stages.keys`.

    Args:
        whitening: path of a file of :meth:`knnseg.Whitened.save`; in a TOML file, relative to that file. Empty for
            none.
        context: weight of the whole image beside each mask, see :class:`knnseg.WithContext`. 0 turns it off.
        parts: tiles along the longer side of an image; an example that covers several of them also gives a key for its
            part in each, see :mod:`knnseg.database.parts`. 0 turns it off.
    """

    whitening: Annotated[str, Field(description="a path, or an empty string")] = ""
    context: AtLeast0 = 0.0
    parts: Annotated[int, Field(ge=0, le=64, description="a whole number from 0 to 64")] = 0


@checked("configuration retrieval")
@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """Equations 2 and 3.

    Args:
        k: neighbours of each mask.
        weighting: w_j = exp((s_j - 1)/τ) for ``"exponential"``, 1 for ``"uniform"``, max(s_j, 0) for ``"similarity"``.
        temperature: τ, in units of cosine similarity.
        class_balance: γ; w_j is multiplied by n_c^-γ, n_c the number of entries of the class. 0 turns it off.
        size_match: β; w_j is multiplied by a^β, a how well the size of the entry goes with that of the mask, at most 1.
            0 turns it off.
    """

    k: Count = 16
    weighting: Literal["exponential", "uniform", "similarity"] = "exponential"
    temperature: Positive = 0.1
    class_balance: Share = 0.0
    size_match: Share = 0.0


@checked("configuration fusion")
@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Equation 4.

    Args:
        mode: ``"supported"`` moves only the probability that the base gives to classes with examples; ``"evidence"``
            also gives them more of it, the more alike the nearest example is; ``"late"`` is the plain convex
            combination of the paper.
        weight: λ, the share of retrieval.
        midpoint: m, the confidence at which half of that share is believed; only ``"evidence"`` has it.
        softness: w, about how far from there it is hardly or nearly all believed.
        threshold: T; masks with less confidence keep the base prediction.
        confidence: what T is compared with: the cosine of the nearest neighbour (``"similarity"``) or the largest
            class share among the votes (``"vote"``).
        branch: where in the base retrieval is fused: with its final scores (``"final"``); in FC-CLIP also with the
            scores of CLIP before the ensemble (``"out_vocab"``), or with the ensemble before void (``"ensemble"``).
    """

    mode: Literal["supported", "evidence", "late"] = "supported"
    weight: Share = 0.7
    midpoint: Number = 0.65
    softness: Positive = 0.05
    threshold: Number = -1.0
    confidence: Literal["similarity", "vote"] = "similarity"
    branch: Annotated[str, Field(min_length=1, description="the name of a branch of the base")] = "final"


@checked("configuration painting")
@dataclass(frozen=True, slots=True)
class PaintingConfig:
    """From scored masks to maps.

    Args:
        min_area: panoptic segments with fewer pixels are dropped.
        min_visible: a mask of an instance is dropped where it gets fewer pixels than this share of those that it
            covers.
        min_score: panoptic segments with a lower class probability are dropped.
        cells: beside regions, so many cells of a grid along the longer side of the image vote too, see
            :mod:`knnseg.method.cells`. 0 turns it off.
        unknown: what is left of 1 in the probabilities of a mask goes to a class ``unknown`` at the end of the result's
            vocabulary. Without a base predictor that is every mask with less confidence than T of the fusion. What no
            mask covers is of that class too.
    """

    min_area: Annotated[int, Field(ge=0, description="a number of pixels")] = 16
    min_visible: Share = 0.5
    min_score: Share = 0.0
    cells: Annotated[int, Field(ge=0, le=256, description="a whole number from 0 to 256")] = 0
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A whole pipeline: three stages by name, and the numbers between them.

    Args:
        features: makes the keys.
        masks: proposes masks.
        base: predicts without the database.
        keys: what is made of the features.
        retrieval: equations 2 and 3.
        fusion: equation 4.
        painting: from scored masks to maps.
        unstated: the numbers of ``retrieval`` and ``fusion`` that no file has stated, by ``"section.key"``. What is
            kept with a database takes their place, see :meth:`filled`; a number that was changed since is stated too.
    """

    features: StageConfig
    masks: StageConfig
    base: StageConfig = StageConfig("none")
    keys: KeysConfig = KeysConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    fusion: FusionConfig = FusionConfig()
    painting: PaintingConfig = PaintingConfig()
    unstated: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def preset(cls, name: str) -> Config:
        """One of :func:`presets`, whose numbers are nobody's own.

        Raises:
            ConfigError: no such preset.
        """
        if name not in presets():
            raise ConfigError("preset", expected=f"one of {presets()}", got=repr(name))
        read = cls.from_toml(Path(str(resources.files("knnseg") / "presets" / f"{name}.toml")))
        return dataclasses.replace(read, unstated=_unstated(read, {}))

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> Config:
        """Read a file. A top-level ``preset = "tiny"`` starts from that preset; sections then replace single keys.

        Raises:
            ConfigError: no such file, not TOML, an unknown section or key, a value out of range.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(path, expected="a TOML file", got="no such file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(path, expected="TOML", got=str(error)) from error
        _anchor(data, Path(path).parent)
        try:
            return cls.from_dict(data)
        except ConfigError as error:
            raise ConfigError.of(error, path) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Config:
        """The same from a nested dictionary, as TOML reads it."""
        data = dict(data)
        start = cls.preset(data.pop("preset")) if "preset" in data else None
        known = [part.name for part in dataclasses.fields(cls) if part.name != "unstated"]
        sections: dict[str, Any] = {}
        for name, values in data.items():
            if name not in known:
                hint = did_you_mean(name, known)
                raise ConfigError(f"configuration: unknown section {name!r}", expected=f"one of {known}", hint=hint)
            if not isinstance(values, dict):
                raise ConfigError(f"configuration {name}", expected="a section with keys", got=repr(values))
            sections[name] = _section(name, values, getattr(start, name, _NUMBERS.get(name)))
        if start is not None:
            made = dataclasses.replace(start, **sections)
            return dataclasses.replace(made, unstated=_unstated(made, data))
        if not {"features", "masks"} <= set(sections):
            raise ConfigError(
                "configuration",
                expected="the sections features and masks, or a preset to start from",
                got=sorted(sections),
            )
        made = cls(**sections)
        return dataclasses.replace(made, unstated=_unstated(made, data))

    def filled(self, numbers: Mapping[str, Mapping[str, Any]]) -> Config:
        """With other numbers in place of those that nobody has stated.

        Args:
            numbers: by section and key, as TOML has them.
        """
        config = self
        for section, values in numbers.items():
            own = getattr(config, section)
            free = {k: v for k, v in values.items() if self.unstated.get(f"{section}.{k}", _STATED) == getattr(own, k)}
            config = dataclasses.replace(config, **{section: dataclasses.replace(own, **free)})
        return config


_STATED = object()
_FITTED = ("retrieval", "fusion")
"""The sections whose numbers may come from the database."""
_NUMBERS: dict[str, Any] = {
    "keys": KeysConfig(),
    "retrieval": RetrievalConfig(),
    "fusion": FusionConfig(),
    "painting": PaintingConfig(),
}
"""The sections that name no stage, as they are where a file says nothing of them."""


def _anchor(data: dict[str, Any], folder: Path) -> None:
    """Make the paths of a file relative to its folder; what is not a path is left for the checks to refuse."""
    keys = data.get("keys")
    if isinstance(keys, dict) and isinstance(keys.get("whitening"), str) and keys["whitening"]:
        keys["whitening"] = str(folder / keys["whitening"])


def _unstated(config: Config, data: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that a file does not state; see :attr:`Config.unstated`."""
    return {
        f"{section}.{key}": value
        for section in _FITTED
        for key, value in dataclasses.asdict(getattr(config, section)).items()
        if key not in data.get(section, {})
    }


def _section(name: str, values: dict[str, Any], start: Any) -> Any:
    """What a section says, the rest as in ``start``: None, a stage, or numbers."""
    if name in _NUMBERS:
        return dataclasses.replace(start, **values)
    same = start is not None and values.get("name", start.name) == start.name
    if "name" not in values and not same:
        raise ConfigError(f"configuration {name}", expected="a key `name` with a registered stage", got=repr(values))
    options = {**(start.options if same else {}), **{key: v for key, v in values.items() if key != "name"}}
    return StageConfig(values.get("name", start.name if same else ""), options)


def presets() -> list[str]:
    """The names of the bundled presets."""
    folder = resources.files("knnseg") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
