"""FC-CLIP as stages of the pipeline: it proposes masks, and says what is in them, from one pass over the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from knnseg.data.features import Features
from knnseg.data.image import Image, each_once
from knnseg.data.masks import Masks
from knnseg.data.reading import MASK_SIDE, within
from knnseg.data.scores import ClassScores
from knnseg.data.vocabulary import Vocabulary
from knnseg.errors import ConfigError, WeightsError
from knnseg.method.pooling import pool
from knnseg.models._torch import to_numpy
from knnseg.models.fcclip.branches import BRANCHES, EnsembleScores
from knnseg.models.fcclip.config import FcClipConfig
from knnseg.models.fcclip.inference import crop_resize
from knnseg.models.fcclip.model import FCCLIP
from knnseg.models.fcclip.outputs import PixelBatch, Proposals, Pyramid, Scores
from knnseg.models.fcclip.pooling import class_logits, resize
from knnseg.models.fcclip.preprocessing import prepare
from knnseg.models.fcclip.text import TextClassifier
from knnseg.models.fcclip.trained import COCO, read_classes
from knnseg.models.weights import find, how_to_get

__all__ = ["FcClip", "FcClipProposer", "FcClipSession", "ensemble_of", "features_of", "load_session"]

_CHUNK = 16
"""Masks brought to the size of the image at a time: all 250 of a photograph would take gigabytes."""


@dataclass(slots=True, eq=False)
class _Seen:
    """What has been made of one image so far."""

    batch: PixelBatch
    dense: Tensor
    pyramid: Pyramid | None
    proposals: Proposals | None = None
    masks: dict[float, QueryMasks] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class QueryMasks(Masks):
    """One mask for each query, in order; what is made of them otherwise, by ``select`` say, is plain masks.

    Args:
        origin: the session and the image that they are of, see :meth:`FcClipSession.made`.
    """

    origin: str = ""


class FcClipSession:
    """A model that the stages of a pipeline share. What it makes of an image stays with the image.

    Args:
        model: FC-CLIP.
    """

    def __init__(self, model: FCCLIP) -> None:
        self.model = model
        self._mark = uuid4().hex  # and no reference, since results are kept, and pickled, without the model

    @torch.inference_mode()
    def encode(self, images: Sequence[Image]) -> list[tuple[PixelBatch, Tensor]]:
        """Of each image a batch of its own and CLIP's dense features."""
        return [(seen.batch, seen.dense) for seen in self._see(images)]

    @torch.inference_mode()
    def look(self, image: Image) -> tuple[PixelBatch, Proposals]:
        """The batch of this one image and its proposals, from the features of :meth:`encode`."""
        (seen,) = self._see([image])
        return seen.batch, self._proposals(seen)

    def _proposals(self, seen: _Seen) -> Proposals:
        if seen.proposals is None:
            assert seen.pyramid is not None  # it is kept until now
            seen.proposals, seen.pyramid = self.model.propose(seen.pyramid), None
        return seen.proposals

    def _see(self, images: Sequence[Image]) -> list[_Seen]:
        # One by one: a batch of several pads to the largest and sums in another order, so that the keys of an example
        # would depend on its neighbours in the batch.
        return each_once(images, f"fcclip {self._mark}", lambda missing: [self._first_look(image) for image in missing])

    def _first_look(self, image: Image) -> _Seen:
        batch = prepare([image.pixels], self.model.config, self.model.device)
        pyramid = self.model.encode(batch.pixels)
        return _Seen(batch, pyramid.dense.float(), pyramid)

    @torch.inference_mode()
    def masks(self, image: Image, least: float) -> QueryMasks:
        """Its masks as soft coverage, one for each query in order; less than ``least`` counts as 0."""
        (seen,) = self._see([image])
        if least not in seen.masks:
            logits, origin = self._proposals(seen).masks[0], f"{self._mark} {image.content_hash}"
            seen.masks[least] = _soft_masks(seen.batch, logits, least, origin)
        return seen.masks[least]

    def made(self, masks: Masks, image: Image) -> bool:
        """Whether these are this session's own masks of the image, however long ago it was seen."""
        return isinstance(masks, QueryMasks) and masks.origin == f"{self._mark} {image.content_hash}"


def load_session(checkpoint: str, sizes: str, precision: str, device: str) -> FcClipSession:
    """Load a checkpoint once a process; stages that name the same one share it.

    Without a name it is the one in the folder of :mod:`knnseg.models.weights`.

    Raises:
        WeightsError: no checkpoint, or one of another layout.
        ConfigError: sizes, precision or device that cannot be used.
    """
    found = checkpoint or find("fcclip")
    if not found:
        advice = how_to_get(
            "fcclip",
            "give its path as `--checkpoint` on the command line, or as `checkpoint` in the sections of a TOML file "
            "whose stages are fcclip",
        )
        raise WeightsError("FC-CLIP", expected="a checkpoint", got="none", hint=f"To have one, {advice}.")
    return _session(str(found), sizes, precision, device)


@lru_cache(maxsize=2)
def _session(checkpoint: str, sizes: str, precision: str, device: str) -> FcClipSession:
    config = FcClipConfig.from_toml(sizes) if sizes else FcClipConfig()
    return FcClipSession(FCCLIP.load(checkpoint, config, device=device, precision=precision))


class FcClipProposer:
    """The masks of FC-CLIP's queries. Implements :class:`knnseg.MaskProposer`.

    Args:
        session: the model.
        min_coverage: a mask covers a pixel by its probability there, and not at all below this, 0 to 1.
    """

    def __init__(self, session: FcClipSession, *, min_coverage: float = 0.05) -> None:
        if not 0 < min_coverage <= 0.5:
            raise ConfigError("min_coverage", expected="above 0 and at most 0.5", got=min_coverage)
        self._session, self._least = session, min_coverage

    @classmethod
    def load(
        cls,
        checkpoint: str = "",
        sizes: str = "",
        precision: str = "float32",
        min_coverage: float = 0.05,
        device: str = "auto",
    ) -> FcClipProposer:
        """Load a checkpoint in the published layout.

        Args:
            checkpoint: its path; empty for the one in the folder of :mod:`knnseg.models.weights`.
            sizes: path of a TOML file for :class:`FcClipConfig`; empty for the published sizes.
            precision: see :class:`FCCLIP`.
            min_coverage: see the class.
            device: where it runs.
        """
        return cls(load_session(checkpoint, sizes, precision, device), min_coverage=min_coverage)

    def propose(self, images: Sequence[Image]) -> list[Masks]:
        """See :meth:`knnseg.MaskProposer.propose`; one mask for each query, which may be empty."""
        return [self._session.masks(image, self._least) for image in images]


class FcClip:
    """FC-CLIP's opinion on masks. Implements :class:`knnseg.BasePredictor`.

    On its own masks it is the published ensemble; a row sums to 1 less the probability of void. On masks of others,
    about which the decoder knows nothing, it is CLIP's opinion on the features under them, and all branches are that.

    Args:
        session: the model.
        trained: the classes that training knew.
    """

    branches = BRANCHES

    def __init__(self, session: FcClipSession, trained: tuple[str, ...] = COCO) -> None:
        self._session, self._trained = session, trained
        self._words: tuple[tuple[str, ...], TextClassifier] | None = None

    @classmethod
    def load(
        cls, checkpoint: str = "", sizes: str = "", precision: str = "float32", trained: str = "", device: str = "auto"
    ) -> FcClip:
        """Load a checkpoint in the published layout.

        Args:
            checkpoint: its path; empty for the one in the folder of :mod:`knnseg.models.weights`.
            sizes: path of a TOML file for :class:`FcClipConfig`; empty for the published sizes.
            precision: see :class:`FCCLIP`.
            trained: path of a file with the classes that training knew, see :func:`read_classes`; empty for COCO's.
            device: where it runs.
        """
        known = read_classes(trained) if trained else COCO
        return cls(load_session(checkpoint, sizes, precision, device), known)

    @torch.inference_mode()
    def predict(self, images: Sequence[Image], masks: Sequence[Masks], vocabulary: Vocabulary) -> list[ClassScores]:
        """(N, C) for each image; the words for each class are those of :meth:`knnseg.Vocabulary.words`."""
        words = self._classifier(tuple(", ".join(vocabulary.words(name)) for name in vocabulary))
        return [self._predict(image, own, words, vocabulary.names) for image, own in zip(images, masks, strict=True)]

    def _predict(self, image: Image, masks: Masks, words: TextClassifier, names: tuple[str, ...]) -> ClassScores:
        if self._session.made(masks, image):
            _, proposals = self._session.look(image)
            return ensemble_of(self._session.model.classify(proposals, words), names)
        ((batch, dense),) = self._session.encode([image])
        return ClassScores(self._by_clip(features_of(batch, dense), masks, words), names, self.branches)

    def _by_clip(self, features: Features, masks: Masks, words: TextClassifier) -> NDArray[np.float32]:
        pooled = pool(features, masks).vectors
        backbone = self._session.model.backbone
        # Of unit variance instead of unit length, so that the norm's epsilon stays as small as in training.
        cells = torch.from_numpy(pooled * np.float32(features.dim**0.5)).to(words.text.device)
        seen = backbone.project(cells[None])
        scores = class_logits(seen, words.text, words.rows, backbone.logit_scale)[0].softmax(-1)
        return np.where(pooled.any(axis=1, keepdims=True), to_numpy(scores), np.float32(0))

    def _classifier(self, names: tuple[str, ...]) -> TextClassifier:
        if self._words is None or self._words[0] != names:
            self._words = (names, self._session.model.classifier(names, self._trained))
        return self._words[1]


def ensemble_of(scores: Scores, classes: tuple[str, ...]) -> EnsembleScores:
    """The scores of the first image."""
    return EnsembleScores(
        to_numpy(scores.logits[0].softmax(-1)[:, :-1]), classes, in_vocab=to_numpy(scores.in_vocab[0, :, :-1]),
        out_vocab=to_numpy(scores.out_vocab[0]), weight=to_numpy(scores.weight[0]), void=to_numpy(scores.void[0]),
    )  # fmt: skip


def features_of(batch: PixelBatch, dense: Tensor) -> Features:
    """Dense features (1, D, h, w) of the first image; their grid spans the padding too."""
    padded, size, original = batch.pixels.shape[2:], batch.sizes[0], batch.originals[0]
    extent = (padded[0] * original[0] / size[0], padded[1] * original[1] / size[1])
    return Features(to_numpy(dense[0]), original, extent)


def _soft_masks(batch: PixelBatch, logits: Tensor, least: float, origin: str) -> QueryMasks:
    """Mask probabilities at the size of the first image, or within ``MASK_SIDE``, from (Q, h, w) logits."""
    padded = (int(batch.pixels.shape[2]), int(batch.pixels.shape[3]))
    original = batch.originals[0]
    grid = within(original, MASK_SIDE)
    parts = []
    for chunk in logits.split(_CHUNK):  # type: ignore[no-untyped-call]  # torch has no type for it
        full = crop_resize(resize(chunk[None], padded)[0], batch.sizes[0], grid)
        coverage = full.sigmoid().flatten(1)
        parts.append(sparse.csr_array(to_numpy(coverage * (coverage >= least))))
    matrix = sparse.csr_array(sparse.vstack(parts, format="csr"))
    return QueryMasks(matrix, original, np.ones(len(logits), np.float32), instances=True, grid=grid, origin=origin)
