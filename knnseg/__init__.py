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
    from knnseg.annotations import LabelledImage, LabelledSegment
    from knnseg.base import BasePredictor, DenseClip, NoBase
    from knnseg.concepts import AddReport, Concept, ConceptDatabase
    from knnseg.config import Config, FusionConfig, KeysConfig, PaintingConfig, RetrievalConfig, StageConfig, presets
    from knnseg.errors import KnnSegError
    from knnseg.features import DerivedFeatures, EncodedImage, FeatureExtractor
    from knnseg.hookspecs import hookimpl
    from knnseg.images import load_image, load_label_map
    from knnseg.instances import Instance
    from knnseg.keys import Whitened, WithContext
    from knnseg.masks import MaskProposer, RegionProposer
    from knnseg.metrics import ConfusionMatrix, PanopticQuality
    from knnseg.painting import Segment
    from knnseg.pipeline import Explanation, Segmenter, Vote
    from knnseg.segmentation import Segmentation
    from knnseg.stages import register
    from knnseg.types import (
        IGNORE,
        ClassScores,
        Embeddings,
        Features,
        Masks,
        Neighbours,
        Vocabulary,
    )

_HOME = {
    "annotations": ["LabelledImage", "LabelledSegment"],
    "concepts": ["AddReport", "Concept", "ConceptDatabase"],
    "config": ["Config", "FusionConfig", "KeysConfig", "PaintingConfig", "RetrievalConfig", "StageConfig", "presets"],
    "errors": ["KnnSegError"],
    "features": ["DerivedFeatures", "EncodedImage", "FeatureExtractor"],
    "hookspecs": ["hookimpl"],
    "images": ["load_image", "load_label_map"],
    "instances": ["Instance"],
    "keys": ["Whitened", "WithContext"],
    "masks": ["MaskProposer", "RegionProposer"],
    "metrics": ["ConfusionMatrix", "PanopticQuality"],
    "base": ["BasePredictor", "DenseClip", "NoBase"],
    "painting": ["Segment"],
    "pipeline": ["Explanation", "Segmenter", "Vote"],
    "segmentation": ["Segmentation"],
    "stages": ["register"],
    "types": [
        "IGNORE", "ClassScores", "Embeddings", "Features", "Masks", "Neighbours",
        "Vocabulary",
    ],
}  # fmt: skip
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "IGNORE",
    "AddReport",
    "BasePredictor",
    "ClassScores",
    "Concept",
    "ConceptDatabase",
    "Config",
    "ConfusionMatrix",
    "DenseClip",
    "DerivedFeatures",
    "Embeddings",
    "EncodedImage",
    "Explanation",
    "FeatureExtractor",
    "Features",
    "FusionConfig",
    "Instance",
    "KeysConfig",
    "KnnSegError",
    "LabelledImage",
    "LabelledSegment",
    "MaskProposer",
    "Masks",
    "Neighbours",
    "NoBase",
    "PaintingConfig",
    "PanopticQuality",
    "RegionProposer",
    "RetrievalConfig",
    "Segment",
    "Segmentation",
    "Segmenter",
    "StageConfig",
    "Vocabulary",
    "Vote",
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
