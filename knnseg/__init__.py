"""knnseg: teach a segmentation model new concepts from a few masked examples, by retrieval instead of training.

    import knnseg

    with knnseg.Segmenter.from_config("tiny", store="faiss:///tmp/concepts") as segmenter:
        segmenter.database.add_masks(image, masks, labels=["kettle", "zebra"], things=["kettle", "zebra"])
        result = segmenter.predict("photo.jpg", classes=["kettle", "zebra", "grass"])
        result.overlay().save("photo.overlay.png")

Names are imported on first use, and torch only by the stages that need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knnseg.config import Config, presets
    from knnseg.data.annotations import LabelledImage, LabelledSegment
    from knnseg.data.arrays import IGNORE
    from knnseg.data.features import Features
    from knnseg.data.image import Image
    from knnseg.data.masks import Masks
    from knnseg.data.reading import load_image, load_label_map
    from knnseg.data.scores import ClassScores
    from knnseg.data.vocabulary import Vocabulary
    from knnseg.database.concepts import ConceptDatabase
    from knnseg.errors import KnnSegError
    from knnseg.result import Segmentation
    from knnseg.segmenter import Segmenter
    from knnseg.stages.hookspecs import hookimpl
    from knnseg.stages.keys import Whitened, WithContext
    from knnseg.stages.protocols import BasePredictor, DerivedFeatures, FeatureExtractor, MaskProposer
    from knnseg.stages.registry import register

_HOME = {
    "config": ["Config", "presets"],
    "data.annotations": ["LabelledImage", "LabelledSegment"],
    "data.arrays": ["IGNORE"],
    "data.features": ["Features"],
    "data.image": ["Image"],
    "data.masks": ["Masks"],
    "data.reading": ["load_image", "load_label_map"],
    "data.scores": ["ClassScores"],
    "data.vocabulary": ["Vocabulary"],
    "database.concepts": ["ConceptDatabase"],
    "errors": ["KnnSegError"],
    "result": ["Segmentation"],
    "segmenter": ["Segmenter"],
    "stages.hookspecs": ["hookimpl"],
    "stages.keys": ["Whitened", "WithContext"],
    "stages.protocols": ["BasePredictor", "DerivedFeatures", "FeatureExtractor", "MaskProposer"],
    "stages.registry": ["register"],
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "IGNORE",
    "BasePredictor",
    "ClassScores",
    "ConceptDatabase",
    "Config",
    "DerivedFeatures",
    "FeatureExtractor",
    "Features",
    "Image",
    "KnnSegError",
    "LabelledImage",
    "LabelledSegment",
    "MaskProposer",
    "Masks",
    "Segmentation",
    "Segmenter",
    "Vocabulary",
    "Whitened",
    "WithContext",
    "hookimpl",
    "load_image",
    "load_label_map",
    "presets",
    "register",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE:
        raise AttributeError(f"module 'knnseg' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"knnseg.{_MODULE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
