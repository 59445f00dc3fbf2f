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
import difflib
import math
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from knnseg.errors import ConfigError

__all__ = ["Config", "FusionConfig", "KeysConfig", "PaintingConfig", "RetrievalConfig", "StageConfig", "presets"]


def _require(ok: bool, key: str, expected: str, got: object) -> None:
    if not ok:
        raise ConfigError(f"configuration {key}: expected {expected}, got {got!r}")


_TINY = sys.float_info.min
"""The smallest number above 0, for what must not be 0."""


def _real(value: object, low: float, high: float = math.inf) -> bool:
    """A finite number from ``low`` to ``high``; a bool is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and low <= value <= high  # type: ignore[operator, arg-type]  # a number


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and _real(value, low)


@dataclass(frozen=True, slots=True)
class StageConfig:
    """A registered stage by name, and the options it is made with."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeysConfig:
    """What is made of the features before they become keys, see :mod:`knnseg.stages.keys`.

    Args:
        whitening: path of a file of :meth:`knnseg.Whitened.save`; in a TOML file, relative to that file. Empty for
            none.
        context: weight of the whole image beside each mask, see :class:`knnseg.WithContext`. 0 turns it off.
    """

    whitening: str = ""
    context: float = 0.0

    def __post_init__(self) -> None:
        _require(isinstance(self.whitening, str), "keys.whitening", "a path, or an empty string", self.whitening)
        _require(_real(self.context, 0), "keys.context", "a number of at least 0", self.context)


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    """Equations 2 and 3.

    Args:
        k: neighbours of each mask.
        weighting: w_j = exp((s_j - 1)/τ) for ``"exponential"``, 1 for ``"uniform"``, max(s_j, 0) for ``"similarity"``.
        temperature: τ, in units of cosine similarity.
        class_balance: γ; w_j is multiplied by n_c^-γ, n_c the number of entries of the class. 0 turns it off.
    """

    k: int = 16
    weighting: Literal["exponential", "uniform", "similarity"] = "exponential"
    temperature: float = 0.1
    class_balance: float = 0.0

    def __post_init__(self) -> None:
        _require(_whole(self.k, 1), "retrieval.k", "a whole number of at least 1", self.k)
        names = ("exponential", "uniform", "similarity")
        _require(self.weighting in names, "retrieval.weighting", f"one of {names}", self.weighting)
        _require(_real(self.temperature, _TINY), "retrieval.temperature", "a number above 0", self.temperature)
        _require(_real(self.class_balance, 0, 1), "retrieval.class_balance", "0 to 1", self.class_balance)


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Equation 4.

    Args:
        mode: ``"supported"`` moves only the probability that the base gives to classes with examples; ``"late"`` is the
            plain convex combination of the paper.
        weight: λ, the share of retrieval.
        threshold: T; masks with less confidence keep the base prediction.
        confidence: what T is compared with: the cosine of the nearest neighbour (``"similarity"``) or the largest
            class share among the votes (``"vote"``).
        branch: where in the base retrieval is fused: with its final scores (``"final"``); in FC-CLIP also with the
            scores of CLIP before the ensemble (``"out_vocab"``), or with the ensemble before void (``"ensemble"``).
    """

    mode: Literal["supported", "late"] = "supported"
    weight: float = 0.7
    threshold: float = -1.0
    confidence: Literal["similarity", "vote"] = "similarity"
    branch: str = "final"

    def __post_init__(self) -> None:
        _require(self.mode in ("supported", "late"), "fusion.mode", "supported or late", self.mode)
        _require(_real(self.weight, 0, 1), "fusion.weight", "0 to 1", self.weight)
        _require(self.confidence in ("similarity", "vote"), "fusion.confidence", "similarity or vote", self.confidence)
        _require(_real(self.threshold, -math.inf), "fusion.threshold", "a number", self.threshold)
        _require(bool(self.branch), "fusion.branch", "the name of a branch of the base", self.branch)


@dataclass(frozen=True, slots=True)
class PaintingConfig:
    """From scored masks to maps.

    Args:
        min_area: panoptic segments with fewer pixels are dropped.
        min_visible: a mask of an instance is dropped where it gets fewer pixels than this share of those that it
            covers.
        min_score: panoptic segments with a lower class probability are dropped.
        unknown: what is left of 1 in the probabilities of a mask goes to a class ``unknown`` at the end of the result's
            vocabulary. Without a base predictor that is every mask with less confidence than T of the fusion.
    """

    min_area: int = 16
    min_visible: float = 0.5
    min_score: float = 0.0
    unknown: bool = False

    def __post_init__(self) -> None:
        _require(_whole(self.min_area, 0), "painting.min_area", "a number of pixels", self.min_area)
        _require(_real(self.min_visible, 0, 1), "painting.min_visible", "0 to 1", self.min_visible)
        _require(_real(self.min_score, 0, 1), "painting.min_score", "0 to 1", self.min_score)
        _require(isinstance(self.unknown, bool), "painting.unknown", "true or false", self.unknown)


@dataclass(frozen=True, slots=True)
class Config:
    """A whole pipeline: three stages by name, and the numbers between them."""

    features: StageConfig
    masks: StageConfig
    base: StageConfig = StageConfig("none")
    keys: KeysConfig = KeysConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    fusion: FusionConfig = FusionConfig()
    painting: PaintingConfig = PaintingConfig()

    @classmethod
    def preset(cls, name: str) -> Config:
        """One of :func:`presets`.

        Raises:
            ConfigError: no such preset.
        """
        if name not in presets():
            raise ConfigError(f"preset: expected one of {presets()}, got {name!r}")
        return cls.from_toml(Path(str(resources.files("knnseg") / "presets" / f"{name}.toml")))

    @classmethod
    def from_toml(cls, path: str | PathLike[str]) -> Config:
        """Read a file. A top-level ``preset = "tiny"`` starts from that preset; sections then replace single keys.

        Raises:
            ConfigError: no such file, not TOML, an unknown section or key, a value out of range.
        """
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{path}: expected a TOML file, got no such file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: expected TOML: {error}") from error
        _anchor(data, Path(path).parent)
        try:
            return cls.from_dict(data)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Config:
        """The same from a nested dictionary, as TOML reads it."""
        data = dict(data)
        start = cls.preset(data.pop("preset")) if "preset" in data else None
        known = {part.name: part for part in dataclasses.fields(cls)}
        _check_keys("section", data, known)
        sections: dict[str, Any] = {}
        for name, values in data.items():
            _require(isinstance(values, dict), name, "a section with keys", values)
            sections[name] = _section(name, values, getattr(start, name, None))
        if start is not None:
            return dataclasses.replace(start, **sections)
        missing = sorted({"features", "masks"} - set(sections))
        _require(not missing, "sections", "features and masks, or a preset to start from", sorted(sections))
        return cls(**sections)


_SECTIONS: dict[str, Any] = {
    "keys": KeysConfig,
    "retrieval": RetrievalConfig,
    "fusion": FusionConfig,
    "painting": PaintingConfig,
}


def _anchor(data: dict[str, Any], folder: Path) -> None:
    """Make the paths of a file relative to its folder; what is no path is left for the checks to refuse."""
    keys = data.get("keys")
    if isinstance(keys, dict) and isinstance(keys.get("whitening"), str) and keys["whitening"]:
        keys["whitening"] = str(folder / keys["whitening"])


def _section(name: str, values: dict[str, Any], start: Any) -> Any:
    if name not in _SECTIONS:
        same = start is not None and values.get("name", start.name) == start.name
        options = {**(start.options if same else {}), **{key: v for key, v in values.items() if key != "name"}}
        _require("name" in values or same, name, "a key `name` with a registered stage", values)
        return StageConfig(values.get("name", start.name if same else ""), options)
    kind = _SECTIONS[name]
    _check_keys(f"key in [{name}]", values, {part.name for part in dataclasses.fields(kind)})
    try:
        return dataclasses.replace(start, **values) if start is not None else kind(**values)
    except TypeError as error:
        raise ConfigError(f"configuration [{name}]: {error}") from error


def _check_keys(what: str, given: Mapping[str, Any], known: Any) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), 1)
            raise ConfigError(
                f"configuration: unknown {what}: {key!r}. "
                + (f"Did you mean {near[0]!r}?" if near else f"Expected one of {sorted(known)}.")
            )


def presets() -> list[str]:
    """The names of the bundled presets."""
    folder = resources.files("knnseg") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))
