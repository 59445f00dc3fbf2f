"""Where the images of annotations are, which were mostly made on another machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PureWindowsPath

from knnseg.data.listing import IMAGES
from knnseg.datasets.formats.source import Source
from knnseg.errors import DatasetError

__all__ = ["Files", "image_files"]


def _uploaded(name: str) -> str:
    """As Label Studio calls a file that is uploaded: without spaces, and without what is no letter or number."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


class Files:
    """Where the images of an annotation file are, see :func:`image_files`."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    @cached_property
    def _by_name(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for folder in self._folders:
            for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
                found.setdefault(path.name, []).append(path)
                if path.suffix.lower() in IMAGES:
                    found.setdefault(path.stem, []).append(path)
        return found

    @cached_property
    def _by_upload(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for name, paths in self._by_name.items():
            found.setdefault(_uploaded(name), []).extend(paths)
        return found

    def find(self, given: str, place: str) -> Path:
        """The file that an annotation calls ``given``, a path, a name, or a name without its ending.

        Raises:
            DatasetError: it is in none of the folders, or several have its name.
        """
        name = PureWindowsPath(given).name  # also takes a path with slashes
        if Path(given).is_absolute() and Path(given).is_file():
            return Path(given)
        direct = [p for folder in self._folders for p in (folder / given.lstrip("/"), folder / name) if p.is_file()]
        if direct:
            return direct[0]
        # Label Studio puts eight letters and a hyphen before the name of what is uploaded.
        upload = len(name.partition("-")[0]) == 8
        plain = name.partition("-")[2] if upload else name
        found = list(dict.fromkeys(self._by_name.get(name, []) or self._by_name.get(plain, [])))
        if not found and upload:
            found = list(dict.fromkeys(self._by_upload.get(_uploaded(plain), [])))
        if len(found) != 1:
            where = " or ".join(map(str, self._folders))
            got = "no such file" if not found else f"several: {found[0]}, {found[1]}"
            raise DatasetError(
                place, expected=f"its image {given!r} below {where}", got=got, hint="Give the folder of the images."
            )
        return found[0]


def image_files(source: Source) -> Files:
    """Where to look for images: in the folder that was given, or else beside the annotations and in ``images`` there.

    A path of the annotations counts from there; where it leads nowhere, as those of another machine, its last part is
    looked for in the folder and below.

    Raises:
        DatasetError: what was given is not a folder.
    """
    if source.images is not None:
        if not Path(source.images).is_dir():
            raise DatasetError("images", expected="a folder", got=source.images)
        return Files([Path(source.images)])
    beside = source.path if source.path.is_dir() else source.path.parent
    return Files([beside, beside / "images"])
