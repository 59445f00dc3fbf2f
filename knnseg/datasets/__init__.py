"""Annotated images from many sources, in one form: a sequence of :class:`knnseg.types.LabelledImage`."""

from __future__ import annotations

from knnseg.datasets.rendered import CONCEPTS, Concept, RenderedScenes, describe

__all__ = ["CONCEPTS", "Concept", "RenderedScenes", "describe"]
