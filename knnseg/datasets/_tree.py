"""Benchmarks as they lie on a disk: what the folders should be, what is there, and what to say where they differ."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knnseg.data.listing import listed
from knnseg.data.vocabulary import Vocabulary
from knnseg.datasets._classes import benchmark_classes
from knnseg.errors import DatasetError

__all__ = ["Benchmark", "Tree"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A data set of the field, as published.

    Args:
        name: for :func:`open_dataset`.
        title: for people.
        splits: their names, as the data set calls them.
        evaluation: the split that one measures on.
        layout: the expected tree, for people.
        source: where it is published.
        classes: how many.
        things: how many of them are countable objects; 0 where the data set makes no difference.
        note: what changes with optional parts of the tree.
    """

    name: str
    title: str
    splits: tuple[str, ...]
    evaluation: str
    layout: str
    source: str
    classes: int
    things: int = 0
    note: str = ""

    def vocabulary(self) -> Vocabulary:
        """The classes, with things, published synonyms, and plain words for names that are not written as words."""
        return benchmark_classes(self.name).vocabulary


class Tree:
    """The folder that a user gave for a benchmark. It is only read, and each folder is listed once.

    Args:
        benchmark: what should be there.
        root: the data set's own folder, or one above it.
        homes: where the data set may lie below ``root``.

    Raises:
        DatasetError: ``root`` is not a folder.
    """

    def __init__(self, benchmark: Benchmark, root: str | os.PathLike[str], homes: Sequence[str]) -> None:
        self.benchmark, self.root = benchmark, Path(root)
        self._homes = [self.root, *(self.root / home for home in homes)]
        if not self.root.is_dir():
            raise self.wrong("there is no such folder")

    def wrong(self, what: str) -> DatasetError:
        """The error for a tree that is not as published."""
        b = self.benchmark
        tree = "\n".join(f"    {line}" for line in b.layout.strip("\n").splitlines())
        return DatasetError(f"{b.name}: {what}", expected=f"{b.title} from {b.source} in {self.root}, as\n{tree}")

    def find(self, part: str) -> Path | None:
        """Where the folder or file ``part`` of the data set is, if anywhere."""
        return next((home / part for home in self._homes if (home / part).exists()), None)

    def need(self, part: str) -> Path:
        """Where the folder or file ``part`` is.

        Raises:
            DatasetError: nowhere.
        """
        found = self.find(part)
        if found is None:
            raise self.wrong(f"{part} is missing")
        return found

    def files(self, folder: Path, ending: str) -> dict[str, str]:
        """The paths of the files of a folder whose names have an ending, by the rest of their names, in order.

        See :func:`knnseg.data.listing.listed`.
        """
        if not folder.is_dir():
            raise self.wrong(f"{folder.relative_to(self.root)} is missing")
        return listed(folder, [ending.lower()]).files

    def files_of(self, folders: Iterable[Path], ending: str) -> dict[str, str]:
        """What :meth:`files` finds in each of some folders, in order of the names.

        Raises:
            DatasetError: the same name in two of them.
        """
        found: dict[str, str] = {}
        for folder in folders:
            for stem, path in self.files(folder, ending).items():
                if stem in found:
                    raise self.wrong(f"{stem}{ending} is in two folders: {found[stem]} and {path}")
                found[stem] = path
        return dict(sorted(found.items()))

    def lines(self, file: Path) -> list[str]:
        """The first word of each line of a list of images."""
        try:
            return [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise self.wrong(f"{file.relative_to(self.root)} cannot be read: {error}") from error

    def picked(self, stems: Iterable[str], files: Mapping[str, str], what: str) -> list[str]:
        """The file of each stem.

        Raises:
            DatasetError: no stem at all, or files missing; says how many and which.
        """
        wanted = list(stems)
        missing = [stem for stem in wanted if stem not in files]
        if missing or not wanted:
            some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise self.wrong(f"{len(missing)} of {len(wanted)} {what} are missing: {some}" if wanted else f"no {what}")
        return [files[stem] for stem in wanted]
