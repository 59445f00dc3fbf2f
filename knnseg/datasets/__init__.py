"""Sources of labelled images. Every one is a sequence of :class:`knnseg.LabelledImage`, read when asked for."""

from knnseg.datasets.benchmarks import Benchmark, benchmarks, open_dataset, with_names
from knnseg.datasets.folders import CocoPanoptic, ImageLabelPairs, LabelledImages, read_classes
from knnseg.datasets.formats import annotation_formats, from_detections, open_annotations
from knnseg.datasets.rendered import CONCEPTS, RenderedScenes, SceneClass

__all__ = [
    "CONCEPTS",
    "Benchmark",
    "CocoPanoptic",
    "ImageLabelPairs",
    "LabelledImages",
    "RenderedScenes",
    "SceneClass",
    "annotation_formats",
    "benchmarks",
    "from_detections",
    "open_annotations",
    "open_dataset",
    "read_classes",
    "with_names",
]
