"""Sources of labelled images. Every one is a sequence of :class:`knnseg.LabelledImage`, read when asked for."""

from knnseg.datasets.folders import CocoPanoptic, ImageLabelPairs, LabelledImages, read_classes

__all__ = ["CocoPanoptic", "ImageLabelPairs", "LabelledImages", "read_classes"]
