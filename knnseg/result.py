"""The result of a prediction, and every form in which people want it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from knnseg.data.arrays import ImageArray
from knnseg.data.masks import Masks
from knnseg.data.scores import ClassScores, Neighbours
from knnseg.data.vocabulary import Vocabulary
from knnseg.drawing import overlay
from knnseg.errors import VocabularyError
from knnseg.export import coco, libraries, notebook
from knnseg.export.files import FAST, save_picture, write_text
from knnseg.export.maps import label_map
from knnseg.method.instances import MOST, Instance, find_instances
from knnseg.method.painting import Segment
from knnstore import EmbeddingStore

__all__ = ["Evidence", "Explanation", "Segmentation", "Vote", "explain"]


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """Why each mask got its class.

    Args:
        base: P_base, (N, C).
        retrieved: P_ret, (N, C); None where the database was not asked.
        neighbours: (N, K); None likewise.
        weights: float64 (N, K), the normalised w_j; None likewise.
        confidence: float32 (N,), what T was compared with; None likewise.
    """

    base: ClassScores
    retrieved: ClassScores | None = None
    neighbours: Neighbours | None = None
    weights: NDArray[np.float64] | None = None
    confidence: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A segmented image.

    Args:
        image: uint8 (H, W, 3), what was segmented.
        vocabulary: the C classes.
        semantic: int32 (H, W), position in the vocabulary, ``IGNORE`` (-1) where nothing is known.
        panoptic: int32 (H, W), segment numbers from 1; 0 where there is no segment.
        segments_info: the segments, in the order of their numbers.
        masks: the N proposals that were classified.
        scores: P_final, (N, C).
        evidence: how the scores came about.
        degraded: why the database was not used though it should have been; "" normally.
        seconds: wall time by stage.
        source: the path of the image, as it was given; "" for an image that did not come from a file.
    """

    image: ImageArray
    vocabulary: Vocabulary
    semantic: NDArray[np.int32]
    panoptic: NDArray[np.int32]
    segments_info: tuple[Segment, ...]
    masks: Masks
    scores: ClassScores
    evidence: Evidence
    degraded: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    def segment(self, number: int) -> Segment:
        """The segment of a number in ``panoptic``.

        Raises:
            VocabularyError: there is no such segment.
        """
        for segment in self.segments_info:
            if segment.id == number:
                return segment
        raise VocabularyError("segment", expected=f"a number from 1 to {len(self.segments_info)}", got=number)

    def instances(self, *, most: int = MOST) -> tuple[Instance, ...]:
        """The objects, best first, each with a score and a mask of its own, which may overlap others.

        Where the proposals are whole instances these are the most probable pairs of mask and thing, as average
        precision wants them: many are doubtful. Where the proposals are regions they are the things of the panoptic
        map.

        Args:
            most: how many at most; of proposals, how many pairs of mask and class are looked at, stuff included.
        """
        panoptic = (self.panoptic, self.segments_info)
        return find_instances(self.masks, self.scores, self.vocabulary, panoptic, most=most)

    def overlay(self, *, legend: bool = True, alpha: float = 0.55) -> Image.Image:
        """The image with its classes in colour, boundaries between segments, and a legend."""
        return overlay(self.image, self.semantic, self.vocabulary.names, self.panoptic, legend=legend, alpha=alpha)

    def _repr_png_(self) -> bytes:
        return notebook.as_png(self)

    def _repr_html_(self) -> str:
        return notebook.as_html(self)

    def save(
        self, folder: str | PathLike[str], stem: str = "segmentation", *, image_id: int = 1, image_file: str = ""
    ) -> list[Path]:
        """Write ``STEM.overlay.png``, ``STEM.semantic.png`` (position + 1, 0 for no class), COCO panoptic.

        Of many images :class:`knnseg.export.Export` writes one file of annotations.

        Args:
            folder: made where it does not exist.
            stem: of the names of the files.
            image_id: as for :meth:`save_coco`.
            image_file: as for :meth:`save_coco`.

        Returns:
            The files, in that order.
        """
        target = Path(folder)
        picture, semantic = target / f"{stem}.overlay.png", target / f"{stem}.semantic.png"
        save_picture(picture, self.overlay(), level=FAST)
        save_picture(semantic, label_map(self))
        return [picture, semantic, *self.save_coco(target, stem, image_id, image_file)]

    def save_coco(
        self, folder: str | PathLike[str], stem: str = "segmentation", image_id: int = 1, image_file: str = ""
    ) -> list[Path]:
        """Write COCO panoptic's ``STEM.panoptic.png`` (R + 256·G + 65536·B) and ``STEM.panoptic.json``.

        Args:
            folder: made where it does not exist.
            stem: of the names of the files.
            image_id: of the image; give each another where they are to be read together.
            image_file: the file name of the image, in whatever folder of images they will be read with; by default
                the name that it was read from, or ``STEM.png`` for an image that did not come from a file.
        """
        png, annotation = (Path(folder) / f"{stem}.panoptic.{ending}" for ending in ("png", "json"))
        save_picture(png, coco.panoptic_picture(self))
        document = self.coco_panoptic(png.name, image_id, image_file or Path(self.source).name or f"{stem}.png")
        write_text(annotation, json.dumps(document, indent=1, ensure_ascii=False))
        return [png, annotation]

    def coco_panoptic(self, file_name: str, image_id: int = 1, image_file: str = "") -> dict[str, Any]:
        """The annotation in COCO's panoptic format; category ids are positions in the vocabulary, from 1.

        Args:
            file_name: of the panoptic PNG.
            image_id: of the image.
            image_file: the file name of the image; by default the name that it was read from.
        """
        return coco.panoptic_document(self, file_name, image_id, image_file or Path(self.source).name or file_name)

    def rle(self, image_id: int = 1) -> list[dict[str, Any]]:
        """The segments as COCO results: ``segmentation`` (compressed RLE), ``category_id`` from 1, ``bbox``, ``score``.

        They can be written as JSON, and ``COCO.loadRes`` of pycocotools takes them, for images of these ids.
        """
        return coco.instances(self, image_id)

    def to_transformers(self) -> dict[str, Any]:
        """What ``post_process_panoptic_segmentation`` of transformers returns: a tensor and ``segments_info``.

        ``label_id`` is the position in the vocabulary. Needs torch.
        """
        return libraries.transformers_panoptic(self)

    def to_transformers_semantic(self) -> Any:
        """What ``post_process_semantic_segmentation`` of transformers returns for one image: an int64 tensor (H, W).

        Pixels without a class are -1. Needs torch.
        """
        return libraries.transformers_semantic(self)

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with masks; class ids are positions in the vocabulary. Needs supervision."""
        return libraries.detections(self)


@dataclass(frozen=True, slots=True)
class Vote:
    """One database entry that voted on a segment.

    Args:
        id: its id.
        label: the class that it voted for.
        weight: its share of all votes on the segment, 0 to 1.
        similarity: cosine to the mask that it was nearest to.
        image: where its image is.
        box: (x0, y0, x1, y1) in that image, pixels.
    """

    id: str
    label: str
    weight: float
    similarity: float
    image: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a segment has its class.

    Args:
        label: the class it got.
        base: mean P_base of the classes over the masks that made the segment, weighted by shared pixels.
        retrieved: mean P_ret likewise.
        final: mean P_final likewise.
        votes: the entries that voted, heaviest first.
    """

    label: str
    base: dict[str, float]
    retrieved: dict[str, float]
    final: dict[str, float]
    votes: tuple[Vote, ...]


def explain(result: Segmentation, segment: int, store: EmbeddingStore | None, most: int) -> Explanation:
    """Which database entries voted on a segment; see :meth:`knnseg.Segmenter.explain`.

    Args:
        result: of a prediction.
        segment: a number in its panoptic map.
        store: of the database that was asked; None where there was none.
        most: how many votes to list.
    """
    label = result.segment(segment).label
    shared = result.masks.inside(result.panoptic == segment) * result.masks.scores
    shared = (shared / max(float(shared.sum()), 1e-12)).astype(np.float64)
    evidence = result.evidence

    def mean(scores: ClassScores | None) -> dict[str, float]:
        if scores is None:
            return {}
        shares = (shared @ scores.probabilities).tolist()
        return {name: p for name, p in zip(scores.classes, shares, strict=True) if p > 0}

    votes = () if store is None else _votes(evidence, shared, store, most)
    return Explanation(label, mean(evidence.base), mean(evidence.retrieved), mean(result.scores), votes)


def _votes(evidence: Evidence, shared: NDArray[np.floating], store: EmbeddingStore, most: int) -> tuple[Vote, ...]:
    found, weights = evidence.neighbours, evidence.weights
    if found is None or weights is None:
        return ()
    totals: dict[str, float] = {}
    similarity: dict[str, float] = {}
    labels = dict(zip(found.ids.ravel().tolist(), found.labels.ravel().tolist(), strict=True))
    for n in np.flatnonzero(shared).tolist():
        for j in np.flatnonzero(weights[n]).tolist():
            identity = found.ids[n, j]
            totals[identity] = totals.get(identity, 0.0) + float(shared[n] * weights[n, j])
            similarity[identity] = max(similarity.get(identity, -1.0), float(found.scores[n, j]))
    heaviest = sorted(totals, key=lambda identity: (-totals[identity], identity))[:most]
    records = store.get(heaviest, with_vectors=False)
    columns = records.fields
    return tuple(
        Vote(
            identity, labels[identity], totals[identity], similarity[identity], columns["image"][i],
            (int(columns["x0"][i]), int(columns["y0"][i]), int(columns["x1"][i]), int(columns["y1"][i])),
        )
        for i, identity in enumerate(records.ids.tolist())
    )  # fmt: skip
