"""What the page can ask for: pictures, proposals, segmentations, evidence, and everything that changes the database.

One model and one database serve one page. Whatever computes or writes holds a lock, so that requests that come at the
same time are done one after another. What is returned can be written as JSON.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from knnseg.data.image import Image
from knnseg.data.vocabulary import UNKNOWN, Vocabulary, tidy
from knnseg.database.originals import Originals
from knnseg.drawing import colours
from knnseg.errors import ConfigError, MaskError, VocabularyError
from knnseg.method.boxes import outline
from knnseg.result import Segmentation
from knnseg.segmenter import Segmenter
from knnseg.stages.protocols import masks_of
from knnseg.studio.curation import Curation
from knnseg.studio.evidence import evidence
from knnseg.studio.gallery import Gallery
from knnseg.studio.maps import SIDE, from_runs, on_screen, proposal_layers, screen_size, to_runs
from knnseg.studio.pictures import Crops, jpeg, shrunk
from knnseg.studio.remembered import Remembered
from knnseg.studio.review import review

__all__ = ["MaskOf", "Studio"]

_RESULTS = 4
"""Segmentations that are remembered, so that the page can ask about their segments."""
_GREY = "#808080"


@dataclass(frozen=True, slots=True)
class MaskOf:
    """What a person has selected in a photograph: one of the two.

    Args:
        runs: the mask at its size in the page, see :mod:`knnseg.studio.maps`.
        segment: a number in the last segmentation.
        seen: which segmentation that was.
    """

    runs: Sequence[int] = ()
    segment: int = 0
    seen: str = ""


class Studio:
    """The photographs of a folder, a segmenter, and its database.

    Args:
        segmenter: with a database.
        gallery: the photographs.
        classes: names that are segmented beside the concepts of the database, for a base that knows them.
        writer: who teaches here, kept with each example.
        read_only: nothing can be taught.

    Raises:
        ConfigError: the segmenter has no database.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        gallery: Gallery,
        *,
        classes: Sequence[str] = (),
        writer: str = "",
        read_only: bool = False,
    ) -> None:
        if segmenter.database is None:
            raise ConfigError("studio", expected="a segmenter with a database", got="one without")
        self._segmenter, self._database, self.gallery = segmenter, segmenter.database, gallery
        self._classes, self._writer, self.read_only = tuple(map(tidy, classes)), writer, read_only
        self._lock = RLock()
        self._results: Remembered[str, tuple[str, Segmentation]] = Remembered(_RESULTS)
        self.curation = Curation(self._database, self._lock, writer)
        self._crops = Crops(self._database.store, Originals())
        self._colours: dict[str, str] = {}

    # -- looking ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What the page needs to know at first, and after each change."""
        with self._lock:
            concepts = [
                {"name": c.label, "count": c.count, "thing": c.thing, "mixed": c.mixed, "colour": self._colour(c.label)}
                for c in self._database.concepts()
            ]
        return {
            "readOnly": self.read_only, "writer": self._writer, "concepts": concepts, "classes": self._classes,
            "undo": self.curation.undoable,
        }  # fmt: skip

    def picture(self, photograph: str) -> bytes:
        """A photograph as a JPEG at its size in the page."""
        return jpeg(shrunk(self.gallery.image(photograph).pixels, SIDE))

    def proposals(self, photograph: str) -> dict[str, Any]:
        """Which proposals lie at each pixel of a photograph, as layers of maps."""
        image = self.gallery.image(photograph)
        with self._lock:
            masks = masks_of([image], self._segmenter.proposer)[0]
        return {"size": screen_size(image.size), "layers": [to_runs(layer) for layer in proposal_layers(masks)]}

    def outline(self, photograph: str, box: Sequence[float]) -> dict[str, Any]:
        """The likely outline of what is inside a box.

        Args:
            photograph: its id.
            box: left, top, right, bottom, in pixels of the picture in the page.

        Raises:
            MaskError: the box has no pixel of the photograph.
        """
        image = self.gallery.image(photograph)
        shown = screen_size(image.size)
        across, down = image.size[1] / shown[1], image.size[0] / shown[0]
        left, top, right, bottom = box
        try:
            mask = outline(image.pixels, (left * across, top * down, right * across, bottom * down))
        except ValueError as error:
            raise MaskError(f"box: {error}") from error
        return {"size": shown, "runs": to_runs(on_screen(mask.astype(np.int32)))}

    def segmentation(self, photograph: str) -> dict[str, Any]:
        """A photograph segmented into what is known now."""
        image = self.gallery.image(photograph)
        start = time.perf_counter()
        with self._lock:
            seen, result = self._segmented(photograph, image)
            if result is None:
                return {"size": screen_size(image.size), "seen": seen, "segments": [], "runs": []}
            shown = on_screen(result.panoptic)
            segments = [
                {"id": s.id, "label": s.label, "thing": s.thing, "score": s.score, "area": s.area,
                 "colour": self._colour(s.label)}
                for s in result.segments_info
            ]  # fmt: skip
        return {
            "size": screen_size(image.size), "seen": seen, "segments": segments, "runs": to_runs(shown),
            "pixels": result.panoptic.size, "degraded": result.degraded, "seconds": time.perf_counter() - start,
        }  # fmt: skip

    def _segmented(self, photograph: str, image: Image) -> tuple[str, Segmentation | None]:
        """The segmentation as of now, and a text that changes with it; None where there is no class yet."""
        seen = hashlib.sha256(f"{self._database.revision()} {image.content_hash}".encode()).hexdigest()[:16]
        before = self._results.find(photograph)
        if before is not None and before[0] == seen:
            return before
        vocabulary = self._vocabulary()
        if vocabulary is None:
            return seen, None
        result = self._segmenter.predict(image, vocabulary)
        self._results.put(photograph, (seen, result))
        return seen, result

    def _vocabulary(self) -> Vocabulary | None:
        concepts = self._database.concepts()
        names = tuple(dict.fromkeys((*self._classes, *(c.label for c in concepts))))
        return Vocabulary(names, frozenset(c.label for c in concepts if c.thing)) if names else None

    def _colour(self, name: str) -> str:
        """The colour of a class, which stays the same as long as the page is served."""
        if name == UNKNOWN:
            return _GREY
        if name not in self._colours:
            red, green, blue = colours(len(self._colours) + 1)[-1].tolist()
            self._colours[name] = f"#{red:02x}{green:02x}{blue:02x}"
        return self._colours[name]

    def evidence(self, photograph: str, segment: int, seen: str) -> dict[str, Any]:
        """Why a segment of the segmentation that the page shows has its class.

        Raises:
            VocabularyError: there is no such segment.
            ConfigError: the photograph was segmented again since.
        """
        with self._lock:
            return asdict(evidence(self._segmenter, self._shown(photograph, seen), segment))

    def _shown(self, photograph: str, seen: str) -> Segmentation:
        found = self._results.find(photograph)
        if found is None or found[0] != seen:
            raise ConfigError("segment: the photograph was segmented again since", hint="Click it again.")
        return found[1]

    def review(self) -> dict[str, Any]:
        """Concepts that may be one, and examples that disagree with their neighbours."""
        with self._lock:
            return asdict(review(self._database))

    def crop(self, example: str) -> bytes | None:
        """The picture of an example; None where it is not found."""
        with self._lock:
            return self._crops.picture(example)

    # -- teaching -----------------------------------------------------------------------------------------------------

    def teach(self, photograph: str, mask: MaskOf, name: str, *, thing: bool | None = None) -> dict[str, Any]:
        """Add what was selected as an example.

        An example of another concept that is nearly the same selection is moved to this one. Naming a whole segment is
        a correction: examples in it that say what the segment was taken for are moved too.

        Args:
            photograph: its id.
            mask: what was selected.
            name: what it shows.
            thing: a countable object, or stuff; None as the database knows it.

        Raises:
            MaskError: nothing is selected.
            VocabularyError: no name.
        """
        image = self.gallery.image(photograph)
        label = tidy(name)
        if not label:
            raise VocabularyError("name", expected="what the selection shows", got="nothing")
        if label == UNKNOWN:
            raise VocabularyError(
                "name", expected=f"another than {UNKNOWN!r}, the name of what nobody knows", got=repr(name)
            )
        with self._lock:
            dense = self._mask(photograph, image, mask)
            self.gallery.keep(photograph)
            denied = self._shown(photograph, mask.seen).segment(mask.segment).label if mask.segment else ""
            return self.curation.teach(image, dense, label, thing, denied=denied)

    def _mask(self, photograph: str, image: Image, mask: MaskOf) -> NDArray[np.bool_]:
        if mask.segment:
            return np.asarray(self._shown(photograph, mask.seen).panoptic == mask.segment)
        dense = from_runs(mask.runs, image.size)
        if not dense.any():
            raise MaskError("selection", expected="some of the photograph", got="nothing", hint="Click a region first.")
        return dense
