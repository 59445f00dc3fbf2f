"""The results of a whole run, written as they come, one image after the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from knnseg.errors import ConfigError, DatasetError
from knnseg.export import coco, label_studio, maps, yolo
from knnseg.export.files import FAST, JsonList, JsonLists, save_picture, write_text

if TYPE_CHECKING:
    from knnseg.data.vocabulary import Vocabulary
    from knnseg.result import Segmentation

__all__ = ["DEFAULT", "FORMATS", "Export", "Written"]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written of one image.

    Args:
        image_id: of the image, in every file of the run.
        file_name: of the image, in every file of the run.
        files: its own files by format; an image has a part in the files of the whole run beside them.
    """

    image_id: int
    file_name: str
    files: dict[str, Path]


class _Format(Protocol):
    def write(self, result: Segmentation, image_id: int, file_name: str, stem: str) -> Path | None:
        """Write an image, and say into which file of its own."""

    def finish(self) -> Path | None:
        """Finish what is written for all images together, and say where it is."""


class _Overlay:
    """``overlay/STEM.png``."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self._folder = folder / "overlay"

    def write(self, result: Segmentation, image_id: int, file_name: str, stem: str) -> Path:
        file = self._folder / f"{stem}.png"
        save_picture(file, result.overlay(), level=FAST)
        return file

    def finish(self) -> None:
        return None


class _Semantic:
    """``semantic/STEM.png`` and ``semantic.json``, which says what the numbers mean."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self._folder, self._legend = folder / "semantic", folder / "semantic.json"
        write_text(self._legend, json.dumps(maps.legend(vocabulary), indent=1, ensure_ascii=False))

    def write(self, result: Segmentation, image_id: int, file_name: str, stem: str) -> Path:
        file = self._folder / f"{stem}.png"
        save_picture(file, maps.label_map(result))
        return file

    def finish(self) -> Path:
        return self._legend


class _Panoptic:
    """``panoptic/STEM.png`` and ``panoptic.json``."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self._folder = folder / "panoptic"
        fixed = {"categories": coco.categories(vocabulary)}
        self._json = JsonLists(folder / "panoptic.json", fixed, ["images", "annotations"])

    def write(self, result: Segmentation, image_id: int, file_name: str, stem: str) -> Path:
        file = self._folder / f"{stem}.png"
        save_picture(file, coco.panoptic_picture(result))
        entry = coco.panoptic_entry(result, image_id, file.name)
        self._json.add({"images": [coco.image_entry(result, image_id, file_name)], "annotations": [entry]})
        return file

    def finish(self) -> Path:
        return self._json.finish()


class _Instances:
    """``instances.json``."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        fixed = {"categories": coco.categories(vocabulary)}
        self._json, self._count = JsonLists(folder / "instances.json", fixed, ["images", "annotations"]), 0

    def write(self, result: Segmentation, image_id: int, file_name: str, stem: str) -> None:
        found = coco.instances(result, image_id)
        numbered = [{"id": i, "iscrowd": 0} | entry for i, entry in enumerate(found, self._count + 1)]
        self._json.add({"images": [coco.image_entry(result, image_id, file_name)], "annotations": numbered})
        self._count += len(found)

    def finish(self) -> Path:
        return self._json.finish()


class _Yolo:
    """``yolo/labels/STEM.txt`` and ``yolo/data.yaml``; the photographs belong in ``yolo/images``."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self._folder, self._description = folder / "yolo" / "labels", folder / "yolo" / "data.yaml"
        write_text(self._description, yolo.description(vocabulary))

    def write(self, result: Segmentation, image_id: int, file_name: str, stem: str) -> Path:
        file = self._folder / f"{stem}.txt"
        write_text(file, yolo.lines(result))
        return file

    def finish(self) -> Path:
        return self._description


class _LabelStudio:
    """``label-studio.json``, tasks with a prediction each, and ``label-studio.xml``, the labels of their project."""

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self._config = label_studio.LabelConfig.of(vocabulary)
        write_text(folder / "label-studio.xml", self._config.xml)
        self._json = JsonList(folder / "label-studio.json")

    def write(self, result: Segmentation, image_id: int, file_name: str, stem: str) -> None:
        self._json.append(label_studio.task(result, self._config, label_studio.local_file(file_name)))

    def finish(self) -> Path:
        return self._json.finish()


_FORMATS: dict[str, type[_Overlay | _Semantic | _Panoptic | _Instances | _Yolo | _LabelStudio]] = {
    "overlay": _Overlay, "semantic": _Semantic, "yolo": _Yolo, "panoptic": _Panoptic, "instances": _Instances,
    "label-studio": _LabelStudio,
}  # fmt: skip
FORMATS = tuple(_FORMATS)
"""What can be written: pictures, label maps, and the formats of YOLO-seg, COCO and Label Studio."""
DEFAULT = ("overlay", "semantic", "panoptic")
"""What is written where nobody says."""


class Export:
    """A folder of results, of any number of images, of which little is kept in memory.

    A context manager. When it ends, whatever ends it, the files of the whole run are finished, and have the images
    that were written until then; before, they are not there.

    Args:
        folder: made where it does not exist.
        formats: some of :data:`FORMATS`.
        images: the folder that images are named from; by default, and for images that do not lie below it, an image
            has its last name alone.

    Raises:
        ConfigError: another format, or none.
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        formats: Iterable[str] = DEFAULT,
        *,
        images: str | PathLike[str] | None = None,
    ) -> None:
        chosen = frozenset(formats)
        if not chosen or not chosen <= set(FORMATS):
            got = ", ".join(sorted(chosen - set(FORMATS))) or "nothing"
            raise ConfigError("formats", expected=f"some of {', '.join(FORMATS)}", got=got)
        self._folder, self._chosen, self._images = Path(folder), [n for n in FORMATS if n in chosen], images
        self._writers: dict[str, _Format] = {}
        self._vocabulary: Vocabulary | None = None
        self._names, self._stems, self._count = set[str](), set[str](), 0
        self.files: dict[str, Path] = {}
        """The files of the whole run by format, once it has ended."""

    def write(self, result: Segmentation) -> Written:
        """Write the result of one more image.

        Raises:
            DatasetError: other classes than before, or an image that has the name of another.
            OSError: a file cannot be written; then some formats may be without this image.
        """
        self._check(result)
        self._count += 1
        number, name = self._count, self._name(result)
        if name in self._names:
            raise DatasetError(
                result.source,
                expected="each image once, under a name of its own",
                got=f"{name} again",
                hint="Give `images`, the folder that all images are below.",
            )
        stem = self._stem(name)
        self._names.add(name)
        self._stems.add(stem)
        if not self._writers:
            self._writers = {n: _FORMATS[n](self._folder, result.vocabulary) for n in self._chosen}
        made = {n: writer.write(result, number, name, stem) for n, writer in self._writers.items()}
        return Written(number, name, {n: file for n, file in made.items() if file is not None})

    def _check(self, result: Segmentation) -> None:
        if self._vocabulary is None:
            self._vocabulary = result.vocabulary
        elif (self._vocabulary.names, self._vocabulary.things) != (result.vocabulary.names, result.vocabulary.things):
            raise DatasetError(
                result.source or "export",
                expected=f"the classes of the images before, {list(self._vocabulary)[:8]}",
                got=list(result.vocabulary)[:8],
            )

    def _name(self, result: Segmentation) -> str:
        if not result.source:
            return f"image-{self._count}.png"
        path = Path(os.path.abspath(result.source))  # noqa: PTH100  # resolve() would follow links
        root = None if self._images is None else Path(os.path.abspath(self._images))  # noqa: PTH100
        return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else path.name

    def _stem(self, name: str) -> str:
        """A name for the files of an image; images of one name in different folders are numbered."""
        plain = stem = Path(name).stem
        number = 2
        while stem in self._stems:
            stem, number = f"{plain}-{number}", number + 1
        return stem

    def __enter__(self) -> Export:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writers, self._writers = self._writers, {}
        with ExitStack() as stack:  # each, also where one fails
            for name, writer in writers.items():
                stack.callback(self._finish, name, writer)

    def _finish(self, name: str, writer: _Format) -> None:
        file = writer.finish()
        if file is not None:
            self.files[name] = file
