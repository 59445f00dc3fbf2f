"""Stages by name: found through pluggy, imported when made, their options checked against what they accept."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import entry_points
from typing import Any, get_args

from knnseg.config import Config, StageConfig
from knnseg.errors import ConfigError, StageError, UnknownStageError
from knnseg.stages import hookspecs
from knnseg.stages.hookspecs import Factory, Kind, hookimpl
from knnseg.stages.keys import Whitened, WithContext
from knnseg.stages.protocols import FeatureExtractor
from knnstore.errors import BrokenPluginError, did_you_mean
from knnstore.hookspecs import call_hook

__all__ = ["knnseg_register", "make", "make_extractor", "names", "prepare", "register", "with_checkpoint"]

_GROUP = "knnseg"
_BUILTIN: dict[tuple[Kind, str], Factory] = {
    ("features", "open_clip"): "knnseg.models.open_clip:OpenClipFeatures.load",
    ("features", "dinov2"): "knnseg.models.dinov2:DinoFeatures.load",
    ("features", "efficientnet"): "knnseg.models.efficientnet:EfficientNetFeatures.load",
    ("features", "fcclip"): "knnseg.models.fcclip.keys:FcClipFeatures.load",
    ("masks", "eomt"): "knnseg.models.proposers.queries:load_eomt",
    ("masks", "fcclip"): "knnseg.models.fcclip.stage:FcClipProposer.load",
    ("masks", "mask2former"): "knnseg.models.proposers.queries:load_mask2former",
    ("masks", "regions"): "knnseg.models.regions:RegionProposer",
    ("masks", "sam"): "knnseg.models.proposers.points:load_sam",
    ("masks", "sam2"): "knnseg.models.proposers.points:load_sam2",
    ("prompted", "sam"): "knnseg.models.proposers.prompted:load_sam",
    ("prompted", "sam2"): "knnseg.models.proposers.prompted:load_sam2",
    ("base", "none"): "knnseg.models.base:NoBase",
    ("base", "conse"): "knnseg.models.conse:load_conse",
    ("base", "dense_clip"): "knnseg.models.open_clip:dense_clip",
    ("base", "fcclip"): "knnseg.models.fcclip.stage:FcClip.load",
    ("annotations", "coco"): "knnseg.datasets.formats.coco:CocoInstances",
    ("annotations", "coco_panoptic"): "knnseg.datasets.formats.coco:CocoPanopticFile",
    ("annotations", "cvat"): "knnseg.datasets.formats.cvat:Cvat",
    ("annotations", "colours"): "knnseg.datasets.formats.colours:ColourMaps",
    ("annotations", "fiftyone"): "knnseg.datasets.formats.fiftyone:FiftyOne",
    ("annotations", "label_studio"): "knnseg.datasets.formats.label_studio:LabelStudio",
    ("annotations", "labelme"): "knnseg.datasets.formats.labelme:Labelme",
    ("annotations", "voc"): "knnseg.datasets.formats.voc:VocBoxes",
    ("annotations", "yolo"): "knnseg.datasets.formats.yolo:Yolo",
}


@hookimpl
def knnseg_register(register: hookspecs.RegisterStage) -> None:
    """Register the stages of this package."""
    for (kind, name), factory in _BUILTIN.items():
        register(kind, name, factory)


_factories: dict[tuple[Kind, str], Factory] = {}
_broken: dict[str, str] = {}
"""Entry points that failed to load, and why."""


def _add(kind: Kind, name: str, factory: Factory) -> None:
    if kind not in get_args(Kind):
        raise StageError("register", expected=f"a kind of {', '.join(get_args(Kind))}", got=repr(kind))
    _factories[kind, name] = factory


@cache
def _loaded() -> dict[tuple[Kind, str], Factory]:
    """The stages of every distribution. What they are called is known only once their hooks have run."""
    for entry in entry_points(group=_GROUP):
        try:
            call_hook(entry.load(), hookspecs, _add)
        except (Exception, SystemExit) as error:  # any exception at all: the module is not ours
            _broken[entry.name] = f"{type(error).__name__}: {error}"
    return _factories


def register(plugin: object) -> None:
    """Register a module or object that has a ``knnseg_register`` hook, without an entry point.

    Of two stages of one kind and name, the one registered last counts.

    Raises:
        StageError: no such hook, one that does not exist or has other arguments, or another kind of stage.
    """
    _loaded()
    try:
        call_hook(plugin, hookspecs, _add)
    except BrokenPluginError as error:
        raise StageError.of(error) from error


def names(kind: Kind) -> list[str]:
    """The stages registered for one place in the pipeline."""
    return sorted(name for other, name in _loaded() if other == kind)


def make(kind: Kind, config: StageConfig, **defaults: Any) -> Any:
    """Make a stage.

    Args:
        kind: ``"features"``, ``"masks"``, ``"base"``, ``"annotations"``, ``"named_images"`` or ``"prompted"``.
        config: its name and options.
        defaults: options to pass where the stage accepts them and the configuration does not set them.

    Raises:
        UnknownStageError: no such stage; plugins that failed to load are named.
        ConfigError: an option that the stage does not accept, or one missing.
    """
    return prepare(kind, config, **defaults)()


def prepare(kind: Kind, config: StageConfig, **defaults: Any) -> Callable[[], Any]:
    """What makes the stage when it is called. All that :func:`make` checks is checked before; no weights are read."""
    call = _factory(kind, config)
    accepted = inspect.signature(call).parameters
    _check_options(kind, config, accepted)
    options = {name: value for name, value in defaults.items() if name in accepted} | dict(config.options)
    missing = [
        p.name for p in accepted.values() if p.default is p.empty and p.kind != p.VAR_KEYWORD and p.name not in options
    ]
    if missing:
        raise ConfigError(f"configuration [{kind}] name = {config.name!r}", expected=f"a value for {missing}")
    return partial(call, **options)


def with_checkpoint(config: Config, path: str) -> Config:
    """The configuration, with a checkpoint for those of its stages that take one.

    Raises:
        ConfigError: no stage takes one.
    """
    stages: dict[Kind, StageConfig] = {"features": config.features, "masks": config.masks, "base": config.base}
    given = {kind: _given(kind, stage, path) for kind, stage in stages.items()}
    if all(given[kind] is stage for kind, stage in stages.items()):
        raise ConfigError(
            "checkpoint",
            expected="a configuration with a stage that takes one, such as the preset fcclip",
            got=", ".join((f"{kind} {stage.name!r}" for kind, stage in stages.items())),
        )
    return replace(config, features=given["features"], masks=given["masks"], base=given["base"])


def _given(kind: Kind, config: StageConfig, checkpoint: str) -> StageConfig:
    if "checkpoint" not in inspect.signature(_factory(kind, config)).parameters:
        return config
    return replace(config, options={**config.options, "checkpoint": checkpoint})


def _factory(kind: Kind, config: StageConfig) -> Callable[..., Any]:
    factory = _loaded().get((kind, config.name))
    if factory is None:
        broken = [f"Plugin {name!r} failed to load: {why}." for name, why in _broken.items()]
        hint = " ".join(filter(None, [did_you_mean(config.name, names(kind)), *broken]))
        raise UnknownStageError(f"{kind} stage", expected=f"one of {names(kind)}", got=repr(config.name), hint=hint)
    return factory if callable(factory) else _imported(kind, config.name, factory)


def _imported(kind: Kind, name: str, factory: str) -> Callable[..., Any]:
    try:
        call: Callable[..., Any] = pkgutil.resolve_name(factory)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{factory.partition(':')[0]}.".startswith(f"{error.name}."):
            raise  # its module is there; what it needs is not
        there = f"{factory!r} to be a module and what it calls the stage"
        raise StageError(f"{kind} stage {name!r}", expected=there, got=str(error)) from error
    return call


def make_extractor(config: Config, *, device: str = "auto") -> FeatureExtractor:
    """The maker of retrieval keys: the stage ``[features]``, and upon it what ``[keys]`` asks for.

    Raises:
        UnknownStageError: no such stage.
        ConfigError: an option that it does not accept, or a whitening of another extractor.
        WeightsError: the whitening cannot be read.
    """
    extractor: FeatureExtractor = make("features", config.features, device=device)
    if config.keys.whitening:
        extractor = Whitened.load(config.keys.whitening, extractor)
    return WithContext(extractor, config.keys.context) if config.keys.context else extractor


def _check_options(kind: str, config: StageConfig, accepted: Mapping[str, inspect.Parameter]) -> None:
    for option in config.options:
        if option not in accepted:
            what = f"configuration [{kind}] name = {config.name!r}: unknown option {option!r}"
            raise ConfigError(what, expected=f"one of {sorted(accepted)}", hint=did_you_mean(option, accepted))
