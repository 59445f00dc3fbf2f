"""Sources of labelled images. Every one is a sequence of :class:`knnseg.LabelledImage`, read when asked for."""

from knnseg.datasets.folders import CocoPanoptic, ImageLabelPairs, LabelledImages, read_classes
from knnseg.datasets.rendered import CONCEPTS, Concept, RenderedScenes

__all__ = ["CONCEPTS", "CocoPanoptic", "Concept", "ImageLabelPairs", "LabelledImages", "RenderedScenes", "read_classes"]
